// matmul_tile.h -- the register tiles of matmul_f32: C[R][16 P] = (fresh ? 0 : C) + A[R][k] * B[k][16 P].
//
//   A: element (i, k) at a[i * a_row + k * a_k], so rows in place, transposed A and copied blocks are one case.
//   B: 16 columns of panel p at b[p * b_panel + k * b_k ...], all readable.   C: row stride c_row, all columns written.
// Every element is accumulated k-sequentially with SX_FMA, whatever the tile.
//
// MATMUL_AHEAD 0 leaves the prefetching out: where B is in L2 already, it takes half of what L2 gives (recurrent layers).
// MATMUL_AHEAD 2 fetches one line a k, `ahead_step` bytes apart, wherever that is (attention).
// MATMUL_FLAT 1 makes tiles of 6 rows 4 panels wide as well, with AVX-512: better for short sums (attention).
// Tunables: MR, WIDE(R). Registers: R * P * LANES for sums, P * LANES for B (none with R == 1, where loads fold into
// the FMA) and 1 for A, of VREGS. A tile needs 8 independent sums to hide the latency of the FMA, hence several panels
// at once (WIDE) where rows are few; 4 panels are enough to stream B at the speed of L2.
#ifndef SARDONYX_MATMUL_TILE_H
#define SARDONYX_MATMUL_TILE_H

#include "simd.h"

#ifndef MATMUL_AHEAD
#define MATMUL_AHEAD 1
#endif
#define LANES (16 / VL) // registers a panel

#ifndef MATMUL_FLAT
#define MATMUL_FLAT 0
#endif
#if VL == 16
#define MR 14
#define FLAT_ROWS (MATMUL_FLAT ? 6 : 4)
#define WIDE(R) ((R) <= FLAT_ROWS ? 4 : 2)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif VL == 8
#define MR 6
#define FLAT_ROWS MR
#define WIDE(R) ((R) == 1 ? 4 : (R) == 2 ? 2 : 1) // 3 rows of 2 panels spill
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif VREGS == 32
#define MR 6
#define FLAT_ROWS MR
#define WIDE(R) ((R) <= 2 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define MR 2
#define FLAT_ROWS MR
#define WIDE(R) ((R) == 1 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2)
#endif

typedef struct {
    const float *a;
    int64_t a_row, a_k;
    const float *b;
    int64_t b_panel, b_k;
    float *c;
    int64_t c_row;
    const char *ahead; // read soon: `ahead_step` bytes a k are prefetched into L2, in each of the tile's panels
    int64_t ahead_step;
    int64_t k, fresh;
} matmul_tile;

typedef void (*matmul_tile_function)(const matmul_tile *);

// Hides how a pointer was made: otherwise Clang steps one pointer through all rows, a chain as long as the FMAs take.
#define OPAQUE(p) __asm__("" : "+r"(p))

#define UNROLL _Pragma("clang loop unroll(full)")

SX_INLINE void matmul_tile_body(const matmul_tile *t, const int rows, const int panels) {
    const int width = panels * LANES;
    vf sum[MR][4 * LANES];
    float *c = t->c;
    const int64_t c_row = t->c_row;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++)
            sum[i][j] = t->fresh ? (vf){} : v_load(c + i * c_row + j * VL);

    // The tile that follows, in most cases: its sums are at hand when it begins.
    const uintptr_t below = (uintptr_t)(c + (rows - 1) * c_row);
    UNROLL for (int i = 1; i <= rows; i++)
        UNROLL for (int p = 0; p < panels; p++)
            __builtin_prefetch((const void *)(below + (i * c_row + p * 16) * (int64_t)sizeof(float)), 1, 3);

    const float *a[(MR + 2) / 3], *b = t->b;
    const int64_t a_row = t->a_row, a_k = t->a_k, b_panel = t->b_panel, b_k = t->b_k;
    const char *ahead = t->ahead;
    const int64_t ahead_step = t->ahead_step;
    UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
        a[g] = t->a + 3 * g * a_row;
        OPAQUE(a[g]);
    }
#pragma clang loop unroll(disable)
    for (int64_t k = t->k; k > 0; k--) {
        vf row[4 * LANES];
        UNROLL for (int j = 0; j < width; j++) row[j] = v_load(b + j / LANES * b_panel + j % LANES * VL);
        UNROLL for (int i = 0; i < rows; i++) {
            const vf x = v_set1(a[i / 3][i % 3 * a_row]);
            UNROLL for (int j = 0; j < width; j++) sum[i][j] = SX_FMA(x, row[j], sum[i][j]);
        }
        UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
            a[g] += a_k;
            if (rows > 6) OPAQUE(a[g]); // or else one general register a row, which are too many
        }
        b += b_k;
        UNROLL for (int p = 0; p < (MATMUL_AHEAD == 1 ? panels : MATMUL_AHEAD / 2); p++)
            __builtin_prefetch(ahead + p * b_panel * (int64_t)sizeof(float), 0, 2);
        ahead += ahead_step;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) v_store(c + i * c_row + j * VL, sum[i][j]);
}

#define WIDE_TILE(R) static void matmul_tile_wide_##R(const matmul_tile *t) { matmul_tile_body(t, R, WIDE(R)); }
#define SLIM_TILE(R) static void matmul_tile_slim_##R(const matmul_tile *t) { matmul_tile_body(t, R, 1); }
EACH_ROW_COUNT(WIDE_TILE)
EACH_ROW_COUNT(SLIM_TILE)

// By number of rows: the tile of WIDE(rows) panels, and that of one panel for what is left over.
#define WIDE_ENTRY(R) [R] = matmul_tile_wide_##R,
#define SLIM_ENTRY(R) [R] = WIDE(R) == 1 ? matmul_tile_wide_##R : matmul_tile_slim_##R,
static const matmul_tile_function matmul_wide_tiles[MR + 1] = {EACH_ROW_COUNT(WIDE_ENTRY)};
static const matmul_tile_function matmul_slim_tiles[MR + 1] = {EACH_ROW_COUNT(SLIM_ENTRY)};

#endif
