// stream_nchw16c_f32.c -- a 1x1 convolution, a depthwise one, and another 1x1, a band of rows at a time.
//
// A task is a band of output rows of one image. It goes through the blocks of the middle: expands a block's rows, filters
// them, and adds some such blocks at a time (as many as fit MIDDLE_BYTES) to the partial sums of the projection, in
// order, so that every sum is the one that the layers give alone. Without a projection the blocks have nothing to do with
// each other: they are tasks of their own, and bands as high as fit L2.
//
// A band expands the rows that its filter shares with the next band a second time: (kh - stride) rows of BAND * stride.
// Within a band a few rows at a time are expanded and filtered at once, so that they are found in L1.
#include "stream_nchw16c_f32.h"

#include "conv_direct_tile.h"

// Tunables: output rows of a band with projection, bytes of its middle, bytes of an expanded band without projection,
// positions filtered at a time.
#ifndef BAND
#define BAND 8
#endif
#ifndef MIDDLE_BYTES
#define MIDDLE_BYTES 163840
#endif
#ifndef EXPANDED_BYTES
#define EXPANDED_BYTES 262144
#endif
#ifndef POSITIONS
#define POSITIONS 128
#endif
#define FEW_TASKS 8   // without projection: bands are halved where there are less,
#define BAND_WORTH 8  // unless more than one row in so many would be expanded twice
#define TASKS 64    // without projection: blocks share a task beyond so many
#define MOST_STEPS (16 / CONV_NB)  // steps of one call of a register tile: 16 KB of weights, which L1 keeps for all tiles

// How the work is cut: task = (image * groups + group) * bands + band.
typedef struct {
    int64_t rows, bands;    // output rows of a band
    int64_t group, groups;  // most blocks of the middle in a task
    int64_t nb;             // most blocks expanded at once, which read x once then (MobileNets 1.05 times as fast)
    int64_t at_once;        // blocks between two additions to the projection
    int64_t x_rows;         // the most rows that a band expands
} stream_plan;

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of the middle's input that output rows lo <= oh < hi need, and how many `rows` of them need at most.
static int64_t first_row(const stream_nchw16c_f32_args *a, int64_t lo) {
    return min(max(lo * a->depthwise->stride_h - a->depthwise->pad_top, 0), a->ih);
}
static int64_t end_row(const stream_nchw16c_f32_args *a, int64_t hi) {
    const depthwise_nchw16c_f32_args *d = a->depthwise;
    return min(max((hi - 1) * d->stride_h - d->pad_top + (d->kh - 1) * d->dilation_h + 1, 0), a->ih);
}
static int64_t span(const stream_nchw16c_f32_args *a, int64_t rows) {
    const depthwise_nchw16c_f32_args *d = a->depthwise;
    return min((rows - 1) * d->stride_h + (d->kh - 1) * d->dilation_h + 1, a->ih);
}

// A function of the arguments alone.
static stream_plan make_plan(const stream_nchw16c_f32_args *a) {
    stream_plan p = {BAND, 0, a->blocks, 1, 1, 1, 0};
    if (a->expand) p.nb = CONV_WIDE;
    if (!a->project) {
        p.rows = a->oh;
        while (p.rows > 1 && span(a, p.rows) * a->iw * 64 > EXPANDED_BYTES) p.rows = (p.rows + 1) / 2;
        // Threads share a few tasks badly; more bands are worth rows that are expanded twice, if those are few.
        const depthwise_nchw16c_f32_args *d = a->depthwise;
        int64_t twice = a->expand ? max((d->kh - 1) * d->dilation_h + 1 - d->stride_h, 0) : 0;
        while (a->n * ceil_div(a->blocks, p.nb) * ceil_div(a->oh, p.rows) < FEW_TASKS && p.rows >= 2 &&
               twice * BAND_WORTH <= p.rows / 2 * d->stride_h)
            p.rows = (p.rows + 1) / 2;
    }
    p.bands = ceil_div(a->oh, p.rows);
    p.rows = ceil_div(a->oh, p.bands);
    p.bands = ceil_div(a->oh, p.rows);
    p.x_rows = span(a, p.rows);
    if (a->project) {
        p.at_once = max(min(MIDDLE_BYTES / (p.rows * a->ow * 64), a->blocks), 1);
    } else {
        p.group = ceil_div(ceil_div(a->n * a->blocks * p.bands, TASKS), p.nb) * p.nb;
        p.groups = ceil_div(a->blocks, p.group);
        if (p.groups % 2 && a->blocks % 2 == 0) p.groups++;
    }
    return p;
}

