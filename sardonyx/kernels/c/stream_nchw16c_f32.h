// stream_nchw16c_f32.h -- up to three layers of a network by bands, so that what lies between them stays in cache.
//
//   x -> [expand: 1x1 convolution] -> middle: depthwise convolution -> [project: 1x1 convolution] -> y
//
// All tensors are NCHW16c. Each layer has its own epilogue and computes what its own kernel would, in the same order of
// accumulation (conv_nchw16c_f32.h, depthwise_nchw16c_f32.h): the result has the same bits. Either convolution may be
// missing, not both.
//
// What lies between the layers is never in memory as a whole. An epilogue finds its layer's output as operand number
// `self` of `count`, which is replaced by an address at which the part in question appears in its place; so the
// epilogue must use it for its own output alone. `self` is -1 where the output is in memory.
#ifndef SARDONYX_STREAM_NCHW16C_F32_H
#define SARDONYX_STREAM_NCHW16C_F32_H

#include "depthwise_nchw16c_f32.h"

#define STREAM_OPERANDS 16

typedef struct {
    const float *w;        // of a 1x1 convolution: [blocks out][blocks in][16 channels in][16 channels out]; else NULL
    int64_t ic;            // its channels in: those beyond in the last block are not read, or have weights of 0
    sx_epilogue epilogue;  // or NULL
    void *const *operands;
    const int64_t *dims;
    int64_t count, self;   // of the operands, at most STREAM_OPERANDS
} stream_layer;

// depthwise_nchw16c_f32_rows
typedef void (*stream_rows)(const depthwise_nchw16c_f32_args *a, int64_t block, const float *x, float *y, int64_t lo,
                            int64_t hi);

typedef struct {
    const float *x;                        // [n][x_blocks][ih][iw][16]
    float *y;                              // [n][y_blocks][oh][ow][16]
    int64_t n, x_blocks, blocks, y_blocks; // blocks: of the middle; those of x or y without expand or project
    int64_t ih, iw, oh, ow;                // planes before and after the middle
    int64_t x_batch, y_batch;              // floats from image to image
    const stream_layer *expand, *project;  // or NULL
    const stream_layer *middle;
    const depthwise_nchw16c_f32_args *depthwise;  // of the middle; its x, y and epilogue are unused
    stream_rows rows;
} stream_nchw16c_f32_args;

int64_t stream_nchw16c_f32_tasks(const stream_nchw16c_f32_args *a);
int64_t stream_nchw16c_f32_scratch(const stream_nchw16c_f32_args *a);  // bytes for each running thread
void stream_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
