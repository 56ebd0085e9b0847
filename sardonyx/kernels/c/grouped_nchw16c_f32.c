// grouped_nchw16c_f32.c -- convolution of small groups by tiles of neighbouring positions of a row.
//
// The depthwise kernel with one more loop: in step c each lane meets another channel of its own group, x permuted in the
// register, so that no product is wasted. A tile keeps the sums of its positions and one row of weights in registers, and
// permutes each x of the row once for all taps it meets. Steps 0 and 1 double the even and the odd lanes, which AVX-512
// does while it loads; the others cost it a slot of multiply-adds. That is why lane l meets channel (l & ~1) ^ c and not c.
//
// x is read in place; borders are as in depthwise_nchw16c_f32.c.
#include "grouped_nchw16c_f32.h"

#include "plane_tasks.h"
#include "row_cover.h"
#include "simd.h"

#define EPILOGUE_POSITIONS 128  // outputs between two calls of the epilogue, unless a row is longer: 8 KB

#if VL == 16
#define EACH_SIZE(F) F(14) F(7) F(4)
#define LARGE 14  // 7 sums are too few to fill the pipelines of two multiply-adds a cycle
#else
#define EACH_SIZE(F) F(7) F(4)
#define LARGE 7
#endif

// As many columns as the widest listed tile reads.
static const float zeros[((LARGE - 1) * 2 + 3) * 16] __attribute__((aligned(64)));

// One row of outputs of one channel block.
typedef struct {
    const float *x, *w;             // x: tap row 0 at column 0 of the image, which need not lie inside
    int64_t tap_row;                // floats from tap row to tap row
    int64_t kh, kw, kh_lo, kh_hi;   // taps, and those rows of them that lie inside
    int64_t iw, stride, dilation, channels;
    int64_t listed;                 // the stride where tiles for 3 taps in a row are listed, else 0
} grouped_row;

