// pool_rows_f32.c -- max and average pooling of planes in rows, 16 neighbouring outputs of a row at a time.
//
// A task is a band of output rows at one depth. Where windows reach into the padding of a row, or rows are shorter than
// 16 outputs, the rows that the band sees are copied with their padding first: one copy an element, and no output is
// left to scalar code. The last 16 outputs of a longer row overlap those before.
#include "pool_rows_f32.h"

#include "plane_tasks.h"
#include "pool_taps.h"
#include "simd.h"

#define WIDE 16

typedef uint32_t words __attribute__((vector_size(64)));
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

// Rows as a band sees them. x: column 0 of the leftmost window, in row `first_row`, at the first depth that is inside.
typedef struct {
    const float *x;
    int64_t row, slice;  // elements from row to row, from depth to depth
    int64_t first_row;
    const int64_t *offsets;  // of the taps of a window at one depth, from its first
} band_source;

// A thread's memory.
typedef struct {
    int64_t *offsets;  // see band_source
    float *counts;     // how many taps of each column's window an average divides by
    float *rows;       // with their padding
} pool_scratch;

SX_INLINE int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t larger(int64_t x, int64_t y) { return x > y ? x : y; }

// Columns of a copied row: all that 16 outputs, or those of the row, may read.
static int64_t copied_width(const pool_rows_f32_args *a) {
    return (larger(a->ow, WIDE) - 1) * a->stride_w + (a->kw - 1) * a->dilation_w + 1;
}

static int in_place(const pool_rows_f32_args *a) {
    return a->ow >= WIDE && a->pad_left == 0 && (a->ow - 1) * a->stride_w + (a->kw - 1) * a->dilation_w < a->iw;
}

// Rows of the image that outputs lo .. hi see.
static void seen_rows(const pool_rows_f32_args *a, int64_t lo, int64_t hi, int64_t *first, int64_t *end) {
    *first = smaller(larger(lo * a->stride_h - a->pad_top, 0), a->ih);
    *end = smaller((hi - 1) * a->stride_h - a->pad_top + (a->kh - 1) * a->dilation_h + 1, a->ih);
    *end = larger(*end, *first);
}

// Blocks, the last of which overlaps; a loop that Clang makes by itself leaves up to 63 elements to scalar code.
SX_INLINE void copy_floats(const float *from, float *to, int64_t n) {
    if (n >= WIDE) {
        for (int64_t i = 0; i < n - WIDE; i += WIDE) store16(to + i, load16(from + i));
        store16(to + n - WIDE, load16(from + n - WIDE));
    } else if (n >= 4) {
        for (int64_t i = 0; i < n - 4; i += 4) *(four *)(to + i) = *(const four *)(from + i);
        *(four *)(to + n - 4) = *(const four *)(from + n - 4);
    } else {
#pragma clang loop vectorize(disable) unroll(disable)
        for (int64_t i = 0; i < n; i++) to[i] = from[i];
    }
}

SX_INLINE void fill_floats(float *to, int64_t n, float x) {
#pragma clang loop vectorize(disable) unroll(disable)
    for (int64_t i = 0; i < n; i++) to[i] = x;
}

static void copy_row(const pool_rows_f32_args *a, const float *from, float *to, float padding) {
    const int64_t width = copied_width(a), left = smaller(a->pad_left, width), end = smaller(left + a->iw, width);
    fill_floats(to, left, padding);
    copy_floats(from, to + left, end - left);
    fill_floats(to + end, width - end, padding);
}

static band_source make_source(const pool_rows_f32_args *a, const float *x, int64_t first_depth, tap_range d, int64_t lo,
                               int64_t hi, const pool_scratch *scratch) {
    int64_t first, end;
    seen_rows(a, lo, hi, &first, &end);
    x += ((first_depth + d.lo * a->dilation_d) * a->ih + first) * a->iw;
    if (in_place(a)) return (band_source){x, a->iw, a->dilation_d * a->ih * a->iw, first, scratch->offsets};
    const int64_t width = copied_width(a), rows = end - first;
    const float padding = a->kind == POOL_MAX ? -__builtin_inff() : 0;
    for (int64_t k = 0; k < d.hi - d.lo; k++)
        for (int64_t i = 0; i < rows; i++)
            copy_row(a, x + (k * a->dilation_d * a->ih + i) * a->iw, scratch->rows + (k * rows + i) * width, padding);
    return (band_source){scratch->rows, width, rows * width, first, scratch->offsets};
}

