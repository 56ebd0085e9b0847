// elementary_f32.h -- exp, log, tanh, erf and their kin in float arithmetic; trigonometry and pow in double.
//
// All of it is branch-free, table-free and loop-free, so the loop around a call vectorises. Errors are below 2 ULP over
// the whole range, subnormals included. Coefficients are minimax fits to the relative error of the function (erfc: to
// the absolute error), rounded to the type that they are used in; the fit's error is stated in bits.
#ifndef SARDONYX_ELEMENTARY_F32_H
#define SARDONYX_ELEMENTARY_F32_H

#include "elementary_base.h"
#include "elementary_f64.h"

#define SX_LOG2E_F32 1.44269504f
#define SX_LN2_F32 0.693147182f
#define SX_LN2_HI_F32 0x1.62e4p-1f       // 15 bits: times any exponent it is exact
#define SX_LN2_LO_F32 1.42860677e-06f

// ---- exponentials ---------------------------------------------------------------------------------------------------

// 2^n as a float, for the n in the low bits of z = n + SX_MAGIC_F32, -126 <= n <= 127.
SX_INLINE float exp2_of_magic_f32(float z) { return from_bits_f32((bits_f32(z) + 127u) << 23); }

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: 27.9 bits of e^r.
SX_INLINE float exp_poly_f32(float r) {
    float p = 0.00138142111f;
    p = fma1(p, r, 0.00836889818f);
    p = fma1(p, r, 0.0416684076f);
    p = fma1(p, r, 0.166665196f);
    return fma1(p, r, 0.49999994f);
}

// e^x = 2^n (1 + t). `magic` is 1.5 * 2^23 + bias: added and taken off it rounds x log2(e) to n, and n + bias is what the
// low bits of the sum z hold, so that one shift makes 2^(n + bias - 127).
typedef struct {
    float z, t;
} exp_parts_f32;

SX_INLINE exp_parts_f32 exp_split_f32(float x, const float magic) {
    float z = fma1(x, SX_LOG2E_F32, magic);
    float n = z - magic;
    float r = fma1(n, -SX_LN2_LO_F32, fma1(n, -SX_LN2_HI_F32, x));
    return (exp_parts_f32){z, fma1(exp_poly_f32(r), r * r, r)};
}

// The power of two is applied in two halves, so that the largest results and subnormals come out right.
SX_INLINE float exp_f32(float x) {
    float c = x > 89.0f ? 89.0f : x;
    c = c < -104.0f ? -104.0f : c;
    exp_parts_f32 e = exp_split_f32(c, SX_MAGIC_F32 + 254.0f);
    uint32_t i = bits_f32(e.z), a = i >> 1;
    float half = from_bits_f32(a << 23), rest = from_bits_f32((i - a) << 23);
    return fma1(half, e.t, half) * rest;
}

// e^x for x <= 0, as softmax has it: 0 from -87.7 down, so that no subnormal number comes up. Intel's cores take more than a
// hundred cycles for each register that holds one: with half of the keys masked, attention took 2.5 times as long.
SX_INLINE float exp_negative_f32(float x) {
    float c = x < -88.0f ? -88.0f : x;
    exp_parts_f32 e = exp_split_f32(c, SX_MAGIC_F32 + 127.0f);
    float s = from_bits_f32(bits_f32(e.z) << 23);
    return fma1(s, e.t, s);
}

// e^x - 1 = 2 (2^(n-1) (e^r - 1) + 2^(n-1) - 1/2): halved, so that n = 128 does not overflow too early.
SX_INLINE float expm1_f32(float x) {
    float c = x > 89.0f ? 89.0f : x;
    c = c < -18.0f ? -18.0f : c;
    float z = fma1(c, SX_LOG2E_F32, SX_MAGIC_F32);
    float n = z - SX_MAGIC_F32;
    float r = fma1(n, -SX_LN2_LO_F32, fma1(n, -SX_LN2_HI_F32, c));
    float q = 0.000196702007f; // (e^r - 1 - r) / r^2: 31.0 bits of e^r - 1
    q = fma1(q, r, 0.00139349769f);
    q = fma1(q, r, 0.00833364017f);
    q = fma1(q, r, 0.0416664667f);
    q = fma1(q, r, 0.166666657f);
    q = fma1(q, r, 0.5f);
    float p = fma1(r * r, q, r);
    float s = exp2_of_magic_f32(z - 1.0f);
    return fabs_f32(x) < 0x1p-25f ? x : 2.0f * fma1(p, s, s - 0.5f);
}

