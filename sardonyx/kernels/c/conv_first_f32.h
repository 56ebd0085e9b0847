// conv_first_f32.h -- 2-D convolution of an input with few channels (an image), fp32, NCHW in, NCHW16c out.
//
//   y[n][ob][oh][ow][l] = sum over c, kh, kw of
//       x[n][c][oh * stride_h + kh * dilation_h - pad_top][ow * stride_w + kw * dilation_w - pad_left]
//           * w[ob][c][kh][kw][l]
//
// x outside of the image is 0, and is multiplied like any other x. Every y accumulates from 0 in the order c, kh, kw
// with SX_FMA. Lanes beyond the last channel: see conv_nchw16c_f32.h.
#ifndef SARDONYX_CONV_FIRST_F32_H
#define SARDONYX_CONV_FIRST_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][ic][ih][iw]
    const float *w;  // [oc_blocks][ic][kh][kw][16 channels out]
    float *y;        // [n][oc_blocks][oh][ow][16]
    int64_t n, ic, ih, iw, oc_blocks, oh, ow, kh, kw;
    int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t x_batch, y_batch;  // elements from image to image
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} conv_first_f32_args;

int64_t conv_first_f32_tasks(const conv_first_f32_args *a);
int64_t conv_first_f32_scratch(const conv_first_f32_args *a);  // bytes for each running thread
void conv_first_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
