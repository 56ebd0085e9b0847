// conv_rows_nchw16c_f32.h -- direct 2-D convolution of groups with few blocks of outputs, fp32, NCHW16c in and out.
//
// What conv_nchw16c_f32 computes (see its header), in the same order, from the same weights: the same bits. Faster where a
// group has one or two blocks of output channels. The caller sees to stride_w <= 2 and (kw - 1) * dilation_w <= 16.
#ifndef SARDONYX_CONV_ROWS_NCHW16C_F32_H
#define SARDONYX_CONV_ROWS_NCHW16C_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][ic_blocks][ih][iw][16]
    const float *w;  // [oc_blocks][ic_blocks / groups][kh][kw][16 channels in][16 channels out]
    float *y;        // [n][oc_blocks][oh][ow][16]
    int64_t n, ic_blocks, ih, iw, oc_blocks, oh, ow, kh, kw;
    int64_t stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t ic;                // channels of a group; those beyond in its last block are not read, or have weights of 0
    int64_t groups;            // divides ic_blocks and oc_blocks, both totals over all groups
    int64_t x_batch, y_batch;  // elements from image to image, >= blocks * height * width * 16
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} conv_rows_nchw16c_f32_args;

int64_t conv_rows_nchw16c_f32_tasks(const conv_rows_nchw16c_f32_args *a);
int64_t conv_rows_nchw16c_f32_scratch(const conv_rows_nchw16c_f32_args *a);  // bytes for each running thread
void conv_rows_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
