// winograd_input_f32.h -- the transformed inputs of a Winograd convolution (winograd_f32.h), once for all its tasks.
//
// With more than 16 * oc_blocks tiles it does nothing: then `winograd_f32` transforms its inputs itself, block by block.
#ifndef SARDONYX_WINOGRAD_INPUT_F32_H
#define SARDONYX_WINOGRAD_INPUT_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][groups * ic_blocks][ih][iw][16]
    float *v;        // groups * (tiles * 4 + ceil(tiles / 8)) * ceil(ic_blocks / 4) * 576 floats at most
    int64_t n, ic_blocks, oc_blocks, ih, iw, oh, ow, pad_top, pad_left;
    int64_t x_batch;  // elements from image to image
    int64_t groups;   // ic_blocks and oc_blocks are those of one
} winograd_input_f32_args;

int64_t winograd_input_f32_tasks(const winograd_input_f32_args *a);
int64_t winograd_input_f32_scratch(const winograd_input_f32_args *a);
void winograd_input_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
