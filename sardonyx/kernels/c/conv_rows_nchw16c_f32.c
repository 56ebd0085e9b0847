// conv_rows_nchw16c_f32.c -- direct convolution by tiles of neighbouring positions of a row.
//
// conv_nchw16c_f32 lists or copies the inputs of tiles that cross a border, the end of a row or (stride 2) any; many blocks
// of output channels pay for that. With one or two it costs more than the products: 3x3, groups of 16 channels, 32 to 40 %
// of peak with stride 1 on AVX-512. Here a tile never leaves its row, and its inputs lie a constant apart, in x or, for the
// tiles at the left and right border, in a copy of the row's part with zeros.
#include "conv_rows_nchw16c_f32.h"

#include "plane_tasks.h"
#include "row_cover.h"
#include "simd.h"

#define EPILOGUE_POSITIONS 128  // outputs between two calls of the epilogue, unless a row is longer: 8 KB
#define REACH 17                // columns from the first tap to the last, at most

// Positions of a tile, for one block and for two: sums of all, weights and an input in registers.
#if VL == 16
#define EACH_SIZE(F, NB) F(14, NB) F(7, NB) F(4, NB) F(1, NB)
#define EACH_SIZE_2(F, NB) EACH_SIZE(F, NB)
#define ROWS_MR 14
#define ROWS_NB 2
#elif VL == 8 || VREGS == 32
#define EACH_SIZE(F, NB) F(6, NB) F(4, NB) F(1, NB)
#define EACH_SIZE_2(F, NB)
#define ROWS_MR 6
#define ROWS_NB 1
#else
#define EACH_SIZE(F, NB) F(2, NB) F(1, NB)
#define EACH_SIZE_2(F, NB)
#define ROWS_MR 2
#define ROWS_NB 1
#endif
#define V (16 / VL)  // registers in a block of 16 lanes
#define WIDTH ((ROWS_MR - 1) * 2 + REACH)

_Static_assert(ROWS_MR * ROWS_NB * V + ROWS_NB * V + 1 <= VREGS, "the tile would spill");

static const float zeros[WIDTH * 16] __attribute__((aligned(64)));

// One row of outputs of one block of output channels, or two.
typedef struct {
    const float *x;                // tap row 0 at column 0 of the image, which need not lie inside
    int64_t tap_row, plane;        // floats from tap row to tap row, from block to block
    int64_t icb, last;             // blocks of a group, channels of the last rounded up to a multiple of 2
    int64_t kh, kw, kh_lo, kh_hi;  // taps, and those rows of them that lie inside
    int64_t iw, stride, dilation;
    const float *w;
    int64_t w_block, y_block;
    float *copy;                   // room for WIDTH columns
} conv_row;

// The part of a row under a tile whose first tap is in column iw, with zeros outside of the image.
static const float *bordered(const conv_row *r, const float *row, int64_t iw, int64_t width) {
    for (int64_t j = 0; j < width; j++) {
        const int inside = (uint64_t)(iw + j) < (uint64_t)r->iw;
        store16(r->copy + j * 16, load16(inside ? row + j * 16 : zeros));
    }
    return r->copy;
}

// One tile of T positions at stride S. x: tap row 0 at the first column, which is column iw of the image.
SX_INLINE void tile(int T, int NB, int S, const conv_row *r, const float *x, int64_t iw, int border, float *y) {
    vf acc[ROWS_MR][ROWS_NB * V];
#pragma clang loop unroll(full)
    for (int t = 0; t < T; t++)
#pragma clang loop unroll(full)
        for (int v = 0; v < NB * V; v++) acc[t][v] = (vf){};
    const float *w = r->w;
    const int64_t w_block = r->w_block, dilation = r->dilation * 16;
    for (int64_t ib = 0; ib < r->icb; ib++, x += r->plane) {
        const int64_t channels = ib < r->icb - 1 ? 16 : r->last;
        for (int64_t kh = 0; kh < r->kh; kh++) {
            const float *row = zeros;
            if (kh >= r->kh_lo && kh < r->kh_hi) {
                row = x + kh * r->tap_row;
                if (border) row = bordered(r, row, iw, (T - 1) * S + (r->kw - 1) * r->dilation + 1);
            }
            for (int64_t kw = 0; kw < r->kw; kw++, row += dilation, w += 256) {
#pragma clang loop unroll(disable)
                for (int64_t c = 0; c < channels; c += 2)
#pragma clang loop unroll(full)
                    for (int u = 0; u < 2; u++) {
                        vf wv[ROWS_NB * V];
#pragma clang loop unroll(full)
                        for (int v = 0; v < NB * V; v++)
                            wv[v] = v_load(w + v / V * w_block + (c + u) * 16 + v % V * VL);
#pragma clang loop unroll(full)
                        for (int t = 0; t < T; t++) {
                            const vf xv = v_set1(row[t * S * 16 + c + u]);
#pragma clang loop unroll(full)
                            for (int v = 0; v < NB * V; v++) acc[t][v] = SX_FMA(xv, wv[v], acc[t][v]);
                        }
                    }
            }
        }
    }
#pragma clang loop unroll(full)
    for (int t = 0; t < T; t++)
#pragma clang loop unroll(full)
        for (int v = 0; v < NB * V; v++) v_store(y + v / V * r->y_block + t * 16 + v % V * VL, acc[t][v]);
}

typedef void (*tile_function)(const conv_row *r, const float *x, int64_t iw, int border, float *y);

#define TILE(T, NB)                                                                                                 \
    static __attribute__((noinline)) void rows_##T##x##NB##s1(const conv_row *r, const float *x, int64_t iw,        \
                                                              int border, float *y) {                               \
        tile(T, NB, 1, r, x, iw, border, y);                                                                        \
    }                                                                                                               \
    static __attribute__((noinline)) void rows_##T##x##NB##s2(const conv_row *r, const float *x, int64_t iw,        \
                                                              int border, float *y) {                               \
        tile(T, NB, 2, r, x, iw, border, y);                                                                        \
    }
