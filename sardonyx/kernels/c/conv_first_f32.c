// conv_first_f32.c -- convolution of a plain NCHW image by tiles of CONV_MR positions x CONV_NB channel blocks.
//
// A task is one image, up to OC_GROUP blocks of output channels and one range of output rows. It first copies the input
// rows it needs to scratch, with zeros outside of the image, cut into stride_h * stride_w phases,
//
//   copy[c][fh][fw][i][j] = x[c][first + i * stride_h + fh][j * stride_w + fw - pad_left]
//
// so that neighbouring output positions are neighbours there at any stride and dilation, borders included. Where
// filters do not overlap (patches), so are the end of a row and the start of the next, and tiles run on.
#include "conv_first_f32.h"

#define CONV_UNIT 1
#include "conv_tile.h"

// Steps whose weights (10 KB) and lines of x (another 10 KB: one line a step) stay in L1 (256: 16x16 patches are 15 %
// slower); positions of a range (more of them copy fewer input rows twice); blocks of output channels of a task.
// Tunables.
#ifndef CHUNK
#define CHUNK (160 / CONV_NB)
#endif
#ifndef POSITIONS
#define POSITIONS 1024
#endif
#ifndef OC_GROUP
#define OC_GROUP 16
#endif

// task = (image * oc_parts + oc_part) * ranges + range. A function of the arguments alone.
typedef struct {
    int64_t oc_part, oc_parts;  // blocks of output channels of a task, and how many such parts there are
    int64_t range, ranges;      // output rows of a task, and how many such ranges an image has
    int64_t width;              // scratch: floats from row to row
    int64_t fw, fh, channel;    // scratch: floats from phase to phase and from channel to channel
} conv_plan;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static conv_plan make_plan(const conv_first_f32_args *a) {
    conv_plan p = {0};
    if (a->n == 0 || a->oc_blocks == 0 || a->oh * a->ow == 0) return p;
    // About one task for each 2^19 multiply-adds (10 us), at most 16 because of this rule.
    int64_t work = a->n * a->oc_blocks * a->ic * a->kh * a->kw * a->oh * a->ow;
    int64_t wanted = work / (1 << 15);
    if (wanted > 16) wanted = 16;
    p.oc_part = ceil_div(ceil_div(a->oc_blocks, ceil_div(a->oc_blocks, OC_GROUP)), CONV_NB) * CONV_NB;
    p.oc_parts = ceil_div(a->oc_blocks, p.oc_part);
    int64_t ranges = ceil_div(a->oh * a->ow, POSITIONS);
    if (a->n * p.oc_parts * ranges < wanted) ranges = ceil_div(wanted, a->n * p.oc_parts);
    if (ranges > a->oh) ranges = a->oh;
    p.range = ceil_div(a->oh, ranges);
    p.ranges = ceil_div(a->oh, p.range);
    p.width = a->ow + (a->kw - 1) * a->dilation_w / a->stride_w;
    p.fw = p.width * (p.range + (a->kh - 1) * a->dilation_h / a->stride_h);
    p.fh = p.fw * a->stride_w;
    p.channel = p.fh * a->stride_h;
    return p;
}

int64_t conv_first_f32_tasks(const conv_first_f32_args *a) {
    conv_plan p = make_plan(a);
    return a->n * p.oc_parts * p.ranges;
}

int64_t conv_first_f32_scratch(const conv_first_f32_args *a) {
    conv_plan p = make_plan(a);
    return (CHUNK * (int64_t)sizeof(int64_t)) + a->ic * p.channel * (int64_t)sizeof(float);
}

SX_INLINE int64_t clamp(int64_t x, int64_t lo, int64_t hi) { return x < lo ? lo : x > hi ? hi : x; }

// to[i] = from[i * stride], 0 <= i < count
static void copy_strided(const float *from, int64_t stride, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i++) to[i] = from[i * stride];
}

// even[i] = from[2 * i], odd[i] = from[2 * i + 1], 0 <= i < count
static void copy_pairs(const float *from, int64_t count, float *even, float *odd) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));
        f32x8 a = *(const f32x8 *)(from + 2 * i), b = *(const f32x8 *)(from + 2 * i + 8);
        *(f32x8 *)(even + i) = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
        *(f32x8 *)(odd + i) = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
    }
    for (; i < count; i++) even[i] = from[2 * i], odd[i] = from[2 * i + 1];
}

