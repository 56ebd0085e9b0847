// conv_rows_nchw16c_f32.h -- direct 2-D convolution of small groups of whole channel blocks, fp32, NCHW16c in and out.
//
// What conv_nchw16c_f32 computes, in the same order, from the same weights: the same bits. Faster where a group has one or
// two blocks of output channels. The caller sees to stride_w <= 2 and (kw - 1) * dilation_w <= 16.
#ifndef SARDONYX_CONV_ROWS_NCHW16C_F32_H
#define SARDONYX_CONV_ROWS_NCHW16C_F32_H

#include "conv_nchw16c_f32.h"

typedef conv_nchw16c_f32_args conv_rows_nchw16c_f32_args;

int64_t conv_rows_nchw16c_f32_tasks(const conv_rows_nchw16c_f32_args *a);
int64_t conv_rows_nchw16c_f32_scratch(const conv_rows_nchw16c_f32_args *a);  // bytes for each running thread
void conv_rows_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
