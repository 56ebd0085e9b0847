// winograd_f32.h -- convolution with a 3x3 window, stride 1, dilation 1: fp32, NCHW16c in and out, by Winograd's
// F(4x4, 3x3): 36 multiplications for 16 outputs where the direct sum needs 144.
//
// A tile is 4 x 4 outputs of one channel and the 6 x 6 inputs d under them (0 outside of the image):
//
//   y = A' [ sum over channels of (G g G') * (B' d B) ] A       (* element by element; g: 3 x 3 weights)
//
// from the interpolation points 0, 5/8, -5/8, 3/2, -3/2 and infinity. All numbers in A and B are exact in fp32;
// U = G g G' is computed in fp32 from the plain weights: once for all tasks where tiles are many, by each task where they
// are few, so that only a quarter as much comes from memory. Weights and d are transformed by columns, then by rows; the
// sums run over the channels in their order, from 0, with SX_FMA; then they are transformed by columns, then by rows.
// Every y is computed in this one way, whatever the ISA, the cut into tasks and their order.
//
// Error, against exact arithmetic, with u = 2^-24 and C input channels:
//   |error| <= (C + 32) * u * |A'| [ sum |G| |g| |G'| * |B'| |d| |B| ] |A|
// and in practice far below it. The points were searched for the smallest error: with normal data and 64 channels its
// r.m.s. is 8e-7 of the output's spread and its maximum 7e-6 (direct sum: 4e-7 and 4e-6; the textbook points 0, 1, -1,
// 2, -2: 1.9e-6 and 2.3e-5), with 512 channels 2.0e-6 and 1.9e-5 (direct sum: 1.2e-6 and 1.2e-5).
// It is relative to the tile and not to the element: where neighbours of very different size meet, the small output
// has the error of the large ones.
// In the largest norm: |error| <= (C + 32) * u * K * C * max|g| * max|d|, where K = 564 for the worst of the 16 outputs
// (direct sum: 9 C u * 9 C max|g| max|d|). The program takes at most 4096 input channels for that.
// 4 roundings of the input, at most 10 of the weights and their constants, C + 1 of the sum, 6 of the outputs; up to
// twice the transforms' where multiply-add is not fused.
// Outputs that are not finite, because of x, w or an overflow on the way (sums within are larger than the direct ones),
// are computed again by the direct sum in the order of conv_nchw16c_f32: NaN and infinity stand exactly where they do
// there. An overflow makes every output not finite that it reaches, so no finite one is wrong.
// Lanes beyond the last channel: see conv_nchw16c_f32.h.
#ifndef SARDONYX_WINOGRAD_F32_H
#define SARDONYX_WINOGRAD_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;  // [n][groups * ic_blocks][ih][iw][16]
    const float *w;  // [groups * oc_blocks][ic_blocks][9][16 channels in][16 channels out], as of conv_nchw16c_f32
    const float *v;  // what winograd_input_f32 made of x; read if tiles = n * ceil(oh / 4) * ceil(ow / 4) <= 16 * oc_blocks
    const float *u;  // what winograd_weights_f32 made of w; read otherwise
    float *y;        // [n][groups * oc_blocks][oh][ow][16]
    int64_t n, ic_blocks, ih, iw, oc_blocks, oh, ow, pad_top, pad_left;
    int64_t groups;            // ic_blocks and oc_blocks are those of one
    int64_t x_batch, y_batch;  // elements from image to image
    sx_epilogue epilogue;      // or NULL
    void *const *operands;
    const int64_t *dims;
} winograd_f32_args;

int64_t winograd_f32_tasks(const winograd_f32_args *a);
int64_t winograd_f32_scratch(const winograd_f32_args *a);  // bytes for each running thread
void winograd_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
