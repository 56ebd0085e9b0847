// conv_nchw16c_f32.c -- direct convolution over NCHW16c by tiles of CONV_MR positions x CONV_NB channel blocks.
//
// A task is one image, one group, up to OC_GROUP blocks of output channels and one range of output positions (p = oh *
// OW + ow, tiles may run over the end of a row). It walks over its steps (ib, kh, kw) in chunks whose weights fit L1;
// between chunks the partial sums rest in y, which the task's range keeps in L2.
//
// A tile reads x in place where no tap leaves the image: through one pointer if its positions are neighbours in x, else
// (strided, over the end of a row) through one for each position. A tile at a border lists a pointer for each step and
// position, to x or to zeros. Where registers hold so many positions that there are too few for pointers (AVX-512), all
// tiles but those of neighbours read copies instead, in a panel [step][position][16].
//
// Weights come from memory once a run: while a chunk of one block passes, the next one is fetched into L2 (512 -> 512
// channels at 7x7, cold: 64 -> 82 % of peak for 3x3, 65 -> 76 % for 512 -> 2048 and 1x1).
//
// A scale of x goes into the weights of a chunk, on their way to L1: two instructions in 64 bytes of weights, which serve
// all positions of a task. In a step of its own it would write weights or x to memory and read them again.
#include "conv_nchw16c_f32.h"

#include "conv_direct_tile.h"

// Steps of a chunk: CHUNK * CONV_NB kilobytes of weights, 16 in all. Positions of a task: CHUNK * POSITIONS * 64 bytes
// of panels, 96 KB. Tunables.
#ifndef CHUNK
#define CHUNK (16 / CONV_NB)
#endif
#ifndef POSITIONS
#define POSITIONS (96 / CONV_MR * CONV_MR)
#endif
#ifndef OC_GROUP
#define OC_GROUP 16
#endif
// Positions whose products take as long as one weight from the last cache: 88 multiply-adds a ns, 20 bytes a ns.
#define MEMORY 17

#define SCALED (CHUNK * CONV_WIDE * 256)  // scaled weights of a chunk: floats

// Bytes of a tile's panel: a pointer or a copy of 16 floats for each step and position.
#define PANEL (CHUNK * CONV_MR * (CONV_POINTERS ? (int64_t)sizeof(float *) : 64))

// The convolution as it is run, and how it is cut into tasks: task = ((image * groups + group) * oc_parts + oc_part) *
// ranges + range. A function of the arguments alone.
typedef struct {
    int64_t ih, iw, ow, positions;  // a 1x1 convolution that moves nothing is one long row
    int64_t icb, ocb, taps, steps;  // of one group
    int64_t last;                   // channels of its last input block, rounded up to a multiple of 2
    int64_t oc_parts;               // parts into which a group's output channel blocks are cut
    int64_t tiles, ranges;          // of CONV_MR positions in an image, and the ranges among which they are shared
    int in_place;                   // no tile needs a panel
} conv_plan;

static const float zeros[16] __attribute__((aligned(64)));

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// As many, or one more where that shares better: three tasks keep two threads busy for as long as four.
static int64_t even(int64_t tasks) { return tasks > 1 && tasks < 8 ? (tasks + 1) / 2 * 2 : tasks; }

static conv_plan make_plan(const conv_nchw16c_f32_args *a) {
    conv_plan p = {a->ih, a->iw, a->ow, a->oh * a->ow, a->ic_blocks / a->groups, a->oc_blocks / a->groups,
                   a->kh * a->kw, 0, 0, 0, 0, 0, 0};
    p.steps = p.icb * p.taps;
    p.last = (a->ic - (p.icb - 1) * 16 + 1) / 2 * 2;
    p.in_place = p.taps == 1 && a->stride_h == 1 && a->stride_w == 1 && !a->pad_top && !a->pad_left &&
                 a->oh == a->ih && a->ow == a->iw;
    if (p.in_place) p.ih = 1, p.iw = p.ow = p.positions;
    if (p.positions == 0 || a->n == 0 || p.ocb == 0) return p;

    // About one task for each 2^19 multiply-adds (10 us), at most 16 because of this rule; where positions are few, the
    // weights' way from memory takes longer than products. Fewer channels in a task copy panels more often, fewer
    // positions read weights more often: both stop where that would show, unless there would be fewer than 8 tasks.
    int64_t wanted = a->n * a->oc_blocks * p.steps * (p.positions > MEMORY ? p.positions : MEMORY) / (1 << 11);
    int64_t images = a->n * a->groups;
    if (wanted > 16) wanted = 16;
    int64_t parts = even(ceil_div(p.ocb, OC_GROUP)), ranges = ceil_div(p.positions, POSITIONS);
    int64_t least = p.in_place ? CONV_NB : 4;
    while (images * parts * ranges < wanted && p.ocb / parts >= 2 * least) parts *= 2;
    while (images * parts * ranges < wanted && p.positions / ranges >= 8 * CONV_MR) ranges *= 2;
    while (images * parts * ranges < wanted / 2 && p.ocb / parts >= 2 * CONV_NB) parts *= 2;
    p.oc_parts = parts;
    p.tiles = ceil_div(p.positions, CONV_MR);
    p.ranges = ranges;
    return p;
}

