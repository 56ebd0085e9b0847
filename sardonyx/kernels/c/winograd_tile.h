// winograd_tile.h -- what both halves of a Winograd convolution share: its tiles, their blocks, and both transforms.
//
// Tiles are numbered (image * rows + row) * columns + column. A block is a range of them; its transformed input is
// V[36 positions][ic_blocks][tiles of the block][16], positions an odd number of cache lines apart, so that the 36
// lines of one tile fall into different sets.
#ifndef SARDONYX_WINOGRAD_TILE_H
#define SARDONYX_WINOGRAD_TILE_H

#include "simd.h"

// Tiles of a block, at most. More read the weights less often, fewer keep V in L2: which matters more depends on the
// channels. Tunable.
#ifndef WINOGRAD_BLOCK
#if VL == 16
#define WINOGRAD_BLOCK(icb) ((icb) <= 8 ? 28 : (icb) <= 16 ? 42 : 70)
#else
#define WINOGRAD_BLOCK(icb) ((icb) <= 8 ? 18 : (icb) <= 16 ? 36 : 72)
#endif
#endif
// Up to so many tiles in all, V is computed once for all tasks.
#ifndef WINOGRAD_SHARED
#define WINOGRAD_SHARED 128
#endif

#define POSITIONS 36

typedef struct {
    int64_t icb, ih, iw, oh, ow, pad_top, pad_left, x_batch;
    int64_t rows, columns, tiles, blocks;
} winograd_cut;

typedef struct {
    int64_t lo, count;  // tiles
    int64_t v, m;       // floats from position to position in V, and in one channel block of the sums
} winograd_block;

// `a`: the arguments of either kernel.
#define WINOGRAD_CUT(a)                                                                                               \
    winograd_make_cut((a)->n, (winograd_cut){(a)->ic_blocks, (a)->ih, (a)->iw, (a)->oh, (a)->ow, (a)->pad_top,        \
                                             (a)->pad_left, (a)->x_batch, 0, 0, 0, 0})

static inline winograd_cut winograd_make_cut(int64_t n, winograd_cut c) {
    c.rows = (c.oh + 3) / 4, c.columns = (c.ow + 3) / 4;
    c.tiles = n * c.rows * c.columns;
    c.blocks = (c.tiles + WINOGRAD_BLOCK(c.icb) - 1) / WINOGRAD_BLOCK(c.icb);
    if (c.blocks > 2) c.blocks += c.blocks % 2; // most machines have an even number of threads
    return c;
}

// Blocks differ by at most one tile.
static inline winograd_block winograd_make_block(const winograd_cut *c, int64_t block) {
    int64_t each = c->tiles / c->blocks, extra = c->tiles % c->blocks;
    winograd_block b = {each * block + (block < extra ? block : extra), each + (block < extra), 0, 0};
    b.v = (c->icb * b.count | 1) * 16;
    b.m = (b.count | 1) * 16;
    return b;
}

// Where a block begins in a V that holds all of them.
SX_INLINE int64_t winograd_block_start(const winograd_cut *c, const winograd_block *b, int64_t block) {
    return POSITIONS * 16 * (b->lo * c->icb + block);
}

// B' d, of one column or row.
SX_INLINE void winograd_forward(const vf d[6], vf to[6]) {
    const float p = 0.625f, q = 1.5f; // the points
    const vf p1 = v_set1(p), q1 = v_set1(q), p2 = v_set1(-p * p), q2 = v_set1(-q * q);
    const vf both = v_set1(p * p * q * q), sum = v_set1(-p * p - q * q);
    const vf even_p = SX_FMA(q2, d[2], d[4]), odd_p = SX_FMA(q2, d[1], d[3]);
    const vf even_q = SX_FMA(p2, d[2], d[4]), odd_q = SX_FMA(p2, d[1], d[3]);
    to[0] = SX_FMA(both, d[0], SX_FMA(sum, d[2], d[4]));
    to[1] = SX_FMA(p1, odd_p, even_p);
    to[2] = SX_FMA(-p1, odd_p, even_p);
    to[3] = SX_FMA(q1, odd_q, even_q);
    to[4] = SX_FMA(-q1, odd_q, even_q);
    to[5] = SX_FMA(both, d[1], SX_FMA(sum, d[3], d[5]));
}