// The first block of a group. Both halves of the blocks have as many groups, smaller ones in the middle: 13 blocks by threes
// are 3 3 1 3 3, 10 are 3 2 2 3, so that two threads have the same to do.
static int64_t group_start(const stream_nchw16c_f32_args *a, const stream_plan *p, int64_t group) {
    int64_t half = (a->blocks + 1) / 2;
    if (2 * group <= p->groups) return min(group * p->group, half);
    return a->blocks - min((p->groups - group) * p->group, a->blocks - half);
}

int64_t stream_nchw16c_f32_tasks(const stream_nchw16c_f32_args *a) {
    if (a->n * a->blocks * a->oh * a->ow == 0) return 0;
    stream_plan p = make_plan(a);
    return a->n * p.groups * p.bands;
}

static int64_t expanded_floats(const stream_nchw16c_f32_args *a, const stream_plan *p) {
    return a->expand ? p->nb * p->x_rows * a->iw * 16 : 0;
}

int64_t stream_nchw16c_f32_scratch(const stream_nchw16c_f32_args *a) {
    if (a->n * a->blocks * a->oh * a->ow == 0) return 0;
    stream_plan p = make_plan(a);
    return (expanded_floats(a, &p) + (a->project ? p.at_once * p.rows * a->ow * 16 : 0)) * 4;
}

// Channels of the last of `blocks` blocks, rounded up to the two that a tile takes at once.
static int64_t last_channels(const stream_layer *l, int64_t blocks) { return (l->ic - (blocks - 1) * 16 + 1) / 2 * 2; }

// y (+)= sum over `steps` blocks of x of x * w for nb blocks of outputs and `count` neighbouring positions; `whole` of the
// blocks have 16 channels, any other `last`. As many weights from `next` on are fetched into L2 meanwhile, unless NULL.
static void pointwise(int64_t nb, const float *x, int64_t x_block, int64_t steps, int64_t whole, int64_t last, const float *w,
                      int64_t w_block, const float *next, float *y, int64_t y_block, int64_t count, int first) {
    int64_t offset[MOST_STEPS];
    for (int64_t k = 0; k < steps; k += MOST_STEPS) {
        int64_t some = min(steps - k, MOST_STEPS);
        for (int64_t s = 0; s < some; s++) offset[s] = (k + s) * x_block;
        conv_work work = {.offset = offset, .steps = some, .whole = whole - k, .last = last, .w = w + k * 256,
                          .w_block = w_block, .y = y, .y_block = y_block, .first = first && k == 0,
                          .x_next = k + some < steps ? some * x_block : count * 16,
                          .ahead = (const char *)(next ? next + k * 256 : 0), .ahead_block = w_block * 4};
        conv_row(work, x, nb, count);
    }
}

// The epilogue of a layer on positions lo <= p < hi of one block. y is where position 0 of the block appears, in planes
// of `pixels`, `blocks` to an image.
static void finish(const stream_layer *l, int64_t image, int64_t block, int64_t lo, int64_t hi, float *y, int64_t blocks,
                   int64_t pixels) {
    if (!l->epilogue || lo >= hi) return;
    if (l->self < 0) {
        l->epilogue(l->operands, l->dims, image, block, lo, hi, 0, 16);
        return;
    }
    void *operands[STREAM_OPERANDS];
    for (int64_t i = 0; i < l->count; i++) operands[i] = l->operands[i];
    operands[l->self] = (void *)((uintptr_t)y - (uintptr_t)((image * blocks + block) * pixels * 64));
    l->epilogue(operands, l->dims, image, block, lo, hi, 0, 16);
}

// Blocks of the middle that go together, of those that are left: at most the plan's nb.
static int64_t blocks_at_once(const stream_nchw16c_f32_args *a, int64_t left) {
    return a->expand ? conv_row_blocks(left) : 1;
}

// What a task needs to know of itself.
typedef struct {
    const stream_nchw16c_f32_args *a;
    int64_t image, lo, hi;  // output rows
    float *expanded;        // where row 0 of the first block under way would lie
    int64_t expanded_block; // from block to block
} stream_band;

