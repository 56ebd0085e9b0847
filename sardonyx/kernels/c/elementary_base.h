// elementary_base.h -- what the elementary functions are built on: bits, selects, rounding to integers, remainders.
//
// Everything is branch-free scalar C (the remainders excepted), so that Clang vectorises the loop around it. Selects
// are written with ?: in the form that becomes one min, max or blend instruction.
#ifndef SARDONYX_ELEMENTARY_BASE_H
#define SARDONYX_ELEMENTARY_BASE_H

#include "simd.h"

#define SX_INF_F32 __builtin_inff()
#define SX_NAN_F32 __builtin_nanf("")
#define SX_INF_F64 __builtin_inf()
#define SX_NAN_F64 __builtin_nan("")

// Adding these to |x| < 2^22 (2^51) rounds x to an integer, ties to even, and leaves it in the low bits of the sum.
#define SX_MAGIC_F32 0x1.8p23f
#define SX_MAGIC_F64 0x1.8p52

SX_INLINE uint32_t bits_f32(float x) {
    union { float f; uint32_t u; } p = {.f = x};
    return p.u;
}

SX_INLINE float from_bits_f32(uint32_t u) {
    union { uint32_t u; float f; } p = {.u = u};
    return p.f;
}

SX_INLINE uint64_t bits_f64(double x) {
    union { double f; uint64_t u; } p = {.f = x};
    return p.u;
}

SX_INLINE double from_bits_f64(uint64_t u) {
    union { uint64_t u; double f; } p = {.u = u};
    return p.f;
}

// x * y + z in double, fused unless the build is portable (see fma1 in simd.h).
#ifdef SX_PORTABLE
SX_INLINE double fma1_f64(double x, double y, double z) { return x * y + z; }
#else
SX_INLINE double fma1_f64(double x, double y, double z) { return __builtin_fma(x, y, z); }
#endif

// ---- signs, classes, order ------------------------------------------------------------------------------------------

SX_INLINE float fabs_f32(float x) { return __builtin_fabsf(x); }
SX_INLINE double fabs_f64(double x) { return __builtin_fabs(x); }
SX_INLINE float copysign_f32(float x, float sign) { return __builtin_copysignf(x, sign); }
SX_INLINE double copysign_f64(double x, double sign) { return __builtin_copysign(x, sign); }

SX_INLINE _Bool isnan_f32(float x) { return x != x; }
SX_INLINE _Bool isnan_f64(double x) { return x != x; }
SX_INLINE _Bool isinf_f32(float x) { return fabs_f32(x) == SX_INF_F32; }
SX_INLINE _Bool isinf_f64(double x) { return fabs_f64(x) == SX_INF_F64; }

// -1, 0 or 1; NaN stays NaN; the sign of both zeros is +0 (as numpy.sign).
SX_INLINE float sign_f32(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? 0.0f : x; }
SX_INLINE double sign_f64(double x) { return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x == 0.0 ? 0.0 : x; }

// The larger (smaller) operand, NaN when either is NaN; of two equal operands (+0 and -0) the first. With a constant
// as the second operand this is a single instruction on x86.
SX_INLINE float max_f32(float a, float b) { return b != b ? b : b > a ? b : a; }
SX_INLINE float min_f32(float a, float b) { return b != b ? b : b < a ? b : a; }
SX_INLINE double max_f64(double a, double b) { return b != b ? b : b > a ? b : a; }
SX_INLINE double min_f64(double a, double b) { return b != b ? b : b < a ? b : a; }

SX_INLINE float sqrt_f32(float x) { return __builtin_sqrtf(x); }
SX_INLINE double sqrt_f64(double x) { return __builtin_sqrt(x); }
SX_INLINE float reciprocal_f32(float x) { return 1.0f / x; }
SX_INLINE double reciprocal_f64(double x) { return 1.0 / x; }

// ---- rounding to integers -------------------------------------------------------------------------------------------

// Only where the rounding instructions exist may the builtins be used: elsewhere they are calls into libm.
#if defined(__SSE4_1__) || defined(__aarch64__) || defined(__wasm__) || defined(__ARM_FEATURE_DIRECTED_ROUNDING)