#define ENTRY(T, NB) [NB - 1][T] = {rows_##T##x##NB##s1, rows_##T##x##NB##s2},
EACH_SIZE(TILE, 1)
EACH_SIZE_2(TILE, 2)

// By blocks - 1, positions, stride - 1.
static const tile_function tiles[ROWS_NB][ROWS_MR + 1][2] = {EACH_SIZE(ENTRY, 1) EACH_SIZE_2(ENTRY, 2)};

// Covers a row with the largest tiles that fit; a last one that would leave the row moves back over its neighbour.
static void make_cover(const row_window *w, row_cover *c, int64_t columns) {
    static const int64_t sizes[] = {ROWS_MR, ROWS_MR > 7 ? 7 : 0, ROWS_MR > 4 ? 4 : 0, 1};
    int64_t done = 0;
    c->count = 0;
    for (int i = 0; i < 4; i++) {
        const int64_t size = sizes[i], rest = columns - done;
        if (size == 0 || rest == 0) continue;
        const int64_t whole = rest / size;
        cover_tiles(w, c, size, done, whole);
        done += whole * size;
        int64_t next = i < 3 ? sizes[i + 1] : 0;
        if (next == 0 && i < 2) next = sizes[i + 2];
        if (columns - done > next && columns >= size) {  // one more of this size, moved back
            cover_tiles(w, c, size, columns - size, 1);
            done = columns;
        }
    }
}

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Output rows lo <= oh < hi of output blocks block, block + 1, .. block + nb - 1.
static void run_rows(const conv_rows_nchw16c_f32_args *a, const row_cover *cover, int64_t image, int64_t block, int64_t nb,
                     int64_t lo, int64_t hi, float *copy) {
    const int64_t icb = a->ic_blocks / a->groups, ocb = a->oc_blocks / a->groups, step = a->dilation_h;
    const int64_t plane = a->ih * a->iw * 16, steps = icb * a->kh * a->kw;
    const float *x = a->x + image * a->x_batch + block / ocb * icb * plane;
    float *y = a->y + image * a->y_batch + block * a->oh * a->ow * 16;
    conv_row r = {x, step * a->iw * 16, plane, icb, (a->ic - (icb - 1) * 16 + 1) / 2 * 2, a->kh, a->kw, 0, 0, a->iw,
                  a->stride_w, a->dilation_w, a->w + block * steps * 256, steps * 256, a->oh * a->ow * 16, copy};
    for (int64_t oh = lo; oh < hi; oh++) {
        const int64_t ih = oh * a->stride_h - a->pad_top;
        r.kh_lo = ih < 0 ? (-ih + step - 1) / step : 0;
        r.kh_hi = ih < a->ih ? (a->ih - ih + step - 1) / step : 0;
        for (int64_t i = 0; i < cover->count; i++) {
            const row_piece *p = &cover->piece[i];
            const tile_function run = tiles[nb - 1][p->size][r.stride - 1];
            for (int64_t t = 0; t < p->tiles; t++) {
                const int64_t iw = p->iw + t * p->size * r.stride;
                run(&r, x + (ih * a->iw + iw) * 16, iw, (int)p->border, y + (oh * a->ow + p->ow + t * p->size) * 16);
            }
        }
    }
}

// A plane is ROWS_NB output blocks of a group, or its last.
static int64_t pairs(const conv_rows_nchw16c_f32_args *a) { return (a->oc_blocks / a->groups + ROWS_NB - 1) / ROWS_NB; }

static plane_tasks cut(const conv_rows_nchw16c_f32_args *a) {
    int64_t work = a->n * a->oc_blocks * (a->ic_blocks / a->groups) * 16 * a->oh * a->ow * a->kh * a->kw;
    return cut_planes(a->n * a->groups * pairs(a), a->oh, a->ow, work);
}

int64_t conv_rows_nchw16c_f32_tasks(const conv_rows_nchw16c_f32_args *a) { return cut(a).tasks; }

int64_t conv_rows_nchw16c_f32_scratch(const conv_rows_nchw16c_f32_args *a) {
    (void)a;
    return WIDTH * 64;
}

void conv_rows_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const conv_rows_nchw16c_f32_args *a = args;
    const plane_tasks tasks = cut(a);
    const row_window window = {a->iw, a->stride_w, (a->kw - 1) * a->dilation_w + 1, a->pad_left};
    const int64_t step = max(EPILOGUE_POSITIONS / a->ow, 1), ocb = a->oc_blocks / a->groups, parts = pairs(a);
    row_cover cover;
    make_cover(&window, &cover, a->ow);
    for (int64_t task = lo; task < hi; task++) {
        int64_t first = task / tasks.ranges * tasks.group, row = task % tasks.ranges * tasks.rows;
        int64_t last = min(first + tasks.group, tasks.planes), end = min(row + tasks.rows, a->oh);
        for (int64_t plane = first; plane < last; plane++) {
            int64_t image = plane / (a->groups * parts), group = plane / parts % a->groups;
            int64_t block = group * ocb + plane % parts * ROWS_NB, nb = min(ROWS_NB, (group + 1) * ocb - block);
            for (int64_t r = row; r < end; r += step) {
                int64_t stop = min(r + step, end);
                run_rows(a, &cover, image, block, nb, r, stop, scratch);
                for (int64_t b = block; a->epilogue && b < block + nb; b++)
                    a->epilogue(a->operands, a->dims, image, b, r * a->ow, stop * a->ow, 0, 16);
            }
        }
    }
}
