// conv_nchw16c_f32.c -- direct convolution over NCHW16c by tiles of CONV_MR positions x CONV_NB channel blocks.
//
// A task is one image, one group, up to OC_GROUP blocks of output channels and one range of output positions (p = oh *
// OW + ow, tiles may run over the end of a row). It walks over its steps (ib, kh, kw) in chunks whose weights fit L1;
// between chunks the partial sums rest in y, which the task's range keeps in L2.
//
// A tile reads x in place where its positions are neighbours in x and no tap leaves the image. Any other tile (strided,
// at a border, over the end of a row) first copies what it reads, with zeros outside of the image, to a panel
// [step][position][16] in scratch: one 64-byte copy for each OC_GROUP * 16 * 16 multiply-adds.
#include "conv_nchw16c_f32.h"

#define CONV_UNIT 16
#include "conv_tile.h"

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

// The convolution as it is run, and how it is cut into tasks: task = ((image * groups + group) * oc_parts + oc_part) *
// ranges + range. A function of the arguments alone.
typedef struct {
    int64_t ih, iw, ow, positions;  // a 1x1 convolution that moves nothing is one long row
    int64_t icb, ocb, taps, steps;  // of one group
    int64_t oc_part, oc_parts;      // blocks of output channels of a task, and how many such parts a group has
    int64_t range, ranges;          // positions of a task, and how many such ranges an image has
    int in_place;                   // no tile needs a panel
} conv_plan;

static const float zeros[16] __attribute__((aligned(64)));

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static conv_plan make_plan(const conv_nchw16c_f32_args *a) {
    conv_plan p = {a->ih, a->iw, a->ow, a->oh * a->ow, a->ic_blocks / a->groups, a->oc_blocks / a->groups,
                   a->kh * a->kw, 0, 0, 0, 0, 0, 0};
    p.steps = p.icb * p.taps;
    p.in_place = p.taps == 1 && a->stride_h == 1 && a->stride_w == 1 && !a->pad_top && !a->pad_left &&
                 a->oh == a->ih && a->ow == a->iw;
    if (p.in_place) p.ih = 1, p.iw = p.ow = p.positions;
    if (p.positions == 0 || a->n == 0 || p.ocb == 0) return p;

    // About one task for each 2^19 multiply-adds (10 us), at most 16 because of this rule. Fewer channels in a task
    // copy panels more often, fewer positions read weights more often: both stop where that would show, unless there
    // would be fewer than 8 tasks.
    int64_t work = a->n * a->oc_blocks * p.steps * p.positions;
    int64_t wanted = work / (1 << 11), images = a->n * a->groups;
    if (wanted > 16) wanted = 16;
    int64_t parts = ceil_div(p.ocb, OC_GROUP), ranges = ceil_div(p.positions, POSITIONS);
    int64_t least = p.in_place ? CONV_NB : 4;
    while (images * parts * ranges < wanted && ceil_div(p.ocb, parts) >= 2 * least) parts *= 2;
    while (images * parts * ranges < wanted && ceil_div(p.positions, ranges) >= 8 * CONV_MR) ranges *= 2;
    while (images * parts * ranges < wanted / 2 && ceil_div(p.ocb, parts) >= 2 * CONV_NB) parts *= 2;
    p.oc_part = ceil_div(ceil_div(p.ocb, parts), CONV_NB) * CONV_NB;
    p.oc_parts = ceil_div(p.ocb, p.oc_part);
    p.range = ceil_div(ceil_div(p.positions, ranges), CONV_MR) * CONV_MR;
    p.ranges = ceil_div(p.positions, p.range);
    return p;
}

// Scratch of a task. `panels` has CHUNK * CONV_MR * 16 floats for each tile.
typedef struct {
    int64_t direct[CHUNK], packed[CHUNK];  // offset of each step of the chunk: in x, in a panel
    int64_t dh[CHUNK], dw[CHUNK];          // kh * dilation_h, kw * dilation_w
    int64_t tiles;
    struct {
        int64_t start, mr;  // positions
        int64_t packed;
    } tile[POSITIONS / CONV_MR];
    int64_t ih[POSITIONS], iw[POSITIONS];  // of tap (0, 0) at each position; outside of the image where x is padded
    int64_t at[POSITIONS];                 // the same as an offset in a channel block of x
    float panels[] __attribute__((aligned(64)));
} conv_scratch;

int64_t conv_nchw16c_f32_tasks(const conv_nchw16c_f32_args *a) {
    conv_plan p = make_plan(a);
    return a->n * a->groups * p.oc_parts * p.ranges;
}

int64_t conv_nchw16c_f32_scratch(const conv_nchw16c_f32_args *a) {
    conv_plan p = make_plan(a);
    return (int64_t)sizeof(conv_scratch) + (p.in_place ? 0 : p.range * CHUNK * 16 * (int64_t)sizeof(float));
}

// Whether all taps of the position whose first tap is at (ih, iw) lie in the image.
SX_INLINE int window_inside(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t ih, int64_t iw) {
    return ih >= 0 && ih + (a->kh - 1) * a->dilation_h < p->ih && iw >= 0 && iw + (a->kw - 1) * a->dilation_w < p->iw;
}

