// depthwise_nchw16c_f32.c -- depthwise convolution by tiles of 7 or 4 neighbouring positions of a row.
//
// A tile keeps the sums of its positions and one row of weights in registers, and loads each x of the row once,
// whichever taps it meets: a loop over taps that loads x for each multiply-add took 1.4 times as long on Zen 3. 7
// divides the widths that networks have (7, 14, 28, 56, 112); the last tile of a row may do some positions again.
//
// Tiles read x in place in the inner part of a plane, where no tap leaves the image. The border, or all of a plane with
// short rows, is done from a copy of the input with its zeros, as many rows at a time as fit L1.
#include "depthwise_nchw16c_f32.h"

#include "plane_tasks.h"
#include "simd.h"

// Bytes of a copy (where one output row fits), and the longest row that is done from copies only. Tunables.
#ifndef COPY_BYTES
#define COPY_BYTES 24576
#endif
#ifndef COPY_WIDTH
#define COPY_WIDTH 28
#endif

// Some outputs of one channel block: `rows` rows of `columns`. x is the first tap of the first output.
typedef struct {
    const float *x, *w;
    float *y;
    int64_t rows, columns;
    int64_t x_tap_row, x_tap;           // floats from tap to tap
    int64_t x_row, x_position, y_row;   // floats from output to output
    int64_t kh, kw;
} depthwise_box;

// Part of a row, filters of KW taps in a row without dilation, position stride S: `tiles` tiles of T positions.
SX_INLINE void listed_row(int T, int KW, int S, const float *x, const float *w, float *y, int64_t tiles, int64_t kh_end,
                          int64_t x_tap_row) {
    for (int64_t i = 0; i < tiles; i++, x += T * S * 16, y += T * 16)
#pragma clang loop unroll(disable)  // unrolled, 5 taps spill on AVX2
        for (int v = 0; v < 16; v += VL) {
            const float *row = x + v, *ws = w + v;
            vf acc[7];
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) acc[t] = (vf){};
            for (int64_t kh = 0; kh < kh_end; kh++, row += x_tap_row, ws += KW * 16) {
                vf wv[7];
#pragma clang loop unroll(full)
                for (int kw = 0; kw < KW; kw++) wv[kw] = v_load(ws + kw * 16);
#pragma clang loop unroll(full)
                for (int j = 0; j < (T - 1) * S + KW; j++) {
                    vf xv = v_load(row + j * 16);
#pragma clang loop unroll(full)
                    for (int kw = 0; kw < KW; kw++)
                        if (j >= kw && (j - kw) % S == 0 && (j - kw) / S < T)
                            acc[(j - kw) / S] = SX_FMA(xv, wv[kw], acc[(j - kw) / S]);
                }
            }
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) v_store(y + t * 16 + v, acc[t]);
        }
}

// Any filter, `tiles` tiles of T positions in each row of a box.
SX_INLINE void other_tiles(int T, const depthwise_box *b, const float *x, float *y, int64_t tiles) {
    const int64_t step = b->x_position;
    for (int64_t r = 0; r < b->rows * tiles; r++) {
        const float *from = x + r / tiles * b->x_row + r % tiles * T * step;
        float *to = y + r / tiles * b->y_row + r % tiles * T * 16;
        for (int v = 0; v < 16; v += VL) {
            const float *ws = b->w + v;
            vf acc[4] = {0};
            for (int64_t kh = 0; kh < b->kh; kh++) {
                const float *tap = from + kh * b->x_tap_row + v;
#pragma clang loop unroll(disable)
                for (int64_t kw = 0; kw < b->kw; kw++, tap += b->x_tap, ws += 16) {
                    vf w = v_load(ws);
#pragma clang loop unroll(full)
                    for (int t = 0; t < T; t++) acc[t] = SX_FMA(v_load(tap + t * step), w, acc[t]);
                }
            }
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) v_store(to + t * 16 + v, acc[t]);
        }
    }
}

// A function for a row and one for a box, so that everything that the row needs stays in registers.
#define LISTED_SIZE(T, KW, S)                                                                                       \
    static __attribute__((noinline)) void row_##T##_##KW##s##S(const float *x, const float *w, float *y,            \
                                                               int64_t tiles, int64_t kh, int64_t x_tap_row) {      \
        listed_row(T, KW, S, x, w, y, tiles, kh, x_tap_row);                                                        \
    }                                                                                                               \
    static void tiles_##T##_##KW##s##S(const depthwise_box *b, const float *x, float *y, int64_t tiles) {           \
        for (int64_t r = 0; r < b->rows; r++)                                                                       \
            row_##T##_##KW##s##S(x + r * b->x_row, b->w, y + r * b->y_row, tiles, b->kh, b->x_tap_row);             \
    }