// One input row (NULL: outside of the image) to its phases.
static void copy_row(const conv_first_f32_args *a, const conv_plan *p, const float *x, float *to) {
    int64_t s = a->stride_w;
    int64_t pairs_lo = 0, pairs_hi = 0;
    if (x && s == 2) {  // both phases at once where both lie inside
        pairs_lo = clamp(ceil_div(a->pad_left, 2), 0, p->width);
        pairs_hi = clamp((a->iw + a->pad_left) / 2, pairs_lo, p->width);
        copy_pairs(x + (2 * pairs_lo - a->pad_left), pairs_hi - pairs_lo, to + pairs_lo, to + p->fw + pairs_lo);
    }
    for (int64_t f = 0; f < s; f++, to += p->fw) {
        // 0 <= i * s + f - pad_left < iw  <=>  lo <= i < hi
        int64_t lo = a->pad_left > f ? ceil_div(a->pad_left - f, s) : 0;
        int64_t hi = a->iw + a->pad_left > f ? ceil_div(a->iw + a->pad_left - f, s) : 0;
        lo = clamp(lo, 0, p->width);
        hi = x ? clamp(hi, lo, p->width) : lo;
        for (int64_t i = 0; i < lo; i++) to[i] = 0;
        for (int64_t i = hi; i < p->width; i++) to[i] = 0;
        const float *from = x ? x + (f - a->pad_left) : x;
        if (pairs_hi > pairs_lo) {
            for (int64_t i = lo; i < pairs_lo; i++) to[i] = from[i * s];
            for (int64_t i = pairs_hi; i < hi; i++) to[i] = from[i * s];
        } else if (hi > lo) {
            copy_strided(from + lo * s, s, hi - lo, to + lo);
        }
    }
}

static void copy_rows(const conv_first_f32_args *a, const conv_plan *p, const float *x, int64_t ih, int64_t rows,
                      float *to) {
    for (int64_t c = 0; c < a->ic; c++)
        for (int64_t r = 0; r < rows; r++) {
            int inside = ih + r >= 0 && ih + r < a->ih;
            copy_row(a, p, inside ? x + (c * a->ih + ih + r) * a->iw : NULL,
                     to + c * p->channel + r % a->stride_h * p->fh + r / a->stride_h * p->width);
        }
}

// Lists where steps k <= step < k + count are read in scratch.
static void make_steps(const conv_first_f32_args *a, const conv_plan *p, int64_t k, int64_t count, int64_t *offset) {
    int64_t c = k / (a->kh * a->kw), kh = k / a->kw % a->kh, kw = k % a->kw;
    for (int64_t j = 0; j < count; j++) {
        int64_t row = kh * a->dilation_h, column = kw * a->dilation_w;
        offset[j] = c * p->channel + row % a->stride_h * p->fh + column % a->stride_w * p->fw +
                    row / a->stride_h * p->width + column / a->stride_w;
        if (++kw == a->kw) kw = 0, kh++;
        if (kh == a->kh) kh = 0, c++;
    }
}

static void run_task(const conv_first_f32_args *a, const conv_plan *p, int64_t task, int64_t *offset) {
    float *rows = (float *)(offset + CHUNK);
    int64_t range = task % p->ranges, part = task / p->ranges % p->oc_parts, image = task / p->ranges / p->oc_parts;
    int64_t lo = range * p->range, hi = lo + p->range < a->oh ? lo + p->range : a->oh;
    int64_t block = part * p->oc_part, end = block + p->oc_part < a->oc_blocks ? block + p->oc_part : a->oc_blocks;
    int64_t steps = a->ic * a->kh * a->kw, w_block = steps * 16, y_block = a->oh * a->ow * 16;
    // Lines of positions that are neighbours in scratch: rows, or all rows of the range as one.
    int64_t lines = hi - lo, line = a->ow;
    if (p->width == a->ow) line *= lines, lines = 1;
    int64_t tiles = conv_tiles(line), size = line / tiles, larger = line % tiles;  // the first ones by a position
    float *y = a->y + image * a->y_batch + lo * a->ow * 16;

    copy_rows(a, p, a->x + image * a->x_batch, lo * a->stride_h - a->pad_top,
              (hi - lo - 1) * a->stride_h + (a->kh - 1) * a->dilation_h + 1, rows);
    for (int64_t k = 0; k < steps; k += CHUNK) {
        int64_t count = k + CHUNK < steps ? CHUNK : steps - k;
        make_steps(a, p, k, count, offset);
        for (int64_t b = block; b < end; b += CONV_NB) {
            int64_t nb = end - b < CONV_NB ? end - b : CONV_NB;
            for (int64_t l = 0; l < lines; l++)
                for (int64_t t = 0, at = 0, mr; t < tiles; t++, at += mr) {
                    mr = size + (t < larger);
                    conv_tile(mr, nb, rows + l * p->width + at, offset, count, a->w + b * w_block + k * 16,
                              w_block, y + b * y_block + (l * a->ow + at) * 16, y_block, k == 0);
                }
            if (a->epilogue && k + count == steps)
                for (int64_t i = 0; i < nb; i++)
                    a->epilogue(a->operands, a->dims, image, b + i, lo * a->ow, hi * a->ow, 0, 16);
        }
    }
}

void conv_first_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const conv_first_f32_args *a = args;
    conv_plan p = make_plan(a);
    for (int64_t task = lo; task < hi; task++) run_task(a, &p, task, scratch);
}
