// simd.h -- the only file that knows instruction sets: vector types, loads, stores and fused multiply-add.
//
// Kernels are written on Clang vector types. 16 lanes is the width of every layout (NCHW16c, packed panels); VL is the
// width of one register, so a tile of 16 lanes is 16 / VL registers. What rounds is the same everywhere: multiply and
// add are fused (SX_FMA) except in portable builds, and nothing is contracted behind our back.
#ifndef SARDONYX_SIMD_H
#define SARDONYX_SIMD_H

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define VL 16
#define VREGS 32
#elif defined(__AVX__)
#define VL 8
#define VREGS 16
#elif defined(__aarch64__)
#define VL 4
#define VREGS 32
#elif defined(__riscv_v)
#define VL 4
#define VREGS 32
#else
#define VL 4
#define VREGS 16
#endif

#define SX_INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(VL * 4)));                  // one register of floats
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float f32x16 __attribute__((vector_size(64)));                  // one block of 16 lanes
typedef float f32x16_unaligned __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64)));

SX_INLINE vf v_load(const float *p) { return *(const vf_unaligned *)p; }
SX_INLINE void v_store(float *p, vf x) { *(vf_unaligned *)p = x; }
SX_INLINE vf v_set1(float x) { return x - (vf){}; }
SX_INLINE f32x16 load16(const float *p) { return *(const f32x16_unaligned *)p; }
SX_INLINE void store16(float *p, f32x16 x) { *(f32x16_unaligned *)p = x; }
SX_INLINE f32x16 set16(float x) { return x - (f32x16){}; }

// Before a loop over 16 lanes in generated code: vectors of one register each, all steps of the loop side by side. Left to
// itself Clang unrolls such a loop and gathers lanes across the rows around it, 5 times as slow.
#define SX_PRAGMA(text) _Pragma(#text)
#define SX_EACH_LANE SX_EACH_LANE_OF(VL, LANE_GROUPS)
#define SX_EACH_LANE_OF(width, groups) SX_PRAGMA(clang loop vectorize(assume_safety) vectorize_width(width) interleave_count(groups) unroll(disable))
#if VL == 16
#define LANE_GROUPS 1
#elif VL == 8
#define LANE_GROUPS 2
#else
#define LANE_GROUPS 4
#endif

