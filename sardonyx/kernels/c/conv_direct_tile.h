// conv_direct_tile.h -- the register tile of conv_nchw16c_f32.
//
//   y[b][i][l] = (first ? 0 : y[b][i][l]) + sum over s, c of x(s, i)[c] * w[b][s][c][l]
//
// i: output positions (0 <= i < mr), b: blocks of 16 output channels (0 <= b < nb), l: lane, s: steps (one step is one
// tap of one input channel block), c: channels of a step, 16 or, from step `whole` on, `last`. Every y accumulates in
// the order s, c, starting from 0, with SX_FMA: the tile's shape never changes a bit, nor does splitting the steps.
//
// With few positions (CONV_POINTERS) each has a pointer of its own, so that positions lie anywhere:
//   x(s, i) = at[s * at_step + i] + offset[s]
// With more, there are too few general registers, and they are neighbours: x(s, i) = at[0] + offset[s] + i * 16.
//
// While a tile of neighbours passes, x of the next one comes to L1: what another core wrote takes 140 ns, and no prefetcher
// follows 14 rows in each of many planes (2 threads: MobileNet v3 1.09 times as fast, EfficientNet-B0 1.05, ResNet-50 1.03;
// 1 thread as before).
//
// With AVX-512, rows of neighbours go by tiles of 9 positions x 3 blocks as well: 12 loads for 27 products, where 14 x 2 need
// 16 for 28. That is 1 to 3 % while a core has its caches for itself and 3 to 10 % while a neighbour on it uses them too.
//
// Tunables: CONV_MR, CONV_NB. Need CONV_MR * CONV_NB * 16 / VL + CONV_NB * 16 / VL + 1 <= VREGS, CONV_MR <= 14,
// CONV_NB <= 2.
#ifndef SARDONYX_CONV_DIRECT_TILE_H
#define SARDONYX_CONV_DIRECT_TILE_H

#include "simd.h"

#ifndef CONV_MR
#if VL == 16
#define CONV_MR 14
#define CONV_NB 2
#define CONV_WIDE 3
#define CONV_WIDE_MR 9
#elif VL == 8 || VREGS == 32
#define CONV_MR 6
#define CONV_NB 1
#else
#define CONV_MR 2
#define CONV_NB 1
#endif
#endif

#ifndef CONV_WIDE
#define CONV_WIDE CONV_NB
#define CONV_WIDE_MR CONV_MR
#endif

#define CONV_POINTERS (CONV_MR <= 6)
#define CONV_V (16 / VL)  // registers in a block of 16 lanes

_Static_assert(CONV_MR * CONV_NB * CONV_V + CONV_NB * CONV_V + 1 <= VREGS, "the tile would spill");
_Static_assert(CONV_MR <= 14 && CONV_NB <= 2, "no such tile is instantiated");

typedef struct {
    const float *const *at;
    const int64_t *offset;
    int64_t at_step, steps, whole, last;
    int64_t tiles;  // so many, each beginning where the one before ends in x and y; one where positions have pointers
    const float *w;
    int64_t w_block;
    float *y;
    int64_t y_block;
    int64_t first;
    int64_t x_next;     // what is read after the last tile, so many floats from x on
    const char *ahead;  // read soon, for each block: fetched into L2, `ahead_step` bytes further for each two channels
    int64_t ahead_step, ahead_block;
} conv_work;

typedef void (*conv_tile_function)(const conv_work *);

#define UNROLL _Pragma("clang loop unroll(full)")

