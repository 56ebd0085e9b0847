// pool_nchw16c_f32.c -- max and average pooling over NCHW16c.
//
// A row of outputs has one range of kh that lies in the image, and positions of three kinds: those whose kw all lie
// inside are done four at a time, those before and after one at a time with a range of kw of their own.
#include "pool_nchw16c_f32.h"

#include "plane_tasks.h"
#include "pool_taps.h"
#include "simd.h"

typedef int32_t vi __attribute__((vector_size(VL * 4)));

// What is known of a window so far.
typedef struct {
    vf value;  // largest number or sum
    vi nan;    // maximum: all bits where there was a NaN
} pooled;

SX_INLINE pooled pool_start(int kind) {
    return (pooled){kind == POOL_MAX ? v_set1(-__builtin_inff()) : (vf){}, (vi){}};
}

SX_INLINE pooled pool_add(int kind, pooled p, vf x) {
    if (kind != POOL_MAX) return (pooled){p.value + x, p.nan};
    vi larger = x > p.value;
    return (pooled){(vf)(((vi)x & larger) | ((vi)p.value & ~larger)), p.nan | (x != x)};
}

SX_INLINE vf pool_end(int kind, pooled p, int64_t count) {
    return kind == POOL_MAX ? (vf)((vi)p.value | p.nan) : p.value / v_set1((float)count);
}

// `T` neighbouring outputs whose taps lie inside of the image; x: tap (0, 0) of the first. A sum needs one register for
// VL lanes of a position and a maximum two, so sums take twice as many lanes at a time.
SX_INLINE void pool_tile(int T, int kind, const pool_nchw16c_f32_args *a, tap_range h, tap_range w, const float *x,
                         float *y) {
    const int R = kind == POOL_MAX || VL == 16 ? 1 : 2;
    for (int v = 0; v < 16; v += R * VL) {
        pooled p[4][2];
#pragma clang loop unroll(full)
        for (int i = 0; i < T * R; i++) p[i / R][i % R] = pool_start(kind);
        for (int64_t kh = h.lo; kh < h.hi; kh++)
            for (int64_t kw = w.lo; kw < w.hi; kw++) {
                const float *tap = x + (kh * a->dilation_h * a->iw + kw * a->dilation_w) * 16 + v;
#pragma clang loop unroll(full)
                for (int i = 0; i < T * R; i++) {
                    vf xv = v_load(tap + i / R * a->stride_w * 16 + i % R * VL);
                    p[i / R][i % R] = pool_add(kind, p[i / R][i % R], xv);
                }
            }
#pragma clang loop unroll(full)
        for (int i = 0; i < T * R; i++)
            v_store(y + i / R * 16 + v + i % R * VL, pool_end(kind, p[i / R][i % R], h.counted * w.counted));
    }
}

SX_INLINE void pool_row(int kind, const pool_nchw16c_f32_args *a, int64_t oh, const float *x, float *y) {
    int padded = a->kind == POOL_AVERAGE_PADDED;
    int64_t ih = oh * a->stride_h - a->pad_top, reach = (a->kw - 1) * a->dilation_w;
    tap_range h = make_range(ih, a->kh, a->dilation_h, a->ih, a->pad_bottom, padded);
    const tap_range all = {0, a->kw, a->kw};
    for (int64_t ow = 0; ow < a->ow;) {
        int64_t iw = ow * a->stride_w - a->pad_left;
        const float *from = x + (ih * a->iw + iw) * 16;
        if (ow + 4 <= a->ow && iw >= 0 && iw + 3 * a->stride_w + reach < a->iw) {
            pool_tile(4, kind, a, h, all, from, y + ow * 16);
            ow += 4;
        } else {
            tap_range w = make_range(iw, a->kw, a->dilation_w, a->iw, a->pad_right, padded);
            pool_tile(1, kind, a, h, w, from, y + ow * 16);
            ow += 1;
        }
    }
}

static void global_average(const pool_nchw16c_f32_args *a, const float *x, float *y) {
    int64_t positions = a->ih * a->iw;
    f32x16 sum[4] = {0};
    for (int64_t p = 0; p < positions / 4; p++, x += 64) {
#pragma clang loop unroll(full)
        for (int i = 0; i < 4; i++) sum[i] += load16(x + i * 16);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 3; i++)
        if (i < positions % 4) sum[i] += load16(x + i * 16);
    store16(y, ((sum[0] + sum[1]) + (sum[2] + sum[3])) / set16((float)positions));
}

static void run_rows(const pool_nchw16c_f32_args *a, int64_t plane, int64_t lo, int64_t hi) {
    int64_t image = plane / a->c_blocks, block = plane % a->c_blocks;
    const float *x = a->x + image * a->x_batch + block * a->ih * a->iw * 16;
    float *y = a->y + image * a->y_batch + (block * a->oh + lo) * a->ow * 16;
    for (int64_t oh = lo; oh < hi; oh++, y += a->ow * 16) {
        if (a->kind == POOL_MAX) pool_row(POOL_MAX, a, oh, x, y);
        else if (a->kind == POOL_GLOBAL_AVERAGE) global_average(a, x, y);
        else pool_row(POOL_AVERAGE, a, oh, x, y);
    }
    if (a->epilogue) a->epilogue(a->operands, a->dims, image, block, lo * a->ow, hi * a->ow, 0, 16);
}

static plane_tasks cut(const pool_nchw16c_f32_args *a) {
    int64_t taps = a->kind == POOL_GLOBAL_AVERAGE ? a->ih * a->iw : a->kh * a->kw;
    return cut_planes(a->n * a->c_blocks, a->oh, a->ow, a->n * a->c_blocks * a->oh * a->ow * taps);
}

int64_t pool_nchw16c_f32_tasks(const pool_nchw16c_f32_args *a) { return cut(a).tasks; }

int64_t pool_nchw16c_f32_scratch(const pool_nchw16c_f32_args *a) {
    (void)a;
    return 0;
}

void pool_nchw16c_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    (void)scratch;
    const pool_nchw16c_f32_args *a = args;
    plane_tasks p = cut(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t first = task / p.ranges * p.group, row = task % p.ranges * p.rows;
        int64_t last = first + p.group < p.planes ? first + p.group : p.planes;
        int64_t end = row + p.rows < a->oh ? row + p.rows : a->oh;
        for (int64_t plane = first; plane < last; plane++) run_rows(a, plane, row, end);
    }
}
