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
// With `other`, the bytes (of zero point own_zero) are not the end: y = saturate(round((own + other) / divisor) + zero), where
// own and other are bytes less their zero points, times their scales; `inverse` is the float nearest to 1 / divisor. Where
// `by_factors`, (own byte - own_zero) * own_factor + (other byte * other_factor + offset), fused, is known to round to
// the same for all pairs of bytes: 8 operations instead of 14.
typedef struct {
    const float *scale; // of each channel
    int32_t zero;
    int is_signed, large;
    const uint8_t *other; // as y
    int32_t own_zero, other_zero;
    float own_scale, other_scale, divisor, inverse;
    int by_factors;
    float own_factor, other_factor, offset;
} requantization;

// What is the same for all sums, in registers.
typedef struct {
    f32x16 scale[4], least, most, own, other, divisor, inverse, offset; // own, other: scales, or factors
    i32x16 other_zero;
    i16x32 zero;
    int by_factors;
} requantization_vectors;

SX_INLINE requantization_vectors requantization_of(const requantization *r, const int width) {
    requantization_vectors v = {.zero = (int16_t)r->zero - (i16x32){}};
    for (int i = 0; i < 4; i++) v.scale[i] = load16(r->scale + (width == 32 ? i % 2 * 16 : 0));
#ifndef SX_PORTABLE // where products are not fused, factors do not give the same
    v.by_factors = r->by_factors;
#endif
    v.own = set16(v.by_factors ? r->own_factor : r->own_scale);
    v.other = set16(v.by_factors ? r->other_factor : r->other_scale);
    v.divisor = set16(r->divisor), v.inverse = set16(r->inverse), v.offset = set16(r->offset);
    v.least = set16((float)((r->is_signed ? -128 : 0) - r->own_zero));
    v.most = set16((float)((r->is_signed ? 127 : 255) - r->own_zero));
    v.other_zero = r->other_zero - (i32x16){};
    return v;
}

// x / c for a known c, as quotient_f32 in convert.h.
SX_INLINE f32x16 quotient_16(f32x16 x, f32x16 c, f32x16 inverse) {
#ifdef SX_PORTABLE
    (void)inverse;
    return x / c;
#else
    const f32x16 q = x * inverse;
    return SX_FMA(SX_FMA(-q, c, x), inverse, q);
#endif
}

#define EACH for (int i = 0; i < 4; i++)

SX_INLINE void round_products(const f32x16 products[4], const int large, i32x16 words[4]) {
    EACH words[i] = round_words(large || !SX_ROUNDS_ALL ? select16(products[i] < 65536.0f, products[i], set16(65536.0f))
                                                        : products[i]);
}

// Products of sums and scales as words; 64 bytes of something else are added. One step for all lanes after the other, or
// waiting operations of one register fill the processor's window.
SX_INLINE void add_other(const f32x16 products[4], const uint8_t *const *other, const requantization_vectors *v,
                         const int is_signed, i32x16 words[4]) {
    typedef uint8_t u8x16 __attribute__((vector_size(16), aligned(1), may_alias));
    f32x16 own[4], more[4];
    EACH own[i] = select16(products[i] > v->least, products[i], v->least);
    EACH own[i] = select16(own[i] < v->most, own[i], v->most);
    EACH own[i] = __builtin_convertvector(round_words(own[i]), f32x16);
    EACH words[i] = is_signed ? __builtin_convertvector(*(const i8x16_unaligned *)other[i], i32x16)
                              : __builtin_convertvector(*(const u8x16 *)other[i], i32x16);
    if (v->by_factors) {
        EACH more[i] = __builtin_convertvector(words[i], f32x16);
        EACH more[i] = SX_FMA(more[i], v->other, v->offset);
        EACH own[i] = SX_FMA(own[i], v->own, more[i]);
    } else {
        EACH more[i] = __builtin_convertvector(words[i] - v->other_zero, f32x16) * v->other;
        EACH own[i] = quotient_16(own[i] * v->own + more[i], v->divisor, v->inverse);
    }
    EACH words[i] = round_words(own[i]);
}

// The bytes of 64 sums; where it `adds`, those of lanes 16 i .. and what is at other[i].
SX_INLINE i8x64 requantized(const int32_t *sums, const int adds, const uint8_t *const other[4],
                            const requantization_vectors *v, const int is_signed, const int large) {
    i32x16 words[4];
    f32x16 products[4];
    EACH products[i] = __builtin_convertvector(*(const i32x16_unaligned *)(sums + 16 * i), f32x16) * v->scale[i];
    if (adds)
        add_other(products, other, v, is_signed, words);
    else
        round_products(products, large, words);
    return narrow_words(words, v->zero, is_signed);
}

#define PIECE(lanes, k) PIECE_##lanes(k)
#define PIECE_32(k) __builtin_shufflevector(bytes, bytes, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7, k + 8, k + 9, \
    k + 10, k + 11, k + 12, k + 13, k + 14, k + 15, k + 16, k + 17, k + 18, k + 19, k + 20, k + 21, k + 22, k + 23, \
    k + 24, k + 25, k + 26, k + 27, k + 28, k + 29, k + 30, k + 31)
#define PIECE_16(k) __builtin_shufflevector(bytes, bytes, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7, k + 8, \
    k + 9, k + 10, k + 11, k + 12, k + 13, k + 14, k + 15)

// The bytes of 64 sums in rows of `width`, of which `count` rows go to y + at[0], y + at[1] and so on; what is added to them
// begins at other + beside[0] and so on, where it `adds`.
SX_INLINE void requantize_64(const int32_t *sums, int64_t count, const int width, uint8_t *y, const int64_t *at,
                             const int adds, const uint8_t *other, const int64_t *beside,
                             const requantization_vectors *v, const int is_signed, const int large) {
    const uint8_t *from[4] = {other, other, other, other};
    if (adds)
        EACH {
            const int row = width == 32 ? i / 2 : i;
            from[i] += beside[row < count ? row : 0] + (width == 32 ? i % 2 * 16 : 0);
        }
    const i8x64 bytes = requantized(sums, adds, from, v, is_signed, large);
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
                             const int adds, const int64_t *beside, const requantization *r, const int is_signed,
                             const int large) {
    const requantization_vectors v = requantization_of(r, width);
    const int64_t rows = 64 / width;
#pragma clang loop unroll(disable)
    for (; count >= rows; count -= rows, sums += 64, at += rows, beside += adds ? rows : 0)
        requantize_64(sums, rows, width, y, at, adds, r->other, beside, &v, is_signed, large);
    if (count > 0) requantize_64(sums, count, width, y, at, adds, r->other, beside, &v, is_signed, large);
}

static void requantize(const int32_t *sums, int64_t count, int64_t width, uint8_t *y, const int64_t *at,
                       const int64_t *beside, const requantization *r) {
#define VARIANT(w, s, l)                                                                          \
    if (width == w && r->is_signed == s && r->large == l) {                                       \
        if (r->other)                                                                             \
            requantize_as(sums, count, w, y, at, 1, beside, r, s, l);                             \
        else                                                                                      \
            requantize_as(sums, count, w, y, at, 0, at, r, s, l);                                 \
    }
    VARIANT(16, 0, 0) VARIANT(16, 0, 1) VARIANT(16, 1, 0) VARIANT(16, 1, 1)
    VARIANT(32, 0, 0) VARIANT(32, 0, 1) VARIANT(32, 1, 0) VARIANT(32, 1, 1)
#undef VARIANT
}

#undef PIECE
#undef PIECE_32
#undef PIECE_16
#undef EACH

#endif
