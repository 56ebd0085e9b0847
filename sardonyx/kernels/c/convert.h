// convert.h -- floating point to integer: truncated, saturated at the ends of the type, NaN to 0; on every ISA alike.
// Integer to floating point is a C cast (round to nearest even).
#ifndef SARDONYX_CONVERT_H
#define SARDONYX_CONVERT_H

#include "elementary_base.h"

// Types of up to 16 bits: clamped as floats, then converted by way of int32.
#define SX_CONVERT_SMALL(name, type, lowest, highest)                              \
    SX_INLINE type f32_to_##name(float x) {                                        \
        float c = x > lowest ? x : lowest;                                         \
        c = c < highest ? c : highest;                                             \
        return (type)(int32_t)(x == x ? c : 0.0f);                                 \
    }                                                                              \
    SX_INLINE type f64_to_##name(double x) {                                       \
        double c = x > lowest ? x : lowest;                                        \
        c = c < highest ? c : highest;                                             \
        return (type)(int32_t)(x == x ? c : 0.0);                                  \
    }

SX_CONVERT_SMALL(i8, int8_t, -128.0f, 127.0f)
SX_CONVERT_SMALL(u8, uint8_t, 0.0f, 255.0f)
SX_CONVERT_SMALL(i16, int16_t, -32768.0f, 32767.0f)
SX_CONVERT_SMALL(u16, uint16_t, 0.0f, 65535.0f)

// x / c for a known c, and `inverse` the float nearest to 1 / c: the same bits without a division, where nothing overflows.
SX_INLINE float quotient_f32(float x, float c, float inverse) {
#ifdef SX_PORTABLE
    (void)inverse;
    return x / c;
#else
    const float q = x * inverse;
    return __builtin_fmaf(__builtin_fmaf(-q, c, x), inverse, q);
#endif
}

// saturate(round(x) + zero), rounded to even; the least value for NaN. `zero` is an integer.
#define SX_QUANTIZE(name, type, lowest, highest)                                   \
    SX_INLINE type quantize_##name(float x, float zero) {                          \
        const float low = lowest - zero, high = highest - zero;                    \
        float c = x > low ? x : low;                                               \
        c = c < high ? c : high;                                                   \
        return (type)(bits_f32(c + 0x1.8p23f) - 0x4b400000 + (uint32_t)(int32_t)zero); \
    }
SX_QUANTIZE(i8, int8_t, -128.0f, 127.0f)
SX_QUANTIZE(u8, uint8_t, 0.0f, 255.0f)

// Every double in (-2^63, 2^64) as an integer modulo 2^64, truncated.
SX_INLINE uint64_t truncated_bits_f64(double x) {
    uint64_t u = bits_f64(x), m = (u & 0xfffffffffffff) | 0x10000000000000;
    int e = (int)((u >> 52) & 0x7ff) - 1075;
    uint64_t r = e < -52 ? 0 : e < 0 ? m >> (-e & 63) : m << (e & 63);
    return u >> 63 ? 0 - r : r;
}

// Where C's conversion between double and 64 bits is a library call.
#if UINTPTR_MAX > 0xffffffffu || defined(__wasm__)
#define SX_TO_I64(x) ((int64_t)(x))
#define SX_TO_U64(x) ((uint64_t)(x))
#else
#define SX_TO_I64(x) ((int64_t)truncated_bits_f64((double)(x)))
#define SX_TO_U64(x) (truncated_bits_f64((double)(x)))
#endif

// `end` is the first value above the range, `lowest` the least in it (less a fraction that truncation removes).
#define SX_CONVERT_LARGE(from, ftype, name, type, cast, above_lowest, lowest, end, highest) \
    SX_INLINE type from##_to_##name(ftype x) {                                              \
        type r = above_lowest ? cast(x) : lowest;                                           \
        r = x < end ? r : highest;                                                          \
        return x == x ? r : 0;                                                              \
    }

#define SX_TO_I32(x) ((int32_t)(x))
#define SX_TO_U32(x) ((uint32_t)(x))

SX_CONVERT_LARGE(f32, float, i32, int32_t, SX_TO_I32, x >= -0x1p31f, INT32_MIN, 0x1p31f, INT32_MAX)
SX_CONVERT_LARGE(f64, double, i32, int32_t, SX_TO_I32, x > -2147483649.0, INT32_MIN, 0x1p31, INT32_MAX)
SX_CONVERT_LARGE(f32, float, u32, uint32_t, SX_TO_U32, x > -1.0f, 0, 0x1p32f, UINT32_MAX)
SX_CONVERT_LARGE(f64, double, u32, uint32_t, SX_TO_U32, x > -1.0, 0, 0x1p32, UINT32_MAX)
SX_CONVERT_LARGE(f32, float, i64, int64_t, SX_TO_I64, x >= -0x1p63f, INT64_MIN, 0x1p63f, INT64_MAX)
SX_CONVERT_LARGE(f64, double, i64, int64_t, SX_TO_I64, x >= -0x1p63, INT64_MIN, 0x1p63, INT64_MAX)
SX_CONVERT_LARGE(f32, float, u64, uint64_t, SX_TO_U64, x > -1.0f, 0, 0x1p64f, UINT64_MAX)
SX_CONVERT_LARGE(f64, double, u64, uint64_t, SX_TO_U64, x > -1.0, 0, 0x1p64, UINT64_MAX)

#undef SX_CONVERT_SMALL
#undef SX_QUANTIZE
#undef SX_CONVERT_LARGE

// NaN is true, as in numpy.
SX_INLINE _Bool f32_to_bool(float x) { return x != 0.0f; }
SX_INLINE _Bool f64_to_bool(double x) { return x != 0.0; }

#endif
