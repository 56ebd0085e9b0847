// float16.h -- half precision (f16: 5 + 10 bits) and bfloat16 (8 + 7 bits), stored as uint16_t.
//
// Rounding is to nearest, ties to even; subnormals are exact; a NaN keeps its sign and the top of its payload and
// becomes quiet. The integer versions are branch-free and vectorise; the hardware's give the same bits.
#ifndef SARDONYX_FLOAT16_H
#define SARDONYX_FLOAT16_H

#include "elementary_base.h"

typedef uint16_t sx_f16;
typedef uint16_t sx_bf16;

// Magnitude and sign are widened apart. A subnormal is an integer times 2^-24: subtracting the hidden one of
// (0x38800000 | mantissa) leaves it, rounding nothing.
SX_INLINE float f16_to_f32_integer(sx_f16 h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = (uint32_t)(h & 0x7fff) << 13;
    uint32_t exponent = magnitude & 0x0f800000;
    uint32_t normal = magnitude + ((127 - 15) << 23);
    uint32_t special = (magnitude + ((255 - 31) << 23)) | (magnitude > 0x0f800000 ? 0x00400000 : 0);
    uint32_t subnormal = bits_f32(from_bits_f32(magnitude + 0x38800000) - 0x1p-14f);
    return from_bits_f32(sign | (exponent == 0x0f800000 ? special : exponent == 0 ? subnormal : normal));
}

// Below 2^-14 the addition of 1/2 rounds to a multiple of 2^-24 and leaves it in the low bits. From 65520 on inf.
SX_INLINE sx_f16 f32_to_f16_integer(float x) {
    uint32_t u = bits_f32(x), sign = (u >> 16) & 0x8000, t = u & 0x7fffffff;
    uint32_t normal = (t - ((127 - 15) << 23) + 0xfff + ((t >> 13) & 1)) >> 13;
    uint32_t subnormal = bits_f32(from_bits_f32(t) + 0.5f) - 0x3f000000;
    uint32_t nan = 0x7e00 | ((t >> 13) & 0x3ff);
    uint32_t r = t < 0x38800000 ? subnormal : normal;
    r = t >= 0x477ff000 ? 0x7c00 : r;
    return (sx_f16)(sign | (t > 0x7f800000 ? nan : r));
}

#if defined(__F16C__) || defined(__aarch64__)

SX_INLINE float f16_to_f32(sx_f16 h) {
    union { sx_f16 u; _Float16 f; } p = {.u = h};
    return (float)p.f;
}

SX_INLINE sx_f16 f32_to_f16(float x) {
    union { _Float16 f; sx_f16 u; } p = {.f = (_Float16)x};
    return p.u;
}

#else

SX_INLINE float f16_to_f32(sx_f16 h) { return f16_to_f32_integer(h); }
SX_INLINE sx_f16 f32_to_f16(float x) { return f32_to_f16_integer(x); }

#endif

SX_INLINE float bf16_to_f32(sx_bf16 h) { return from_bits_f32((uint32_t)h << 16); }

SX_INLINE sx_bf16 f32_to_bf16(float x) {
    uint32_t u = bits_f32(x);
    uint32_t r = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (sx_bf16)(x != x ? (u >> 16) | 0x40 : r);
}

// Rounds to odd: the truncated value, its last bit set when anything was lost. Rounding that again to a shorter type
// is as good as rounding once. NaNs become the positive quiet one.
SX_INLINE float round_to_odd_f32(double x) {
    float r = (float)x;
    uint32_t u = bits_f32(r);
    u -= fabs_f64((double)r) > fabs_f64(x) ? 1 : 0;
    u = (double)r != x ? u | 1 : u;
    return x != x ? SX_NAN_F32 : from_bits_f32(u); // ISAs differ in what a NaN keeps when it is narrowed
}

SX_INLINE sx_f16 f64_to_f16(double x) { return f32_to_f16(round_to_odd_f32(x)); }
SX_INLINE sx_bf16 f64_to_bf16(double x) { return f32_to_bf16(round_to_odd_f32(x)); }
SX_INLINE double f16_to_f64(sx_f16 h) { return (double)f16_to_f32(h); }
SX_INLINE double bf16_to_f64(sx_bf16 h) { return (double)bf16_to_f32(h); }

#endif
