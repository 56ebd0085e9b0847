// conv_tile.h -- the register tile of the dense convolutions, and how it is chosen for a number of positions.
//
//   y[b][i][l] = (first ? 0 : y[b][i][l]) + sum over s, c of x[offset[s] + i * CONV_UNIT + c] * w[b][s][c][l]
//
// i: output positions (0 <= i < mr), b: blocks of 16 output channels (0 <= b < nb), l: lane, s: steps (one step is one
// tap of one input channel block), c: channels of a step (0 <= c < CONV_UNIT). Every y accumulates in the order s, c,
// starting from 0, with SX_FMA: the tile's shape never changes a bit, nor does splitting the steps over several calls.
//
// The includer defines CONV_UNIT: 16 where x is NCHW16c, 1 where x is a plain row of one channel.
// Tunables: CONV_MR, CONV_NB, CONV_UNROLL.  Need CONV_MR * CONV_NB * 16 / VL + CONV_NB * 16 / VL + 1 <= VREGS,
// CONV_MR <= 14, CONV_NB <= 2.
#ifndef SARDONYX_CONV_TILE_H
#define SARDONYX_CONV_TILE_H

#include "simd.h"

#ifndef CONV_MR
#if VL == 16
#define CONV_MR 14
#define CONV_NB 2
#elif VL == 8 || VREGS == 32
#define CONV_MR 6
#define CONV_NB 1
#else
#define CONV_MR 2
#define CONV_NB 1
#endif
#endif

#ifndef CONV_UNROLL
#define CONV_UNROLL 2  // 4 spills on NEON; 16 is no faster and doubles the compile time for AVX-512
#endif

#define CONV_V (16 / VL)  // registers in a block of 16 lanes

_Static_assert(CONV_MR * CONV_NB * CONV_V + CONV_NB * CONV_V + 1 <= VREGS, "the tile would spill");
_Static_assert(CONV_MR <= 14 && CONV_NB <= 2, "no such tile is instantiated");

// Balanced cut of `length` positions into tiles of at most CONV_MR: sizes differ by at most one, so that a tail never
// runs as a tile too small to fill the FMA pipeline (49 = 4 * 6 + 5 * 5, not 8 * 6 + 1).
SX_INLINE int64_t conv_tiles(int64_t length) { return (length + CONV_MR - 1) / CONV_MR; }
SX_INLINE int64_t conv_tile_start(int64_t length, int64_t tiles, int64_t i) {
    int64_t extra = length % tiles;
    return length / tiles * i + (i < extra ? i : extra);
}

SX_INLINE void conv_tile_body(int mr, int nb, const float *x, const int64_t *offset, int64_t steps, const float *w,
                              int64_t w_block, float *y, int64_t y_block, int first) {
    vf acc[14][CONV_NB * CONV_V];
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
        for (int v = 0; v < nb * CONV_V; v++)
            acc[i][v] = first ? (vf){} : v_load(y + (v / CONV_V) * y_block + i * 16 + (v % CONV_V) * VL);
    for (int64_t s = 0; s < steps; s++) {
        const float *xs = x + offset[s], *ws = w + s * (CONV_UNIT * 16);
#pragma clang loop unroll_count(CONV_UNROLL)
        for (int c = 0; c < CONV_UNIT; c++) {
            vf wv[CONV_NB * CONV_V];
#pragma clang loop unroll(full)
            for (int v = 0; v < nb * CONV_V; v++)
                wv[v] = v_load(ws + (v / CONV_V) * w_block + c * 16 + (v % CONV_V) * VL);
#pragma clang loop unroll(full)
            for (int i = 0; i < mr; i++) {
                vf xv = v_set1(xs[i * CONV_UNIT + c]);
#pragma clang loop unroll(full)
                for (int v = 0; v < nb * CONV_V; v++) acc[i][v] = SX_FMA(xv, wv[v], acc[i][v]);
            }
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
        for (int v = 0; v < nb * CONV_V; v++)
            v_store(y + (v / CONV_V) * y_block + i * 16 + (v % CONV_V) * VL, acc[i][v]);
}

#define CONV_TILE_PARAMETERS                                                                                        \
    const float *x, const int64_t *offset, int64_t steps, const float *w, int64_t w_block, float *y,               \
        int64_t y_block, int first
#define CONV_TILE(MR, NB)                                                                                           \
    static __attribute__((noinline)) void conv_tile_##MR##x##NB(CONV_TILE_PARAMETERS) {                             \
        conv_tile_body(MR, NB, x, offset, steps, w, w_block, y, y_block, first);                                    \
    }
#define CONV_CASE(MR, NB)                                                                                           \
    case MR: conv_tile_##MR##x##NB(x, offset, steps, w, w_block, y, y_block, first); break;

// Tiles of 1..CONV_MR positions, for one block of output channels and, where CONV_NB is 2, for two.
#if CONV_MR > 6
#define CONV_EACH_HIGH(F, NB) F(7, NB) F(8, NB) F(9, NB) F(10, NB) F(11, NB) F(12, NB) F(13, NB) F(14, NB)
#else
#define CONV_EACH_HIGH(F, NB)
#endif
#if CONV_MR > 2
#define CONV_EACH_MIDDLE(F, NB) F(3, NB) F(4, NB) F(5, NB) F(6, NB)
#else
#define CONV_EACH_MIDDLE(F, NB)
#endif
#define CONV_EACH(F, NB) F(1, NB) F(2, NB) CONV_EACH_MIDDLE(F, NB) CONV_EACH_HIGH(F, NB)

CONV_EACH(CONV_TILE, 1)
#if CONV_NB == 2
CONV_EACH(CONV_TILE, 2)
#endif

SX_INLINE void conv_tile(int64_t mr, int64_t nb, CONV_TILE_PARAMETERS) {
#if CONV_NB == 2
    if (nb == 2) {
        switch (mr) { CONV_EACH(CONV_CASE, 2) }
        return;
    }
#endif
    (void)nb;
    switch (mr) { CONV_EACH(CONV_CASE, 1) }
}

#endif