// 1 / (1 + e^-x) = C / (C + C e^-x), C = 2^-32: neither overflows where the result is subnormal. Of the three sums that
// C + s + s t can be this has the least error: the rounding of the small one fades in the last.
// All in -r = x + n ln(2) and a polynomial of the other sign: what is not negated is clamped in two instructions.
SX_INLINE float sigmoid_f32(float x) {
    float c = x > 65.0f ? 65.0f : x;
    c = c < -110.0f ? -110.0f : c;
    const float magic = SX_MAGIC_F32 + (127.0f - 32.0f);
    float z = fma1(c, -SX_LOG2E_F32, magic);
    float n = z - magic;
    float r = fma1(n, SX_LN2_LO_F32, fma1(n, SX_LN2_HI_F32, c));
    float p = -0.00138142111f; // that of exp_poly_f32
    p = fma1(p, r, 0.00836889818f);
    p = fma1(p, r, -0.0416684076f);
    p = fma1(p, r, 0.166665196f);
    p = fma1(p, r, -0.49999994f);
    float t = fma1(p, r * r, r);
    float s = from_bits_f32(bits_f32(z) << 23);
    return 0x1p-32f / (fma1(-s, t, 0x1p-32f) + s);
}

// Below 0.6 an odd polynomial (28.4 bits), above it 1 - 2 / (e^2|x| + 1), where errors of the exponential fade.
SX_INLINE float tanh_f32(float x) {
    float t = fabs_f32(x);
    float s = t * t;
    float q = -0.00589796668f;
    q = fma1(q, s, 0.0207986254f);
    q = fma1(q, s, -0.0537847169f);
    q = fma1(q, s, 0.133319363f);
    q = fma1(q, s, -0.333332986f);
    float near = fma1(q * s, t, t);
    float c = t > 10.0f ? 10.0f : t;
    const float magic = SX_MAGIC_F32 + 127.0f;
    float z = fma1(c, 2.0f * SX_LOG2E_F32, magic);
    float r = fma1(z - magic, -SX_LN2_F32, c + c);
    float p = fma1(fma1(exp_poly_f32(r), r, 1.0f), r, 1.0f);
    float far = 1.0f - 2.0f / fma1(p, from_bits_f32(bits_f32(z) << 23), 1.0f);
    return copysign_f32(t < 0.6f ? near : far, x);
}

// x Phi(x) with Phi(-|x|) = 2^(y - 1), y a polynomial of |x|: right within 2 * 2^-24 |x|. Beyond 5.7 y falls faster than
// it should, so that Phi becomes 0. 2^f: 28.9 bits.
SX_INLINE float gelu_f32(float x) {
    float t = fabs_f32(x);
    float y = -2.33488095e-06f;
    y = fma1(y, t, 3.37371639e-05f);
    y = fma1(y, t, -0.000161291668f);
    y = fma1(y, t, -0.00019170616f);
    y = fma1(y, t, 0.00712686498f);
    y = fma1(y, t, -0.0525336117f);
    y = fma1(y, t, -0.459198296f);
    y = fma1(y, t, -1.151106f) * t;
    y = y < -126.0f ? -126.0f : y; // 2^-127 becomes 0
    const float magic = SX_MAGIC_F32 + 126.0f;
    float z = y + magic;
    float f = y - (z - magic);
    float p = 0.00015353148f;
    p = fma1(p, f, 0.00133991323f);
    p = fma1(p, f, 0.00961843971f);
    p = fma1(p, f, 0.05550332f);
    p = fma1(p, f, 0.240226477f);
    p = fma1(p, f, 0.693147182f);
    p = fma1(p, f, 1.0f);
    p *= from_bits_f32(bits_f32(z) << 23);
    return x * ((int32_t)bits_f32(x) < 0 ? p : 1.0f - p);
}

