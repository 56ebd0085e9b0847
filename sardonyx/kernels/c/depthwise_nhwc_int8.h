// depthwise_nhwc_int8.h -- depthwise convolution of bytes in NHWC, as bytes again or as the sums, and what follows.
#ifndef SARDONYX_DEPTHWISE_NHWC_INT8_H
#define SARDONYX_DEPTHWISE_NHWC_INT8_H

#include "sardonyx.h"

// sum[n,p,c] = bias[c] + sum over taps t of (x[n, p + t, c] - x_zero) * w[c,t]; then as conv_nhwc_int8.h, whose conventions
// hold here too.
typedef struct {
    const void *x;
    int64_t x_signed, x_batch, x_pitch;
    const void *x_zero;
    const void *w;                  // packing_int8.pack_depthwise_nhwc: int8 [ceil(kh / 4)][kw][16 * ceil(C / 16)][4]
    const int32_t *w_sums;
    const int32_t *bias;
    const float *scale;
    int64_t scale_step;
    const void *y_zero;
    void *y;
    int64_t y_signed, y_batch, y_pitch;
    int64_t n, oc;                  // oc: channels
    int64_t ih, iw, oh, ow, kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    sx_epilogue epilogue;
    void *const *operands;
    const int64_t *dims;
} depthwise_nhwc_int8_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t depthwise_nhwc_int8_tasks(const depthwise_nhwc_int8_args *args);
int64_t depthwise_nhwc_int8_scratch(const depthwise_nhwc_int8_args *args);
void depthwise_nhwc_int8(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
