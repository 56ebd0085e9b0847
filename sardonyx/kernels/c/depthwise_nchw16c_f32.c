// depthwise_nchw16c_f32.c -- depthwise convolution by tiles of 7 or 4 neighbouring positions of a row.
//
// A tile keeps the sums of its positions and one row of taps in registers and loads each x of the row once, whichever
// taps it meets. 7 divides the widths that networks have (7, 14, 28, 56, 112). No copy is made at borders: a checked
// tile loads from a block of zeros what lies outside of the image.
#include "depthwise_nchw16c_f32.h"

#include "plane_tasks.h"
#include "simd.h"

// What a tile needs to know.
typedef struct {
    const float *x, *w;  // of the channel block
    float *y;            // first position of the tile
    int64_t ih, iw;      // of tap (0, 0) at the first position
    int64_t count;       // positions to be stored
} depthwise_tile;

static const float zeros[16] __attribute__((aligned(64)));

// Filters of KW taps in a row without dilation, position stride S.
SX_INLINE void tile_body(int T, int KW, int S, int checked, const depthwise_nchw16c_f32_args *a,
                         const depthwise_tile *tile) {
    for (int v = 0; v < 16; v += VL) {
        vf acc[7];
#pragma clang loop unroll(full)
        for (int t = 0; t < T; t++) acc[t] = (vf){};
        for (int64_t kh = 0; kh < a->kh; kh++) {
            int64_t ih = tile->ih + kh * a->dilation_h;
            uint64_t width = checked && (uint64_t)ih >= (uint64_t)a->ih ? 0 : (uint64_t)a->iw;
            const float *x = tile->x + (ih * a->iw + tile->iw) * 16;
            vf w[7];
#pragma clang loop unroll(full)
            for (int kw = 0; kw < KW; kw++) w[kw] = v_load(tile->w + (kh * KW + kw) * 16 + v);
#pragma clang loop unroll(full)
            for (int j = 0; j < (T - 1) * S + KW; j++) {
                const float *from = x + j * 16;
                if (checked) from = (uint64_t)(tile->iw + j) < width ? from : zeros;
                vf xv = v_load(from + v);
#pragma clang loop unroll(full)
                for (int kw = 0; kw < KW; kw++)
                    if (j >= kw && (j - kw) % S == 0 && (j - kw) / S < T)
                        acc[(j - kw) / S] = SX_FMA(xv, w[kw], acc[(j - kw) / S]);
            }
        }
#pragma clang loop unroll(full)
        for (int t = 0; t < T; t++)
            if (t < tile->count) v_store(tile->y + t * 16 + v, acc[t]);
    }
}

// Any filter.
static void tile_any(const depthwise_nchw16c_f32_args *a, const depthwise_tile *tile) {
    for (int v = 0; v < 16; v += VL) {
        vf acc[4] = {0};
        for (int64_t kh = 0; kh < a->kh; kh++) {
            int64_t ih = tile->ih + kh * a->dilation_h;
            uint64_t width = (uint64_t)ih >= (uint64_t)a->ih ? 0 : (uint64_t)a->iw;
            const float *x = tile->x + ih * a->iw * 16 + v;
            for (int64_t kw = 0; kw < a->kw; kw++) {
                vf w = v_load(tile->w + (kh * a->kw + kw) * 16 + v);
                int64_t iw = tile->iw + kw * a->dilation_w;
#pragma clang loop unroll(full)
                for (int t = 0; t < 4; t++, iw += a->stride_w)
                    acc[t] = SX_FMA(v_load((uint64_t)iw < width ? x + iw * 16 : zeros), w, acc[t]);
            }
        }
#pragma clang loop unroll(full)
        for (int t = 0; t < 4; t++)
            if (t < tile->count) v_store(tile->y + t * 16 + v, acc[t]);
    }
}