// Below 1 an odd polynomial (27.8 bits), above it 1 - erfc(|x|), erfc a polynomial about 2.46875 (26.5 bits, absolute).
SX_INLINE float erf_f32(float x) {
    float t = fabs_f32(x);
    float s = t * t;
    float q = 7.85385346e-05f;
    q = fma1(q, s, -0.00080101908f);
    q = fma1(q, s, 0.00518832728f);
    q = fma1(q, s, -0.026853811f);
    q = fma1(q, s, 0.112835854f);
    q = fma1(q, s, -0.37612626f);
    q = fma1(q, s, 0.128379166f);
    float near = fma1(q, t, t);
    float u = (t > 3.925f ? 3.925f : t) - 2.46875f;
    float p = -1.07821654e-06f;
    p = fma1(p, u, -2.29079802e-07f);
    p = fma1(p, u, 1.72013533e-05f);
    p = fma1(p, u, -2.28792451e-05f);
    p = fma1(p, u, -7.78153335e-05f);
    p = fma1(p, u, 0.000292841694f);
    p = fma1(p, u, -0.000332968048f);
    p = fma1(p, u, -0.000483353389f);
    p = fma1(p, u, 0.00290855998f);
    p = fma1(p, u, -0.00664615305f);
    p = fma1(p, u, 0.00961998198f);
    p = fma1(p, u, -0.00949060917f);
    p = fma1(p, u, 0.00628093723f);
    p = fma1(p, u, -0.00254411669f);
    p = fma1(p, u, 0.000480605144f);
    return copysign_f32(t < 1.0f ? near : 1.0f - p, x);
}

// ---- logarithms -----------------------------------------------------------------------------------------------------

// n ln 2 + log(1 + f) for -1/3 <= f <= 1/3: 28.7 bits.
SX_INLINE float log_poly_f32(float n, float f) {
    float p = 0.120072946f;
    p = fma1(p, f, -0.128450915f);
    p = fma1(p, f, 0.107541993f);
    p = fma1(p, f, -0.121957742f);
    p = fma1(p, f, 0.143044606f);
    p = fma1(p, f, -0.16679579f);
    p = fma1(p, f, 0.19999598f);
    p = fma1(p, f, -0.249998197f);
    p = fma1(p, f, 0.333333343f);
    p = fma1(p, f, -0.5f);
    return fma1(n, SX_LN2_F32, fma1(p, f * f, f));
}

// The exponent field of x when its mantissa is taken from [2/3, 4/3), still in place (bits 23 and up).
SX_INLINE uint32_t exponent_bits_f32(float x) { return (bits_f32(x) - 0x3f2aaaabu) & 0xff800000u; }

SX_INLINE float log_f32(float x) {
    _Bool tiny = x < 0x1p-126f;
    float s = tiny ? x * 0x1p23f : x;
    uint32_t e = exponent_bits_f32(s);
    float n = (float)((int32_t)e >> 23) - (tiny ? 23.0f : 0.0f);
    float r = log_poly_f32(n, from_bits_f32(bits_f32(s) - e) - 1.0f);
    r = x < SX_INF_F32 ? r : x; // also NaN
    return x > 0.0f ? r : x == 0.0f ? -SX_INF_F32 : x < 0.0f ? SX_NAN_F32 : x;
}

// log(c + x) for c = 1 (or 0 where x is so large that it makes no difference): 1 + x = 2^n (1 + f) with the f of the
// exact sum, f = 2^-n x + (2^-n c - 1).
SX_INLINE float log1p_finite_f32(float x, float c) {
    uint32_t e = exponent_bits_f32(c + x);
    float s = from_bits_f32(0x3f800000u - e);
    return log_poly_f32((float)((int32_t)e >> 23), fma1(x, s, fma1(s, c, -1.0f)));
}

