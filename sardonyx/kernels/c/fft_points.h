// fft_points.h -- the length of the transform that computes a transform of n points.
//
// n itself where its prime factors are small (FFT_LARGEST of fft.h); else the least 256 2^a 3^b 5^c >= 2 n, for the circular
// convolution that Bluestein made of it ("A linear filtering approach to the computation of discrete Fourier transform", 1970).
#ifndef SARDONYX_FFT_POINTS_H
#define SARDONYX_FFT_POINTS_H

#include "sardonyx.h"

typedef struct {
    int64_t n;
} fft_points_args;

int64_t fft_points(const fft_points_args *a, sx_host *host);

#endif
