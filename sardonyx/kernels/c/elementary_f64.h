// elementary_f64.h -- the elementary functions in double: exponentials, logarithms, powers, error function, arcs.
//
// Branch-free and table-free (see elementary_trig_f64.h for the exception). Logarithms and pow carry about 68 bits,
// as a sum hi + lo. Coefficients are minimax fits to the relative error of the function, stated in bits.
#ifndef SARDONYX_ELEMENTARY_F64_H
#define SARDONYX_ELEMENTARY_F64_H

#include "elementary_base.h"

#define SX_LOG2E_F64 0x1.71547652b82fep+0
#define SX_LN2_HI_F64 0x1.62e42fefa38p-1 // 42 bits: times any exponent it is exact
#define SX_LN2_LO_F64 0x1.ef35793c7673p-45
#define SX_PI_2_HI 0x1.921fb54442d18p+0
#define SX_PI_2_LO 0x1.1a62633145c07p-54

// ---- sums and products without error: hi + lo is the exact result ---------------------------------------------------

SX_INLINE double two_sum(double a, double b, double *lo) {
    double s = a + b, v = s - a;
    *lo = (a - (s - v)) + (b - v);
    return s;
}

// Needs |a| >= |b| or a = 0.
SX_INLINE double fast_two_sum(double a, double b, double *lo) {
    double s = a + b;
    *lo = b - (s - a);
    return s;
}

#ifdef SX_PORTABLE
// Dekker's product; factors below 2^990.
SX_INLINE double two_prod(double a, double b, double *lo) {
    double p = a * b, sa = a * 0x1.0000002p27, sb = b * 0x1.0000002p27;
    double ah = sa - (sa - a), al = a - ah, bh = sb - (sb - b), bl = b - bh;
    *lo = ((ah * bh - p) + ah * bl + al * bh) + al * bl;
    return p;
}
#else
SX_INLINE double two_prod(double a, double b, double *lo) {
    double p = a * b;
    *lo = __builtin_fma(a, b, -p);
    return p;
}
#endif

// (ah + al) * (bh + bl)
SX_INLINE double product2(double ah, double al, double bh, double bl, double *lo) {
    double e, p = two_prod(ah, bh, &e);
    return fast_two_sum(p, e + (ah * bl + al * bh), lo);
}

// ---- exponentials ---------------------------------------------------------------------------------------------------

// 2^n for -1022 <= n <= 1023, n in the low bits of z = n + SX_MAGIC_F64.
SX_INLINE double exp2_of_magic_f64(double z) { return from_bits_f64((bits_f64(z) + 1023) << 52); }

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: 59.0 bits of e^r - 1.
SX_INLINE double exp_poly_f64(double r) {
    double p = 2.087628541428772e-09;
    p = fma1_f64(p, r, 2.510743044499133e-08);
    p = fma1_f64(p, r, 2.75573380427567e-07);
    p = fma1_f64(p, r, 2.755724745239134e-06);
    p = fma1_f64(p, r, 2.480158731122399e-05);
    p = fma1_f64(p, r, 0.00019841269884398707);
    p = fma1_f64(p, r, 0.00138888888888721);
    p = fma1_f64(p, r, 0.008333333333321789);
    p = fma1_f64(p, r, 0.0416666666666667);
    p = fma1_f64(p, r, 0.16666666666666677);
    return fma1_f64(p, r, 0.5);
}

// 2^k e^(hi + lo), |lo| tiny beside |hi|. The power of two is applied in two halves (overflow, subnormals).
SX_INLINE double exp_sum_f64(double hi, double lo, int k) {
    double c = hi > 800.0 ? 800.0 : hi;
    c = c < -800.0 ? -800.0 : c;
    lo = c == hi ? lo : 0.0;
    double z = fma1_f64(c, SX_LOG2E_F64, SX_MAGIC_F64), n = z - SX_MAGIC_F64;
    double r1 = fma1_f64(n, -SX_LN2_HI_F64, c), w = n * SX_LN2_LO_F64 - lo;
    double r = r1 - w, e = (r1 - r) - w;
    double p = 1.0 + (r + fma1_f64(exp_poly_f64(r), r * r, e));
    uint64_t i = bits_f64(z) - bits_f64(SX_MAGIC_F64) + (uint64_t)(k + 4096); // positive
    uint64_t a = i >> 1, b = i - a;
    return p * from_bits_f64((a + 1023 - 2048) << 52) * from_bits_f64((b + 1023 - 2048) << 52);
}

