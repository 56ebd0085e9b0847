// depthwise_nchw16c_f32.h -- 2-D convolution of each channel with its own filter (groups == channels), fp32, NCHW16c.
//
//   y[n][b][oh][ow][l] = sum over kh, kw of
//       x[n][b][oh * stride_h + kh * dilation_h - pad_top][ow * stride_w + kw * dilation_w - pad_left][l]
//           * w[b][kh][kw][l]
//
// x outside of the image is 0, and is multiplied like any other x. Every y accumulates from 0 in the order kh, kw with
// SX_FMA. Lanes beyond the last channel: see conv_nchw16c_f32.h.
#ifndef SARDONYX_DEPTHWISE_NCHW16C_F32_H
#define SARDONYX_DEPTHWISE_NCHW16C_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][c_blocks][ih][iw][16]
    const float *w;  // [c_blocks][kh][kw][16]
    float *y;        // [n][c_blocks][oh][ow][16]
    int64_t n, c_blocks, ih, iw, oh, ow, kh, kw;
    int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t x_batch, y_batch;  // elements from image to image, >= c_blocks * height * width * 16
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} depthwise_nchw16c_f32_args;

int64_t depthwise_nchw16c_f32_tasks(const depthwise_nchw16c_f32_args *a);
int64_t depthwise_nchw16c_f32_scratch(const depthwise_nchw16c_f32_args *a);  // bytes for each running thread
void depthwise_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

// Output rows lo <= oh < hi of one channel block, without the epilogue. x and y are where row 0 of the block's planes
// lies or would lie: of x only the rows that have taps are read.
void depthwise_nchw16c_f32_rows(const depthwise_nchw16c_f32_args *a, int64_t block, const float *x, float *y, int64_t lo,
                                int64_t hi);

#endif
