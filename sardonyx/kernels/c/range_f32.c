// range_f32 -- the largest and the least of each block of numbers.
//
//   task   a block
//
// Four registers of each kind side by side, since each waits for the comparison before it.
#include "range_f32.h"

#include "simd.h"

#define CHAINS 4

// Where y is beyond x, or NaN, y takes its place; a NaN in x stays.
SX_INLINE vf larger(vf x, vf y) {
    const vi take = (y > x) | (y != y);
    return (vf)(((vi)y & take) | ((vi)x & ~take));
}
SX_INLINE vf lesser(vf x, vf y) {
    const vi take = (y < x) | (y != y);
    return (vf)(((vi)y & take) | ((vi)x & ~take));
}

static void range_of(const float *x, int64_t n, float *ends) {
    vf high[CHAINS], low[CHAINS];
    for (int c = 0; c < CHAINS; c++) high[c] = v_set1(-__builtin_inff()), low[c] = v_set1(__builtin_inff());
    int64_t i = 0;
    for (; i + CHAINS * VL <= n; i += CHAINS * VL)
        for (int c = 0; c < CHAINS; c++) {
            const vf y = v_load(x + i + c * VL);
            high[c] = larger(high[c], y);
            low[c] = lesser(low[c], y);
        }
    float rest[VL];
    for (; i < n; i += VL) {
        for (int j = 0; j < VL; j++) rest[j] = x[i + j < n ? i + j : n - 1];
        high[0] = larger(high[0], v_load(rest));
        low[0] = lesser(low[0], v_load(rest));
    }
    for (int c = 1; c < CHAINS; c++) high[0] = larger(high[0], high[c]), low[0] = lesser(low[0], low[c]);
    float top = high[0][0], bottom = low[0][0];
    for (int j = 1; j < VL; j++) {
        const float y = high[0][j], z = low[0][j];
        top = y > top || y != y ? y : top;
        bottom = z < bottom || z != z ? z : bottom;
    }
    ends[0] = top, ends[1] = bottom;
}

int64_t range_f32_tasks(const range_f32_args *args) { return (args->n + RANGE_BLOCK - 1) / RANGE_BLOCK; }

int64_t range_f32_scratch(const range_f32_args *args) {
    (void)args;
    return 0;
}

void range_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const range_f32_args *const a = args;
    (void)scratch;
    for (int64_t b = lo; b < hi; b++) {
        const int64_t first = b * RANGE_BLOCK, left = a->n - first;
        range_of(a->x + first, left < RANGE_BLOCK ? left : RANGE_BLOCK, a->ends + 2 * b);
    }
}
