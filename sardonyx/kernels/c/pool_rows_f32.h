// pool_rows_f32.h -- 3-D max and average pooling, fp32, of planes in rows; fewer dimensions are 1 deep, 1 high.
//
//   y[n][c][od][oh][ow] = max or mean over kd, kh, kw of x[n][c][od * stride_d + kd * dilation_d - pad_front]
//       [oh * stride_h + kh * dilation_h - pad_top][ow * stride_w + kw * dilation_w - pad_left]
//
// Taps outside of the image are left out. A maximum is NaN if its window holds a NaN, and -infinity if its window is
// empty. An average is summed from 0 in the order kd, kh, kw and divided by the number of its taps: of those inside
// (POOL_AVERAGE; an empty window gives NaN), or also of those in the padding (POOL_AVERAGE_PADDED; what lies beyond
// the padding, where outputs were rounded up, never counts).
#ifndef SARDONYX_POOL_ROWS_F32_H
#define SARDONYX_POOL_ROWS_F32_H

#include "pool_kind.h"
#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][c][id][ih][iw]
    float *y;        // [n][c][od][oh][ow]
    int64_t kind;    // POOL_MAX, POOL_AVERAGE, POOL_AVERAGE_PADDED
    int64_t n, c, id, ih, iw, od, oh, ow, kd, kh, kw;
    int64_t stride_d, stride_h, stride_w, dilation_d, dilation_h, dilation_w;
    int64_t pad_front, pad_top, pad_left, pad_back, pad_bottom, pad_right;
    int64_t y_batch;       // elements from image to image, >= c * od * oh * ow
    sx_epilogue epilogue;  // or NULL: i0 = image, i1 = 0, i2 = channel, i3 = (od * OH + oh) * OW + ow
    void *const *operands;
    const int64_t *dims;
} pool_rows_f32_args;

int64_t pool_rows_f32_tasks(const pool_rows_f32_args *a);
int64_t pool_rows_f32_scratch(const pool_rows_f32_args *a);  // bytes for each running thread
void pool_rows_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
