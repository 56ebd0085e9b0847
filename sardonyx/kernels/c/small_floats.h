// small_floats.h -- floats of 8 and 4 bits and integers of 4 and 2 bits, one byte each in memory.
//
// Between operations these types stay as they are stored: only conversions look inside, so that moving them moves bits.
// To a float: rounded to nearest, ties to even; from double by way of float, as ml_dtypes does. What is too large, inf
// among it, becomes the largest finite value (`saturate`), else inf or, where the type has none, NaN. 4-bit floats
// always saturate.
// Bits above a narrow type are ignored when read and zero when written.
#ifndef SARDONYX_SMALL_FLOATS_H
#define SARDONYX_SMALL_FLOATS_H

#include "elementary_base.h"

// A format: `mantissa` bits, exponent `bias`, the `sign` bit, magnitudes of the `top` finite value, of `infinity` (what
// stands for it) and of `nan`. Where nan is the sign bit alone, zero has no sign (the "uz" types).
typedef struct {
    int mantissa, bias;
    uint32_t sign, top, infinity, nan;
} sx_small;

#define SX_F8E4M3FN ((sx_small){3, 7, 0x80, 0x7e, 0x7f, 0x7f})
#define SX_F8E4M3FNUZ ((sx_small){3, 8, 0x80, 0x7f, 0x80, 0x80})
#define SX_F8E5M2 ((sx_small){2, 15, 0x80, 0x7b, 0x7c, 0x7e})
#define SX_F8E5M2FNUZ ((sx_small){2, 16, 0x80, 0x7f, 0x80, 0x80})
#define SX_F4E2M1 ((sx_small){1, 1, 0x8, 0x7, 0x7, 0x8}) // without NaN: it becomes the zero of the other sign

// Subnormals: adding 2^k rounds |x| to a multiple of the format's least value and leaves the count in the low bits.
SX_INLINE uint8_t small_from_f32(float x, sx_small f, _Bool saturate) {
    const int shift = 23 - f.mantissa;
    const uint32_t u = bits_f32(x), t = u & 0x7fffffff;
    const uint32_t least = (uint32_t)(128 - f.bias) << 23, magic = (uint32_t)(128 - f.bias + shift) << 23;
    const uint32_t rebased = t - ((uint32_t)(127 - f.bias) << 23);
    const uint32_t normal = (rebased + ((1u << (shift - 1)) - 1) + ((t >> shift) & 1)) >> shift;
    uint32_t r = t < least ? bits_f32(from_bits_f32(t) + from_bits_f32(magic)) - magic : normal;
    r = r > f.top ? (saturate ? f.top : f.infinity) : r;
    const uint32_t sign = (u >> 31) * f.sign, nan = f.nan == 0x80 ? f.nan : sign ^ f.nan;
    r |= f.nan == 0x80 && r == 0 ? 0 : sign;
    return (uint8_t)(t > 0x7f800000 ? nan : r);
}

SX_INLINE float small_to_f32(uint8_t code, sx_small f) {
    const uint32_t sign = code & f.sign ? 0x80000000 : 0, t = code & (f.sign - 1);
    const float subnormal = (float)(int32_t)t * from_bits_f32((uint32_t)(128 - f.bias - f.mantissa) << 23);
    const uint32_t normal = (t << (23 - f.mantissa)) + ((uint32_t)(127 - f.bias) << 23);
    uint32_t r = t < (1u << f.mantissa) ? bits_f32(subnormal) : normal;
    r = t > f.top ? (t == f.infinity && f.infinity != f.nan ? 0x7f800000 : 0x7fc00000) : r;
    r = f.nan == 0x80 && code == 0x80 ? 0x7fc00000 : r;
    return from_bits_f32(sign | r);
}

// ISAs differ in what a NaN keeps when it is narrowed: here its sign.
SX_INLINE float narrowed_f64(double x) {
    const float r = (float)x;
    return x != x ? from_bits_f32((uint32_t)(bits_f64(x) >> 32 & 0x80000000) | 0x7fc00000) : r;
}

