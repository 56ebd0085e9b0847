// reorder_nchw16c_f32.h -- fp32 between NCHW and NCHW16c, either way.
//
//   to_blocks:  y[n][c / 16][pixel][c % 16] = x[n][c][pixel], lanes beyond the last channel 0
//   else:       y[n][c][pixel] = x[n][c / 16][pixel][c % 16]
#ifndef SARDONYX_REORDER_NCHW16C_F32_H
#define SARDONYX_REORDER_NCHW16C_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;
    float *y;
    int64_t n, c, pixels;
    int64_t x_batch, y_batch;  // elements from image to image
    int64_t to_blocks;
} reorder_nchw16c_f32_args;

int64_t reorder_nchw16c_f32_tasks(const reorder_nchw16c_f32_args *a);
int64_t reorder_nchw16c_f32_scratch(const reorder_nchw16c_f32_args *a);
void reorder_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
