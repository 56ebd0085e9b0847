// conv_nchw16c_f32.h -- direct 2-D convolution, fp32, NCHW16c in and out.
//
//   y[n][ob][oh][ow][l] = sum over ib, kh, kw, c of
//       x[n][ib][oh * stride_h + kh * dilation_h - pad_top][ow * stride_w + kw * dilation_w - pad_left][c]
//           * (w[ob][ib][kh][kw][c][l] * scale[n][ib][c])
//
// x outside of the image is 0, and is multiplied like any other x, but for rows of taps that lie outside at all positions
// of a task: those are left out. ib runs over the blocks of ob's group. Every y
// accumulates from 0 in the order ib, kh, kw, c with SX_FMA.
// Lanes beyond the last channel hold NaN when x holds NaN or infinity (0 * infinity): whoever feeds y to another kernel
// must clear them in the epilogue.
#ifndef SARDONYX_CONV_NCHW16C_F32_H
#define SARDONYX_CONV_NCHW16C_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][ic_blocks][ih][iw][16]
    const float *w;  // [oc_blocks][ic_blocks / groups][kh][kw][16 channels in][16 channels out]
    float *y;        // [n][oc_blocks][oh][ow][16]
    const float *scale;  // of the channels of x: [n][ic_blocks][16], finite beyond the last one; or NULL
    int64_t n, ic_blocks, ih, iw, oc_blocks, oh, ow, kh, kw;
    int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t ic;                // channels of a group; those beyond in its last block are not read, or have weights of 0
    int64_t groups;            // divides ic_blocks and oc_blocks, both totals over all groups
    int64_t x_batch, y_batch;  // elements from image to image, >= blocks * height * width * 16
    int64_t scale_batch;       // >= ic_blocks * 16
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} conv_nchw16c_f32_args;

int64_t conv_nchw16c_f32_tasks(const conv_nchw16c_f32_args *a);
int64_t conv_nchw16c_f32_scratch(const conv_nchw16c_f32_args *a);  // bytes for each running thread
void conv_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
