// fft.h -- the interface of fft_f32 and fft_f64: discrete Fourier transforms of signals, or of overlapping frames of them.
//
//   y[o][f][k][i] = sum of x[o][f][n][i] window[n] exp(-2 pi i n k / length) over 0 <= n < length, for k < bins
//
// An inverse transform has the sign of the exponent changed and is divided by `length`. Samples from `given` on are 0.
// The order of additions follows from the arguments alone, so every processor and number of threads gives the same bits.
#ifndef SARDONYX_FFT_H
#define SARDONYX_FFT_H

#include "sardonyx.h"

#define FFT_LARGEST 31 // prime factor of a length that is not made a convolution

// Numbers are float or double. Strides count numbers.
typedef struct {
    const void *x;      // `parts` numbers a sample: real, or real and imaginary part
    const void *window; // [length], or NULL
    const void *turn;   // [points][2]: cos, -sin of 2 pi j / points
    const void *chirp;  // [size][2]: cos, -sin of pi j j / size; not read where points == size
    const void *unpack; // [size][2]: cos, -sin of 2 pi j / length; not read where size == length
    void *y;            // [outer][frames][bins][inner][y_parts]
    int64_t outer, frames, inner;
    int64_t x_outer, x_frame, x_step; // from each to the next outer index, frame, sample
    int64_t length, given;
    int64_t size;                     // complex numbers to transform: length, or half of it (real samples, in pairs)
    int64_t points;                   // what fft_points returns for `size`
    int64_t bins;                     // kept, from 0 on; at most `length`
    int64_t parts, y_parts;           // 2, or 1 for the real part alone
    int64_t inverse;
    int64_t mirrored; // bins beyond length / 2 are not read: they are the conjugates of those before
} fft_args;

#endif
