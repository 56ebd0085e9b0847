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

// x * y + z. Fused, so that every target gives the same bits; a target without the instruction builds with SX_PORTABLE
// (multiply, then add: identical on all such targets, and selectable everywhere).
#ifdef SX_PORTABLE
#define SX_FMA(x, y, z) ((x) * (y) + (z))
SX_INLINE float fma1(float x, float y, float z) { return x * y + z; }
#else
#define SX_FMA(x, y, z) __builtin_elementwise_fma((x), (y), (z))
SX_INLINE float fma1(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
#endif

#endif
