// pool_nhwc_int8.h -- the largest byte of each window, or the sum of its bytes, in NHWC.
#ifndef SARDONYX_POOL_NHWC_INT8_H
#define SARDONYX_POOL_NHWC_INT8_H

#include "sardonyx.h"

// y[n,p,c] = the largest x[n, p + t, c] over the taps t inside the image, as x; each window has at least one. With `sums` the sum
// of x[n, p + t, c] - x_zero over these, in exact int32. Pitches and batches count elements; channels are contiguous.
typedef struct {
    int64_t sums;
    const void *x_zero;             // as x, for sums; NULL: 0
    const void *x;                  // uint8, or int8 when is_signed: [n][ih * iw][x_pitch]
    int64_t is_signed, x_batch, x_pitch;
    void *y;                        // [n][oh * ow][y_pitch]
    int64_t y_batch, y_pitch;
    int64_t n, oc;                  // oc: channels
    int64_t ih, iw, oh, ow, kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    sx_epilogue epilogue;           // NULL: nothing follows; its i0 is the image, i1 0, i2 oh * OW + ow, i3 the channel
    void *const *operands;
    const int64_t *dims;
} pool_nhwc_int8_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t pool_nhwc_int8_tasks(const pool_nhwc_int8_args *args);
int64_t pool_nhwc_int8_scratch(const pool_nhwc_int8_args *args);
void pool_nhwc_int8(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
