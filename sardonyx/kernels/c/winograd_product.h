// winograd_product.h -- the register tile of the Winograd products, and how it walks over a range of tiles.
//
//   m[b][i][l] = (first ? 0 : m[b][i][l]) + sum over s, c of v[s][i][c] * u[b][s][c][l]
//
// i: tiles of 4 x 4 outputs, b: blocks of 16 output channels (0 <= b < nb), l: lane, s: input channel blocks, c: channels
// of a block. Every m accumulates in the order s, c with SX_FMA, whatever the register tile.
//
// While a product passes, v of the next one comes to L1: half of it another core wrote, which takes 140 ns a line (2 threads:
// U-Net 1.07 times as fast, ResNet-18 1.05; 1 thread 1.0 to 1.03).
// Tunables: CONV_MR tiles x CONV_NB blocks.  Need CONV_MR * CONV_NB * 16 / VL + CONV_NB * 16 / VL + 1 <= VREGS,
// CONV_MR <= 14, CONV_NB <= 2.
#ifndef SARDONYX_WINOGRAD_PRODUCT_H
#define SARDONYX_WINOGRAD_PRODUCT_H

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

#ifndef WINOGRAD_UNROLL
#define WINOGRAD_UNROLL (VL == 4 ? 1 : 2)  // 2 spills on NEON
#endif

#define CONV_V (16 / VL)  // registers in a block of 16 lanes

_Static_assert(CONV_MR * CONV_NB * CONV_V + CONV_NB * CONV_V + 1 <= VREGS, "the tile would spill");
_Static_assert(CONV_MR <= 14 && CONV_NB <= 2, "no such tile is instantiated");

typedef struct {
    const float *v;
    int64_t v_step;  // from input channel block to block
    const float *u;
    int64_t u_block;
    float *m;
    int64_t m_block;
    int64_t steps;
    int first;
    int64_t next;  // floats from v to that of the next product
} winograd_operands;

// `groups` register tiles of `mr` tiles each, from tile `start` on.
SX_INLINE void winograd_tile_body(int mr, int nb, const winograd_operands *o, int64_t start, int64_t groups) {
    const float *v = o->v + start * 16;
    float *m = o->m + start * 16;
    const int64_t v_step = o->v_step, u_block = o->u_block, m_block = o->m_block, steps = o->steps;
    const int first = o->first;
    const float *next = v + o->next;
    for (int64_t g = 0; g < groups; g++, v += mr * 16, m += mr * 16, next += mr * 16) {
        vf acc[14][CONV_NB * CONV_V];
#pragma clang loop unroll(full)
        for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
            for (int r = 0; r < nb * CONV_V; r++)
                acc[i][r] = first ? (vf){} : v_load(m + (r / CONV_V) * m_block + i * 16 + (r % CONV_V) * VL);
        const float *vs = v, *us = o->u, *soon = next;
        for (int64_t s = 0; s < steps; s++, vs += v_step, us += 256, soon += v_step) {
#pragma clang loop unroll_count(WINOGRAD_UNROLL)
            for (int c = 0; c < 16; c++) {
                vf uv[CONV_NB * CONV_V];
                __builtin_prefetch(soon + (mr > 8 ? c * 16 : c * 8), 0, 3);  // 16 rows of v, or 8
#pragma clang loop unroll(full)
                for (int r = 0; r < nb * CONV_V; r++)
                    uv[r] = v_load(us + (r / CONV_V) * u_block + c * 16 + (r % CONV_V) * VL);
#pragma clang loop unroll(full)
                for (int i = 0; i < mr; i++) {
                    vf x = v_set1(vs[i * 16 + c]);
#pragma clang loop unroll(full)
                    for (int r = 0; r < nb * CONV_V; r++) acc[i][r] = SX_FMA(x, uv[r], acc[i][r]);
                }
            }
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < mr; i++)
#pragma clang loop unroll(full)
            for (int r = 0; r < nb * CONV_V; r++)
                v_store(m + (r / CONV_V) * m_block + i * 16 + (r % CONV_V) * VL, acc[i][r]);
    }
}

#define WINOGRAD_TILE(MR, NB)                                                                                        \
    static __attribute__((noinline)) void winograd_tile_##MR##x##NB(const winograd_operands *o, int64_t start,       \
                                                                    int64_t groups) {                                \
        winograd_tile_body(MR, NB, o, start, groups);                                                                \
    }
#define WINOGRAD_CASE(MR, NB)                                                                                        \
    case MR: winograd_tile_##MR##x##NB(o, start, groups); break;

// Register tiles of 1..CONV_MR tiles, for one block of output channels and, where CONV_NB is 2, for two.
#if CONV_MR > 6
#define WINOGRAD_EACH_HIGH(F, NB) F(7, NB) F(8, NB) F(9, NB) F(10, NB) F(11, NB) F(12, NB) F(13, NB) F(14, NB)
#else
#define WINOGRAD_EACH_HIGH(F, NB)
#endif
#if CONV_MR > 2
#define WINOGRAD_EACH_MIDDLE(F, NB) F(3, NB) F(4, NB) F(5, NB) F(6, NB)
#else
#define WINOGRAD_EACH_MIDDLE(F, NB)
#endif
#define WINOGRAD_EACH(F, NB) F(1, NB) F(2, NB) WINOGRAD_EACH_MIDDLE(F, NB) WINOGRAD_EACH_HIGH(F, NB)

WINOGRAD_EACH(WINOGRAD_TILE, 1)
#if CONV_NB == 2
WINOGRAD_EACH(WINOGRAD_TILE, 2)
#endif

static inline void winograd_tiles(int64_t mr, int64_t nb, const winograd_operands *o, int64_t start, int64_t groups) {
    if (groups == 0) return;
#if CONV_NB == 2
    if (nb == 2) {
        switch (mr) { WINOGRAD_EACH(WINOGRAD_CASE, 2) }
        return;
    }
#endif
    (void)nb;
    switch (mr) { WINOGRAD_EACH(WINOGRAD_CASE, 1) }
}

// Tiles 0 <= i < tiles, for `nb` blocks of output channels. Register tiles differ by at most one tile in size, so that
// no tail is too small to fill the FMA pipeline; those of one size are one call.
static inline void winograd_product(const winograd_operands *o, int64_t nb, int64_t tiles) {
    int64_t groups = (tiles + CONV_MR - 1) / CONV_MR, each = tiles / groups, larger = tiles % groups;
    winograd_tiles(each + 1, nb, o, 0, larger);
    winograd_tiles(each, nb, o, larger * (each + 1), groups - larger);
}

#endif
