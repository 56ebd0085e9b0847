// winograd_input_f32.h -- the input half of a Winograd convolution (winograd_f32.h), once for all output channels.
//
// Writes the transformed tiles that `winograd_f32` reads as `v`. Worth a step of its own only where an image has so few
// tiles that the threads must share them and split the output channels; with more than WINOGRAD_SHARED tiles it does
// nothing, and `winograd_f32` transforms what it needs itself.
#ifndef SARDONYX_WINOGRAD_INPUT_F32_H
#define SARDONYX_WINOGRAD_INPUT_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][ic_blocks][ih][iw][16]
    float *v;        // min(tiles, WINOGRAD_SHARED) * (ic_blocks + 1) * 576 floats; tiles = n * ceil(oh/4) * ceil(ow/4)
    int64_t n, ic_blocks, ih, iw, oh, ow, pad_top, pad_left;
    int64_t x_batch;  // elements from image to image
} winograd_input_f32_args;

int64_t winograd_input_f32_tasks(const winograd_input_f32_args *a);
int64_t winograd_input_f32_scratch(const winograd_input_f32_args *a);
void winograd_input_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
