// integer.h -- integer arithmetic with defined results everywhere, and the checks that generated code reports errors by.
//
// Signed arithmetic wraps (done in unsigned), shifts by the width or more leave the sign alone, and a division by zero or an index out of
// range stores an error code and goes on with a harmless value: no operation here has undefined behaviour.
#ifndef SARDONYX_INTEGER_H
#define SARDONYX_INTEGER_H

#include "sardonyx.h"
#include "simd.h"

enum { SX_ERROR_INDEX = 1, SX_ERROR_DIVISION = 2, SX_ERROR_SHAPE = 3, SX_ERROR_MEMORY = 4, SX_ERROR_HOST = 5, SX_ERROR_VALUE = 6,
       SX_ERROR_ASSUMPTION = 7 };

// The arguments of a generated loop nest.
typedef struct {
    void *const *p;    // buffers
    const int64_t *d;  // runtime dims
    int64_t *error;    // takes an error code; the step's number is added by the caller
} sx_nest;

// Any thread may report; the last one wins, and every code is a right answer.
SX_INLINE void sx_raise(int64_t *error, int64_t code) { __atomic_store_n(error, code, __ATOMIC_RELAXED); }

SX_INLINE int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
SX_INLINE int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
SX_INLINE int64_t floordiv_i64(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return b ? (int64_t)(0 - (uint64_t)a) : 0;
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
SX_INLINE int64_t floormod_i64(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    int64_t r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

// A position along an axis of `extent`, negative ones counted from the end.
SX_INLINE int64_t checked_index(int64_t i, int64_t extent, int64_t *error) {
    int64_t j = i < 0 ? i + extent : i;
    if (__builtin_expect((uint64_t)j >= (uint64_t)extent, 0)) {
        sx_raise(error, SX_ERROR_INDEX);
        return 0;
    }
    return j;
}

#define SX_SIGNED(T, U, S)                                                                              \
    SX_INLINE T div_##S(T a, T b, int64_t *error) {                                                     \
        if (__builtin_expect(b == 0, 0)) return sx_raise(error, SX_ERROR_DIVISION), (T)0;               \
        return b == -1 ? (T)(0 - (U)a) : (T)(a / b);                                                    \
    }                                                                                                   \
    SX_INLINE T fmod_##S(T a, T b, int64_t *error) {                                                    \
        if (__builtin_expect(b == 0, 0)) return sx_raise(error, SX_ERROR_DIVISION), (T)0;               \
        return b == -1 ? 0 : (T)(a % b);                                                                \
    }                                                                                                   \
    SX_INLINE T mod_##S(T a, T b, int64_t *error) {                                                     \
        T r = fmod_##S(a, b, error);                                                                    \
        return r != 0 && (r < 0) != (b < 0) ? (T)(r + b) : r;                                           \
    }                                                                                                   \
    SX_INLINE T abs_##S(T a) { return a < 0 ? (T)(0 - (U)a) : a; }                                      \
    SX_INLINE T sign_##S(T a) { return (T)((a > 0) - (a < 0)); }

#define SX_UNSIGNED(T, S)                                                                               \
    SX_INLINE T div_##S(T a, T b, int64_t *error) {                                                     \
        if (__builtin_expect(b == 0, 0)) return sx_raise(error, SX_ERROR_DIVISION), (T)0;               \
        return (T)(a / b);                                                                              \
    }                                                                                                   \
    SX_INLINE T fmod_##S(T a, T b, int64_t *error) {                                                    \
        if (__builtin_expect(b == 0, 0)) return sx_raise(error, SX_ERROR_DIVISION), (T)0;               \
        return (T)(a % b);                                                                              \
    }                                                                                                   \
    SX_INLINE T mod_##S(T a, T b, int64_t *error) { return fmod_##S(a, b, error); }                     \
    SX_INLINE T abs_##S(T a) { return a; }                                                              \
    SX_INLINE T sign_##S(T a) { return (T)(a > 0); }

// Powers wrap; a negative exponent gives what 1 / a^|b| truncates to (0 for a = 0).
#define SX_COMMON(T, W, S, BITS)                                                                        \
    SX_INLINE T max_##S(T a, T b) { return a > b ? a : b; }                                             \
    SX_INLINE T min_##S(T a, T b) { return a < b ? a : b; }                                             \
    SX_INLINE T shl_##S(T a, T b) { return (W)b < BITS ? (T)((W)a << (W)b) : 0; }                       \
    SX_INLINE T shr_##S(T a, T b) { return (T)(a >> ((W)b < BITS ? (W)b : BITS - 1) >> ((W)b >= BITS)); }   \
    SX_INLINE T pow_##S(T a, T b) {                                                                     \
        if (b < 0) return a == 1 ? 1 : a == (T)-1 ? (b & 1 ? a : 1) : 0;                                \
        W result = 1, base = (W)a;                                                                      \
        for (W e = (W)b; e; e >>= 1, base *= base)                                                      \
            if (e & 1) result *= base;                                                                  \
        return (T)result;                                                                               \
    }

SX_SIGNED(int8_t, uint32_t, i8)
SX_SIGNED(int16_t, uint32_t, i16)
SX_SIGNED(int32_t, uint32_t, i32)
SX_SIGNED(int64_t, uint64_t, i64)
SX_UNSIGNED(uint8_t, u8)
SX_UNSIGNED(uint16_t, u16)
SX_UNSIGNED(uint32_t, u32)
SX_UNSIGNED(uint64_t, u64)
SX_COMMON(int8_t, uint32_t, i8, 8)
SX_COMMON(int16_t, uint32_t, i16, 16)
SX_COMMON(int32_t, uint32_t, i32, 32)
SX_COMMON(uint8_t, uint32_t, u8, 8)
SX_COMMON(uint16_t, uint32_t, u16, 16)
SX_COMMON(uint32_t, uint32_t, u32, 32)
SX_COMMON(uint64_t, uint64_t, u64, 64)
#undef SX_SIGNED
#undef SX_UNSIGNED
#undef SX_COMMON
SX_INLINE int64_t shl_i64(int64_t a, int64_t b) { return (uint64_t)b < 64 ? (int64_t)((uint64_t)a << b) : 0; }
SX_INLINE int64_t shr_i64(int64_t a, int64_t b) { return (uint64_t)b < 64 ? a >> b : a >> 63; }
SX_INLINE int64_t pow_i64(int64_t a, int64_t b) {
    if (b < 0) return a == 1 ? 1 : a == -1 ? (b & 1 ? a : 1) : 0;
    uint64_t result = 1, base = (uint64_t)a;
    for (uint64_t e = (uint64_t)b; e; e >>= 1, base *= base)
        if (e & 1) result *= base;
    return (int64_t)result;
}

// bool is stored as 0 or 1.
SX_INLINE uint8_t max_b8(uint8_t a, uint8_t b) { return a | b; }
SX_INLINE uint8_t min_b8(uint8_t a, uint8_t b) { return a & b; }

#endif
