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
SX_INLINE f32x16 select16(i32x16 which, f32x16 x, f32x16 y) { return (f32x16)((which & (i32x16)x) | (~which & (i32x16)y)); }

// The lower, or the upper, halves of x and y in turn: x0 y0 x1 y1 ...
#if VL == 16
#define SX_ZIP(x, y, h) __builtin_shufflevector(x, y, h, h + 16, h + 1, h + 17, h + 2, h + 18, h + 3, h + 19, h + 4, h + 20, \
                                                h + 5, h + 21, h + 6, h + 22, h + 7, h + 23)
#elif VL == 8
#define SX_ZIP(x, y, h) __builtin_shufflevector(x, y, h, h + 8, h + 1, h + 9, h + 2, h + 10, h + 3, h + 11)
#else
#define SX_ZIP(x, y, h) __builtin_shufflevector(x, y, h, h + 4, h + 1, h + 5)
#endif
SX_INLINE vf v_zip_low(vf x, vf y) { return SX_ZIP(x, y, 0); }
SX_INLINE vf v_zip_high(vf x, vf y) { return SX_ZIP(x, y, VL / 2); }

// Before a loop over 16 lanes in generated code: vectors of one register each, all steps of the loop side by side. Left to
// itself Clang unrolls such a loop and gathers lanes across the rows around it, 5 times as slow.
#define SX_PRAGMA(text) _Pragma(#text)
#define SX_EACH_LANE SX_EACH_LANE_OF(VL, LANE_GROUPS)
// Before a loop over SX_MANY_LANES lanes whose values are long chains of operations: several chains side by side, or a
// processor's window of waiting operations is full of a few chains (GELU of 16 lanes 28 cycles, of 128 lanes 20 each 16).
#define SX_MANY_LANES 128
#define SX_EACH_OF_MANY SX_EACH_LANE_OF(VL, CHAINS_AT_ONCE)
#define CHAINS_AT_ONCE (VREGS / 4)
#define SX_EACH_LANE_OF(width, groups) SX_PRAGMA(clang loop vectorize(assume_safety) vectorize_width(width) interleave_count(groups) unroll(disable))
// Before a loop over the lanes l < SX_TAIL_LANES(n) that are left of a row, each of which asks whether l < n: one masked step
// where loads can be masked, else n of them.
#if VL >= 8
#define SX_EACH_TAIL_LANE SX_EACH_LANE
#define SX_TAIL_LANES(n) 16
#else
#define SX_EACH_TAIL_LANE SX_PRAGMA(clang loop vectorize(disable) unroll(disable))
#define SX_TAIL_LANES(n) (n)
#endif
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

// Lane l of the result is lane lanes[l] of x; 0 <= lanes[l] < VL.
SX_INLINE vf v_permute_plain(vf x, vi lanes) {
    vf y;
    for (int l = 0; l < VL; l++) y[l] = x[lanes[l]];
    return y;
}
SX_INLINE vf v_permute(vf x, vi lanes) {
#if VL == 16 && defined(__AVX512DQ__)
    return __builtin_ia32_permvarsf512(x, lanes);
#elif VL == 8 && defined(__AVX2__)
    return __builtin_ia32_permvarsf256(x, lanes);
#else
    return v_permute_plain(x, lanes);
#endif
}

// The low four bits of each word, less 8 modulo 16, as floats: 0 .. 7, -8 .. -1.
SX_INLINE vf v_signed_nibble_plain(vi x) { return __builtin_convertvector(x << 28 >> 28, vf); }
SX_INLINE vf v_signed_nibble(vi x) {
#if VL == 16 && defined(__AVX512F__)
    const vf numbers = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
    return __builtin_ia32_permvarsf512(numbers, x); // the low bits pick; the others don't count
#else
    return v_signed_nibble_plain(x);
#endif
}

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

// Loads at places that are data: 8 words of 64 bits at base[index], 16 of 32 bits at so many bytes from base. SX_GATHER: they
// are instructions here, faster than single loads (AVX-512; the gathers of AVX2 are not). SX_GATHER_FALLBACK picks the plain
// versions.
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef uint64_t u64x8 __attribute__((vector_size(64)));

SX_INLINE u64x8 gather8_u64_plain(const uint64_t *base, u32x8 index) {
    u64x8 x;
    for (int i = 0; i < 8; i++) x[i] = base[index[i]];
    return x;
}
SX_INLINE u32x16 gather16_u32_plain(const void *base, u32x16 bytes) {
    u32x16 x;
    for (int i = 0; i < 16; i++) x[i] = *(const uint32_t *)((const char *)base + bytes[i]);
    return x;
}

#if defined(__AVX512DQ__) && !defined(SX_GATHER_FALLBACK)
#define SX_GATHER 1
SX_INLINE u64x8 gather8_u64(const uint64_t *base, u32x8 index) {
    typedef long long signed8 __attribute__((vector_size(64)));
    typedef int int8 __attribute__((vector_size(32)));
    return (u64x8)__builtin_ia32_gathersiv8di((signed8){}, base, (int8)index, 0xff, 8);
}
SX_INLINE u32x16 gather16_u32(const void *base, u32x16 bytes) {
    return (u32x16)__builtin_ia32_gathersiv16si((i32x16){}, base, (i32x16)bytes, 0xffff, 1);
}
#else
#define SX_GATHER 0
SX_INLINE u64x8 gather8_u64(const uint64_t *base, u32x8 index) { return gather8_u64_plain(base, index); }
SX_INLINE u32x16 gather16_u32(const void *base, u32x16 bytes) { return gather16_u32_plain(base, bytes); }
#endif