// x * y + z. Fused, so that every target gives the same bits; a target without the instruction builds with SX_PORTABLE
// (multiply, then add: identical on all such targets, and selectable everywhere).
#ifdef SX_PORTABLE
#define SX_FMA(x, y, z) ((x) * (y) + (z))
SX_INLINE float fma1(float x, float y, float z) { return x * y + z; }
#else
#define SX_FMA(x, y, z) __builtin_elementwise_fma((x), (y), (z))
SX_INLINE float fma1(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
#endif

// Integers: one register of 32-bit words, and its dot product of bytes or halves.
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef int32_t vi_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

SX_INLINE vi vi_load(const int32_t *p) { return *(const vi_unaligned *)p; }
SX_INLINE void vi_store(int32_t *p, vi x) { *(vi_unaligned *)p = x; }
SX_INLINE vi vi_set1(int32_t x) { return x - (vi){}; }

// vi_dot(sum, x, y): each word of `sum` plus the dot product of the same words of x and y, seen as SX_DOT_GROUP numbers;
// it wraps and never saturates. SX_DOT_GROUP 4: bytes, those of y signed, those of x unsigned if SX_DOT_A_UNSIGNED.
// SX_DOT_GROUP 2: int16. SX_DOT_FALLBACK picks the plain versions, which every target has.
#if !defined(SX_DOT_GROUP) && (defined(__AVX512VNNI__) || (VL == 8 && defined(__AVXVNNI__)))
#define SX_DOT_GROUP 4
#define SX_DOT_A_UNSIGNED 1
#elif !defined(SX_DOT_GROUP) && defined(__ARM_FEATURE_DOTPROD)
#define SX_DOT_GROUP 4
#define SX_DOT_A_UNSIGNED 0
#elif !defined(SX_DOT_GROUP)
#define SX_DOT_GROUP 2
#endif

typedef int16_t vi_halves __attribute__((vector_size(VL * 4)));

SX_INLINE vi vi_dot2_plain(vi sum, vi x, vi y) {
    const vi x0 = x << 16 >> 16, x1 = x >> 16, y0 = y << 16 >> 16, y1 = y >> 16;
    return sum + (x0 * y0 + x1 * y1);
}

SX_INLINE vi vi_dot4_plain(vi sum, vi x, vi y, const int x_unsigned) {
    typedef uint32_t vu __attribute__((vector_size(VL * 4)));
    for (int i = 0; i < 4; i++) {
        const int up = 24 - 8 * i;
        const vi x_byte = x_unsigned ? (vi)((vu)x << up >> 24) : x << up >> 24;
        sum += x_byte * (y << up >> 24);
    }
    return sum;
}

SX_INLINE vi vi_dot(vi sum, vi x, vi y) {
#if SX_DOT_GROUP == 4 && defined(SX_DOT_FALLBACK)
    return vi_dot4_plain(sum, x, y, SX_DOT_A_UNSIGNED);
#elif SX_DOT_GROUP == 4 && (defined(__AVX512VNNI__) || defined(__AVXVNNI__))
#if defined(__AVX512VNNI__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
#endif
    return sum;
#elif SX_DOT_GROUP == 4
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(y));
    return sum;
#elif defined(SX_DOT_FALLBACK)
    return vi_dot2_plain(sum, x, y);
#elif VL == 16 && defined(__AVX512BW__)
    return sum + (vi)__builtin_ia32_pmaddwd512((vi_halves)x, (vi_halves)y);
#elif VL == 8 && defined(__AVX2__)
    return sum + (vi)__builtin_ia32_pmaddwd256((vi_halves)x, (vi_halves)y);
#elif VL == 4 && defined(__SSE2__)
    return sum + (vi)__builtin_ia32_pmaddwd128((vi_halves)x, (vi_halves)y);
#elif defined(__aarch64__)
    vi low, high; // as text, since Clang spreads the four steps out until they spill
    __asm__("smull %1.4s, %3.4h, %4.4h\n\tsmull2 %2.4s, %3.8h, %4.8h\n\t"
            "addp %1.4s, %1.4s, %2.4s\n\tadd %0.4s, %0.4s, %1.4s"
            : "+w"(sum), "=&w"(low), "=&w"(high) : "w"(x), "w"(y));
    return sum;
#else
    return vi_dot2_plain(sum, x, y);
#endif
}

// Matrix tiles: where SX_TILES is 1 there are eight registers of SX_TILE_ROWS rows of 64 bytes, and one instruction adds to
// a tile of words the product of 16 rows of 64 bytes with 64 x 16 weights as packed: [16 quads][16 columns][4].
// A task calls tiles_begin before it uses them and tiles_end when it is done: the state is the thread's own. Elsewhere
// kernels use vi_dot; sums are exact, so the bytes are the same.
#if !defined(SX_TILES) && defined(__AMX_INT8__) && !defined(SX_DOT_FALLBACK)
#define SX_TILES 1
#elif !defined(SX_TILES)
#define SX_TILES 0
#endif
#if SX_TILES
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_shapes;

// All tiles with 16 rows of 64 bytes, but tile t with rows[t] rows where that is not 0.
SX_INLINE void tiles_begin(const uint8_t rows[8]) {
    tile_shapes shapes __attribute__((aligned(64))) = {.palette = 1};
    for (int t = 0; t < 8; t++) shapes.bytes[t] = 64, shapes.rows[t] = rows[t] ? rows[t] : 16;
    __builtin_ia32_tile_loadconfig(&shapes);
}
SX_INLINE void tiles_end(void) { __builtin_ia32_tilerelease(); }

// Register numbers are literals.
#define tile_zero(t) __builtin_ia32_tilezero(t)
#define tile_load(t, from, stride) __builtin_ia32_tileloadd64(t, from, (size_t)(stride))
#define tile_store(t, to, stride) __builtin_ia32_tilestored64(t, to, (size_t)(stride))
#define tile_dot_u8(sum, x, w) __builtin_ia32_tdpbusd(sum, x, w) // x unsigned
#define tile_dot_s8(sum, x, w) __builtin_ia32_tdpbssd(sum, x, w)
#endif

#endif