#define LISTED(KW, S) LISTED_SIZE(7, KW, S) LISTED_SIZE(4, KW, S)
#define LISTED_CASE(KW, S)                                                                                          \
    case KW * 4 + S:                                                                                                \
        if (size == 7) tiles_7_##KW##s##S(b, x, y, tiles);                                                         \
        else tiles_4_##KW##s##S(b, x, y, tiles);                                                                   \
        return;
#define EACH_LISTED(F) F(3, 1) F(5, 1) F(7, 1) F(3, 2) F(5, 2) F(7, 2)

EACH_LISTED(LISTED)

static int is_listed(const depthwise_box *b) {
    return (b->kw == 3 || b->kw == 5 || b->kw == 7) && b->x_tap == 16 && b->x_position <= 32;
}

// In each row, `tiles` tiles of `size` positions (7 where the filter is listed, 4 or 1) from position `first` on.
static void run_tiles(const depthwise_box *b, int64_t size, int64_t first, int64_t tiles) {
    if (tiles <= 0) return;
    const float *x = b->x + first * b->x_position;
    float *y = b->y + first * 16;
    if (size == 1) {
        other_tiles(1, b, x, y, tiles);
        return;
    }
    switch (is_listed(b) ? b->kw * 4 + b->x_position / 16 : 0) { EACH_LISTED(LISTED_CASE) }
    other_tiles(4, b, x, y, tiles);
}

// Covers the rows of a box with tiles; a last one that would leave the row moves back over its neighbour.
static void run_box(const depthwise_box *b) {
    int64_t columns = b->columns, large = is_listed(b) ? columns / 7 : 0, rest = columns - large * 7;
    if (columns < 4) {
        run_tiles(b, 1, 0, columns);
        return;
    }
    if (large && rest == 1) large--, rest = 8;  // 4 + 4 for 7 + 1
    run_tiles(b, 7, 0, large);
    if (rest > 4 && rest < 8 && large) {
        run_tiles(b, 7, columns - 7, 1);
        return;
    }
    run_tiles(b, 4, large * 7, rest / 4);
    if (rest % 4) run_tiles(b, 4, columns - 4, 1);
}

// One channel block of one image.
typedef struct {
    const depthwise_nchw16c_f32_args *a;
    const float *x, *w;
    float *y, *copy;
} depthwise_plane;

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Columns (or rows) of x from the first tap of the first to the last tap of the last of `count` outputs.
static int64_t span(int64_t count, int64_t stride, int64_t taps, int64_t dilation) {
    return (count - 1) * stride + (taps - 1) * dilation + 1;
}
static int64_t span_w(const depthwise_nchw16c_f32_args *a, int64_t columns) {
    return span(columns, a->stride_w, a->kw, a->dilation_w);
}
static int64_t span_h(const depthwise_nchw16c_f32_args *a, int64_t rows) {
    return span(rows, a->stride_h, a->kh, a->dilation_h);
}

// Outputs [row, row + rows) x [column, column + columns), whose first tap is at x, in rows of `width`.
static void run_at(const depthwise_plane *p, int64_t row, int64_t rows, int64_t column, int64_t columns,
                   const float *x, int64_t width) {
    const depthwise_nchw16c_f32_args *a = p->a;
    if (rows <= 0 || columns <= 0) return;
    depthwise_box box = {x, p->w, p->y + (row * a->ow + column) * 16, rows, columns, a->dilation_h * width * 16,
                         a->dilation_w * 16, a->stride_h * width * 16, a->stride_w * 16, a->ow * 16, a->kh, a->kw};
    run_box(&box);
}

// p->copy[r][c] = x[ih + r][iw + c], with zeros outside of the image.
static void copy_window(const depthwise_plane *p, int64_t ih, int64_t iw, int64_t rows, int64_t width) {
    const depthwise_nchw16c_f32_args *a = p->a;
    float *to = p->copy;
    int64_t left = min(max(-iw, 0), width), right = min(a->iw - iw, width);
    for (int64_t r = 0; r < rows; r++, ih++, to += width * 16) {
        int inside = ih >= 0 && ih < a->ih && left < right;
        int64_t first = inside ? left : width, last = inside ? right : width;
        for (int64_t c = 0; c < first; c++) store16(to + c * 16, (f32x16){});
        for (int64_t c = first; c < last; c++) store16(to + c * 16, load16(p->x + (ih * a->iw + iw + c) * 16));
        for (int64_t c = last; c < width; c++) store16(to + c * 16, (f32x16){});
    }
}

