// plan.h -- where temporaries lie in the arena, for sizes that only a run knows.
//
// Greedy by size (largest first, lowest offset that no overlapping lifetime occupies), the same as compiler/memory.py does
// ahead of time when all sizes are known.
#ifndef SARDONYX_PLAN_H
#define SARDONYX_PLAN_H

#include "sardonyx.h"

typedef struct {
    int32_t first, last;  // steps, inclusive
} sx_lifetime;

// Fills offsets[n] for sizes[n] in bytes and returns the bytes of the arena. `order` is working memory for 2 * n numbers.
static inline int64_t sx_plan(const sx_lifetime *life, const int64_t *sizes, int64_t n, int64_t *offsets, int64_t *order) {
    int64_t arena = 0, *placed = order + n;
    for (int64_t i = 0; i < n; ++i) {
        int64_t j = i;
        for (; j > 0 && sizes[order[j - 1]] < sizes[i]; --j) order[j] = order[j - 1];
        order[j] = i;
    }
    for (int64_t i = 0; i < n; ++i) {  // placed[] is kept sorted by offset
        int64_t buffer = order[i], size = (sizes[buffer] + 63) & ~INT64_C(63), at = 0, j;
        for (j = 0; j < i; ++j) {
            int64_t other = placed[j], end = offsets[other] + ((sizes[other] + 63) & ~INT64_C(63));
            if (life[other].last < life[buffer].first || life[other].first > life[buffer].last) continue;
            if (offsets[other] >= at + size) break;
            if (end > at) at = end;
        }
        offsets[buffer] = at;
        if (at + size > arena) arena = at + size;
        for (j = i; j > 0 && offsets[placed[j - 1]] > at; --j) placed[j] = placed[j - 1];
        placed[j] = buffer;
    }
    return arena;
}

#endif
