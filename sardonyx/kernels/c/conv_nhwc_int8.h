// conv_nhwc_int8.h -- convolution of bytes in NHWC, summed exactly in int32, as bytes again or as the sums, and what follows.
#ifndef SARDONYX_CONV_NHWC_INT8_H
#define SARDONYX_CONV_NHWC_INT8_H

#include "sardonyx.h"

// sum[n,p,o] = bias[o] + sum over taps t, channels c of (x[n, p + t, c] - x_zero) * w[o,c,t], modulo 2^32; padding counts as
// x_zero. y = saturate(round(sum * scale[o]) + y_zero), rounded to even, or sum itself. Channels are contiguous; pitches and
// batches count elements. Zero points have the type of their tensor, NULL means 0. 64 bytes beyond x can be read.
typedef struct {
    const void *x;                  // uint8, or int8 when x_signed: [n][ih * iw][x_pitch]
    int64_t x_signed, x_batch, x_pitch;
    const void *x_zero;
    const void *w;                  // packing_int8.pack_conv_nhwc: [groups][panels][segments][quads][16][4]
    const int32_t *w_sums;          // sum of all weights of each output channel
    const int32_t *bias;            // [oc], or NULL
    const float *scale;             // finite; NULL: y is int32
    int64_t scale_step;             // 0: one for all output channels; 1: one for each
    const void *y_zero;
    const void *other;              // NULL, or bytes that are added, as y lies (16 beyond them can be read):
    int64_t own_zero, other_zero;   // y = saturate(round(((y' - own_zero) * own_scale + (other - other_zero) * other_scale)
    float own_scale, other_scale;   //     / divisor) + y_zero), where y' is what y would have been with own_zero as its zero
    float divisor, inverse;         //     point; inverse: the float nearest to 1 / divisor
    float own_factor, other_factor; // 0, or: fma(y' - own_zero, own_factor, fma(other, other_factor, offset)) rounds to the
    float offset;                   //     same as the quotient for all pairs of bytes
    void *y;                        // uint8, or int8 when y_signed, or int32: [n][oh * ow][y_pitch]
    int64_t y_signed, y_batch, y_pitch;
    int64_t n, ic, oc, groups;      // ic and oc of all groups
    int64_t spread;                 // b > 1: channel (i b + j) oc / b^2 + c of pixel (h, w) goes to channel c of pixel (b h + i,
                                    // b w + j); oc / b^2 is a multiple of 32, groups is 1, the window 1x1, nothing follows
    int64_t ih, iw, oh, ow, kh, kw, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    sx_epilogue epilogue;           // NULL: nothing follows; its i0 is the image, i1 0, i2 oh * OW + ow, i3 the channel
    void *const *operands;
    const int64_t *dims;
} conv_nhwc_int8_args;

// How many tasks to share among threads, bytes of scratch for one thread, and the tasks themselves (an sx_task).
int64_t conv_nhwc_int8_tasks(const conv_nhwc_int8_args *args);
int64_t conv_nhwc_int8_scratch(const conv_nhwc_int8_args *args);
void conv_nhwc_int8(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
