// winograd_f32.c -- a task is one group, one block of tiles (winograd_tile.h) and a range of output channel blocks.
//
// For GROUP output channel blocks at a time, and for each chunk of input channel blocks: the products of all positions,
// M[position] += V[position] * U[position]; then the output transform, the repair of what is not finite, the epilogue.
// Where V is shared, the task transforms the weights of each chunk right before they are used, so that only the plain
// weights come from memory (in registers, where tiles are few: winograd_few.h); where U is shared, it transforms its inputs,
// once.
#include "winograd_f32.h"

#include "winograd_few.h"
#include "winograd_product.h"
#include "winograd_tile.h"

#ifndef GROUP
#define GROUP CONV_NB  // where U is the task's own
#endif
#ifndef GROUP_SHARED_U
#define GROUP_SHARED_U 4
#endif
#define PARTED_TASKS 32  // about so many tasks, where the blocks of tiles alone are fewer

_Static_assert(GROUP % CONV_NB == 0 && GROUP_SHARED_U % CONV_NB == 0, "a group is whole register tiles");

typedef struct {
    winograd_cut c;
    int64_t group, part, parts;  // output channel blocks of a group, of a task; how many such parts there are
    int64_t v, u, s;             // floats of scratch
} product_plan;

static product_plan make_plan(const winograd_f32_args *a) {
    product_plan p = {WINOGRAD_CUT(a), GROUP, 0, 1, 0, 0, 0};
    if (p.c.tiles == 0 || a->oc_blocks == 0) return p;
    winograd_block largest = winograd_make_block(&p.c, 0);
    p.group = p.c.shared ? GROUP : p.c.chunks == 1 ? CONV_NB : GROUP_SHARED_U;
    int64_t wanted = PARTED_TASKS / p.c.blocks;
    p.parts = !p.c.shared || wanted < 1 ? 1 : wanted;
    p.part = (a->oc_blocks + p.parts - 1) / p.parts;
    p.part = (p.part + CONV_NB - 1) / CONV_NB * CONV_NB;
    p.parts = (a->oc_blocks + p.part - 1) / p.part;
    if (p.c.few) p.u = 0;
    else if (p.c.shared) p.u = p.group * POSITIONS * WINOGRAD_U_STEP;
    else p.v = p.c.chunks * POSITIONS * largest.v;
    p.s = p.group * POSITIONS * largest.s;
    return p;
}

int64_t winograd_f32_tasks(const winograd_f32_args *a) {
    product_plan p = make_plan(a);
    return a->groups * p.c.blocks * (a->oc_blocks ? p.parts : 0);
}

int64_t winograd_f32_scratch(const winograd_f32_args *a) {
    product_plan p = make_plan(a);
    return (p.v + p.u + p.s) * (int64_t)sizeof(float);
}

// Where the arrays of one group begin, and the number of its first output channel block.
typedef struct {
    const float *x, *w, *v, *u;
    float *y;
    int64_t first;
} operands;

static operands operands_of(const winograd_f32_args *a, const winograd_cut *c, int64_t group) {
    operands g = {.first = group * c->ocb};
    g.x = a->x + group * c->icb * c->ih * c->iw * 16;
    g.w = a->w + g.first * c->icb * 9 * 256;
    g.y = a->y + g.first * c->oh * c->ow * 16;
    if (c->shared) g.v = a->v + group * winograd_v_size(c);
    else g.u = a->u + g.first * c->chunks * POSITIONS * WINOGRAD_U_STEP;
    return g;
}

// M[i][position] for the output channel blocks first + i, 0 <= i < count; `own` is room for U.
static void multiply(const operands *g, const winograd_cut *c, const winograd_block *b, const float *v, int64_t first,
                     int64_t count, float *own, float *sums) {
    for (int64_t chunk = 0; chunk < c->chunks; chunk++) {
        int64_t k = chunk * WINOGRAD_CHUNK, steps = k + WINOGRAD_CHUNK < c->icb ? WINOGRAD_CHUNK : c->icb - k;
        int64_t u_chunk = POSITIONS * WINOGRAD_U_STEP, u_block = c->shared ? u_chunk : c->chunks * u_chunk;
        const float *u = c->shared ? own : g->u + (first * c->chunks + chunk) * u_chunk;
        for (int64_t i = 0; c->shared && i < count; i++)
            winograd_weights_chunk(g->w + ((first + i) * c->icb + k) * 9 * 256, steps, own + i * u_chunk);
        for (int64_t i = 0; i < count; i += CONV_NB)
            for (int64_t position = 0; position < POSITIONS; position++) {
                // The next chunk's weights come from memory meanwhile; the hint reads nothing where there is no next.
                const float *next = g->w + ((first + i) * c->icb + k + steps) * 9 * 256;
                int64_t lines = WINOGRAD_CHUNK * 9 * 16 / POSITIONS;
                if (c->shared)
                    for (int64_t l = 0; l < lines; l++) __builtin_prefetch(next + (position * lines + l) * 16, 0, 2);
                winograd_operands o = {v + (chunk * POSITIONS + position) * b->v,
                                       b->count * 16,
                                       u + i * u_block + position * WINOGRAD_U_STEP,
                                       u_block,
                                       sums + (i * POSITIONS + position) * b->s,
                                       POSITIONS * b->s,
                                       steps,
                                       chunk == 0,
                                       b->v};
                winograd_product(&o, count - i < CONV_NB ? count - i : CONV_NB, b->count);
            }
    }
}