// One tap of 16 outputs. `stride` is 1, 2 or anything else; nothing beyond the last of them is read.
SX_INLINE f32x16 load_taps(const float *x, const int64_t stride) {
    if (stride == 1) return load16(x);
    if (stride == 2)
        return __builtin_shufflevector(load16(x), load16(x + 15), 0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
    const words lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (f32x16)gather16_u32(x, lanes * (uint32_t)(stride * 4));
}

// `T` times 16 outputs, whose taps are `gap` elements apart: two chains of operations are twice as fast as one. x: the
// first tap inside, of the first output; `taps` of them at `depth` depths. A NaN is told by its magnitude, the largest.
SX_INLINE void pool_tile(const int T, int64_t gap, const int is_max, const int64_t stride, const band_source *s,
                         int64_t depth, int64_t taps, const float *x, f32x16 values[2]) {
    words magnitude[2] = {};
    const int64_t *const offsets = s->offsets;
#pragma clang loop unroll(full)
    for (int t = 0; t < T; t++) values[t] = is_max ? set16(-__builtin_inff()) : (f32x16){};
    for (int64_t kd = 0; kd < depth; kd++, x += s->slice)
#pragma clang loop unroll(disable)
        for (int64_t k = 0; k < taps; k++) {
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) {
                const f32x16 tap = load_taps(x + offsets[k] + t * gap, stride);
                if (!is_max) {
                    values[t] += tap;
                    continue;
                }
                values[t] = select16(tap > values[t], tap, values[t]);
                magnitude[t] = __builtin_elementwise_max(magnitude[t], (words)tap & 0x7fffffff);
            }
        }
    if (!is_max) return;
#pragma clang loop unroll(full)
    for (int t = 0; t < T; t++) values[t] = (f32x16)((i32x16)values[t] | (magnitude[t] > 0x7f800000));
}

// A row of at least 16 outputs; x: its first tap inside. `others`: the taps of depth and height that count.
SX_INLINE void pool_long_row(const int is_max, const int64_t stride, const pool_rows_f32_args *a, const band_source *s,
                             int64_t depth, int64_t taps, f32x16 others, const float *counts, const float *x, float *y) {
    f32x16 values[2];
    for (int64_t i = 0; i < a->ow; i += 2 * WIDE) {
        const int64_t gap = smaller(WIDE, a->ow - WIDE - i); // to the second 16
        if (gap <= 0) {
            const int64_t last = i + gap;
            pool_tile(1, 0, is_max, stride, s, depth, taps, x + last * stride, values);
            store16(y + last, is_max ? values[0] : values[0] / (others * load16(counts + last)));
            return;
        }
        pool_tile(2, gap * stride, is_max, stride, s, depth, taps, x + i * stride, values);
        for (int t = 0; t < 2; t++) {
            const f32x16 count = others * load16(counts + i + t * gap);
            store16(y + i + t * gap, is_max ? values[t] : values[t] / count);
        }
    }
}

// `T` rows of fewer outputs, whose windows have the same taps inside.
SX_INLINE void pool_short_rows(const int T, const int is_max, const int64_t stride, const pool_rows_f32_args *a,
                               const band_source *s, int64_t depth, int64_t taps, f32x16 others, const float *counts,
                               const float *x, float *y) {
    f32x16 values[2];
    float row[WIDE] __attribute__((aligned(64)));
    pool_tile(T, a->stride_h * s->row, is_max, stride, s, depth, taps, x, values);
#pragma clang loop unroll(full)
    for (int t = 0; t < T; t++) {
        store16(row, is_max ? values[t] : values[t] / (others * load16(counts)));
        copy_floats(row, y + t * a->ow, a->ow);
    }
}

SX_INLINE void pool_band_rows(const int is_max, const int64_t stride, const pool_rows_f32_args *a, const band_source *s,
                              tap_range d, int64_t lo, int64_t hi, const float *counts, float *y) {
    const int64_t depth = d.hi - d.lo, reach = (a->kh - 1) * a->dilation_h;
    for (int64_t oh = lo; oh < hi;) {
        const int64_t ih = oh * a->stride_h - a->pad_top;
        const int whole = ih >= 0 && ih + reach < a->ih, both = whole && oh + 1 < hi && ih + a->stride_h + reach < a->ih;
        tap_range h = {0, a->kh, a->kh};
        if (!whole) // divisions only where they say something
            h = make_range(ih, a->kh, a->dilation_h, a->ih, a->pad_bottom, a->kind == POOL_AVERAGE_PADDED);
        const float *x = s->x + (ih + h.lo * a->dilation_h - s->first_row) * s->row;
        const f32x16 others = set16((float)(d.counted * h.counted));
        float *const to = y + (oh - lo) * a->ow;
        if (a->ow >= WIDE) pool_long_row(is_max, stride, a, s, depth, (h.hi - h.lo) * a->kw, others, counts, x, to);
        else if (both) pool_short_rows(2, is_max, stride, a, s, depth, a->kh * a->kw, others, counts, x, to);
        else pool_short_rows(1, is_max, stride, a, s, depth, (h.hi - h.lo) * a->kw, others, counts, x, to);
        oh += a->ow < WIDE && both ? 2 : 1;
    }
}

