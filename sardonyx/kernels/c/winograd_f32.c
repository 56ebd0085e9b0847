// winograd_f32.c -- a task is one block of tiles (winograd_tile.h) and a range of output channel blocks.
//
// It transforms its inputs to V, unless winograd_input_f32 has done so for all tasks. Then, for GROUP output channel
// blocks at a time: 36 matrix products M[position] = V[position] * U[position] in register tiles of CONV_MR tiles x
// CONV_NB channel blocks, CHUNK input channel blocks at a time, so that what a chunk reads stays in L1; and the output
// transform with the epilogue. V is read once for each group, and U (which no cache but the last one holds) once.
#include "winograd_f32.h"

#define CONV_UNIT 16
#include "conv_tile.h"
#include "winograd_tile.h"

#ifndef CHUNK
#define CHUNK (16 / CONV_NB)
#endif
#ifndef GROUP
#define GROUP 8
#endif
#define PARTED_TASKS 16  // about so many tasks at least, where the blocks of tiles alone are fewer

_Static_assert(GROUP % CONV_NB == 0, "a group is whole register tiles");

typedef struct {
    winograd_cut c;
    int64_t shared;       // V is given
    int64_t part, parts;  // output channel blocks of a task, and how many such parts there are
    int64_t v, m;         // floats of scratch
} product_plan;

static product_plan make_plan(const winograd_f32_args *a) {
    product_plan p = {WINOGRAD_CUT(a), 0, GROUP, 1, 0, 0};
    if (p.c.tiles == 0 || a->oc_blocks == 0) return p;
    p.shared = a->v != 0 && p.c.tiles <= WINOGRAD_SHARED;
    int64_t least = p.shared ? CONV_NB : GROUP, wanted = (p.shared ? PARTED_TASKS : PARTED_TASKS / 2) / p.c.blocks;
    int64_t parts = wanted < 1 ? 1 : wanted;
    p.part = (a->oc_blocks + parts - 1) / parts;
    p.part = (p.part + least - 1) / least * least;
    p.parts = (a->oc_blocks + p.part - 1) / p.part;
    winograd_block largest = winograd_make_block(&p.c, 0);
    p.v = p.shared ? 0 : POSITIONS * largest.v;
    p.m = POSITIONS * largest.m * GROUP;
    return p;
}

int64_t winograd_f32_tasks(const winograd_f32_args *a) {
    product_plan p = make_plan(a);
    return p.c.blocks * (a->oc_blocks ? p.parts : 0);
}

int64_t winograd_f32_scratch(const winograd_f32_args *a) {
    product_plan p = make_plan(a);
    return (p.v + p.m) * (int64_t)sizeof(float);
}

// M[i][position] for the output channel blocks first + i, 0 <= i < count.
static void multiply(const winograd_cut *c, const winograd_block *b, const float *v, const float *w, int64_t first,
                     int64_t count, float *m) {
    int64_t offset[CHUNK], tiles = conv_tiles(b->count);
    for (int64_t s = 0; s < CHUNK; s++) offset[s] = s * b->count * 16;
    for (int64_t position = 0; position < POSITIONS; position++)
        for (int64_t k = 0; k < c->icb; k += CHUNK) {
            int64_t steps = k + CHUNK < c->icb ? CHUNK : c->icb - k;
            for (int64_t i = 0; i < count; i += CONV_NB) {
                const float *u = w + (((first + i) * POSITIONS + position) * c->icb + k) * 256;
                for (int64_t t = 0; t < tiles; t++) {
                    int64_t start = conv_tile_start(b->count, tiles, t);
                    int64_t end = conv_tile_start(b->count, tiles, t + 1);
                    conv_tile(end - start, count - i < CONV_NB ? count - i : CONV_NB,
                              v + position * b->v + (k * b->count + start) * 16, offset, steps, u,
                              POSITIONS * c->icb * 256, m + (i * POSITIONS + position) * b->m + start * 16,
                              POSITIONS * b->m, k == 0);
                }
            }
        }
}

// Outputs of output channel block `ob` from its sums, one run of tiles of a row at a time.
static void finish(const winograd_f32_args *a, const winograd_cut *c, const winograd_block *b, int64_t ob,
                   const float *m) {
    for (int64_t t = 0, end; t < b->count; t = end) {
        int64_t column = (b->lo + t) % c->columns, row = (b->lo + t) / c->columns, image = row / c->rows;
        int64_t oh = row % c->rows * 4, high = c->oh - oh < 4 ? c->oh - oh : 4;
        end = t + c->columns - column < b->count ? t + c->columns - column : b->count;
        float *y = a->y + image * a->y_batch + (ob * c->oh + oh) * c->ow * 16;
        for (int64_t i = t; i < end; i++) {
            int64_t ow = (column + i - t) * 4, wide = c->ow - ow < 4 ? c->ow - ow : 4;
            winograd_output_tile(m + i * 16, b->m, y + ow * 16, c->ow * 16, high, wide);
        }
        if (!a->epilogue) continue;
        int64_t lo = column * 4, hi = lo + (end - t) * 4 < c->ow ? lo + (end - t) * 4 : c->ow;
        if (hi - lo == c->ow) lo = oh * c->ow, hi = lo + high * c->ow, high = 1;
        else lo += oh * c->ow, hi += oh * c->ow;
        for (int64_t i = 0; i < high; i++)
            a->epilogue(a->operands, a->dims, image, ob, lo + i * c->ow, hi + i * c->ow, 0, 16);
    }
}

void winograd_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const winograd_f32_args *a = args;
    product_plan p = make_plan(a);
    float *m = scratch, *own = m + p.m;
    for (int64_t task = lo; task < hi; task++) {
        int64_t block = task % p.c.blocks, part = task / p.c.blocks;
        winograd_block b = winograd_make_block(&p.c, block);
        const float *v = own;
        if (p.shared) v = a->v + winograd_block_start(&p.c, &b, block);
        else winograd_input_block(&p.c, &b, a->x, 0, p.c.icb, own);
        int64_t first = part * p.part, last = first + p.part < a->oc_blocks ? first + p.part : a->oc_blocks;
        for (int64_t ob = first; ob < last; ob += GROUP) {
            int64_t count = last - ob < GROUP ? last - ob : GROUP;
            multiply(&p.c, &b, v, a->w, ob, count, m);
            for (int64_t i = 0; i < count; i++) finish(a, &p.c, &b, ob + i, m + i * POSITIONS * b.m);
        }
    }
}