SX_INLINE float floor_f32(float x) { return __builtin_floorf(x); }
SX_INLINE float ceil_f32(float x) { return __builtin_ceilf(x); }
SX_INLINE float trunc_f32(float x) { return __builtin_truncf(x); }
SX_INLINE double floor_f64(double x) { return __builtin_floor(x); }
SX_INLINE double ceil_f64(double x) { return __builtin_ceil(x); }
SX_INLINE double trunc_f64(double x) { return __builtin_trunc(x); }
#ifdef __wasm__ // has nearest (= rint in the only rounding mode there is) but LLVM calls roundeven
SX_INLINE float round_even_f32(float x) { return __builtin_rintf(x); }
SX_INLINE double round_even_f64(double x) { return __builtin_rint(x); }
#else
SX_INLINE float round_even_f32(float x) { return __builtin_roundevenf(x); }
SX_INLINE double round_even_f64(double x) { return __builtin_roundeven(x); }
#endif

#else

// 2^23 + |x| has no fraction bits, so the addition rounds |x| to an integer. From 2^23 on all floats are integers.
SX_INLINE float round_even_f32(float x) {
    float t = fabs_f32(x);
    return t < 0x1p23f ? copysign_f32((t + 0x1p23f) - 0x1p23f, x) : x;
}

SX_INLINE double round_even_f64(double x) {
    double t = fabs_f64(x);
    return t < 0x1p52 ? copysign_f64((t + 0x1p52) - 0x1p52, x) : x;
}

SX_INLINE float floor_f32(float x) {
    float n = round_even_f32(x);
    return copysign_f32(n > x ? n - 1.0f : n, x);
}

SX_INLINE double floor_f64(double x) {
    double n = round_even_f64(x);
    return copysign_f64(n > x ? n - 1.0 : n, x);
}

SX_INLINE float ceil_f32(float x) { return -floor_f32(-x); }
SX_INLINE double ceil_f64(double x) { return -floor_f64(-x); }
SX_INLINE float trunc_f32(float x) { return copysign_f32(floor_f32(fabs_f32(x)), x); }
SX_INLINE double trunc_f64(double x) { return copysign_f64(floor_f64(fabs_f64(x)), x); }

#endif

// ---- remainders -----------------------------------------------------------------------------------------------------

// Scales a subnormal |x| up to a normal number; returns its bits and adds the scaling to *exponent.
SX_INLINE uint64_t normalised_bits_f64(double x, int *exponent) {
    double t = fabs_f64(x);
    _Bool tiny = t < 0x1p-1022;
    uint64_t u = bits_f64(tiny ? t * 0x1p54 : t);
    *exponent = (int)(u >> 52) - (tiny ? 54 : 0);
    return (u & 0xfffffffffffff) | 0x10000000000000;
}

// x - trunc(x / y) * y, exact (C fmod): long division of the mantissas, one bit a step.
static inline double fmod_f64(double x, double y) {
    if (!(fabs_f64(x) < SX_INF_F64) || y != y || y == 0.0) return (x * y) / (x * y) + SX_NAN_F64;
    if (fabs_f64(x) < fabs_f64(y)) return x;
    if (x == 0.0) return x;
    int ex, ey;
    uint64_t r = normalised_bits_f64(x, &ex), m = normalised_bits_f64(y, &ey);
    for (; ex > ey; --ex) r = (r >= m ? r - m : r) << 1;
    r = r >= m ? r - m : r;
    // r has at most 53 bits: exact in double, also after scaling by 2^(ey - 1075) in two steps.
    double v = (double)(uint32_t)(r >> 32) * 0x1p32 + (double)(uint32_t)r;
    int e = ey - 1075, half = e / 2;
    v = v * from_bits_f64((uint64_t)(1023 + half) << 52) * from_bits_f64((uint64_t)(1023 + e - half) << 52);
    return copysign_f64(v, x);
}

// The quotient of two floats is good to 53 bits in double, so up to 2^29 its integer part is right or one too large,
// and its product with y is exact.
static inline float fmod_f32(float x, float y) {
    double a = fabs_f64((double)x), b = fabs_f64((double)y), q = a / b;
    if (!(q < 0x1p29)) return (float)fmod_f64((double)x, (double)y);
    if (b == SX_INF_F64) return x;
    double r = a - (double)(int32_t)q * b;
    return copysign_f32((float)(r < 0.0 ? r + b : r), x);
}

// Remainder with the sign of the divisor: Python's %, numpy.remainder, ONNX Mod with fmod = 0.
static inline float mod_floor_f32(float x, float y) {
    float r = fmod_f32(x, y);
    return r == 0.0f ? copysign_f32(r, y) : (r < 0.0f) != (y < 0.0f) ? r + y : r;
}

static inline double mod_floor_f64(double x, double y) {
    double r = fmod_f64(x, y);
    return r == 0.0 ? copysign_f64(r, y) : (r < 0.0) != (y < 0.0) ? r + y : r;
}

#endif
