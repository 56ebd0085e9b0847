// recurrent_int8_tile.h -- the register tiles of recurrent_int8: sums[R][16 P] = sum over quads of dot(A[R], B[16 P]).
//
// Matrix tiles (SX_TILES) take 16 rows at once, 64 numbers of K; rows beyond those wanted are computed for nothing. B is read as
// bytes. Where the target has a dot product of bytes (simd.h: SX_DOT_GROUP 4), A is bytes, too, and a word of
// the sums belongs to a column. Elsewhere A is int16, four numbers repeated, bytes of B are widened as they are loaded, and
// two words, SPLIT, make a column. So weights are never larger than bytes: with one row reading them is what costs.
#ifndef SARDONYX_RECURRENT_INT8_TILE_H
#define SARDONYX_RECURRENT_INT8_TILE_H

#include "simd.h"

#if SX_DOT_GROUP == 4
#define SPLIT 1
#define A_MOVED (SX_DOT_A_UNSIGNED ? 0 : 128) // A is bytes less this
typedef uint8_t element;
#else
#define SPLIT 2
typedef int16_t element; // A is less its zero point
#endif
#define REGISTERS (16 * SPLIT / VL) // of sums a panel

// Registers: R * P * REGISTERS for sums, P * REGISTERS for B where R > 1, 1 for A, and 1 for a product of two steps. Eight
// sums hide the latency of a dot product.
#if VL == 16 && SX_DOT_GROUP == 4
#define MR 6
#define WIDE(R) ((R) == 1 ? 8 : 4)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif VL == 16
#define MR 6
#define WIDE(R) ((R) <= 2 ? 4 : 2)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif VL == 8 && SX_DOT_GROUP == 4
#define MR 6
#define WIDE(R) ((R) == 1 ? 4 : (R) == 2 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif VL == 8
#define MR 2
#define WIDE(R) ((R) == 1 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2)
#elif VREGS == 32 && SX_DOT_GROUP == 4
#define MR 5
#define WIDE(R) ((R) == 1 ? 4 : (R) == 2 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5)
#elif VREGS == 32
#define MR 2
#define WIDE(R) 1
#define EACH_ROW_COUNT(X) X(1) X(2)
#else
#define MR 1
#define WIDE(R) 1
#define EACH_ROW_COUNT(X) X(1)
#endif
#define MOST_WIDE 8
#define TILE_ROWS 16
#define TILE_PANELS 4 // their sums, A and B take 6 of 8 tiles

typedef struct {
    const element *a; // row i at a[i * a_row], whole quads; for matrix tiles bytes in multiples of 64, 0 beyond the quads
    int64_t a_row;
    const int8_t *b;  // quad q of panel p at b[p * b_panel + q * 64]
    int64_t b_panel;
    int32_t *sums;    // [rows][panels * 16 * SPLIT]
    int64_t quads;
} quad_tile;

typedef void (*quad_tile_function)(const quad_tile *);

#define UNROLL _Pragma("clang loop unroll(full)")

#if SX_DOT_GROUP == 4
SX_INLINE vi quad_of_a(const element *a) {
    typedef int32_t word __attribute__((aligned(1), may_alias));
    return vi_set1(*(const word *)a);
}
SX_INLINE vi quads_of_b(const int8_t *b) { return vi_load((const int32_t *)b); }
#else
SX_INLINE vi quad_of_a(const element *a) {
    typedef int64_t word __attribute__((aligned(2), may_alias));
    typedef int64_t words __attribute__((vector_size(VL * 4)));
    return (vi)(*(const word *)a - (words){});
}
SX_INLINE vi quads_of_b(const int8_t *b) {
    typedef int8_t bytes __attribute__((vector_size(VL * 2), aligned(1), may_alias));
    return (vi)__builtin_convertvector(*(const bytes *)b, vi_halves);
}
#endif

SX_INLINE void quad_tile_body(const quad_tile *t, const int rows, const int panels) {
    vi sum[MR][MOST_WIDE * REGISTERS];
    const int width = panels * REGISTERS;
    const int64_t a_row = t->a_row, b_panel = t->b_panel;
    const element *a = t->a;
    const int8_t *b = t->b;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) sum[i][j] = (vi){};
#pragma clang loop unroll(disable)
    for (int64_t q = t->quads; q > 0; q--) {
        vi x[MR];
        UNROLL for (int i = 0; i < rows; i++) x[i] = quad_of_a(a + i * a_row);
        UNROLL for (int j = 0; j < width; j++) {
            const vi y = quads_of_b(b + j / REGISTERS * b_panel + j % REGISTERS * (64 / REGISTERS));
            UNROLL for (int i = 0; i < rows; i++) sum[i][j] = vi_dot(sum[i][j], x[i], y);
        }
        a += 4;
        b += 64;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) vi_store(t->sums + (i * width + j) * VL, sum[i][j]);
}

#define WIDE_TILE(R) static void quad_tile_wide_##R(const quad_tile *t) { quad_tile_body(t, R, WIDE(R)); }
#define SLIM_TILE(R) static void quad_tile_slim_##R(const quad_tile *t) { quad_tile_body(t, R, 1); }
EACH_ROW_COUNT(WIDE_TILE)
EACH_ROW_COUNT(SLIM_TILE)
#define WIDE_ENTRY(R) [R] = quad_tile_wide_##R,
#define SLIM_ENTRY(R) [R] = quad_tile_slim_##R,
static const quad_tile_function quad_wide_tiles[MR + 1] = {EACH_ROW_COUNT(WIDE_ENTRY)};
static const quad_tile_function quad_slim_tiles[MR + 1] = {EACH_ROW_COUNT(SLIM_ENTRY)};

#if SX_TILES
#define EACH_SUM(X) X(0) X(1) X(2) X(3)
// 16 rows of 4 panels, or of one; the caller has called tiles_begin. What comes behind a panel is multiplied by 0.
static void matrix_tile(const quad_tile *t, int64_t panels) {
#define CLEAR(p) tile_zero(p);
    EACH_SUM(CLEAR)
    for (int64_t q = 0; q < t->quads; q += 16) {
        const int8_t *const b = t->b + q * 64;
        tile_load(4, t->a + q * 4, t->a_row);
#define ADD_PANEL(p)                                   \
    if (p < panels) {                                  \
        tile_load(5, b + p * t->b_panel, 64);          \
        tile_dot_u8(p, 4, 5);                          \
    }
        EACH_SUM(ADD_PANEL)
    }
#define STORE_PANEL(p) \
    if (p < panels) tile_store(p, t->sums + p * 16, panels * 64);
    EACH_SUM(STORE_PANEL)
}
#endif

#endif
