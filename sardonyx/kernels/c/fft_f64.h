// fft_f64.h -- discrete Fourier transforms in double; see fft.h.
#ifndef SARDONYX_FFT_F64_H
#define SARDONYX_FFT_F64_H

#include "fft.h"

typedef fft_args fft_f64_args;

int64_t fft_f64_tasks(const fft_f64_args *args); // 16 signals each, or one
int64_t fft_f64_scratch(const fft_f64_args *args);
void fft_f64(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