static pool_scratch prepare(const pool_rows_f32_args *a, void *memory) {
    const int64_t taps = a->kh * a->kw, columns = larger(a->ow, WIDE), row = in_place(a) ? a->iw : copied_width(a);
    int64_t *const offsets = memory;
    float *const counts = (float *)(offsets + taps);
    for (int64_t k = 0; k < taps; k++) offsets[k] = k / a->kw * a->dilation_h * row + k % a->kw * a->dilation_w;
    for (int64_t ow = 0; ow < columns; ow++) {
        const int64_t first = ow * a->stride_w - a->pad_left;
        const int inside = first >= 0 && first + (a->kw - 1) * a->dilation_w < a->iw;
        const int padded = a->kind == POOL_AVERAGE_PADDED;
        counts[ow] = (float)(inside ? a->kw : make_range(first, a->kw, a->dilation_w, a->iw, a->pad_right, padded).counted);
    }
    return (pool_scratch){offsets, counts, counts + columns};
}

static void pool_band(const pool_rows_f32_args *a, int64_t plane, int64_t od, int64_t lo, int64_t hi,
                      const pool_scratch *scratch) {
    const int64_t depth = od * a->stride_d - a->pad_front, image = plane / a->c, channel = plane % a->c;
    const int64_t first = (od * a->oh + lo) * a->ow, end = (od * a->oh + hi) * a->ow, w = a->stride_w;
    const tap_range d = make_range(depth, a->kd, a->dilation_d, a->id, a->pad_back, a->kind == POOL_AVERAGE_PADDED);
    const band_source s = make_source(a, a->x + plane * a->id * a->ih * a->iw, depth, d, lo, hi, scratch);
    float *y = a->y + image * a->y_batch + channel * a->od * a->oh * a->ow + first;
    if (a->kind == POOL_MAX) {
        if (w == 1) pool_band_rows(1, 1, a, &s, d, lo, hi, scratch->counts, y);
        else if (w == 2) pool_band_rows(1, 2, a, &s, d, lo, hi, scratch->counts, y);
        else pool_band_rows(1, w, a, &s, d, lo, hi, scratch->counts, y);
    } else {
        if (w == 1) pool_band_rows(0, 1, a, &s, d, lo, hi, scratch->counts, y);
        else if (w == 2) pool_band_rows(0, 2, a, &s, d, lo, hi, scratch->counts, y);
        else pool_band_rows(0, w, a, &s, d, lo, hi, scratch->counts, y);
    }
    if (a->epilogue) a->epilogue(a->operands, a->dims, image, 0, channel, channel + 1, first, end);
}

static plane_tasks cut(const pool_rows_f32_args *a) {
    const int64_t planes = a->n * a->c * a->od, taps = a->kd * a->kh * a->kw;
    return cut_planes(planes, a->oh, a->ow, planes * a->oh * ((a->ow + WIDE - 1) / WIDE) * taps);
}

int64_t pool_rows_f32_tasks(const pool_rows_f32_args *a) { return cut(a).tasks; }

int64_t pool_rows_f32_scratch(const pool_rows_f32_args *a) {
    const int64_t bytes = a->kh * a->kw * 8 + larger(a->ow, WIDE) * 4;
    if (in_place(a)) return bytes;
    const int64_t reach = (cut(a).rows - 1) * a->stride_h + (a->kh - 1) * a->dilation_h + 1;
    return bytes + smaller(a->kd, a->id) * smaller(larger(reach, 0), a->ih) * copied_width(a) * 4;
}

void pool_rows_f32(const void *args, int64_t lo, int64_t hi, void *memory) {
    const pool_rows_f32_args *a = args;
    const plane_tasks p = cut(a);
    const pool_scratch scratch = prepare(a, memory);
    for (int64_t task = lo; task < hi; task++) {
        const int64_t row = task % p.ranges * p.rows, end = smaller(row + p.rows, a->oh);
        const int64_t first = task / p.ranges * p.group, last = smaller(first + p.group, p.planes);
        for (int64_t i = first; i < last; i++) pool_band(a, i / a->od, i % a->od, row, end, &scratch);
    }
}