// Cuts positions lo <= p < hi into tiles and decides how each reads x.
static void make_tiles(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t lo, int64_t hi, conv_scratch *s) {
    int64_t oh = lo / p->ow, ow = lo % p->ow;
    for (int64_t i = 0; i < hi - lo; i++) {
        s->ih[i] = oh * a->stride_h - a->pad_top;
        s->iw[i] = ow * a->stride_w - a->pad_left;
        s->at[i] = (s->ih[i] * p->iw + s->iw[i]) * 16;
        if (++ow == p->ow) ow = 0, oh++;
    }
    s->tiles = conv_tiles(hi - lo);
    for (int64_t t = 0; t < s->tiles; t++) {
        int64_t start = conv_tile_start(hi - lo, s->tiles, t), end = conv_tile_start(hi - lo, s->tiles, t + 1);
        int64_t ih = s->ih[start], iw = s->iw[start];
        int neighbours = s->ih[end - 1] == ih && s->iw[end - 1] == iw + (end - start - 1);
        int inside = window_inside(a, p, ih, iw) && window_inside(a, p, ih, s->iw[end - 1]);
        s->tile[t].start = start;
        s->tile[t].mr = end - start;
        s->tile[t].packed = !(inside && neighbours);
    }
}

// Lists where steps k <= step < k + count are read.
static void make_steps(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t k, int64_t count, conv_scratch *s) {
    int64_t ib = k / p->taps, kh = k % p->taps / a->kw, kw = k % a->kw;
    for (int64_t j = 0; j < count; j++) {
        s->dh[j] = kh * a->dilation_h;
        s->dw[j] = kw * a->dilation_w;
        s->direct[j] = ((ib * p->ih + s->dh[j]) * p->iw + s->dw[j]) * 16;
        s->packed[j] = j * CONV_MR * 16;
        if (++kw == a->kw) kw = 0, kh++;
        if (kh == a->kh) kh = 0, ib++;
    }
}

static void fill_panel(const conv_nchw16c_f32_args *a, const float *x, const conv_plan *p, int64_t t, int64_t count,
                       conv_scratch *s) {
    int64_t start = s->tile[t].start, mr = s->tile[t].mr, step = CONV_MR * 16;
    float *panel = s->panels + t * (CHUNK * CONV_MR * 16);
    for (int64_t i = 0; i < mr; i++) {
        int64_t ih = s->ih[start + i], iw = s->iw[start + i], at = s->at[start + i];
        float *to = panel + i * 16;
        if (window_inside(a, p, ih, iw)) {
            for (int64_t j = 0; j < count; j++) store16(to + j * step, load16(x + (at + s->direct[j])));
            continue;
        }
        for (int64_t j = 0; j < count; j++) {
            int inside = (uint64_t)(ih + s->dh[j]) < (uint64_t)p->ih && (uint64_t)(iw + s->dw[j]) < (uint64_t)p->iw;
            store16(to + j * step, load16(inside ? x + (at + s->direct[j]) : zeros));
        }
    }
}

static void run_task(const conv_nchw16c_f32_args *a, const conv_plan *p, int64_t task, conv_scratch *s) {
    int64_t range = task % p->ranges, part = task / p->ranges % p->oc_parts;
    int64_t group = task / p->ranges / p->oc_parts % a->groups, image = task / p->ranges / p->oc_parts / a->groups;
    int64_t lo = range * p->range, hi = lo + p->range < p->positions ? lo + p->range : p->positions;
    int64_t block = part * p->oc_part, end = block + p->oc_part < p->ocb ? block + p->oc_part : p->ocb;
    block += group * p->ocb, end += group * p->ocb;
    const float *x = a->x + image * a->x_batch + group * p->icb * p->ih * p->iw * 16;
    float *y = a->y + image * a->y_batch + lo * 16;
    int64_t w_block = p->steps * 256, y_block = p->positions * 16;

    make_tiles(a, p, lo, hi, s);
    for (int64_t k = 0; k < p->steps; k += CHUNK) {
        int64_t count = k + CHUNK < p->steps ? CHUNK : p->steps - k;
        make_steps(a, p, k, count, s);
        for (int64_t t = 0; t < s->tiles; t++)
            if (s->tile[t].packed) fill_panel(a, x, p, t, count, s);
        for (int64_t b = block; b < end; b += CONV_NB) {
            int64_t nb = end - b < CONV_NB ? end - b : CONV_NB;
            for (int64_t t = 0; t < s->tiles; t++) {
                int packed = s->tile[t].packed != 0;
                int64_t start = s->tile[t].start;
                const float *from = packed ? s->panels + t * (CHUNK * CONV_MR * 16) : x + s->at[start];
                conv_tile(s->tile[t].mr, nb, from, packed ? s->packed : s->direct, count, a->w + b * w_block + k * 256,
                          w_block, y + b * y_block + start * 16, y_block, k == 0);
            }
            if (a->epilogue && k + count == p->steps)
                for (int64_t i = 0; i < nb; i++) a->epilogue(a->operands, a->dims, image, b + i, lo, hi, 0, 16);
        }
    }
}

void conv_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const conv_nchw16c_f32_args *a = args;
    conv_plan p = make_plan(a);
    for (int64_t task = lo; task < hi; task++) run_task(a, &p, task, scratch);
}
