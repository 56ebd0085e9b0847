// depthwise_nchw16c_f32.c -- depthwise convolution by tiles of 7 or 4 neighbouring positions of a row.
//
// A tile keeps the sums of its positions and one row of weights in registers, and loads each x of the row once,
// whichever taps it meets: a loop over taps that loads x for each multiply-add took 1.4 times as long on Zen 3. 7
// divides the widths that networks have (7, 14, 28, 56, 112); the last tile of a row may do some positions again.
// Products bound it: a position of a 3x3 filter has 9 for each register of lanes, and 5 loads.
//
// x is read in place. A row of taps outside of the image is read from zeros; in the tiles at the left and right border
// each tap that may lie outside chooses between x and zeros, a conditional move beside KW products.
#include "depthwise_nchw16c_f32.h"

#include "plane_tasks.h"
#include "row_cover.h"
#include "simd.h"

#define EPILOGUE_POSITIONS 128  // outputs between two calls of the epilogue, unless a row is longer: 8 KB

// As many columns as the widest listed tile reads: 7 positions with stride 2 of a filter 7 wide.
static const float zeros[19 * 16] __attribute__((aligned(64)));

// One row of outputs of one channel block.
typedef struct {
    const float *x, *w;               // x: tap row 0 at column 0 of the image, which need not lie inside
    int64_t tap_row;                  // floats from tap row to tap row
    int64_t kh, kw, kh_lo, kh_hi;     // taps, and those rows of them that lie inside
    int64_t iw, pad_left, stride, dilation;
    int64_t listed;                   // kw * 4 + stride where such tiles are listed, else 0
} depthwise_row;

