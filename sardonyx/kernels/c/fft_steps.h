// fft_steps.h -- transforms of n points for many lanes side by side, by Stockham's steps, for REAL (float or double).
//
//   step of radix R, n = R m points left, s lanes:   y[R p + k][q] = w^(p k) sum of x[p + m r][q] exp(-2 pi i r k / R) over r
//   with w = exp(-2 pi i / n); then n becomes m and s becomes R s. Results come out in their natural order.
//
// Lanes are a multiple of 16 and lie beside each other, so that every load and store is a whole register. Real and imaginary
// parts lie `plane` numbers apart. 2, 3, 4 and 5 have forms of their own; other primes are plain sums of R terms.
#ifndef SARDONYX_FFT_STEPS_H
#define SARDONYX_FFT_STEPS_H

#include "fft.h"
#include "simd.h"

typedef REAL vr __attribute__((vector_size(VL * 4), may_alias));
#define WIDTH (VL * 4 / (int64_t)sizeof(REAL))

typedef struct { vr re, im; } vc;
typedef struct { REAL re, im; } factor; // of a table

SX_INLINE vc load_vc(const REAL *p, int64_t plane) { return (vc){*(const vr *)p, *(const vr *)(p + plane)}; }
SX_INLINE void store_vc(REAL *p, int64_t plane, vc x) { *(vr *)p = x.re, *(vr *)(p + plane) = x.im; }
SX_INLINE vr set_vr(REAL x) { return x - (vr){}; }
SX_INLINE vc add(vc x, vc y) { return (vc){x.re + y.re, x.im + y.im}; }
SX_INLINE vc sub(vc x, vc y) { return (vc){x.re - y.re, x.im - y.im}; }
SX_INLINE vc less_i(vc x, vc y) { return (vc){x.re + y.im, x.im - y.re}; } // x - i y
SX_INLINE vc plus_i(vc x, vc y) { return (vc){x.re - y.im, x.im + y.re}; }
SX_INLINE vc fma_vc(vc x, vr c, vc y) { return (vc){SX_FMA(x.re, c, y.re), SX_FMA(x.im, c, y.im)}; }
SX_INLINE vc scale(vc x, vr c) { return (vc){x.re * c, x.im * c}; }
SX_INLINE vc multiply(vc x, vr re, vr im) {
    return (vc){SX_FMA(x.re, re, -(x.im * im)), SX_FMA(x.re, im, x.im * re)};
}

SX_INLINE void butterfly(const int R, vc *a) {
    if (R == 2) {
        const vc x = a[0];
        a[0] = add(x, a[1]), a[1] = sub(x, a[1]);
    } else if (R == 3) {
        const vc sum = add(a[1], a[2]), turned = scale(sub(a[1], a[2]), set_vr((REAL)0.86602540378443864676));
        const vc x = fma_vc(sum, set_vr((REAL)-0.5), a[0]);
        a[0] = add(a[0], sum), a[1] = less_i(x, turned), a[2] = plus_i(x, turned);
    } else if (R == 4) {
        const vc even = add(a[0], a[2]), x = sub(a[0], a[2]), odd = add(a[1], a[3]), turned = sub(a[1], a[3]);
        a[0] = add(even, odd), a[2] = sub(even, odd), a[1] = less_i(x, turned), a[3] = plus_i(x, turned);
    } else {
        const vr c1 = set_vr((REAL)0.30901699437494742410), c2 = set_vr((REAL)-0.80901699437494742410);
        const vr s1 = set_vr((REAL)0.95105651629515357212), s2 = set_vr((REAL)0.58778525229247312917);
        const vc near = add(a[1], a[4]), far = add(a[2], a[3]), n = sub(a[1], a[4]), f = sub(a[2], a[3]);
        const vc x = fma_vc(far, c2, fma_vc(near, c1, a[0])), y = fma_vc(far, c1, fma_vc(near, c2, a[0]));
        const vc u = fma_vc(f, s2, scale(n, s1)), v = fma_vc(f, -s1, scale(n, s2));
        a[0] = add(a[0], add(near, far));
        a[1] = less_i(x, u), a[4] = plus_i(x, u), a[2] = less_i(y, v), a[3] = plus_i(y, v);
    }
}

// What a step works with: w^p is turn[p * stride].
typedef struct {
    const factor *turn;
    int64_t points, stride, m, s, plane;
} fft_step;

SX_INLINE void point(const int R, const int turned, const fft_step *t, int64_t p, const REAL *x, REAL *y) {
    vr re[5], im[5];
    for (int k = 1; k < R; k++) re[k] = set_vr(t->turn[p * k * t->stride].re), im[k] = set_vr(t->turn[p * k * t->stride].im);
    const int64_t s = t->s, apart = t->m * s, plane = t->plane;
    x += p * s, y += R * p * s;
    for (int64_t q = 0; q < s; q += WIDTH) {
        vc a[5];
        for (int r = 0; r < R; r++) a[r] = load_vc(x + r * apart + q, plane);
        butterfly(R, a);
        for (int k = 0; k < R; k++) store_vc(y + k * s + q, plane, turned && k ? multiply(a[k], re[k], im[k]) : a[k]);
    }
}

#define STEP(R)                                                                \
    static void step##R(const fft_step *t, const REAL *x, REAL *y) {           \
        point(R, 0, t, 0, x, y);                                               \
        for (int64_t p = 1; p < t->m; p++) point(R, 1, t, p, x, y);            \
    }
STEP(2)
STEP(3)
STEP(4)
STEP(5)
#undef STEP

static void step_prime(const fft_step *t, int64_t radix, const REAL *x, REAL *y) {
    const int64_t s = t->s, plane = t->plane;
    for (int64_t p = 0; p < t->m; p++)
        for (int64_t k = 0; k < radix; k++)
            for (int64_t q = 0; q < s; q += WIDTH) {
                vc sum = load_vc(x + p * s + q, plane);
                for (int64_t r = 1, at = k; r < radix; r++, at += at + k < radix ? k : k - radix) { // at = r k % radix
                    const factor w = t->turn[at * (t->points / radix)];
                    const vc a = load_vc(x + (p + t->m * r) * s + q, plane);
                    sum.re = SX_FMA(a.re, set_vr(w.re), SX_FMA(a.im, set_vr(-w.im), sum.re));
                    sum.im = SX_FMA(a.re, set_vr(w.im), SX_FMA(a.im, set_vr(w.re), sum.im));
                }
                const factor w = t->turn[p * k * t->stride];
                store_vc(y + (radix * p + k) * s + q, plane, p * k ? multiply(sum, set_vr(w.re), set_vr(w.im)) : sum);
            }
}

// Transforms n points (a divisor of `points`) of s lanes each. Returns where the result is: x or y, which both are lost.
static REAL *transform(const factor *turn, int64_t points, int64_t n, int64_t s, int64_t plane, REAL *x, REAL *y) {
    while (n > 1) {
        int64_t radix = n % 4 == 0 ? 4 : 2;
        while (n % radix) radix++;
        const fft_step t = {turn, points, points / n, n / radix, s, plane};
        switch (radix) {
        case 2: step2(&t, x, y); break;
        case 3: step3(&t, x, y); break;
        case 4: step4(&t, x, y); break;
        case 5: step5(&t, x, y); break;
        default: step_prime(&t, radix, x, y);
        }
        REAL *const done = y;
        y = x, x = done;
        n /= radix, s *= radix;
    }
    return x;
}

#endif
