// elementary_trig_f64.h -- sin, cos and tan in double.
//
// Arguments below 2^20 take three subtractions of pi/2 in pieces; larger ones need hundreds of bits of 2/pi and take a
// branch into integer arithmetic, so loops over these functions are not vectorised. (The float versions are.)
#ifndef SARDONYX_ELEMENTARY_TRIG_F64_H
#define SARDONYX_ELEMENTARY_TRIG_F64_H

#include "elementary_f64.h"

// 2/pi in words of 32 bits, after two words of zeros.
static const uint32_t sx_two_over_pi[42] = {
    0,          0,          0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab,
    0xdebbc561, 0xb7246e3a, 0x424dd2e0, 0x06492eea, 0x09d1921c, 0xfe1deb1c, 0xb129a73e, 0xe88235f5, 0x2ebb4484,
    0xe99c7026, 0xb45f7e41, 0x3991d639, 0x835339f4, 0x9c845f8b, 0xbdf9283b, 0x1ff897ff, 0xde05980f, 0xef2f118b,
    0x5a0a6d1f, 0x6d367ecf, 0x27cb09b7, 0x4f463f66, 0x9e5fea2d, 0x7527bac7, 0xebe5f17b, 0x3d0739f7, 0x8a5292ea,
    0x6bfb5fb1, 0x1f8d5d08, 0x56033046, 0xfc7b6bab, 0xf0cfbc20, 0x9af4361d,
};

// |x| = (quarters + f) pi / 2 with f pi / 2 = hi + lo, |f| <= 1/2, for 2^20 <= |x| < inf.
//
// |x| = m 2^e with an integer m < 2^53. Of 2/pi, words that make m 2^e 2/pi a multiple of 4 are skipped; of the product
// with the seven words that follow, the top 128 bits are two of quarters and 126 of fraction.
static inline double reduce_huge_f64(double x, double *lo, uint64_t *quarters) {
    uint64_t u = bits_f64(x) & 0x7fffffffffffffff;
    int e = (int)(u >> 52) - 1075, skip = (e + 62) >> 5; // skip counts the two zeros: floor((e - 2) / 32) + 2
    int shift = e - 32 * (skip - 1) + 30;                // 0 .. 31
    uint64_t m0 = u & 0xffffffff, m1 = ((u >> 32) & 0xfffff) | 0x100000;
    uint32_t product[8] = {0};
    uint64_t c0 = 0, c1 = 0;
    for (int i = 6; i >= 0; --i) {
        c0 += m0 * sx_two_over_pi[skip + i];
        c1 += (uint32_t)c0 + (i < 6 ? m1 * sx_two_over_pi[skip + i + 1] : 0);
        product[i] = (uint32_t)c1;
        c0 >>= 32;
        c1 >>= 32;
    }
    uint64_t a = (uint64_t)product[0] << 32 | product[1], b = (uint64_t)product[2] << 32 | product[3];
    uint64_t c = (uint64_t)product[4] << 32;
    a = a << shift | (b >> 1) >> (63 - shift);
    b = b << shift | (c >> 1) >> (63 - shift);
    uint64_t f = a << 2 | b >> 62, g = b << 2;
    *quarters = (a >> 62) + (f >> 63);
    double d1 = (double)(int32_t)(f >> 32) * 0x1p-32, d2 = (double)(uint32_t)f * 0x1p-64;
    double d3 = (double)(uint32_t)(g >> 32) * 0x1p-96 + (double)(uint32_t)g * 0x1p-128;
    double l, h = fast_two_sum(d1, d2, &l);
    h = fast_two_sum(h, l + d3, &l);
    double err, p = two_prod(h, SX_PI_2_HI, &err);
    return fast_two_sum(p, err + (h * SX_PI_2_LO + l * SX_PI_2_HI), lo);
}

// x = quarters pi / 2 + (hi + lo), |hi| <= pi / 4.
static inline double reduce_f64(double x, double *lo, uint64_t *quarters) {
    if (fabs_f64(x) >= 0x1p20) {
        double h = reduce_huge_f64(x, lo, quarters);
        if (fabs_f64(x) == SX_INF_F64) return SX_NAN_F64;
        *lo = x < 0.0 ? -*lo : *lo;
        *quarters = x < 0.0 ? -*quarters : *quarters;
        return x < 0.0 ? -h : h;
    }
    double z = fma1_f64(x, 0x1.45f306dc9c883p-1, SX_MAGIC_F64), n = z - SX_MAGIC_F64;
    *quarters = bits_f64(z);
    double a = x - n * 0x1.921fb544p+0; // 32 bits, as the next: products with n < 2^21 are exact
    double e1, h = two_sum(a, -n * 0x1.0b4611a6p-34, &e1);
    return fast_two_sum(h, e1 - n * 0x1.3198a2e037073p-69, lo);
}

// sin(hi + lo) for |hi| <= pi / 4: 57 bits.
SX_INLINE double sin_kernel_f64(double hi, double lo) {
    double z = hi * hi, p = -7.578524637627226e-13;
    p = fma1_f64(p, z, 1.605836285512491e-10);
    p = fma1_f64(p, z, -2.5052104879469017e-08);
    p = fma1_f64(p, z, 2.7557319214055897e-06);
    p = fma1_f64(p, z, -0.00019841269841254782);
    p = fma1_f64(p, z, 0.008333333333333323);
    p = fma1_f64(p, z, -0.16666666666666666);
    return hi + fma1_f64(p * z, hi, lo * (1.0 - 0.5 * z));
}

// cos(hi + lo) for |hi| <= pi / 4: 63.9 bits.
SX_INLINE double cos_kernel_f64(double hi, double lo) {
    double z = hi * hi, p = -1.13587326234266e-11;
    p = fma1_f64(p, z, 2.0875705112771727e-09);
    p = fma1_f64(p, z, -2.7557314215288467e-07);
    p = fma1_f64(p, z, 2.4801587288997465e-05);
    p = fma1_f64(p, z, -0.0013888888888873338);
    p = fma1_f64(p, z, 0.041666666666666595);
    double w = 1.0 - 0.5 * z;
    return w + (((1.0 - w) - 0.5 * z) + fma1_f64(p * z, z, -hi * lo));
}

SX_INLINE double sin_of_quarters(double hi, double lo, uint64_t quarters) {
    double v = quarters & 1 ? cos_kernel_f64(hi, lo) : sin_kernel_f64(hi, lo);
    return quarters & 2 ? -v : v;
}

static inline double sin_f64(double x) {
    uint64_t quarters;
    double lo, hi = reduce_f64(x, &lo, &quarters);
    double r = sin_of_quarters(hi, lo, quarters);
    return fabs_f64(x) < 0x1p-27 ? x : r;
}

static inline double cos_f64(double x) {
    uint64_t quarters;
    double lo, hi = reduce_f64(x, &lo, &quarters);
    return sin_of_quarters(hi, lo, quarters + 1);
}

static inline double tan_f64(double x) {
    uint64_t quarters;
    double lo, hi = reduce_f64(x, &lo, &quarters);
    double s = sin_kernel_f64(hi, lo), c = cos_kernel_f64(hi, lo);
    double r = quarters & 1 ? -c / s : s / c;
    return fabs_f64(x) < 0x1p-27 ? x : r;
}

#endif