typedef struct {
    int64_t start, mr;       // positions
    int64_t packed, spread;  // reads a panel; positions are no neighbours in what it reads
} conv_task_tile;

// Scratch of a task. `panels` has PANEL bytes for each tile, after SCALED floats where x is scaled.
typedef struct {
    int64_t direct[CHUNK], packed[CHUNK];  // offset of each step of the chunk: in x, in a panel
    int64_t dh[CHUNK], dw[CHUNK];          // kh * dilation_h, kw * dilation_w
    int64_t tiles;                         // none where all positions are one row
    conv_task_tile tile[POSITIONS / CONV_MR];
    int64_t ih[POSITIONS], iw[POSITIONS];  // of tap (0, 0) at each position; outside of the image where x is padded
    int64_t at[POSITIONS];                 // the same as an offset in a channel block of x
    const float *rows[POSITIONS];          // and as a pointer into the first one
    float *scaled;
    char *panels;
    char memory[] __attribute__((aligned(64)));
} conv_scratch;

int64_t conv_nchw16c_f32_tasks(const conv_nchw16c_f32_args *a) {
    conv_plan p = make_plan(a);
    return a->n * a->groups * p.oc_parts * p.ranges;
}

int64_t conv_nchw16c_f32_scratch(const conv_nchw16c_f32_args *a) {
    conv_plan p = make_plan(a);
    int64_t panels = p.in_place || p.ranges == 0 ? 0 : ceil_div(p.tiles, p.ranges) * PANEL;
    return (int64_t)sizeof(conv_scratch) + panels + (a->scale ? SCALED * 4 : 0);
}

// Whether all taps of the position whose first tap is at (ih, iw) lie in the image.
SX_INLINE int window_inside(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t ih, int64_t iw) {
    return ih >= 0 && ih + (a->kh - 1) * a->dilation_h < p->ih && iw >= 0 && iw + (a->kw - 1) * a->dilation_w < p->iw;
}

// Cuts positions lo <= p < hi into tiles and decides how each reads x.
static void make_tiles(const conv_nchw16c_f32_args *a, const conv_plan *p, const float *x, int64_t lo, int64_t hi,
                       conv_scratch *s) {
    int64_t oh = lo / p->ow, ow = lo % p->ow;
    for (int64_t i = 0; i < hi - lo; i++) {
        s->ih[i] = oh * a->stride_h - a->pad_top;
        s->iw[i] = ow * a->stride_w - a->pad_left;
        s->at[i] = (s->ih[i] * p->iw + s->iw[i]) * 16;
        s->rows[i] = x + s->at[i];
        if (++ow == p->ow) ow = 0, oh++;
    }
    // Sizes differ by at most one, so that a tail never runs as a tile too small to fill the FMA pipeline
    // (49 = 4 * 6 + 5 * 5, not 8 * 6 + 1).
    s->tiles = ceil_div(hi - lo, CONV_MR);
    int64_t size = (hi - lo) / s->tiles, larger = (hi - lo) % s->tiles;
    for (int64_t t = 0, start = 0, mr; t < s->tiles; t++, start += mr) {
        mr = size + (t < larger);
        int inside = 1, neighbours = 1;
        for (int64_t i = start; i < start + mr; i++) {
            inside &= window_inside(a, p, s->ih[i], s->iw[i]);
            neighbours &= s->at[i] == s->at[start] + (i - start) * 16;
        }
        s->tile[t] = (conv_task_tile){start, mr, !(inside && (CONV_POINTERS || neighbours)),
                                      CONV_POINTERS && !(inside && neighbours)};
    }
}