// A' m.
SX_INLINE void winograd_backward(const vf m[6], vf to[4]) {
    const float p = 0.625f, q = 1.5f;
    const vf p1 = v_set1(p), q1 = v_set1(q), p2 = v_set1(p * p), q2 = v_set1(q * q);
    const vf p3 = v_set1(p * p * p), q3 = v_set1(q * q * q);
    const vf even_p = m[1] + m[2], odd_p = m[1] - m[2], even_q = m[3] + m[4], odd_q = m[3] - m[4];
    to[0] = m[0] + even_p + even_q;
    to[1] = SX_FMA(q1, odd_q, p1 * odd_p);
    to[2] = SX_FMA(q2, even_q, p2 * even_p);
    to[3] = SX_FMA(q3, odd_q, SX_FMA(p3, odd_p, m[5]));
}

// V of one tile and channel block: position i at v[i * step]. Row r of the inputs begins at d[r * row].
static inline void winograd_input_tile(const float *d, int64_t row, float *v, int64_t step) {
    for (int l = 0; l < 16; l += VL) {
        vf half[6][6];
#pragma clang loop unroll(disable)
        for (int j = 0; j < 6; j++) {
            vf in[6], out[6];
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) in[i] = v_load(d + i * row + j * 16 + l);
            winograd_forward(in, out);
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) half[i][j] = out[i];
        }
#pragma clang loop unroll(disable)
        for (int i = 0; i < 6; i++) {
            vf out[6];
            winograd_forward(half[i], out);
#pragma clang loop unroll(full)
            for (int j = 0; j < 6; j++) v_store(v + (i * 6 + j) * step + l, out[j]);
        }
    }
}

// The inputs of a tile at (ih, iw), some of which lie outside of the image, with zeros for those.
static inline void winograd_gather(const winograd_cut *c, const float *x, int64_t ih, int64_t iw, float *patch) {
    for (int64_t i = 0; i < 6; i++) {
        const float *row = x + (ih + i) * c->iw * 16;
        int inside = ih + i >= 0 && ih + i < c->ih;
        for (int64_t j = 0; j < 6; j++) {
            int here = inside && iw + j >= 0 && iw + j < c->iw;
            store16(patch + (i * 6 + j) * 16, here ? load16(row + (iw + j) * 16) : (f32x16){});
        }
    }
}

// V of channel blocks lo <= ib < hi of a block of tiles.
static inline void winograd_input_block(const winograd_cut *c, const winograd_block *b, const float *x, int64_t lo,
                                        int64_t hi, float *v) {
    float patch[6 * 6 * 16] __attribute__((aligned(64)));
    for (int64_t ib = lo; ib < hi; ib++)
        for (int64_t t = 0; t < b->count; t++) {
            int64_t row = (b->lo + t) / c->columns, image = row / c->rows;
            int64_t ih = row % c->rows * 4 - c->pad_top, iw = (b->lo + t) % c->columns * 4 - c->pad_left;
            const float *plane = x + image * c->x_batch + ib * c->ih * c->iw * 16;
            float *to = v + (ib * b->count + t) * 16;
            if (ih >= 0 && iw >= 0 && ih + 6 <= c->ih && iw + 6 <= c->iw) {
                winograd_input_tile(plane + (ih * c->iw + iw) * 16, c->iw * 16, to, b->v);
                continue;
            }
            winograd_gather(c, plane, ih, iw, patch);
            winograd_input_tile(patch, 6 * 16, to, b->v);
        }
}

// The outputs of one tile: sum i at m[i * step]; the first `high` rows and `wide` columns of them, rows `row` apart.
static inline void winograd_output_tile(const float *m, int64_t step, float *y, int64_t row, int64_t high,
                                        int64_t wide) {
    for (int l = 0; l < 16; l += VL) {
        vf half[4][6];
#pragma clang loop unroll(disable)
        for (int j = 0; j < 6; j++) {
            vf in[6], out[4];
#pragma clang loop unroll(full)
            for (int i = 0; i < 6; i++) in[i] = v_load(m + (i * 6 + j) * step + l);
            winograd_backward(in, out);
#pragma clang loop unroll(full)
            for (int i = 0; i < 4; i++) half[i][j] = out[i];
        }
#pragma clang loop unroll(disable)
        for (int64_t i = 0; i < high; i++) {
            vf out[4];
            winograd_backward(half[i], out);
            float *to = y + i * row + l;
            v_store(to, out[0]);
            if (wide > 1) v_store(to + 16, out[1]);
            if (wide > 2) v_store(to + 32, out[2]);
            if (wide > 3) v_store(to + 48, out[3]);
        }
    }
}

#endif
