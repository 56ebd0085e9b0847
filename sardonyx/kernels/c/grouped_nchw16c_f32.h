// grouped_nchw16c_f32.h -- 2-D convolution of groups of 2, 4 or 8 channels, as many out as in, fp32, NCHW16c.
//
//   y[n][b][oh][ow][l] = sum over kh, c < channels, kw of
//       x[n][b][oh * stride_h + kh * dilation_h - pad_top][ow * stride_w + kw * dilation_w - pad_left][(l & ~1) ^ c]
//           * w[b][kh][c][kw][l]
//
// x outside of the image is 0, and is multiplied like any other x. Every y accumulates from 0 in the order kh, c, kw
// with SX_FMA. (l & ~1) ^ c runs over the channels of lane l's group alone: what a group holds, NaN and infinity too,
// stays there, and lanes beyond the last channel are 0 where x and w are.
#ifndef SARDONYX_GROUPED_NCHW16C_F32_H
#define SARDONYX_GROUPED_NCHW16C_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][c_blocks][ih][iw][16]
    const float *w;  // [c_blocks][kh][channels][kw][16]
    float *y;        // [n][c_blocks][oh][ow][16]
    int64_t n, c_blocks, ih, iw, oh, ow, kh, kw;
    int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t channels;          // of a group: 2, 4 or 8
    int64_t x_batch, y_batch;  // elements from image to image, >= c_blocks * height * width * 16
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} grouped_nchw16c_f32_args;

int64_t grouped_nchw16c_f32_tasks(const grouped_nchw16c_f32_args *a);
int64_t grouped_nchw16c_f32_scratch(const grouped_nchw16c_f32_args *a);  // bytes for each running thread
void grouped_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