// Output rows of nb blocks of the middle, to y, where row 0 of the first would lie.
static void run_middle(const stream_band *t, int64_t block, int64_t nb, float *y, int64_t y_block) {
    const stream_nchw16c_f32_args *a = t->a;
    int64_t pixels = a->oh * a->ow, x_pixels = a->ih * a->iw, step = max(POSITIONS / a->ow, 1);
    int64_t done = first_row(a, t->lo);
    const float *x = a->x + t->image * a->x_batch;
    for (int64_t lo = t->lo; lo < t->hi; lo += step) {
        int64_t hi = min(lo + step, t->hi), needed = end_row(a, hi);
        if (a->expand && needed > done) {
            float *to = t->expanded + done * a->iw * 16;
            const float *w = a->expand->w + block * a->x_blocks * 256;
            const float *next = lo == t->lo && block + 2 * nb <= a->blocks ? w + nb * a->x_blocks * 256 : 0;
            pointwise(nb, x + done * a->iw * 16, x_pixels * 16, a->x_blocks, a->x_blocks - 1,
                      last_channels(a->expand, a->x_blocks), w, a->x_blocks * 256, next, to, t->expanded_block,
                      (needed - done) * a->iw, 1);
            for (int64_t b = 0; b < nb; b++)
                finish(a->expand, t->image, block + b, done * a->iw, needed * a->iw, t->expanded + b * t->expanded_block,
                       a->blocks, x_pixels);
            done = needed;
        }
        for (int64_t b = 0; b < nb; b++) {
            const float *from = a->expand ? t->expanded + b * t->expanded_block : x + (block + b) * x_pixels * 16;
            a->rows(a->depthwise, block + b, from, y + b * y_block, lo, hi);
            finish(a->middle, t->image, block + b, lo * a->ow, hi * a->ow, y + b * y_block, a->blocks, pixels);
        }
    }
}

// The band of all blocks of the result, from all blocks of the middle.
static void run_projected(const stream_band *t, const stream_plan *p, float *middle) {
    const stream_nchw16c_f32_args *a = t->a;
    int64_t start = t->lo * a->ow, count = (t->hi - t->lo) * a->ow, pixels = a->oh * a->ow;
    for (int64_t k = 0; k < a->blocks; k += p->at_once) {
        int64_t some = min(a->blocks - k, p->at_once);
        for (int64_t b = 0, nb; b < some; b += nb) {
            nb = blocks_at_once(a, some - b);
            run_middle(t, k + b, nb, middle + (b * count - start) * 16, count * 16);
        }
        for (int64_t ob = 0, nb; ob < a->y_blocks; ob += nb) {
            nb = conv_row_blocks(a->y_blocks - ob);
            float *y = a->y + t->image * a->y_batch + (ob * pixels + start) * 16;
            const float *w = a->project->w + (ob * a->blocks + k) * 256;
            const float *next = ob + 2 * nb <= a->y_blocks ? w + nb * a->blocks * 256 : 0;
            pointwise(nb, middle, count * 16, some, a->blocks - 1 - k, last_channels(a->project, a->blocks), w,
                      a->blocks * 256, next, y, pixels * 16, count, k == 0);
            for (int64_t i = ob; i < ob + nb && k + some == a->blocks; i++)
                finish(a->project, t->image, i, start, start + count, 0, a->y_blocks, pixels);
        }
    }
}

void stream_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const stream_nchw16c_f32_args *a = args;
    stream_plan p = make_plan(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t band = task % p.bands, group = task / p.bands % p.groups, image = task / p.bands / p.groups;
        stream_band t = {a, image, band * p.rows, min((band + 1) * p.rows, a->oh), 0, p.x_rows * a->iw * 16};
        t.expanded = (float *)scratch - first_row(a, t.lo) * a->iw * 16;
        if (a->project) {
            run_projected(&t, &p, (float *)scratch + expanded_floats(a, &p));
            continue;
        }
        int64_t end = group_start(a, &p, group + 1), plane = a->oh * a->ow * 16;
        for (int64_t b = group_start(a, &p, group), nb; b < end; b += nb) {
            nb = blocks_at_once(a, end - b);
            run_middle(&t, b, nb, a->y + image * a->y_batch + b * plane, plane);
        }
    }
}