SX_INLINE float log1p_f32(float x) {
    _Bool huge = x > 0x1p64f; // 2^-n would be subnormal
    float r = log1p_finite_f32(huge ? x * 0x1p-64f : x, huge ? 0.0f : 1.0f);
    r = huge ? r + 44.3614196f : r; // 64 ln 2
    r = fabs_f32(x) < 0x1p-25f ? x : r;
    r = x < SX_INF_F32 ? r : x; // also NaN
    return x > -1.0f ? r : x == -1.0f ? -SX_INF_F32 : x < -1.0f ? SX_NAN_F32 : x;
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|).
SX_INLINE float softplus_f32(float x) {
    float e = exp_f32(-fabs_f32(x));
    return (x < 0.0f ? 0.0f : x) + (e < 0x1p-25f ? e : log1p_finite_f32(e, 1.0f));
}

// x tanh(log(1 + e^x)) = x w / (w + 2) for w = e^x (e^x + 2), here with e^x and w scaled by 2^32 for subnormal results.
SX_INLINE float mish_f32(float x) {
    float c = x > 20.0f ? 20.0f : x;
    c = c < -105.0f ? -105.0f : c;
    exp_parts_f32 e = exp_split_f32(c, SX_MAGIC_F32 + (127.0f + 32.0f));
    float s = from_bits_f32(bits_f32(e.z) << 23);
    float v = fma1(s, e.t, s), w = fma1(v, 0x1p-32f, 2.0f) * v;
    return x * (w / (w + 0x1p33f));
}

// ---- trigonometry, in double ----------------------------------------------------------------------------------------

// x in quarter turns: returns f, |f| <= 1/2, and the magic sum whose low bits count the quarters: x = (n + f) pi / 2.
//
// 1 / (2 pi) in pieces of 26 bits: each product with a float is exact, and so is its sum with the fraction so far
// (turns lost are whole ones). Six pieces reach 2^-133, as far as the largest float needs.
SX_INLINE double quarter_turns_f32(float x, double *magic) {
    double t = (double)x, g = t * 0x1.45f3068p-3;
    g -= round_even_f64(g);
    g = fma1_f64(t, 0x1.7272208p-29, g);
    g -= round_even_f64(g);
    g = fma1_f64(t, 0x1.4a7f090p-56, g);
    g -= round_even_f64(g);
    g = fma1_f64(t, 0x1.abe8fa8p-81, g);
    g -= round_even_f64(g);
    g = fma1_f64(t, 0x1.a6ee060p-109, g);
    g -= round_even_f64(g);
    g = 4.0 * fma1_f64(t, 0x1.b6295993c4390p-134, g);
    *magic = g + SX_MAGIC_F64;
    return g - (*magic - SX_MAGIC_F64);
}

// sin(f pi / 2) (37.7 bits) and cos(f pi / 2) (34 bits) for |f| <= 1/2.
SX_INLINE double sin_quarter_f64(double f) {
    double s = f * f, p = 0.00015819417800864015;
    p = fma1_f64(p, s, -0.004681260231868784);
    p = fma1_f64(p, s, 0.07969258178921208);
    p = fma1_f64(p, s, -0.645964096100135);
    return fma1_f64(p, s, 1.570796326787735) * f;
}

SX_INLINE double cos_quarter_f64(double f) {
    double s = f * f, p = 0.0009033565530503691;
    p = fma1_f64(p, s, -0.020859933147437434);
    p = fma1_f64(p, s, 0.25366918219743356);
    p = fma1_f64(p, s, -1.2337005395473413);
    return fma1_f64(p, s, 0.9999999999438157);
}

// sin((n + f) pi / 2) for the n in the low bits of `quarters`.
SX_INLINE double sin_of_quarters_f64(double f, uint64_t quarters) {
    double v = quarters & 1 ? cos_quarter_f64(f) : sin_quarter_f64(f);
    return from_bits_f64(bits_f64(v) ^ ((quarters & 2) << 62));
}

SX_INLINE float sin_f32(float x) {
    double magic, f = quarter_turns_f32(x, &magic);
    float r = (float)sin_of_quarters_f64(f, bits_f64(magic));
    return x == 0.0f ? x : r; // -0
}

