// channels_nchw16c_f32.h -- channels in another order, some repeated, left out, or 0 instead, fp32, NCHW16c.
//
//   y[n][b][p][l] = from[16 b + l] < 0 ? 0 : x[n][from[16 b + l] / 16][p][from[16 b + l] % 16]
#ifndef SARDONYX_CHANNELS_NCHW16C_F32_H
#define SARDONYX_CHANNELS_NCHW16C_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;       // [n][blocks][positions][16]
    const int32_t *from;  // [c_blocks][16], channels of x or -1
    float *y;             // [n][c_blocks][positions][16]
    int64_t n, c_blocks, positions;
    int64_t x_batch, y_batch;  // elements from image to image
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} channels_nchw16c_f32_args;

int64_t channels_nchw16c_f32_tasks(const channels_nchw16c_f32_args *a);
int64_t channels_nchw16c_f32_scratch(const channels_nchw16c_f32_args *a);  // bytes for each running thread
void channels_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
