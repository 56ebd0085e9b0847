// requantize.h -- sums of products as bytes again: saturate(round(sum * scale) + zero), rounded to even.
//
// The same bits as float arithmetic in these steps. 64 lanes at a time, since narrowing takes four registers to one: 18
// instructions for 64 bytes with AVX-512, half of what 16 lanes at a time need.
#ifndef SARDONYX_REQUANTIZE_H
#define SARDONYX_REQUANTIZE_H

#include "simd.h"

typedef sx_i16x32 i16x32;
typedef sx_i8x64 i8x64;
typedef int8_t i8x32 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef int8_t i8x32_unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef int8_t i8x16_unaligned __attribute__((vector_size(16), aligned(1), may_alias));
typedef int32_t i32x16_unaligned __attribute__((vector_size(64), aligned(4), may_alias));

// What becomes of the sums of some channels. `large`: a scale is at least 1, so that products may leave int32.
typedef struct {
    const float *scale; // of each channel
    int32_t zero;
    int is_signed, large;
} requantization;

SX_INLINE i8x64 requantized(const int32_t *const sums[4], const f32x16 scale[4], i16x32 zero, const int is_signed,
                            const int large) {
    i32x16 words[4];
    for (int i = 0; i < 4; i++) {
        f32x16 x = __builtin_convertvector(*(const i32x16_unaligned *)sums[i], f32x16) * scale[i];
        if (large || !SX_ROUNDS_ALL) x = select16(x < 65536.0f, x, set16(65536.0f));
        words[i] = round_words(x);
    }
    return narrow_words(words, zero, is_signed);
}

#define PIECE(lanes, k) PIECE_##lanes(k)
#define PIECE_32(k) __builtin_shufflevector(bytes, bytes, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7, k + 8, k + 9, \
    k + 10, k + 11, k + 12, k + 13, k + 14, k + 15, k + 16, k + 17, k + 18, k + 19, k + 20, k + 21, k + 22, k + 23, \
    k + 24, k + 25, k + 26, k + 27, k + 28, k + 29, k + 30, k + 31)
#define PIECE_16(k) __builtin_shufflevector(bytes, bytes, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7, k + 8, \
    k + 9, k + 10, k + 11, k + 12, k + 13, k + 14, k + 15)

// The bytes of 64 sums in rows of `width`, of which `count` rows go to y + at[0], y + at[1] and so on.
SX_INLINE void requantize_64(const int32_t *sums, int64_t count, const int width, uint8_t *y, const int64_t *at,
                             const f32x16 scale[4], i16x32 zero, const int is_signed, const int large) {
    const int32_t *const from[4] = {sums, sums + 16, sums + 32, sums + 48};
    const i8x64 bytes = requantized(from, scale, zero, is_signed, large);
    if (width == 32) {
        *(i8x32_unaligned *)(y + at[0]) = PIECE(32, 0);
        if (count > 1) *(i8x32_unaligned *)(y + at[1]) = PIECE(32, 32);
    } else {
        *(i8x16_unaligned *)(y + at[0]) = PIECE(16, 0);
        if (count > 1) *(i8x16_unaligned *)(y + at[1]) = PIECE(16, 16);
        if (count > 2) *(i8x16_unaligned *)(y + at[2]) = PIECE(16, 32);
        if (count > 3) *(i8x16_unaligned *)(y + at[3]) = PIECE(16, 48);
    }
}

// `count` rows of `width` (16 or 32) sums as bytes to y + at[row], in their order; up to 64 sums can be read beyond.
SX_INLINE void requantize_as(const int32_t *sums, int64_t count, const int width, uint8_t *y, const int64_t *at,
                             const requantization *r, const int is_signed, const int large) {
    const i16x32 zero = (int16_t)r->zero - (i16x32){};
    const f32x16 s0 = load16(r->scale), s1 = width == 32 ? load16(r->scale + 16) : s0;
    const f32x16 scale[4] = {s0, s1, s0, s1};
    const int64_t rows = 64 / width;
#pragma clang loop unroll(disable)
    for (; count >= rows; count -= rows, sums += 64, at += rows)
        requantize_64(sums, rows, width, y, at, scale, zero, is_signed, large);
    if (count > 0) requantize_64(sums, count, width, y, at, scale, zero, is_signed, large);
}

static void requantize(const int32_t *sums, int64_t count, int64_t width, uint8_t *y, const int64_t *at,
                       const requantization *r) {
#define VARIANT(w, s, l) if (width == w && r->is_signed == s && r->large == l) requantize_as(sums, count, w, y, at, r, s, l);
    VARIANT(16, 0, 0) VARIANT(16, 0, 1) VARIANT(16, 1, 0) VARIANT(16, 1, 1)
    VARIANT(32, 0, 0) VARIANT(32, 0, 1) VARIANT(32, 1, 0) VARIANT(32, 1, 1)
#undef VARIANT
}

#undef PIECE
#undef PIECE_32
#undef PIECE_16

#endif