SX_INLINE float cos_f32(float x) {
    double magic, f = quarter_turns_f32(x, &magic);
    return (float)sin_of_quarters_f64(f, bits_f64(magic) + 1);
}

SX_INLINE float tan_f32(float x) {
    double magic, f = quarter_turns_f32(x, &magic);
    double s = sin_quarter_f64(f), c = cos_quarter_f64(f);
    _Bool odd = bits_f64(magic) & 1;
    float r = (float)((odd ? -c : s) / (odd ? s : c));
    return x == 0.0f ? x : r;
}

SX_INLINE float asin_f32(float x) { return (float)asin_f64((double)x); }
SX_INLINE float acos_f32(float x) { return (float)acos_f64((double)x); }
SX_INLINE float atan_f32(float x) { return (float)atan_f64((double)x); }
SX_INLINE float sinh_f32(float x) { return (float)sinh_f64((double)x); }
SX_INLINE float cosh_f32(float x) { return (float)cosh_f64((double)x); }
SX_INLINE float asinh_f32(float x) { return (float)asinh_f64((double)x); }
SX_INLINE float acosh_f32(float x) { return (float)acosh_f64((double)x); }
SX_INLINE float atanh_f32(float x) { return (float)atanh_f64((double)x); }

// ---- pow, in double -------------------------------------------------------------------------------------------------

// log2 of a float t >= 0: 43 bits; -inf and inf for 0 and inf.
SX_INLINE double log2_of_f32(float t) {
    uint64_t u = bits_f64((double)t) + (0x3ff0000000000000 - 0x3fe6a09e667f3bcd); // mantissa from [sqrt(1/2), sqrt(2))
    double n = (double)((int32_t)(u >> 52) - 1023);
    double m = from_bits_f64((u & 0xfffffffffffff) + 0x3fe6a09e667f3bcd);
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 0.2829080063389305;
    p = fma1_f64(p, z, 0.31990518586607064);
    p = fma1_f64(p, z, 0.4122092637766844);
    p = fma1_f64(p, z, 0.5770779422648167);
    p = fma1_f64(p, z, 0.9617966941136233);
    p = fma1_f64(p, z, 2.88539008177785);
    double r = fma1_f64(p, s, n);
    r = t == 0.0f ? -SX_INF_F64 : r;
    return t < SX_INF_F32 ? r : (double)t;
}

// 2^w as a float, rounded once: 32 bits.
SX_INLINE float exp2_to_f32(double w) {
    double c = w > 130.0 ? 130.0 : w;
    c = c < -160.0 ? -160.0 : c;
    double z = c + SX_MAGIC_F64, f = c - (z - SX_MAGIC_F64);
    double p = 1.3359726604785549e-05;
    p = fma1_f64(p, f, 0.00015461366521989886);
    p = fma1_f64(p, f, 0.0013341951348237273);
    p = fma1_f64(p, f, 0.009618056922133062);
    p = fma1_f64(p, f, 0.055504003750335464);
    p = fma1_f64(p, f, 0.24022650920772565);
    p = fma1_f64(p, f, 0.6931471838168853);
    p = fma1_f64(p, f, 1.0);
    return (float)(p * from_bits_f64((bits_f64(z) + 1023) << 52));
}

// C99 pow, special cases included.
SX_INLINE float pow_f32(float x, float y) {
    float t = fabs_f32(x);
    double w = t == 1.0f ? 0.0 : (double)y * log2_of_f32(t);
    w = y != y ? (double)y : w;
    float r = exp2_to_f32(w);
    float half = 0.5f * y;
    _Bool integer = trunc_f32(y) == y, odd = integer & (trunc_f32(half) != half);
    r = odd ? copysign_f32(r, x) : r;
    r = ((x < 0.0f) & (t < SX_INF_F32) & !integer) ? SX_NAN_F32 : r;
    return ((y == 0.0f) | (x == 1.0f)) ? 1.0f : r;
}

#endif