#define SX_SMALL(NAME, FORMAT)                                                                                         \
    SX_INLINE uint8_t f32_to_##NAME(float x, _Bool saturate) { return small_from_f32(x, FORMAT, saturate); }           \
    SX_INLINE uint8_t f64_to_##NAME(double x, _Bool saturate) { return f32_to_##NAME(narrowed_f64(x), saturate); }     \
    SX_INLINE float NAME##_to_f32(uint8_t code) { return small_to_f32(code, FORMAT); }
SX_SMALL(f8e4m3fn, SX_F8E4M3FN)
SX_SMALL(f8e4m3fnuz, SX_F8E4M3FNUZ)
SX_SMALL(f8e5m2, SX_F8E5M2)
SX_SMALL(f8e5m2fnuz, SX_F8E5M2FNUZ)
SX_SMALL(f4e2m1, SX_F4E2M1)
#undef SX_SMALL

// f8e8m0 holds powers of two, 2^(code - 127), and NaN (255): neither zero nor signs, which are dropped. What lies
// between two powers goes up, down or to the nearer one (up from the middle).
enum { SX_UP, SX_DOWN, SX_NEAREST };

SX_INLINE float f8e8m0_to_f32(uint8_t code) {
    return from_bits_f32(code == 255 ? 0x7fc00000 : code == 0 ? 0x00400000 : (uint32_t)code << 23);
}

// Saturating: 0 and less than 2^-127 become that, inf and more than 2^127 become this. Otherwise 0, inf and what would
// be rounded out of the range become NaN.
SX_INLINE uint8_t f32_to_f8e8m0(float x, _Bool saturate, int mode) {
    const uint32_t t = bits_f32(x) & 0x7fffffff, rest = t & 0x7fffff;
    const uint32_t normal = (t >> 23) + (mode == SX_UP ? rest > 0 : mode == SX_NEAREST ? rest >= 0x400000 : 0);
    const uint32_t subnormal = mode == SX_UP ? t > 0x400000 : mode == SX_NEAREST ? t >= 0x600000 : 0;
    uint32_t r = t < 0x800000 ? subnormal : normal;
    r = r > 254 ? (saturate ? 254 : 255) : r;
    r = !saturate && (t == 0 || (mode != SX_UP && t < 0x400000)) ? 255 : r;
    return (uint8_t)(t > 0x7f800000 ? 255 : r);
}
SX_INLINE uint8_t f64_to_f8e8m0(double x, _Bool saturate, int mode) {
    return f32_to_f8e8m0(narrowed_f64(x), saturate, mode);
}

// Integers wrap. A float is truncated first; one beyond int32, and NaN, becomes 0.
#define SX_SMALL_INTEGER(NAME, BITS, TO_I32)                                                                           \
    SX_INLINE int32_t NAME##_to_i32(uint8_t code) { return TO_I32; }                                                   \
    SX_INLINE uint8_t i32_to_##NAME(uint32_t x) { return (uint8_t)(x & ((1u << BITS) - 1)); }                          \
    SX_INLINE uint8_t f32_to_##NAME(float x) {                                                                         \
        return i32_to_##NAME((uint32_t)(int32_t)(fabs_f32(x) < 0x1p31f ? x : 0.0f));                                   \
    }                                                                                                                  \
    SX_INLINE uint8_t f64_to_##NAME(double x) {                                                                        \
        return i32_to_##NAME((uint32_t)(int32_t)(fabs_f64(x) < 0x1p31 ? x : 0.0));                                     \
    }
SX_SMALL_INTEGER(i4, 4, (int32_t)((uint32_t)code << 28) >> 28)
SX_SMALL_INTEGER(u4, 4, code & 15)
SX_SMALL_INTEGER(i2, 2, (int32_t)((uint32_t)code << 30) >> 30)
SX_SMALL_INTEGER(u2, 2, code & 3)
#undef SX_SMALL_INTEGER

#endif
