// fold.h -- the 16 lanes of a row as one number: lane l and l + 8, then l and l + 4, 2, 1. In registers: a loop over an
// array that has just been written waits for memory at each step.
#ifndef SARDONYX_FOLD_H
#define SARDONYX_FOLD_H

#include "simd.h"

typedef float sx_f32x8 __attribute__((vector_size(32)));
typedef float sx_f32x4 __attribute__((vector_size(16)));
typedef float sx_f32x2 __attribute__((vector_size(8)));

// `b` where `which`, else `a`: of vectors, or of numbers.
#define SX_PICK(which, b, a) ((__typeof__(a))(((which) & (__typeof__(which))(b)) | (~(which) & (__typeof__(which))(a))))
#define SX_SUM_OF(a, b) ((a) + (b))
#define SX_MAX_OF(a, b) SX_PICK(((b) != (b)) | ((b) > (a)), b, a) // as max_f32
#define SX_MIN_OF(a, b) SX_PICK(((b) != (b)) | ((b) < (a)), b, a)

#define SX_FOLD(NAME, OF)                                                                                          \
    SX_INLINE float NAME(const float *lanes) {                                                                     \
        const f32x16 x = load16(lanes);                                                                            \
        const sx_f32x8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);                                  \
        const sx_f32x8 b = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15), ab = OF(a, b);             \
        const sx_f32x4 c = __builtin_shufflevector(ab, ab, 0, 1, 2, 3);                                            \
        const sx_f32x4 d = __builtin_shufflevector(ab, ab, 4, 5, 6, 7), cd = OF(c, d);                             \
        const sx_f32x2 e = __builtin_shufflevector(cd, cd, 0, 1), f = __builtin_shufflevector(cd, cd, 2, 3);       \
        const sx_f32x2 ef = OF(e, f), fe = __builtin_shufflevector(ef, ef, 1, 0), whole = OF(ef, fe);              \
        return whole[0];                                                                                           \
    }
SX_FOLD(fold_sum_f32, SX_SUM_OF)
SX_FOLD(fold_max_f32, SX_MAX_OF)
SX_FOLD(fold_min_f32, SX_MIN_OF)

#endif
