// determinant.c -- see determinant.h.
#include "determinant.h"

#include "elementary_base.h"

int64_t determinant_tasks(const determinant_args *a) { return a->count; }
int64_t determinant_scratch(const determinant_args *a) { return a->n * a->n * (int64_t)sizeof(double); }

// The row from `k` on whose element in column k is largest in magnitude; a NaN there goes first.
static int64_t pivot_row(const double *m, int64_t n, int64_t k) {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; ++i) {
        const double held = fabs_f64(m[best * n + k]), found = fabs_f64(m[i * n + k]);
        if (held == held && !(found <= held)) best = i;
    }
    return best;
}

static double eliminate(double *m, int64_t n) {
    double result = 1.0;
    for (int64_t k = 0; k < n; ++k) {
        const int64_t p = pivot_row(m, n, k);
        if (p != k) {
            result = -result;
            for (int64_t j = k; j < n; ++j) {
                const double t = m[k * n + j];
                m[k * n + j] = m[p * n + j], m[p * n + j] = t;
            }
        }
        const double pivot = m[k * n + k];
        result *= pivot;
        if (pivot == 0.0) return 0.0;
        for (int64_t i = k + 1; i < n; ++i) {
            const double factor = m[i * n + k] / pivot;
            for (int64_t j = k + 1; j < n; ++j) m[i * n + j] = fma1_f64(-factor, m[k * n + j], m[i * n + j]);
        }
    }
    return result;
}

void determinant(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const determinant_args *a = args;
    double *m = scratch;
    for (int64_t t = lo; t < hi; ++t) {
        for (int64_t i = 0; i < a->n * a->n; ++i) m[i] = a->x[t * a->n * a->n + i];
        a->y[t] = eliminate(m, a->n);
    }
}