// Outputs [row, row_end) x [column, column_end) from copies.
static void run_copied(const depthwise_plane *p, int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
    const depthwise_nchw16c_f32_args *a = p->a;
    for (; column < column_end; column += COPY_WIDTH) {
        int64_t columns = min(COPY_WIDTH, column_end - column), width = span_w(a, columns);
        int64_t fitting = COPY_BYTES / (width * 64) - span_h(a, 1);  // rows of x beside those of one output
        int64_t step = fitting > 0 ? fitting / a->stride_h + 1 : 1;
        for (int64_t r = row; r < row_end; r += step) {
            int64_t rows = min(step, row_end - r);
            copy_window(p, r * a->stride_h - a->pad_top, column * a->stride_w - a->pad_left, span_h(a, rows), width);
            run_at(p, r, rows, column, columns, p->copy, width);
        }
    }
}

// How many of `count` outputs from the first have their taps inside [0, size), if output 0 begins at `first` >= 0.
static int64_t count_inside(int64_t first, int64_t size, int64_t one, int64_t stride, int64_t count) {
    int64_t room = size - first - one;
    return room < 0 ? 0 : min(room / stride + 1, count);
}

// Output rows lo <= oh < hi: the inner part in place, what surrounds it from copies.
static void run_rows(const depthwise_plane *p, int64_t lo, int64_t hi) {
    const depthwise_nchw16c_f32_args *a = p->a;
    int64_t top = max((max(a->pad_top, 0) + a->stride_h - 1) / a->stride_h, lo);  // first row inside
    int64_t left = (max(a->pad_left, 0) + a->stride_w - 1) / a->stride_w;         // first column inside
    left = (left + 6) / 7 * 7;
    int64_t ih = top * a->stride_h - a->pad_top, iw = left * a->stride_w - a->pad_left;
    int64_t rows = count_inside(ih, a->ih, span_h(a, 1), a->stride_h, hi - top);
    int64_t columns = count_inside(iw, a->iw, span_w(a, 1), a->stride_w, a->ow - left);
    int all_columns = left == 0 && columns == a->ow;
    if (!all_columns) columns -= columns % 7;
    if (rows <= 0 || columns <= 0 || (a->ow <= COPY_WIDTH && !all_columns)) {
        run_copied(p, lo, hi, 0, a->ow);
        return;
    }
    run_copied(p, lo, top, 0, a->ow);
    run_copied(p, top, top + rows, 0, left);
    run_at(p, top, rows, left, columns, p->x + (ih * a->iw + iw) * 16, a->iw);
    run_copied(p, top, top + rows, left + columns, a->ow);
    run_copied(p, top + rows, hi, 0, a->ow);
}

static plane_tasks cut(const depthwise_nchw16c_f32_args *a) {
    return cut_planes(a->n * a->c_blocks, a->oh, a->ow, a->n * a->c_blocks * a->oh * a->ow * a->kh * a->kw);
}

int64_t depthwise_nchw16c_f32_tasks(const depthwise_nchw16c_f32_args *a) { return cut(a).tasks; }

int64_t depthwise_nchw16c_f32_scratch(const depthwise_nchw16c_f32_args *a) {
    return max(COPY_BYTES, span_h(a, 1) * span_w(a, min(COPY_WIDTH, a->ow)) * 64);
}

void depthwise_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const depthwise_nchw16c_f32_args *a = args;
    plane_tasks tasks = cut(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t first = task / tasks.ranges * tasks.group, row = task % tasks.ranges * tasks.rows;
        int64_t last = min(first + tasks.group, tasks.planes), end = min(row + tasks.rows, a->oh);
        for (int64_t plane = first; plane < last; plane++) {
            int64_t image = plane / a->c_blocks, block = plane % a->c_blocks;
            depthwise_plane p = {a, a->x + image * a->x_batch + block * a->ih * a->iw * 16,
                                 a->w + block * a->kh * a->kw * 16,
                                 a->y + image * a->y_batch + block * a->oh * a->ow * 16, scratch};
            run_rows(&p, row, end);
            if (a->epilogue) a->epilogue(a->operands, a->dims, image, block, row * a->ow, end * a->ow, 0, 16);
        }
    }
}
