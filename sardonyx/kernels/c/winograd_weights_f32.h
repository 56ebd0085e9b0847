// winograd_weights_f32.h -- the transformed weights of a Winograd convolution (winograd_f32.h), once for all its tasks.
//
// With at most 16 * oc_blocks tiles it does nothing: then the tasks of `winograd_f32` transform their weights themselves.
#ifndef SARDONYX_WINOGRAD_WEIGHTS_F32_H
#define SARDONYX_WINOGRAD_WEIGHTS_F32_H

#include "sardonyx.h"

typedef struct {
    const float *w;  // [groups * oc_blocks][ic_blocks][9][16 channels in][16 channels out]
    float *u;        // groups * oc_blocks * ceil(ic_blocks / 4) * 37440 floats
    int64_t ic_blocks, oc_blocks;
    int64_t tiles;
    int64_t groups;  // ic_blocks and oc_blocks are those of one
} winograd_weights_f32_args;

int64_t winograd_weights_f32_tasks(const winograd_weights_f32_args *a);
int64_t winograd_weights_f32_scratch(const winograd_weights_f32_args *a);
void winograd_weights_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