// `tiles` tiles of T neighbouring positions, filters of KW taps in a row without dilation, position stride S. x: tap row
// kh_lo at the first column of the first tile, which is column iw of the image.
SX_INLINE void listed_tiles(int T, int KW, int S, int border, const depthwise_row *r, const float *x, int64_t iw,
                            float *y, int64_t tiles) {
    const int W = (T - 1) * S + KW;
    for (; tiles > 0; tiles--, x += T * S * 16, iw += T * S, y += T * 16)
#pragma clang loop unroll(disable)  // unrolled, 5 taps spill on AVX2
        for (int v = 0; v < 16; v += VL) {
            const float *row = x + v, *ws = r->w + v;
            const int64_t tap_row = r->tap_row, width = r->iw;
            vf acc[7];
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) acc[t] = (vf){};
#pragma clang loop unroll(disable)
            for (int64_t kh = 0, lo = r->kh_lo, inside = r->kh_hi - lo, end = r->kh; kh < end; kh++, ws += KW * 16) {
                const float *from = (uint64_t)(kh - lo) < (uint64_t)inside ? row + kh * tap_row : zeros;
                vf wv[7];
#pragma clang loop unroll(full)
                for (int kw = 0; kw < KW; kw++) wv[kw] = v_load(ws + kw * 16);
#pragma clang loop unroll(full)
                for (int j = 0; j < W; j++) {
                    // A branch, foreseen since a column's rows agree: choosing an address makes Clang spill.
                    const int unsure = border && (j < KW - 1 || j >= W - (KW - 1));
                    vf xv = {};
                    if (!unsure || (uint64_t)(iw + j) < (uint64_t)width) xv = v_load(from + j * 16);
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

// Any filter.
SX_INLINE void other_tile(int T, int border, const depthwise_row *r, const float *x, int64_t iw, float *y) {
    for (int v = 0; v < 16; v += VL) {
        const float *row = x + v, *ws = r->w + v;
        vf acc[4] = {0};
        for (int64_t kh = 0; kh < r->kh; kh++, row += r->tap_row) {
            int inside = kh >= r->kh_lo && kh < r->kh_hi;
#pragma clang loop unroll(disable)
            for (int64_t kw = 0; kw < r->kw; kw++, ws += 16) {
                vf w = v_load(ws);
#pragma clang loop unroll(full)
                for (int t = 0; t < T; t++) {
                    int64_t j = kw * r->dilation + t * r->stride;
                    const float *at = inside ? row + j * 16 : zeros;
                    if (border) at = (uint64_t)(iw + j) < (uint64_t)r->iw ? at : zeros;
                    acc[t] = SX_FMA(v_load(at), w, acc[t]);
                }
            }
        }
#pragma clang loop unroll(full)
        for (int t = 0; t < T; t++) v_store(y + t * 16 + v, acc[t]);
    }
}

// The inner tiles, and one with choices.
#define LISTED_SIZE(T, KW, S)                                                                                       \
    static __attribute__((noinline)) void inner_##T##_##KW##s##S(const depthwise_row *r, const float *x, float *y,  \
                                                                 int64_t tiles) {                                   \
        listed_tiles(T, KW, S, 0, r, x, 0, y, tiles);                                                               \
    }                                                                                                               \
    static __attribute__((noinline)) void border_##T##_##KW##s##S(const depthwise_row *r, const float *x,           \
                                                                  int64_t iw, float *y, int64_t tiles) {            \
        listed_tiles(T, KW, S, 1, r, x, iw, y, tiles);                                                              \
    }
#define LISTED(KW, S) LISTED_SIZE(7, KW, S) LISTED_SIZE(4, KW, S)
#define EACH_LISTED(F) F(3, 1) F(5, 1) F(7, 1) F(3, 2) F(5, 2) F(7, 2)

EACH_LISTED(LISTED)

static __attribute__((noinline)) void inner_other(const depthwise_row *r, const float *x, float *y, int64_t tiles) {
    for (; tiles > 0; tiles--, x += 4 * r->stride * 16, y += 64) other_tile(4, 0, r, x, 0, y);
}
static __attribute__((noinline)) void border_other(const depthwise_row *r, const float *x, int64_t iw, float *y,
                                                   int64_t tiles) {
    for (; tiles > 0; tiles--, iw += 4 * r->stride, x += 4 * r->stride * 16, y += 64) other_tile(4, 1, r, x, iw, y);
}
static __attribute__((noinline)) void border_single(const depthwise_row *r, const float *x, int64_t iw, float *y,
                                                    int64_t tiles) {
    for (; tiles > 0; tiles--, iw += r->stride, x += r->stride * 16, y += 16) other_tile(1, 1, r, x, iw, y);
}

#define LISTED_CASE(KW, S)                                                                                          \
    case KW * 4 + S:                                                                                                \
        if (p->size == 7 && p->border) border_7_##KW##s##S(r, x, p->iw, y, p->tiles);                                       \
        else if (p->size == 7) inner_7_##KW##s##S(r, x, y, p->tiles);                                               \
        else if (p->border) border_4_##KW##s##S(r, x, p->iw, y, p->tiles);                                                  \
        else inner_4_##KW##s##S(r, x, y, p->tiles);                                                                 \
        break;

static void run_piece(const depthwise_row *r, const row_piece *p, float *y) {
    const float *x = r->x + p->iw * 16;
    y += p->ow * 16;
    switch (p->size > 1 ? r->listed : 0) {
        EACH_LISTED(LISTED_CASE)
        default:
            if (p->size == 1) border_single(r, x, p->iw, y, p->tiles);
            else if (p->border) border_other(r, x, p->iw, y, p->tiles);
            else inner_other(r, x, y, p->tiles);
    }
}

// Covers a row with tiles of 7 where the filter is listed, of 4 or of 1; a last one that would leave the row moves back
// over its neighbour.
static void make_cover(const depthwise_row *r, row_cover *c, int64_t columns) {
    const row_window w = {r->iw, r->stride, (r->kw - 1) * r->dilation + 1, r->pad_left};
    c->count = 0;
    int64_t large = r->listed ? columns / 7 : 0, rest = columns - large * 7;
    if (columns < 4) {
        cover_tiles(&w, c, 1, 0, columns);
        return;
    }
    if (large && rest == 1) large--, rest = 8;  // 4 + 4 for 7 + 1
    cover_tiles(&w, c, 7, 0, large);
    if (large && rest > 4 && rest < 8) {
        cover_tiles(&w, c, 7, columns - 7, 1);
        return;
    }
    cover_tiles(&w, c, 4, large * 7, rest / 4);
    if (rest % 4) cover_tiles(&w, c, 4, columns - 4, 1);
}

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

void depthwise_nchw16c_f32_rows(const depthwise_nchw16c_f32_args *a, int64_t block, const float *x, float *y, int64_t lo,
                                int64_t hi) {
    int64_t step = a->dilation_h;
    depthwise_row r = {x, a->w + block * a->kh * a->kw * 16, step * a->iw * 16, a->kh, a->kw, 0, 0, a->iw, a->pad_left,
                       a->stride_w, a->dilation_w, 0};
    int64_t reach = (a->ow - 1) * a->stride_w - a->pad_left + a->kw - a->iw;  // beyond the right border
    int listed = (a->kw == 3 || a->kw == 5 || a->kw == 7) && a->dilation_w == 1 && a->stride_w <= 2 &&
                 a->pad_left < a->kw && reach < a->kw;
    r.listed = listed ? a->kw * 4 + a->stride_w : 0;
    row_cover cover;
    make_cover(&r, &cover, a->ow);
    for (int64_t oh = lo; oh < hi; oh++) {
        int64_t ih = oh * a->stride_h - a->pad_top;
        r.kh_lo = ih < 0 ? (-ih + step - 1) / step : 0;
        r.kh_hi = ih < a->ih ? (a->ih - ih + step - 1) / step : 0;
        r.x = x + ih * a->iw * 16;
        for (int64_t i = 0; i < cover.count; i++) run_piece(&r, &cover.piece[i], y + oh * a->ow * 16);
    }
}

static plane_tasks cut(const depthwise_nchw16c_f32_args *a) {
    return cut_planes(a->n * a->c_blocks, a->oh, a->ow, a->n * a->c_blocks * a->oh * a->ow * a->kh * a->kw);
}

int64_t depthwise_nchw16c_f32_tasks(const depthwise_nchw16c_f32_args *a) { return cut(a).tasks; }

int64_t depthwise_nchw16c_f32_scratch(const depthwise_nchw16c_f32_args *a) {
    (void)a;
    return 0;
}

void depthwise_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const depthwise_nchw16c_f32_args *a = args;
    plane_tasks tasks = cut(a);
    int64_t step = max(EPILOGUE_POSITIONS / a->ow, 1);
    for (int64_t task = lo; task < hi; task++) {
        int64_t first = task / tasks.ranges * tasks.group, row = task % tasks.ranges * tasks.rows;
        int64_t last = min(first + tasks.group, tasks.planes), end = min(row + tasks.rows, a->oh);
        for (int64_t plane = first; plane < last; plane++) {
            int64_t image = plane / a->c_blocks, block = plane % a->c_blocks;
            const float *x = a->x + image * a->x_batch + block * a->ih * a->iw * 16;
            float *y = a->y + image * a->y_batch + block * a->oh * a->ow * 16;
            for (int64_t r = row; r < end; r += step) {
                int64_t stop = min(r + step, end);
                depthwise_nchw16c_f32_rows(a, block, x, y, r, stop);
                if (a->epilogue) a->epilogue(a->operands, a->dims, image, block, r * a->ow, stop * a->ow, 0, 16);
            }
        }
    }
}