// Lists where steps k <= step < k + count are read.
static void make_steps(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t k, int64_t count, conv_scratch *s) {
    int64_t ib = k / p->taps, kh = k % p->taps / a->kw, kw = k % a->kw;
    for (int64_t j = 0; j < count; j++) {
        s->dh[j] = kh * a->dilation_h;
        s->dw[j] = kw * a->dilation_w;
        s->direct[j] = ((ib * p->ih + s->dh[j]) * p->iw + s->dw[j]) * 16;
        s->packed[j] = CONV_POINTERS ? 0 : j * CONV_MR * 16;
        if (++kw == a->kw) kw = 0, kh++;
        if (kh == a->kh) kh = 0, ib++;
    }
}

// Step j, position i of a panel: a pointer to `source`, or a copy of it.
SX_INLINE void put(char *panel, int64_t j, int64_t i, const float *source) {
#if CONV_POINTERS
    ((const float **)panel)[j * CONV_MR + i] = source;
#else
    store16((float *)panel + (j * CONV_MR + i) * 16, load16(source));
#endif
}

// Fills the panel of tile t, position by position: with what lies in x, or zeros.
static void fill_panel(const conv_nchw16c_f32_args *a, const float *x, const conv_plan *p, int64_t t, int64_t count,
                       conv_scratch *s) {
    char *panel = s->panels + t * PANEL;
    for (int64_t i = 0; i < s->tile[t].mr; i++) {
        int64_t from = s->tile[t].start + i, ih = s->ih[from], iw = s->iw[from], at = s->at[from];
        if (window_inside(a, p, ih, iw)) {
            for (int64_t j = 0; j < count; j++) put(panel, j, i, x + (at + s->direct[j]));
            continue;
        }
        for (int64_t j = 0; j < count; j++) {
            int inside = (uint64_t)(ih + s->dh[j]) < (uint64_t)p->ih && (uint64_t)(iw + s->dw[j]) < (uint64_t)p->iw;
            put(panel, j, i, inside ? x + (at + s->direct[j]) : zeros);
        }
    }
}

// The steps of a task: `runs` runs of `count`, each from tap `lo` of another input block on.
typedef struct {
    int64_t runs, lo, count;
} conv_taps;

// All steps are one run, unless some rows of taps lie in padding at all positions lo <= p < hi.
static conv_taps seen_taps(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t lo, int64_t hi) {
    int64_t top = lo / p->ow * a->stride_h - a->pad_top, bottom = (hi - 1) / p->ow * a->stride_h - a->pad_top;
    int64_t first = 0, end = a->kh;
    while (first + 1 < end && bottom + first * a->dilation_h < 0) first++;
    while (first + 1 < end && top + (end - 1) * a->dilation_h >= p->ih) end--;
    if (end - first == a->kh) return (conv_taps){1, 0, p->steps};
    return (conv_taps){p->icb, first * a->kw, (end - first) * a->kw};
}

// The first block of output channels of a part, and the first position of a range. Parts are cut between tiles, unless
// they are few and would be uneven: 10 blocks are 2 3 2 3.
static int64_t part_start(const conv_plan *p, int64_t part) {
    int64_t pairs = ceil_div(p->ocb, CONV_NB);
    if (part == p->oc_parts || (pairs % 2 && pairs < 8)) return p->ocb * part / p->oc_parts;
    return pairs * part / p->oc_parts * CONV_NB;
}
static int64_t range_start(const conv_plan *p, int64_t range) {
    return range == p->ranges ? p->positions : p->tiles * range / p->ranges * CONV_MR;
}

// Weights of nb blocks, steps k <= step < k + count, times the scale of their input channel: [block][step][16][16].
static void scale_weights(const conv_plan *p, const float *scale, const float *w, int64_t nb, int64_t k, int64_t count,
                          float *scaled) {
    for (int64_t b = 0; b < nb; b++)
        for (int64_t j = 0; j < count; j++) {
            const float *from = w + (b * p->steps + j) * 256, *by = scale + (k + j) / p->taps * 16;
            float *to = scaled + (b * CHUNK + j) * 256;
            for (int64_t c = 0; c < 16; c++)
                for (int64_t v = 0; v < CONV_V; v++)
                    v_store(to + c * 16 + v * VL, v_load(from + c * 16 + v * VL) * v_set1(by[c]));
        }
}

