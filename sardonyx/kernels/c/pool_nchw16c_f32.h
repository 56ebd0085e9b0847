// pool_nchw16c_f32.h -- 2-D max and average pooling, fp32, NCHW16c in and out.
//
//   y[n][b][oh][ow][l] = max or mean over kh, kw of
//       x[n][b][oh * stride_h + kh * dilation_h - pad_top][ow * stride_w + kw * dilation_w - pad_left][l]
//
// Taps outside of the image are left out. A maximum is NaN if its window holds a NaN, and -infinity if its window is
// empty. An average is summed from 0 in the order kh, kw and divided by the number of its taps: of those inside
// (POOL_AVERAGE; an empty window gives NaN), or also of those in the padding (POOL_AVERAGE_PADDED; what lies beyond
// the padding, where oh and ow were rounded up, never counts).
//
// POOL_GLOBAL_AVERAGE: y[n][b][0][0][l] is the mean over the plane, whose position p goes to partial sum p % 4; the sum
// is (s0 + s1) + (s2 + s3). oh and ow are 1; kernel, strides, dilations and pads are ignored.
#ifndef SARDONYX_POOL_NCHW16C_F32_H
#define SARDONYX_POOL_NCHW16C_F32_H

#include "pool_kind.h"
#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][c_blocks][ih][iw][16]
    float *y;        // [n][c_blocks][oh][ow][16]
    int64_t kind;    // POOL_*
    int64_t n, c_blocks, ih, iw, oh, ow, kh, kw;
    int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left, pad_bottom, pad_right;
    int64_t x_batch, y_batch;  // elements from image to image, >= c_blocks * height * width * 16
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} pool_nchw16c_f32_args;

int64_t pool_nchw16c_f32_tasks(const pool_nchw16c_f32_args *a);
int64_t pool_nchw16c_f32_scratch(const pool_nchw16c_f32_args *a);  // bytes for each running thread
void pool_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
