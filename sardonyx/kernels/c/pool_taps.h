// pool_taps.h -- which taps of a pooling window lie in the image.
#ifndef SARDONYX_POOL_TAPS_H
#define SARDONYX_POOL_TAPS_H

#include <stdint.h>

typedef struct {
    int64_t lo, hi;   // taps inside of the image
    int64_t counted;  // taps that an average divides by
} tap_range;

// Taps first + k * dilation, 0 <= k < taps.
static inline tap_range make_range(int64_t first, int64_t taps, int64_t dilation, int64_t size, int64_t pad_end,
                                   int padded) {
    tap_range r = {0, 0, 0};
    if (first < 0) r.lo = (-first + dilation - 1) / dilation;
    if (first < size) r.hi = (size - first + dilation - 1) / dilation;
    if (r.hi > taps) r.hi = taps;
    if (r.lo > r.hi) r.lo = r.hi;
    int64_t counted = first < size + pad_end ? (size + pad_end - first + dilation - 1) / dilation : 0;
    r.counted = !padded ? r.hi - r.lo : counted < taps ? counted : taps;
    return r;
}

#endif