// The tiles for one filter: 7 positions inside of the image, 7 and 4 with checks.
#define DEPTHWISE_TILES(KW, S)                                                                                      \
    static __attribute__((noinline)) void tile_7_##KW##s##S(const depthwise_nchw16c_f32_args *a,                    \
                                                            const depthwise_tile *tile) {                           \
        tile_body(7, KW, S, 0, a, tile);                                                                            \
    }                                                                                                               \
    static __attribute__((noinline)) void tile_7_##KW##s##S##_checked(const depthwise_nchw16c_f32_args *a,          \
                                                                      const depthwise_tile *tile) {                 \
        tile_body(7, KW, S, 1, a, tile);                                                                            \
    }                                                                                                               \
    static __attribute__((noinline)) void tile_4_##KW##s##S##_checked(const depthwise_nchw16c_f32_args *a,          \
                                                                      const depthwise_tile *tile) {                 \
        tile_body(4, KW, S, 1, a, tile);                                                                            \
    }
#define DEPTHWISE_CASE(KW, S)                                                                                       \
    case KW * 4 + S:                                                                                                \
        if (wide && inside) tile_7_##KW##s##S(a, tile);                                                             \
        else if (wide) tile_7_##KW##s##S##_checked(a, tile);                                                        \
        else tile_4_##KW##s##S##_checked(a, tile);                                                                  \
        break;
#define DEPTHWISE_EACH(F) F(3, 1) F(5, 1) F(7, 1) F(3, 2) F(5, 2) F(7, 2)

DEPTHWISE_EACH(DEPTHWISE_TILES)

static void run_tile(const depthwise_nchw16c_f32_args *a, int64_t kind, int wide, int inside,
                     const depthwise_tile *tile) {
    switch (kind) {
        DEPTHWISE_EACH(DEPTHWISE_CASE)
        default: tile_any(a, tile);
    }
}

static void run_row(const depthwise_nchw16c_f32_args *a, int64_t oh, depthwise_tile tile) {
    int64_t listed = a->dilation_w == 1 && a->stride_w <= 2 && (a->kw == 3 || a->kw == 5 || a->kw == 7);
    int64_t kind = listed ? a->kw * 4 + a->stride_w : 0;
    tile.ih = oh * a->stride_h - a->pad_top;
    int inside_h = tile.ih >= 0 && tile.ih + (a->kh - 1) * a->dilation_h < a->ih;
    for (int64_t ow = 0; ow < a->ow; ow += tile.count) {
        int64_t rest = a->ow - ow;
        int wide = kind && rest >= 5 && rest != 8 && rest != 12;  // 4 + 4 and 4 + 4 + 4 waste nothing
        int64_t size = wide ? 7 : 4;
        tile.count = rest < size ? rest : size;
        tile.iw = ow * a->stride_w - a->pad_left;
        int inside = inside_h && tile.iw >= 0 && tile.iw + (size - 1) * a->stride_w + a->kw - 1 < a->iw;
        run_tile(a, kind, wide, inside, &tile);
        tile.y += tile.count * 16;
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

static void run_rows(const depthwise_nchw16c_f32_args *a, int64_t plane, int64_t lo, int64_t hi) {
    int64_t image = plane / a->c_blocks, block = plane % a->c_blocks;
    depthwise_tile tile = {a->x + image * a->x_batch + block * a->ih * a->iw * 16, a->w + block * a->kh * a->kw * 16,
                           a->y + image * a->y_batch + (block * a->oh + lo) * a->ow * 16, 0, 0, 0};
    for (int64_t oh = lo; oh < hi; oh++, tile.y += a->ow * 16) run_row(a, oh, tile);
    if (a->epilogue) a->epilogue(a->operands, a->dims, image, block, lo * a->ow, hi * a->ow, 0, 16);
}

void depthwise_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const depthwise_nchw16c_f32_args *a = args;
    plane_tasks p = cut(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t first = task / p.ranges * p.group, row = task % p.ranges * p.rows;
        int64_t last = first + p.group < p.planes ? first + p.group : p.planes;
        int64_t end = row + p.rows < a->oh ? row + p.rows : a->oh;
        for (int64_t plane = first; plane < last; plane++) run_rows(a, plane, row, end);
    }
}
