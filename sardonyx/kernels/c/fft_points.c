// fft_points.c -- see fft_points.h.
#include "fft_points.h"

#include "fft.h"

// What is left of n without its prime factors up to `largest`.
static int64_t rest_of(int64_t n, int64_t largest) {
    for (int64_t d = 2; d <= largest && n > 1; d++)
        while (n % d == 0) n /= d;
    return n;
}

int64_t fft_points(const fft_points_args *a, sx_host *host) {
    (void)host;
    if (rest_of(a->n, FFT_LARGEST) <= 1) return a->n;
    int64_t blocks = (2 * a->n + 255) / 256;
    while (rest_of(blocks, 5) > 1) blocks++;
    return 256 * blocks;
}