// How lanes are put in order for step c: 0, 1 (0 0 2 2 4 4 .., 1 1 3 3 ..) of the register, VL 4 also 2, 3 (2 2 0 0, 3 3 1 1);
// BY_INDEX: as `lanes` says.
#define BY_INDEX 4
SX_INLINE vf ordered(const float *p, int order, vi lanes) {
    const vf x = v_load(p);
    (void)lanes;
#if VL == 16
    if (order == 0) return __builtin_shufflevector(x, x, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
    if (order == 1) return __builtin_shufflevector(x, x, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
    return v_permute(x, lanes);
#elif VL == 8
    (void)order;
    return v_permute(x, lanes);
#else
    if (order == 0) return __builtin_shufflevector(x, x, 0, 0, 2, 2);
    if (order == 1) return __builtin_shufflevector(x, x, 1, 1, 3, 3);
    if (order == 2) return __builtin_shufflevector(x, x, 2, 2, 0, 0);
    return __builtin_shufflevector(x, x, 3, 3, 1, 1);
#endif
}

// Step c of one tap row, for a tile of T positions; KW taps without dilation at stride S, or, if KW is 0, any.
SX_INLINE void step(int T, int KW, int S, int border, int order, const grouped_row *r, const float *from, int inside,
                    int64_t iw, int64_t c, const float *ws, vf *acc) {
    vi lanes = {};
#if VL >= 8
#pragma clang loop unroll(full)
    for (int l = 0; l < VL; l++) lanes[l] = l & ~1;
    lanes ^= vi_set1((int32_t)c);
#endif
    (void)c;
    if (KW) {
        const int W = (T - 1) * S + KW;
        vf wv[3];
#pragma clang loop unroll(full)
        for (int kw = 0; kw < KW; kw++) wv[kw] = v_load(ws + kw * 16);
#pragma clang loop unroll(full)
        for (int j = 0; j < W; j++) {
            const int unsure = border && (j < KW - 1 || j >= W - (KW - 1));
            vf xv = {};
            if (!unsure || (uint64_t)(iw + j) < (uint64_t)r->iw) xv = ordered(from + j * 16, order, lanes);
#pragma clang loop unroll(full)
            for (int kw = 0; kw < KW; kw++)
                if (j >= kw && (j - kw) % S == 0 && (j - kw) / S < T)
                    acc[(j - kw) / S] = SX_FMA(xv, wv[kw], acc[(j - kw) / S]);
        }
        return;
    }
#pragma clang loop unroll(disable)
    for (int64_t kw = 0; kw < r->kw; kw++, ws += 16) {
        const vf w = v_load(ws);
#pragma clang loop unroll(full)
        for (int t = 0; t < T; t++) {
            const int64_t j = kw * r->dilation + t * r->stride;
            const float *at = inside ? from + j * 16 : zeros;
            if (border) at = (uint64_t)(iw + j) < (uint64_t)r->iw ? at : zeros;
            acc[t] = SX_FMA(ordered(at, order, lanes), w, acc[t]);
        }
    }
}

// `tiles` tiles of T positions. x: tap row kh_lo at the first column of the first tile, which is column iw of the image.
SX_INLINE void run_tiles(int T, int KW, int S, int border, const grouped_row *r, const float *x, int64_t iw, float *y,
                         int64_t tiles) {
    const int64_t stride = KW ? S : r->stride, channels = r->channels, w_step = (KW ? KW : r->kw) * 16;
    for (; tiles > 0; tiles--, x += T * stride * 16, iw += T * stride, y += T * 16)
#pragma clang loop unroll(disable)
        for (int v = 0; v < 16; v += VL) {
            const float *ws = r->w + v;
            vf acc[LARGE];
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) acc[t] = (vf){};
#pragma clang loop unroll(disable)
            for (int64_t kh = 0; kh < r->kh; kh++) {
                const int inside = kh >= r->kh_lo && kh < r->kh_hi;
                const float *row = inside ? x + kh * r->tap_row : zeros;
#define STEP(ORDER)                                                                                                 \
    step(T, KW, S, border, ORDER, r, row + (v ^ (c & -VL)), inside, iw, c, ws, acc);                                \
    c++, ws += w_step
                int64_t c = 0;
#if VL == 16
                STEP(0);
                __asm__("" : "+r"(row));  // or Clang keeps x for step 1, and doubles lanes after the load
                STEP(1);
#endif
#pragma clang loop unroll(disable)
                while (c < channels) {
#if VL >= 8
                    STEP(BY_INDEX);
#else
                    STEP(0);
                    STEP(1);
                    if (c == channels) break;
                    STEP(2);
                    STEP(3);
#endif
                }
            }
#pragma clang loop unroll(full)
            for (int t = 0; t < T; t++) v_store(y + t * 16 + v, acc[t]);
        }
}

typedef void (*tile_function)(const grouped_row *r, const float *x, int64_t iw, float *y, int64_t tiles);

#define TILE(NAME, T, KW, S, BORDER)                                                                                \
    static __attribute__((noinline)) void NAME(const grouped_row *r, const float *x, int64_t iw, float *y,          \
                                               int64_t tiles) {                                                     \
        run_tiles(T, KW, S, BORDER, r, x, iw, y, tiles);                                                            \
    }
#define TILES(T)                                                                                                    \
    TILE(inner_##T##_3s1, T, 3, 1, 0)                                                                               \
    TILE(border_##T##_3s1, T, 3, 1, 1)                                                                              \
    TILE(inner_##T##_3s2, T, 3, 2, 0)                                                                               \
    TILE(border_##T##_3s2, T, 3, 2, 1)                                                                              \
    TILE(inner_##T##_other, T, 0, 0, 0)                                                                             \
    TILE(border_##T##_other, T, 0, 0, 1)
EACH_SIZE(TILES)
TILE(border_1_other, 1, 0, 0, 1)

static void run_piece(const grouped_row *r, const row_piece *p, float *y) {
#define ROW_OF_TABLE(T)                                                                                             \
    case T: {                                                                                                       \
        static const tile_function tile[3][2] = {{inner_##T##_other, border_##T##_other},                           \
                                                 {inner_##T##_3s1, border_##T##_3s1},                               \
                                                 {inner_##T##_3s2, border_##T##_3s2}};                              \
        run = tile[r->listed][p->border];                                                                           \
        break;                                                                                                      \
    }
    tile_function run = border_1_other;
    switch (p->size) { EACH_SIZE(ROW_OF_TABLE) }
    run(r, r->x + p->iw * 16, p->iw, y + p->ow * 16, p->tiles);
}

// Covers a row with the largest tiles that fit; a last one that would leave the row moves back over its neighbour.
static void make_cover(const grouped_row *r, int64_t pad_left, row_cover *c, int64_t columns) {
    const row_window w = {r->iw, r->stride, (r->kw - 1) * r->dilation + 1, pad_left};
    c->count = 0;
    int64_t large = columns / LARGE, rest = columns - large * LARGE;
    if (columns < 4) {
        cover_tiles(&w, c, 1, 0, columns);
        return;
    }
    cover_tiles(&w, c, LARGE, 0, large);
    if (LARGE > 7 && rest >= 7) cover_tiles(&w, c, 7, columns - rest, 1), rest -= 7;
    if (rest > 4 && columns >= 7) cover_tiles(&w, c, 7, columns - 7, 1), rest = 0;
    if (rest >= 4) cover_tiles(&w, c, 4, columns - rest, 1), rest -= 4;
    if (rest) cover_tiles(&w, c, 4, columns - 4, 1);
}

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Output rows lo <= oh < hi of one channel block. x and y are where row 0 of the block's planes lies.
static void run_rows(const grouped_nchw16c_f32_args *a, int64_t block, const float *x, float *y, int64_t lo, int64_t hi) {
    int64_t dilation = a->dilation_h;
    grouped_row r = {x, a->w + block * a->kh * a->kw * a->channels * 16, dilation * a->iw * 16, a->kh, a->kw, 0, 0,
                     a->iw, a->stride_w, a->dilation_w, a->channels, 0};
    int64_t reach = (a->ow - 1) * a->stride_w - a->pad_left + a->kw - a->iw;  // beyond the right border
    int listed = a->kw == 3 && a->dilation_w == 1 && a->stride_w <= 2 && a->pad_left < 3 && reach < 3;
    r.listed = listed ? a->stride_w : 0;
    row_cover cover;
    make_cover(&r, a->pad_left, &cover, a->ow);
    for (int64_t oh = lo; oh < hi; oh++) {
        int64_t ih = oh * a->stride_h - a->pad_top;
        r.kh_lo = ih < 0 ? (-ih + dilation - 1) / dilation : 0;
        r.kh_hi = ih < a->ih ? (a->ih - ih + dilation - 1) / dilation : 0;
        r.x = x + ih * a->iw * 16;
        for (int64_t i = 0; i < cover.count; i++) run_piece(&r, &cover.piece[i], y + oh * a->ow * 16);
    }
}

static plane_tasks cut(const grouped_nchw16c_f32_args *a) {
    int64_t planes = a->n * a->c_blocks;
    return cut_planes(planes, a->oh, a->ow, planes * a->oh * a->ow * a->kh * a->kw * a->channels);
}

int64_t grouped_nchw16c_f32_tasks(const grouped_nchw16c_f32_args *a) { return cut(a).tasks; }

int64_t grouped_nchw16c_f32_scratch(const grouped_nchw16c_f32_args *a) {
    (void)a;
    return 0;
}

void grouped_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const grouped_nchw16c_f32_args *a = args;
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
                run_rows(a, block, x, y, r, stop);
                if (a->epilogue) a->epilogue(a->operands, a->dims, image, block, r * a->ow, stop * a->ow, 0, 16);
            }
        }
    }
}