// One chunk of steps for the tiles of one range and one block, or two, of output channels.
static void run_tiles(const conv_scratch *s, conv_work work, int64_t nb) {
    float *y = work.y;
    int64_t chunk_next = work.x_next;
    work.ahead_step = 128 / s->tiles;
    for (int64_t t = 0; t < s->tiles; t++) {
        const conv_task_tile *tile = &s->tile[t];
        const float *panel = (const float *)(s->panels + t * PANEL);
        work.y = y + tile->start * 16;
        work.tiles = 1;
        work.at = s->rows + tile->start;
        work.at_step = 0;
        work.offset = s->direct;
        work.x_next = t + 1 < s->tiles ? tile->mr * 16 : chunk_next - tile->start * 16;
        if (tile->packed) {
            work.at = CONV_POINTERS ? (const float *const *)panel : &panel;
            work.at_step = CONV_POINTERS ? CONV_MR : 0;
            work.offset = s->packed;
            work.x_next = PANEL / 4;
        }
        (tile->spread ? conv_spread : conv_tile)[nb - 1][tile->mr](&work);
        work.ahead += work.ahead_step * work.steps * 8;
    }
}

// What a task needs to know of itself: output positions and blocks, where the image's inputs and the range's outputs begin.
typedef struct {
    int64_t image, lo, hi, block, end;
    const float *x, *scale;
    float *y;
} conv_task;

// Steps k <= step < k + count of all blocks; those from `after` on follow.
static void run_chunk(const conv_nchw16c_f32_args *a, const conv_plan *p, const conv_task *t, int64_t k, int64_t count,
                      int64_t after, int first, int last, conv_scratch *s) {
    int64_t w_block = p->steps * 256, y_block = p->positions * 16;
    make_steps(a, p, k, count, s);
    for (int64_t i = 0; i < s->tiles; i++)
        if (s->tile[i].packed) fill_panel(a, t->x, p, i, count, s);
    for (int64_t b = t->block, nb; b < t->end; b += nb) {
        nb = p->in_place ? conv_row_blocks(t->end - b) : t->end - b < CONV_NB ? t->end - b : CONV_NB;
        const float *w = a->w + b * w_block + k * 256;
        const float *next = b + nb < t->end ? w + nb * w_block : a->w + t->block * w_block + after * 256;
        conv_work work = {.offset = s->direct, .steps = count, .whole = p->steps - p->taps - k, .last = p->last, .w = w,
                          .w_block = w_block, .y = t->y + b * y_block, .y_block = y_block, .first = first,
                          .x_next = p->taps == 1 ? count * p->ih * p->iw * 16 : 0, .ahead = (const char *)next,
                          .ahead_block = w_block * 4};
        if (a->scale) {
            scale_weights(p, t->scale, w, nb, k, count, s->scaled);
            work.w = s->scaled, work.w_block = CHUNK * 256;
        }
        if (p->in_place)
            conv_row(work, t->x + t->lo * 16, nb, t->hi - t->lo);
        else
            run_tiles(s, work, nb);
        if (a->epilogue && last)
            for (int64_t i = 0; i < nb; i++) a->epilogue(a->operands, a->dims, t->image, b + i, t->lo, t->hi, 0, 16);
    }
}

static void run_task(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t task, conv_scratch *s) {
    int64_t range = task % p->ranges, part = task / p->ranges % p->oc_parts;
    int64_t group = task / p->ranges / p->oc_parts % a->groups, image = task / p->ranges / p->oc_parts / a->groups;
    conv_task t = {image, range_start(p, range), range_start(p, range + 1), group * p->ocb + part_start(p, part),
                   group * p->ocb + part_start(p, part + 1),
                   a->x + image * a->x_batch + group * p->icb * p->ih * p->iw * 16, 0, 0};
    t.y = a->y + image * a->y_batch + t.lo * 16;
    if (a->scale) t.scale = a->scale + image * a->scale_batch + group * p->icb * 16;
    s->scaled = (float *)s->memory;
    s->panels = s->memory + (a->scale ? SCALED * 4 : 0);
    s->tiles = 0;
    if (!p->in_place) make_tiles(a, p, t.x, t.lo, t.hi, s);

    conv_taps taps = seen_taps(a, p, t.lo, t.hi);
    for (int64_t run = 0; run < taps.runs; run++)
        for (int64_t k = run * p->taps + taps.lo, stop = k + taps.count; k < stop; k += CHUNK) {
            int64_t count = k + CHUNK < stop ? CHUNK : stop - k;
            int64_t after = k + count < stop ? k + count : (run + 1) * p->taps + taps.lo;  // the step that follows
            int first = run == 0 && k == taps.lo, last = run + 1 == taps.runs && k + count == stop;
            run_chunk(a, p, &t, k, count, after, first, last, s);
        }
}

void conv_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const conv_nchw16c_f32_args *a = args;
    conv_plan p = make_plan(a);
    for (int64_t task = lo; task < hi; task++) run_task(a, &p, task, scratch);
}