SX_INLINE int is_finite(vf x) { return !__builtin_reduce_or((x - x) != (vf){}); }

// Outputs lo <= p < hi of one row, as far as they are not finite, by the direct sum in the order of conv_nchw16c_f32.
static __attribute__((noinline)) void repair(const winograd_f32_args *a, const operands *g, int64_t image, int64_t ob,
                                             int64_t oh, int64_t lo, int64_t hi) {
    float *y = g->y + image * a->y_batch + (ob * a->oh + oh) * a->ow * 16;
    for (int64_t ow = lo; ow < hi; ow++) {
        f32x16 found = load16(y + ow * 16), sum = {};
        i32x16 bad = (found - found) != (f32x16){};
        if (!__builtin_reduce_or(bad)) continue;
        for (int64_t ib = 0; ib < a->ic_blocks; ib++)
            for (int64_t tap = 0; tap < 9; tap++) {
                int64_t ih = oh + tap / 3 - a->pad_top, iw = ow + tap % 3 - a->pad_left;
                int inside = ih >= 0 && ih < a->ih && iw >= 0 && iw < a->iw;
                const float *x = g->x + image * a->x_batch + ((ib * a->ih + ih) * a->iw + iw) * 16;
                const float *w = g->w + ((ob * a->ic_blocks + ib) * 9 + tap) * 256;
                for (int64_t c = 0; c < 16; c++)
                    sum = SX_FMA(set16(inside ? x[c] : 0.0f), load16(w + c * 16), sum);
            }
        store16(y + ow * 16, (f32x16)(((i32x16)sum & bad) | ((i32x16)found & ~bad)));
    }
}

// Outputs of output channel block `ob` of the group from its sums, one run of tiles of a row at a time.
static void finish(const winograd_f32_args *a, const operands *g, const winograd_cut *c, const winograd_block *b, int64_t ob,
                   const float *sums) {
    for (int64_t t = 0, end; t < b->count; t = end) {
        int64_t column = (b->lo + t) % c->columns, row = (b->lo + t) / c->columns, image = row / c->rows;
        int64_t oh = row % c->rows * 4, high = c->oh - oh < 4 ? c->oh - oh : 4;
        end = t + c->columns - column < b->count ? t + c->columns - column : b->count;
        float *y = g->y + image * a->y_batch + (ob * c->oh + oh) * c->ow * 16;
        vf check = {};
        for (int64_t i = t; i < end; i++) {
            int64_t ow = (column + i - t) * 4, wide = c->ow - ow < 4 ? c->ow - ow : 4;
            check += winograd_output_tile(sums + i * 16, b->s, y + ow * 16, c->ow * 16, high, wide);
        }
        int64_t lo = column * 4, hi = lo + (end - t) * 4 < c->ow ? lo + (end - t) * 4 : c->ow;
        if (!is_finite(check))
            for (int64_t i = 0; i < high; i++) repair(a, g, image, ob, oh + i, lo, hi);
        if (!a->epilogue) continue;
        if (hi - lo == c->ow) lo = oh * c->ow, hi = lo + high * c->ow, high = 1;
        else lo += oh * c->ow, hi += oh * c->ow;
        for (int64_t i = 0; i < high; i++)
            a->epilogue(a->operands, a->dims, image, g->first + ob, lo + i * c->ow, hi + i * c->ow, 0, 16);
    }
}

void winograd_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const winograd_f32_args *a = args;
    product_plan p = make_plan(a);
    float *sums = scratch, *own = sums + p.s;
    for (int64_t task = lo; task < hi; task++) {
        int64_t block = task % p.c.blocks, part = task / p.c.blocks % p.parts;
        operands g = operands_of(a, &p.c, task / p.c.blocks / p.parts);
        winograd_block b = winograd_make_block(&p.c, block);
        const float *v = own;
        if (p.c.shared) v = g.v + winograd_block_start(&p.c, &b, block);
        else winograd_input_block(&p.c, &b, g.x, 0, p.c.icb, own);
        int64_t first = part * p.part, last = first + p.part < a->oc_blocks ? first + p.part : a->oc_blocks;
        for (int64_t ob = first; ob < last; ob += p.group) {
            int64_t count = last - ob < p.group ? last - ob : p.group;
            if (p.c.few)
                for (int64_t i = 0; i < count; i++)
                    winograd_few_product(&p.c, &b, g.w + (ob + i) * p.c.icb * 9 * 256, v, sums + i * POSITIONS * b.s);
            else
                multiply(&g, &p.c, &b, v, ob, count, own, sums);
            for (int64_t i = 0; i < count; i++) finish(a, &g, &p.c, &b, ob + i, sums + i * POSITIONS * b.s);
        }
    }
}