SX_INLINE void conv_tile_body(const conv_work *t, const int mr, const int nb, const int spread) {
    vf acc[14][CONV_WIDE * CONV_V];
    const int width = nb * CONV_V, rows = (mr + 7) / 8;  // rows of x fetched for each two channels
    float *y = t->y;
    const int64_t y_block = t->y_block, w_block = t->w_block, steps = t->steps;
    const int64_t ahead_step = t->ahead_step, ahead_block = t->ahead_block;
    const char *ahead = t->ahead;
    int64_t tiles = t->tiles, moved = 0;
    do {
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int v = 0; v < width; v++)
                acc[i][v] = t->first ? (vf){} : v_load(y + v / CONV_V * y_block + i * 16 + v % CONV_V * VL);
        const float *const *at = t->at;
        const float *w = t->w;
        const int64_t next = tiles > 1 ? mr * 16 : t->x_next - moved;
        for (int64_t s = 0; s < steps; s++) {
            const int64_t offset = t->offset[s] + (spread ? 0 : moved), channels = s < t->whole ? 16 : t->last;
            const float *xs[CONV_MR];
            UNROLL for (int i = 0; i < (spread ? mr : 1); i++) xs[i] = at[i] + offset;
            at += t->at_step;
            const float *ws = w;
            for (int64_t c = 0; c < channels; c += 2) {
                UNROLL for (int u = 0; u < 2; u++) {
                    vf wv[CONV_WIDE * CONV_V];
                    UNROLL for (int v = 0; v < width; v++)
                        wv[v] = v_load(ws + v / CONV_V * w_block + u * 16 + v % CONV_V * VL);
                    int64_t at_c = c + u;
                    if (spread || VL == 4) __asm__("" : "+r"(at_c));  // NEON would load pairs of channels, and spill
                    UNROLL for (int i = 0; i < mr; i++) {
                        const vf xv = v_set1(spread ? xs[i][at_c] : xs[0][i * 16 + at_c]);
                        UNROLL for (int v = 0; v < width; v++) acc[i][v] = SX_FMA(xv, wv[v], acc[i][v]);
                    }
                }
                ws += 32;
                UNROLL for (int b = 0; b < nb; b++) __builtin_prefetch(ahead + b * ahead_block, 0, 2);
                UNROLL for (int i = 0; i < (spread ? 0 : rows); i++)
                    __builtin_prefetch(xs[0] + next + c * 8 * rows + i * 16, 0, 3);
                ahead += ahead_step;
            }
            w += 256;
        }
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int v = 0; v < width; v++)
                v_store(y + v / CONV_V * y_block + i * 16 + v % CONV_V * VL, acc[i][v]);
        y += mr * 16;
        moved += mr * 16;
    } while (!spread && --tiles > 0);
}

#define CONV_TILE(MR, NB) \
    static __attribute__((noinline)) void conv_tile_##MR##x##NB(const conv_work *t) { conv_tile_body(t, MR, NB, 0); }
#define CONV_ENTRY(MR, NB) [MR] = conv_tile_##MR##x##NB,
#define CONV_SPREAD(MR, NB) \
    static __attribute__((noinline)) void conv_spread_##MR##x##NB(const conv_work *t) { conv_tile_body(t, MR, NB, 1); }
#define CONV_SPREAD_ENTRY(MR, NB) [MR] = conv_spread_##MR##x##NB,

// Tiles of 1..CONV_MR positions, for one block of output channels and, where CONV_NB is 2, for two; of 1..9, for three.
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

#define CONV_EACH_WIDE(F) F(1, 3) F(2, 3) F(3, 3) F(4, 3) F(5, 3) F(6, 3) F(7, 3) F(8, 3) F(9, 3)

CONV_EACH(CONV_TILE, 1)
#if CONV_NB == 2
CONV_EACH(CONV_TILE, 2)
#endif
#if CONV_WIDE == 3
CONV_EACH_WIDE(CONV_TILE)
#endif

// By blocks of output channels - 1 and positions.
static const conv_tile_function conv_tile[CONV_WIDE][15] = {
    {CONV_EACH(CONV_ENTRY, 1)},
#if CONV_NB == 2
    {CONV_EACH(CONV_ENTRY, 2)},
#endif
#if CONV_WIDE == 3
    {CONV_EACH_WIDE(CONV_ENTRY)},
#endif
};

// Blocks of output channels that a row takes at once of those that are left: 10 are 3 3 2 2.
SX_INLINE int64_t conv_row_blocks(int64_t left) {
    int64_t nb = left < CONV_WIDE ? left : CONV_WIDE;
    return nb == 3 && left == 4 ? 2 : nb;
}

// The tiles of `count` neighbouring positions from x and work.y on, of like size. work.ahead: read soon, or NULL; work.x_next:
// from x on.
SX_INLINE void conv_row(conv_work work, const float *x, int64_t nb, int64_t count) {
    const int64_t most = nb > CONV_NB ? CONV_WIDE_MR : CONV_MR, tiles = (count + most - 1) / most;
    const int64_t size = count / tiles, larger = count % tiles, start = larger * (size + 1) * 16;
    const float *const rest = x + start;
    const int64_t x_next = work.x_next - start;
    work.ahead_step = work.ahead ? (127 + tiles) / tiles : 0;
    if (!work.ahead) work.ahead = (const char *)work.w;
    work.at = &x, work.tiles = larger, work.x_next = start;
    if (larger) conv_tile[nb - 1][size + 1](&work);
    work.at = &rest, work.tiles = tiles - larger, work.x_next = x_next, work.y += start;
    work.ahead += larger * work.steps * 8 * work.ahead_step;
    conv_tile[nb - 1][size](&work);
}

#if CONV_POINTERS
CONV_EACH(CONV_SPREAD, 1)
#if CONV_NB == 2
CONV_EACH(CONV_SPREAD, 2)
#endif
static const conv_tile_function conv_spread[CONV_NB][15] = {
    {CONV_EACH(CONV_SPREAD_ENTRY, 1)},
#if CONV_NB == 2
    {CONV_EACH(CONV_SPREAD_ENTRY, 2)},
#endif
};
#else
#define conv_spread conv_tile
#endif

#endif
