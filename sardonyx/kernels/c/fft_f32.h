// fft_f32.h -- discrete Fourier transforms in float; see fft.h.
#ifndef SARDONYX_FFT_F32_H
#define SARDONYX_FFT_F32_H

#include "fft.h"

typedef fft_args fft_f32_args;

int64_t fft_f32_tasks(const fft_f32_args *args); // 16 signals each, or one
int64_t fft_f32_scratch(const fft_f32_args *args);
void fft_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
