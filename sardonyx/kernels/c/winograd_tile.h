// winograd_tile.h -- what the steps of a Winograd convolution share: its tiles, their blocks, the layouts of V and U.
//
// Tiles are numbered (image * rows + row) * columns + column. A block is a range of them; its transformed input is
//   V[chunks][positions][blocks of the chunk][tiles of the block][16]      chunks of WINOGRAD_CHUNK channel blocks
// and the transformed weights are
//   U[oc_blocks][chunks][positions][WINOGRAD_CHUNK][16 in][16 out]
// both read from front to back by the products. Positions are an odd number of cache lines apart, so that those of one
// tile, or of one channel, fall into different sets.
#ifndef SARDONYX_WINOGRAD_TILE_H
#define SARDONYX_WINOGRAD_TILE_H

#include "winograd_transform.h"

#ifndef WINOGRAD_CHUNK
#define WINOGRAD_CHUNK 4
#endif
// Tiles of a block, at most: where tasks transform their inputs themselves, and where V is computed once for all.
#ifndef WINOGRAD_BLOCK
#define WINOGRAD_BLOCK 18
#endif
#ifndef WINOGRAD_SHARED_BLOCK
#define WINOGRAD_SHARED_BLOCK 96
#endif
// Up to so many tiles in all, weights are transformed in registers (winograd_few.h), where there are enough of these; tiles
// of such a block.
#ifndef WINOGRAD_FEW
#define WINOGRAD_FEW (VREGS >= 32 ? 8 : 0)
#endif
#ifndef WINOGRAD_FEW_BLOCK
#define WINOGRAD_FEW_BLOCK 8
#endif

#define POSITIONS 36
#define WINOGRAD_U_STEP (WINOGRAD_CHUNK * 256 + 16)  // floats from position to position in U

typedef struct {
    int64_t icb, ocb, ih, iw, oh, ow, pad_top, pad_left, x_batch;
    int64_t rows, columns, tiles, blocks, chunks;
    int64_t shared;  // V is smaller than U: V is computed once and U by each task, otherwise the other way round
    int64_t few;     // shared, and U is computed in registers
} winograd_cut;

typedef struct {
    int64_t lo, count;  // tiles
    int64_t v, s;       // floats from position to position in V, and in one channel block of the sums
} winograd_block;

// `a`: the arguments of any of the kernels that read x.
#define WINOGRAD_CUT(a)                                                                                               \
    winograd_make_cut((a)->n, (winograd_cut){.icb = (a)->ic_blocks, .ocb = (a)->oc_blocks, .ih = (a)->ih,             \
                                             .iw = (a)->iw, .oh = (a)->oh, .ow = (a)->ow, .pad_top = (a)->pad_top,    \
                                             .pad_left = (a)->pad_left, .x_batch = (a)->x_batch})

static inline winograd_cut winograd_make_cut(int64_t n, winograd_cut c) {
    c.rows = (c.oh + 3) / 4, c.columns = (c.ow + 3) / 4;
    c.tiles = n * c.rows * c.columns;
    c.shared = c.tiles <= 16 * c.ocb;
    c.few = c.shared && c.tiles <= WINOGRAD_FEW;
    int64_t most = c.few ? WINOGRAD_FEW_BLOCK : c.shared ? WINOGRAD_SHARED_BLOCK : WINOGRAD_BLOCK;
    c.blocks = (c.tiles + most - 1) / most;
    if (c.blocks > 2) c.blocks += c.blocks % 2; // most machines have an even number of threads
    c.chunks = (c.icb + WINOGRAD_CHUNK - 1) / WINOGRAD_CHUNK;
    return c;
}

// Blocks differ by at most one tile.
static inline winograd_block winograd_make_block(const winograd_cut *c, int64_t block) {
    int64_t each = c->tiles / c->blocks, extra = c->tiles % c->blocks;
    winograd_block b = {each * block + (block < extra ? block : extra), each + (block < extra), 0, 0};
    b.v = (WINOGRAD_CHUNK * b.count | 1) * 16;
    b.s = (b.count | 1) * 16;
    return b;
}

// Where a block begins in a V that holds all of them.
SX_INLINE int64_t winograd_block_start(const winograd_cut *c, const winograd_block *b, int64_t block) {
    return POSITIONS * c->chunks * 16 * (b->lo * WINOGRAD_CHUNK + block);
}

// Floats of V of one group.
SX_INLINE int64_t winograd_v_size(const winograd_cut *c) {
    return (c->tiles * WINOGRAD_CHUNK + c->blocks) * c->chunks * POSITIONS * 16;
}

// V of channel blocks lo <= ib < hi of a block of tiles.
static inline void winograd_input_block(const winograd_cut *c, const winograd_block *b, const float *x, int64_t lo,
                                        int64_t hi, float *v) {
    static const float zeros[WINOGRAD_STRIP * 16] __attribute__((aligned(64)));
    for (int64_t ib = lo; ib < hi; ib++)
        for (int64_t t = 0, count; t < b->count; t += count) {
            int64_t column = (b->lo + t) % c->columns, row = (b->lo + t) / c->columns, image = row / c->rows;
            count = c->columns - column < b->count - t ? c->columns - column : b->count - t;
            if (count > WINOGRAD_RUN) count = WINOGRAD_RUN;
            int64_t ih = row % c->rows * 4 - c->pad_top, iw = column * 4 - c->pad_left;
            const float *plane = x + image * c->x_batch + ib * c->ih * c->iw * 16, *from[6];
            for (int i = 0; i < 6; i++)
                from[i] = ih + i >= 0 && ih + i < c->ih ? plane + ((ih + i) * c->iw + iw) * 16 : zeros;
            int64_t chunk = ib / WINOGRAD_CHUNK, at = ib % WINOGRAD_CHUNK;
            winograd_input_run(from, iw < 0 ? -iw : 0, c->iw - iw, count,
                               v + chunk * POSITIONS * b->v + (at * b->count + t) * 16, b->v);
        }
}

// U of the first `count` channel blocks of a chunk, from w[ib][9][16][16].
static inline void winograd_weights_chunk(const float *w, int64_t count, float *u) {
    for (int64_t ib = 0; ib < count; ib++) winograd_weights_block(w + ib * 9 * 256, u + ib * 256, WINOGRAD_U_STEP);
}

#endif