// Matrix tiles: where SX_TILES is 1 there are eight registers of 16 rows of 64 bytes, and one instruction adds to
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

SX_INLINE void tiles_begin(const uint8_t rows[8]) {
    tile_shapes shapes __attribute__((aligned(64))) = {.palette = 1};
    for (int t = 0; t < 8; t++) shapes.bytes[t] = 64, shapes.rows[t] = rows[t] ? rows[t] : 16;
    __builtin_ia32_tile_loadconfig(&shapes);
}
SX_INLINE void tiles_end(void) { __builtin_ia32_tilerelease(); }

// Register numbers are literals.
#define tile_zero(t) __builtin_ia32_tilezero(t)
#define tile_load(t, from, stride) __builtin_ia32_tileloadd64(t, from, (size_t)(stride))
#define tile_load_once(t, from, stride) __builtin_ia32_tileloaddt164(t, from, (size_t)(stride)) // leaves L1 to others
#define tile_store(t, to, stride) __builtin_ia32_tilestored64(t, to, (size_t)(stride))
#define tile_dot_u8(sum, x, w) __builtin_ia32_tdpbusd(sum, x, w) // x unsigned
#define tile_dot_s8(sum, x, w) __builtin_ia32_tdpbssd(sum, x, w)
#endif

// Floats to words, rounded to even. What int32 does not hold becomes its least value (as do NaNs) where SX_ROUNDS_ALL is
// 1; elsewhere only |x| <= 65536 is rounded, and less becomes -65536.
#if defined(__SSE2__)
#define SX_ROUNDS_ALL 1
#else
#define SX_ROUNDS_ALL 0
#endif
SX_INLINE i32x16 round_words(f32x16 x) {
#if defined(__AVX512F__)
    return (i32x16)__builtin_ia32_cvtps2dq512_mask(x, (i32x16){}, (uint16_t)-1, 4);
#elif defined(__AVX__)
    typedef float f32x8 __attribute__((vector_size(32)));
    union { f32x16 all; f32x8 part[2]; } from = {x};
    union { i32x16 all; int32_t __attribute__((vector_size(32))) part[2]; } to;
    for (int i = 0; i < 2; i++) to.part[i] = __builtin_ia32_cvtps2dq256(from.part[i]);
    return to.all;
#elif defined(__SSE2__)
    typedef float f32x4 __attribute__((vector_size(16)));
    union { f32x16 all; f32x4 part[4]; } from = {x};
    union { i32x16 all; int32_t __attribute__((vector_size(16))) part[4]; } to;
    for (int i = 0; i < 4; i++) to.part[i] = __builtin_ia32_cvtps2dq(from.part[i]);
    return to.all;
#else
    x = select16(x > -65536.0f, x, set16(-65536.0f));
    return (i32x16)(x + 0x1.8p23f) - 0x4b400000; // the sum is in the range where a float's last bit counts ones
#endif
}

