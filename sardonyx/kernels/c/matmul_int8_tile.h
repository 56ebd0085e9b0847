// matmul_int8_tile.h -- the register tiles of matmul_int8, on words of 32 bits, each SX_DOT_GROUP elements of K.
//
//   C[R][16 P] = (fresh ? 0 : C) + sum over w of dot(A[R][w], B[w][16 P])
//
// A word is four bytes where the target has a dot product of bytes (simd.h: SX_DOT_GROUP 4), else two int16. Sums wrap,
// so their order is free.
#ifndef SARDONYX_MATMUL_INT8_TILE_H
#define SARDONYX_MATMUL_INT8_TILE_H

#include "simd.h"

#define LANES (16 / VL) // registers a panel

// Registers: R * P * LANES for sums, P * LANES for B, 1 for A, and 1 for a product where the dot product is two steps.
#if VL == 16
#define MR 14
#define PANELS 2
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif VREGS == 32 && SX_DOT_GROUP == 2
#define MR 5 // 6 rows spill beside the products
#define PANELS 1
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5)
#elif VL == 8 || VREGS == 32
#define MR 6
#define PANELS 1
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define MR 2
#define PANELS 1
#define EACH_ROW_COUNT(X) X(1) X(2)
#endif

typedef struct {
    const int32_t *a;
    int64_t a_row;
    const int32_t *b; // word w of panel p at b[p * b_panel + w * 16]
    int64_t b_panel;
    int32_t *c;
    int64_t c_row;
    int64_t words, fresh;
} int8_tile;

typedef void (*int8_tile_function)(const int8_tile *);

#define UNROLL _Pragma("clang loop unroll(full)")

SX_INLINE void int8_tile_body(const int8_tile *t, const int rows, const int panels) {
    const int width = panels * LANES;
    vi sum[MR][PANELS * LANES];
    int32_t *const c = t->c;
    const int64_t a_row = t->a_row, b_panel = t->b_panel, c_row = t->c_row;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++)
            sum[i][j] = t->fresh ? (vi){} : vi_load(c + i * c_row + j * VL);
    const int32_t *a[(MR + 2) / 3], *b = t->b;
    UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
        a[g] = t->a + 3 * g * a_row;
        __asm__("" : "+r"(a[g])); // hides how it was made: otherwise one pointer is stepped through all rows
    }
#pragma clang loop unroll(disable)
    for (int64_t w = t->words; w > 0; w--) {
        vi row[PANELS * LANES];
        UNROLL for (int j = 0; j < width; j++) row[j] = vi_load(b + j / LANES * b_panel + j % LANES * VL);
        UNROLL for (int i = 0; i < rows; i++) {
            const vi x = vi_set1(a[i / 3][i % 3 * a_row]);
            UNROLL for (int j = 0; j < width; j++) sum[i][j] = vi_dot(sum[i][j], x, row[j]);
        }
        UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
            a[g] += 1;
            if (rows > 6) __asm__("" : "+r"(a[g])); // or else one general register a row, which are too many
        }
        b += 16;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) vi_store(c + i * c_row + j * VL, sum[i][j]);
}

#define WIDE_TILE(R) static void int8_tile_wide_##R(const int8_tile *t) { int8_tile_body(t, R, PANELS); }
EACH_ROW_COUNT(WIDE_TILE)
#define WIDE_ENTRY(R) [R] = int8_tile_wide_##R,
static const int8_tile_function int8_wide_tiles[MR + 1] = {EACH_ROW_COUNT(WIDE_ENTRY)};
#if PANELS > 1
#define SLIM_TILE(R) static void int8_tile_slim_##R(const int8_tile *t) { int8_tile_body(t, R, 1); }
EACH_ROW_COUNT(SLIM_TILE)
#define SLIM_ENTRY(R) [R] = int8_tile_slim_##R,
static const int8_tile_function int8_slim_tiles[MR + 1] = {EACH_ROW_COUNT(SLIM_ENTRY)};
#else
#define int8_slim_tiles int8_wide_tiles
#endif

#endif
