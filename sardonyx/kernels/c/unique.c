// unique.c -- distinct rows of a matrix: in ascending order when `sorted`, else in order of first occurrence.
//
// Rows compare element by element; NaN is above all numbers and equal to itself. A stable merge sort of row numbers puts
// equal rows side by side, the first occurrence in front. Returns the number of distinct rows.
#include "unique.h"

static int order_f64(double a, double b) {
    if (a != a || b != b) return (a != a) - (b != b);
    return (a > b) - (a < b);
}

static int compare(const unique_args *a, int64_t i, int64_t j) {
    for (int64_t k = 0; k < a->width; ++k) {
        int order;
        if (a->floating) {
            const double *x = a->x;
            order = order_f64(x[i * a->width + k], x[j * a->width + k]);
        } else {
            const int64_t *x = a->x, u = x[i * a->width + k], v = x[j * a->width + k];
            order = (u > v) - (u < v);
        }
        if (order) return order;
    }
    return 0;
}

// Row numbers in ascending order of rows; returns the array (one of the two) that holds them.
static int64_t *sort(const unique_args *a, int64_t *from, int64_t *to) {
    for (int64_t i = 0; i < a->rows; ++i) from[i] = i;
    for (int64_t run = 1; run < a->rows; run *= 2) {
        for (int64_t lo = 0; lo < a->rows; lo += 2 * run) {
            const int64_t mid = min_i64(lo + run, a->rows), hi = min_i64(lo + 2 * run, a->rows);
            for (int64_t i = lo, j = mid, k = lo; k < hi; ++k) {
                const _Bool left = j >= hi || (i < mid && compare(a, from[i], from[j]) <= 0);
                to[k] = left ? from[i++] : from[j++];
            }
        }
        int64_t *swap = from;
        from = to, to = swap;
    }
    return from;
}

int64_t unique(const unique_args *a, sx_host *host) {
    (void)host;
    int64_t *order = sort(a, a->scratch, a->scratch + a->rows), *leader = a->scratch + 2 * a->rows;
    int64_t n = 0;
    for (int64_t i = 0; i < a->rows; ++i) {
        if (i == 0 || compare(a, order[i - 1], order[i]) != 0) a->first[n] = order[i], a->counts[n++] = 0;
        a->counts[n - 1]++;
        a->inverse[order[i]] = n - 1;
        leader[order[i]] = a->first[n - 1];
    }
    if (a->sorted) return n;
    // Numbered anew as rows appear. `order` is free by now: it keeps the old counts.
    for (int64_t g = 0; g < n; ++g) order[g] = a->counts[g];
    int64_t next = 0;
    for (int64_t i = 0; i < a->rows; ++i) {
        if (leader[i] == i) a->counts[next] = order[a->inverse[i]], a->first[next] = i, a->inverse[i] = next++;
        else a->inverse[i] = a->inverse[leader[i]];
    }
    return n;
}