// Four times 16 words as 64 bytes: saturated to 16 bits, plus `zero`, saturated to int8 or uint8.
typedef int16_t sx_i16x32 __attribute__((vector_size(64)));
typedef int8_t sx_i8x64 __attribute__((vector_size(64)));
#if defined(__AVX512BW__) && !defined(SX_NARROW_FALLBACK)
#define SX_QUARTERS 1
// Packing works on quarters of registers: [w0 w1 w2 w3] of each quarter in turn, which one permutation mends.
SX_INLINE sx_i8x64 narrow_quarters(const i32x16 words[4], sx_i16x32 zero, const int is_signed) {
    const sx_i16x32 low = __builtin_elementwise_add_sat((sx_i16x32)__builtin_ia32_packssdw512(words[0], words[1]), zero);
    const sx_i16x32 high = __builtin_elementwise_add_sat((sx_i16x32)__builtin_ia32_packssdw512(words[2], words[3]), zero);
    return is_signed ? (sx_i8x64)__builtin_ia32_packsswb512(low, high) : (sx_i8x64)__builtin_ia32_packuswb512(low, high);
}
#else
#define SX_QUARTERS 0
#endif
SX_INLINE sx_i8x64 narrow_words(const i32x16 words[4], sx_i16x32 zero, const int is_signed) {
#if SX_QUARTERS
    const i32x16 mixed = (i32x16)narrow_quarters(words, zero, is_signed);
    return (sx_i8x64)__builtin_shufflevector(mixed, mixed, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
#elif defined(__AVX2__) && !defined(SX_NARROW_FALLBACK)
    typedef int16_t i16x16 __attribute__((vector_size(32)));
    typedef int32_t i32x8 __attribute__((vector_size(32)));
    union { sx_i8x64 all; i32x8 part[2]; } bytes;
    for (int h = 0; h < 2; h++) {
        const i32x8 *const from = (const i32x8 *)(words + 2 * h);
        const i16x16 z = (i16x16)__builtin_shufflevector(zero, zero, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const i16x16 low = __builtin_elementwise_add_sat((i16x16)__builtin_ia32_packssdw256(from[0], from[1]), z);
        const i16x16 high = __builtin_elementwise_add_sat((i16x16)__builtin_ia32_packssdw256(from[2], from[3]), z);
        const i32x8 mixed = is_signed ? (i32x8)__builtin_ia32_packsswb256(low, high)
                                      : (i32x8)__builtin_ia32_packuswb256(low, high);
        bytes.part[h] = __builtin_shufflevector(mixed, mixed, 0, 4, 1, 5, 2, 6, 3, 7);
    }
    return bytes.all;
#else
    typedef int16_t i16x16 __attribute__((vector_size(32)));
    typedef int8_t i8x16 __attribute__((vector_size(16)));
    union { sx_i8x64 all; i8x16 part[4]; } bytes;
    const i16x16 z = (i16x16)__builtin_shufflevector(zero, zero, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int16_t least = is_signed ? -128 : 0, most = is_signed ? 127 : 255;
    for (int i = 0; i < 4; i++) {
        const i32x16 w = __builtin_elementwise_min(__builtin_elementwise_max(words[i], (i32x16){} - 32768), (i32x16){} + 32767);
        i16x16 h = __builtin_elementwise_add_sat(__builtin_convertvector(w, i16x16), z);
        h = __builtin_elementwise_min(__builtin_elementwise_max(h, (i16x16){} + least), (i16x16){} + most);
        bytes.part[i] = __builtin_convertvector(h, i8x16);
    }
    return bytes.all;
#endif
}

// Bytes looked up in a table of 256 that is in registers, VB at a time, where SX_LOOKUP is 1; SX_LOOKUP_FALLBACK makes it 0.
// Elsewhere single loads take 0.27 ns a byte. AVX2 can look up 16 rows of 16 bytes for 0.20 ns, AVX-512 without permutations
// of bytes for 0.13: not worth a third way. With them it is 0.032 ns.
#if defined(__AVX512VBMI__) && !defined(SX_LOOKUP_FALLBACK)
#define SX_LOOKUP 1
#define VB 64
#elif defined(__aarch64__) && !defined(SX_LOOKUP_FALLBACK)
#define SX_LOOKUP 1
#define VB 16
#else
#define SX_LOOKUP 0
#endif
#if SX_LOOKUP
typedef uint8_t vb __attribute__((vector_size(VB)));
typedef uint8_t vb_unaligned __attribute__((vector_size(VB), aligned(1), may_alias));
typedef struct {
    vb part[256 / VB];
} vb_table;

SX_INLINE vb vb_load(const uint8_t *p) { return *(const vb_unaligned *)p; }
SX_INLINE void vb_store(uint8_t *p, vb x) { *(vb_unaligned *)p = x; }

SX_INLINE vb_table vb_table_of(const uint8_t *bytes) {
    vb_table t;
    for (int i = 0; i < 256 / VB; i++) t.part[i] = vb_load(bytes + i * VB);
    return t;
}

#if VB == 64
#define SX_PARTS 1 // of registers can be loaded and stored: the first n < VB bytes, of which the others are 0
typedef char vb_chars __attribute__((vector_size(64)));

SX_INLINE vb vb_lookup(const vb_table *t, vb x) {
    const vb_chars *const p = (const vb_chars *)t->part;
    const vb low = (vb)__builtin_ia32_vpermi2varqi512(p[0], (vb_chars)x, p[1]); // by the low 7 bits
    const vb high = (vb)__builtin_ia32_vpermi2varqi512(p[2], (vb_chars)x, p[3]);
    const vb upper = (vb)(x >= 128);
    return (upper & high) | (~upper & low);
}
SX_INLINE vb vb_load_part(const uint8_t *p, int64_t n) {
    return (vb)__builtin_ia32_loaddquqi512_mask((const vb_chars *)p, (vb_chars){}, ((uint64_t)1 << n) - 1);
}
SX_INLINE void vb_store_part(uint8_t *p, vb x, int64_t n) {
    __builtin_ia32_storedquqi512_mask((vb_chars *)p, (vb_chars)x, ((uint64_t)1 << n) - 1);
}
#else
#define SX_PARTS 0

SX_INLINE vb vb_lookup(const vb_table *t, vb x) {
    typedef __attribute__((neon_vector_type(16))) int8_t bytes;
    const bytes *const p = (const bytes *)t->part;
    bytes y = __builtin_neon_vqtbl4q_v(p[0], p[1], p[2], p[3], (bytes)x, 32); // 0 beyond 63
    for (int i = 4; i < 16; i += 4) {
        x -= 64;
        y = __builtin_neon_vqtbx4q_v(y, p[i], p[i + 1], p[i + 2], p[i + 3], (bytes)x, 32); // y beyond
    }
    return (vb)y;
}
#endif
#endif

#endif