SX_INLINE double exp_f64(double x) { return exp_sum_f64(x, 0.0, 0); }
SX_INLINE double exp_negative_f64(double x) { return exp_f64(x); }

SX_INLINE double expm1_f64(double x) {
    double c = x > 710.0 ? 710.0 : x;
    c = c < -40.0 ? -40.0 : c;
    double z = fma1_f64(c, SX_LOG2E_F64, SX_MAGIC_F64), n = z - SX_MAGIC_F64;
    double r1 = fma1_f64(n, -SX_LN2_HI_F64, c), w = n * SX_LN2_LO_F64;
    double r = r1 - w, e = (r1 - r) - w;
    double p = r + fma1_f64(exp_poly_f64(r), r * r, e);
    double s = exp2_of_magic_f64(z - 1.0); // halved: n = 1024 must not overflow too early
    return fabs_f64(x) < 0x1p-54 ? x : 2.0 * fma1_f64(p, s, s - 0.5);
}

SX_INLINE double sigmoid_f64(double x) {
    double e = exp_f64(-fabs_f64(x));
    return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// Below 0.55 an odd polynomial (55.4 bits), above it 1 - 2 / (e^2|x| + 1).
SX_INLINE double tanh_f64(double x) {
    double t = fabs_f64(x), s = t * t;
    double q = 5.090350516402714e-05;
    q = fma1_f64(q, s, -0.00021013349657351222);
    q = fma1_f64(q, s, 0.0005790346701364309);
    q = fma1_f64(q, s, -0.0014531825963388077);
    q = fma1_f64(q, s, 0.003591712851268864);
    q = fma1_f64(q, s, -0.008863193662095691);
    q = fma1_f64(q, s, 0.02186948591252982);
    q = fma1_f64(q, s, -0.05396825387348648);
    q = fma1_f64(q, s, 0.13333333333163444);
    q = fma1_f64(q, s, -0.33333333333332277);
    double near = fma1_f64(q * s, t, t);
    double far = 1.0 - 2.0 / (exp_f64(t > 20.0 ? 40.0 : t + t) + 1.0);
    return copysign_f64(t < 0.55 ? near : far, x);
}

// Below 1 the Taylor series (x^19 / 19! is the first term left out), above it (e^|x| - e^-|x|) / 2.
SX_INLINE double sinh_f64(double x) {
    double t = fabs_f64(x), s = t * t;
    double q = 1.0 / 355687428096000.0;
    q = fma1_f64(q, s, 1.0 / 1307674368000.0);
    q = fma1_f64(q, s, 1.0 / 6227020800.0);
    q = fma1_f64(q, s, 1.0 / 39916800.0);
    q = fma1_f64(q, s, 1.0 / 362880.0);
    q = fma1_f64(q, s, 1.0 / 5040.0);
    q = fma1_f64(q, s, 1.0 / 120.0);
    q = fma1_f64(q, s, 1.0 / 6.0);
    double e = exp_sum_f64(t, 0.0, -1);
    return copysign_f64(t < 1.0 ? fma1_f64(q * s, t, t) : e - 0.25 / e, x);
}

SX_INLINE double cosh_f64(double x) {
    double e = exp_sum_f64(fabs_f64(x), 0.0, -1);
    return e + 0.25 / e;
}

// Below 1 an odd polynomial (56.3 bits), above it 1 - e^-x^2 P(1 / (1 + |x| / 2)) (61.8 bits).
SX_INLINE double erf_f64(double x) {
    double t = fabs_f64(x), s = t * t;
    double q = 5.945261047574854e-11;
    q = fma1_f64(q, s, -1.1365665556395756e-09);
    q = fma1_f64(q, s, 1.4657879746688179e-08);
    q = fma1_f64(q, s, -1.6350025211086858e-07);
    q = fma1_f64(q, s, 1.6460972816308957e-06);
    q = fma1_f64(q, s, -1.4925593506875423e-05);
    q = fma1_f64(q, s, 0.00012055331036900262);
    q = fma1_f64(q, s, -0.0008548326978742238);
    q = fma1_f64(q, s, 0.005223977624780866);
    q = fma1_f64(q, s, -0.026866170645072896);
    q = fma1_f64(q, s, 0.11283791670954857);
    q = fma1_f64(q, s, -0.3761263890318375);
    q = fma1_f64(q, s, 0.1283791670955126);
    double near = fma1_f64(q, t, t);
    double c = t > 6.0 ? 6.0 : t;
    double u = 1.0 / fma1_f64(c, 0.5, 1.0) - 0.4583;
    double p = 0.012789373419602932;
    p = fma1_f64(p, u, -0.06641676475431137);
    p = fma1_f64(p, u, 0.0873716525549671);
    p = fma1_f64(p, u, -0.004389049461247143);
    p = fma1_f64(p, u, -0.09476973435982514);
    p = fma1_f64(p, u, 0.046110979744758925);
    p = fma1_f64(p, u, 0.11620068957123841);
    p = fma1_f64(p, u, -0.08980598218823727);
    p = fma1_f64(p, u, -0.20584378010247908);
    p = fma1_f64(p, u, 0.1046839851415968);
    p = fma1_f64(p, u, 0.6180644146630417);
    p = fma1_f64(p, u, 0.8883737354571253);
    p = fma1_f64(p, u, 0.7770298996209898);
    p = fma1_f64(p, u, 0.22140363824617293);
    return copysign_f64(t < 1.0 ? near : 1.0 - exp_f64(-(c * c)) * p, x);
}

// ---- logarithms -----------------------------------------------------------------------------------------------------

// log(hi + lo) for finite hi > 0, as a sum. With hi + lo = 2^n m, m in [sqrt(1/2), sqrt(2)), and s = (m - 1) / (m + 1):
// log m = 2 s (1 + z / 3 + z^2 / 5 + z^3 / 7 + ...), z = s^2 < 0.0295; from z^3 on double is precise enough.
SX_INLINE double log_sum_f64(double hi, double lo, double *result_lo) {
    _Bool tiny = hi < 0x1p-1022;
    uint64_t u = bits_f64(tiny ? hi * 0x1p54 : hi);
    int32_t n = (int32_t)((u + (0x3ff0000000000000 - 0x3fe6a09e667f3bcd)) >> 52) - 1023;
    double mh = from_bits_f64(u - ((uint64_t)(uint32_t)n << 52)); // modulo 2^64: only the low 12 bits of n matter
    int32_t k = n < 1000 ? n : 1000;
    double ml = lo * from_bits_f64((uint64_t)(uint32_t)(1023 - k) << 52); // from 2^1000 on lo is below the precision

    double fl, fh = fast_two_sum(mh - 1.0, ml, &fl);
    double dl, dh = fast_two_sum(2.0, fh, &dl);
    double sh = fh / dh, e, p = two_prod(sh, dh, &e);
    double sl = (((fh - p) - e) + (fl - sh * (dl + fl))) / dh;
    double zl, zh = product2(sh, sl, sh, sl, &zl);
    double q = 1.0 / 27.0;
    q = fma1_f64(q, zh, 1.0 / 25.0);
    q = fma1_f64(q, zh, 1.0 / 23.0);
    q = fma1_f64(q, zh, 1.0 / 21.0);
    q = fma1_f64(q, zh, 1.0 / 19.0);
    q = fma1_f64(q, zh, 1.0 / 17.0);
    q = fma1_f64(q, zh, 1.0 / 15.0);
    q = fma1_f64(q, zh, 1.0 / 13.0);
    q = fma1_f64(q, zh, 1.0 / 11.0);
    q = fma1_f64(q, zh, 1.0 / 9.0);
    q = fma1_f64(q, zh, 1.0 / 7.0);
    double tl, th = fast_two_sum(0x1.999999999999ap-3, zh * q + -0x1.999999999999ap-57, &tl); // 1/5 + ...
    double vl, vh = product2(zh, zl, th, tl, &vl);
    double wl, wh = fast_two_sum(0x1.5555555555555p-2, vh, &wl); // 1/3 + ...
    wl += vl + 0x1.5555555555555p-56;
    double yl, yh = product2(zh, zl, wh, wl, &yl);
    double xl, xh = product2(2.0 * sh, 2.0 * sl, yh, yl, &xl);

    double dn = (double)(n - (tiny ? 54 : 0));
    double al, ah = fast_two_sum(dn * SX_LN2_HI_F64, 2.0 * sh, &al);
    double bl, bh = fast_two_sum(ah, xh, &bl);
    return fast_two_sum(bh, bl + (al + (xl + (2.0 * sl + dn * SX_LN2_LO_F64))), result_lo);
}

// The value of a logarithm r at `x`, where r holds for 0 < x < inf.
SX_INLINE double log_specials_f64(double x, double r) {
    r = x < SX_INF_F64 ? r : x; // also NaN
    return x > 0.0 ? r : x == 0.0 ? -SX_INF_F64 : x < 0.0 ? SX_NAN_F64 : x;
}

SX_INLINE double log_f64(double x) {
    double lo;
    return log_specials_f64(x, log_sum_f64(x, 0.0, &lo));
}

SX_INLINE double log1p_f64(double x) {
    double e, lo, u = two_sum(1.0, x, &e);
    double r = log_specials_f64(u, log_sum_f64(u, e, &lo));
    return fabs_f64(x) < 0x1p-54 ? x : r;
}

SX_INLINE double softplus_f64(double x) {
    return (x < 0.0 ? 0.0 : x) + log1p_f64(exp_f64(-fabs_f64(x)));
}

// log(|x| + sqrt(x^2 + 1)) as a log1p; from 2^500 on log(2|x|).
SX_INLINE double asinh_f64(double x) {
    double t = fabs_f64(x);
    _Bool large = t > 0x1p500;
    double c = large ? 1.0 : t, s = c * c;
    double r = log1p_f64(large ? t : c + s / (1.0 + sqrt_f64(1.0 + s)));
    return copysign_f64(large ? r + 0x1.62e42fefa39efp-1 : r, x);
}

SX_INLINE double acosh_f64(double x) {
    _Bool large = x > 0x1p500;
    double u = large ? 1.0 : x - 1.0;
    double r = log1p_f64(large ? x : u + sqrt_f64(u * (u + 2.0)));
    r = large ? r + 0x1.62e42fefa39efp-1 : r;
    return x < 1.0 ? SX_NAN_F64 : r;
}

// log((1 + x) / (1 - x)) / 2 as a log1p.
SX_INLINE double atanh_f64(double x) {
    double t = fabs_f64(x), d = t + t;
    double w = t < 0.5 ? d + d * t / (1.0 - t) : d / (1.0 - t);
    double r = 0.5 * log1p_f64(w);
    r = t < 0x1p-54 ? t : r;
    return copysign_f64(t > 1.0 ? SX_NAN_F64 : r, x);
}

// ---- pow ------------------------------------------------------------------------------------------------------------

// C99 pow, special cases included. |y| >= 2^64 is an even integer that leaves 0, 1 and inf as the only results.
SX_INLINE double pow_f64(double x, double y) {
    double t = fabs_f64(x), ll, lh = log_sum_f64(t, 0.0, &ll);
    double c = y > 0x1p64 ? 0x1p64 : y < -0x1p64 ? -0x1p64 : y;
    double e, p = two_prod(lh, c, &e);
    e += ll * c;
    p = t == 0.0 ? c * -SX_INF_F64 : p;
    p = t < SX_INF_F64 ? p : c * t; // also NaN
    double r = exp_sum_f64(p, e, 0);
    double half = 0.5 * y;
    _Bool integer = trunc_f64(y) == y, odd = integer & (trunc_f64(half) != half);
    r = t == 1.0 ? 1.0 : r;
    r = odd ? copysign_f64(r, x) : r;
    r = ((x < 0.0) & (t < SX_INF_F64) & !integer) ? SX_NAN_F64 : r;
    r = y != y ? y : r;
    return ((y == 0.0) | (x == 1.0)) ? 1.0 : r;
}

// ---- arcs -----------------------------------------------------------------------------------------------------------

// With a = tan(pi / 8): above 1/a and between a and 1/a the argument is turned by pi/2 and pi/4; 59.4 bits.
SX_INLINE double atan_f64(double x) {
    double t = fabs_f64(x);
    _Bool mid = t > 0.41421356237309503, far = t > 2.414213562373095;
    double n = far ? -1.0 : mid ? t - 1.0 : t;
    double d = far ? t : mid ? t + 1.0 : 1.0;
    double base = far ? SX_PI_2_HI : mid ? 0.5 * SX_PI_2_HI : 0.0;
    double base_lo = far ? SX_PI_2_LO : mid ? 0.5 * SX_PI_2_LO : 0.0;
    double a = n / d, z = a * a;
    double p = -0.01790840654045785;
    p = fma1_f64(p, z, 0.03806547212967816);
    p = fma1_f64(p, z, -0.05039333537346475);
    p = fma1_f64(p, z, 0.05847894218501138);
    p = fma1_f64(p, z, -0.06663104542566912);
    p = fma1_f64(p, z, 0.07692060246442632);
    p = fma1_f64(p, z, -0.09090897759333148);
    p = fma1_f64(p, z, 0.11111110783545804);
    p = fma1_f64(p, z, -0.14285714280200343);
    p = fma1_f64(p, z, 0.19999999999953677);
    p = fma1_f64(p, z, -0.333333333333332);
    return copysign_f64(base + (a + fma1_f64(p * z, a, base_lo)), x);
}

// (asin(t) / t - 1) / t^2 with z = t^2 <= 1/4: 55.9 bits of asin.
SX_INLINE double asin_poly_f64(double z) {
    double p = 0.031914423005497836;
    p = fma1_f64(p, z, -0.01622735847868095);
    p = fma1_f64(p, z, 0.01953022253903312);
    p = fma1_f64(p, z, 0.006527267728840592);
    p = fma1_f64(p, z, 0.01216937348015575);
    p = fma1_f64(p, z, 0.01388521110008964);
    p = fma1_f64(p, z, 0.017359707196240488);
    p = fma1_f64(p, z, 0.02237175789211864);
    p = fma1_f64(p, z, 0.03038195914337941);
    p = fma1_f64(p, z, 0.04464285682818075);
    p = fma1_f64(p, z, 0.07500000000337174);
    return fma1_f64(p, z, 0.16666666666665408);
}

// Above 1/2: asin(t) = pi/2 - 2 asin(sqrt((1 - t) / 2)).
SX_INLINE double asin_f64(double x) {
    double t = fabs_f64(x);
    _Bool big = t > 0.5;
    double z = big ? 0.5 - 0.5 * t : t * t;
    double s = big ? sqrt_f64(z) : t;
    double a = fma1_f64(asin_poly_f64(z) * z, s, s);
    return copysign_f64(big ? SX_PI_2_HI - (2.0 * a - SX_PI_2_LO) : a, x);
}

SX_INLINE double acos_f64(double x) {
    double t = fabs_f64(x);
    _Bool big = t > 0.5;
    double z = big ? 0.5 - 0.5 * t : t * t;
    double s = big ? sqrt_f64(z) : x;
    double a = fma1_f64(asin_poly_f64(z) * z, s, s);
    double far = x < 0.0 ? 2.0 * SX_PI_2_HI - (2.0 * a - 2.0 * SX_PI_2_LO) : 2.0 * a;
    return big ? far : SX_PI_2_HI - (a - SX_PI_2_LO);
}

#endif
