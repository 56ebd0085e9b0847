// matmul_tile.h -- the register tiles of matmul_f32: C[R][16 P] = (fresh ? 0 : C) + A[R][k] * B[k][16 P].
//
//   A: element (i, k) at a[i * a_row + k * a_k], so rows in place, transposed A and copied blocks are one case.
//   B: 16 columns of panel p at b[p * b_panel + k * b_k ...], all readable.   C: row stride c_row, all columns written.
// Every element is accumulated k-sequentially with SX_FMA, whatever the tile.
//
// MATMUL_AHEAD 0 leaves the prefetching out: where B is in L2 already, it takes half of what L2 gives (recurrent layers).
// MATMUL_AHEAD 2 fetches one line a k, `ahead_step` bytes apart, wherever that is (attention).
// Tunables: EACH_TILE(X), the tiles X(rows, panels); for blocks of many rows, TALL(P) rows of P panels. Registers: R * P *
// LANES for sums, P * LANES for B (none with R == 1, where loads fold into the FMA) and 1 for A, of VREGS. A tile needs 8
// independent sums to hide the latency of the FMA, hence several panels at once where rows are few; 4 panels are enough to
// stream B at the speed of L2.
//
// With AVX-512, 9 rows x 3 panels need 12 loads for 27 products, 14 x 2 need 16 for 28. That is 1 % while the core has its
// caches for itself, and 4 to 20 % while a neighbour on the same core uses them too. Two steps of k at a time: 4 %.
#ifndef SARDONYX_MATMUL_TILE_H
#define SARDONYX_MATMUL_TILE_H

#include "simd.h"

#ifndef MATMUL_AHEAD
#define MATMUL_AHEAD 1
#endif
#define LANES (16 / VL)        // registers a panel
#define STEPS (VL >= 8 ? 2 : 1) // of k at a time; NEON spills with 2

#if VL == 16
#define MR 14
#define TALL(P) ((P) == 4 ? 6 : (P) == 3 ? 9 : 14)
#define WIDTHS 0, 4, 4, 4, 4, 4, 4, 3, 3, 3, 2, 2, 2, 2, 2 // panels of the widest tile, by rows
#define EACH_TILE(X)                                                                                                   \
    X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(7, 1) X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1) X(13, 1)        \
    X(14, 1) X(5, 2) X(6, 2) X(7, 2) X(8, 2) X(9, 2) X(10, 2) X(11, 2) X(12, 2) X(13, 2) X(14, 2) X(5, 3) X(6, 3)      \
    X(7, 3) X(8, 3) X(9, 3) X(1, 4) X(2, 4) X(3, 4) X(4, 4) X(5, 4) X(6, 4)
#elif VL == 8
#define MR 6
#define TALL(P) 6
#define WIDTHS 0, 4, 2, 1, 1, 1, 1 // 3 rows of 2 panels spill
#define EACH_TILE(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(2, 2) X(1, 4)
#elif VREGS == 32
#define MR 6
#define TALL(P) 6
#define WIDTHS 0, 2, 2, 1, 1, 1, 1
#define EACH_TILE(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(1, 2) X(2, 2)
#else
#define MR 2
#define TALL(P) 2
#define WIDTHS 0, 2, 1
#define EACH_TILE(X) X(1, 1) X(2, 1) X(1, 2)
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

// Where the next step of k reads, and strides in bytes: thus 2 of them are an addressing mode, no register.
typedef struct {
    const char *a[(MR + 2) / 3]; // of every third row
    const char *b, *ahead;
    int64_t a_row, a_k, b_panel, b_k, ahead_step;
} matmul_at;

SX_INLINE void matmul_tile_step(matmul_at *at, vf sum[MR][4 * LANES], const int rows, const int panels) {
    const int width = panels * LANES;
    vf row[4 * LANES];
    UNROLL for (int j = 0; j < width; j++)
        row[j] = v_load((const float *)(at->b + j / LANES * at->b_panel) + j % LANES * VL);
    UNROLL for (int i = 0; i < rows; i++) {
        const vf x = v_set1(*(const float *)(at->a[i / 3] + i % 3 * at->a_row));
        UNROLL for (int j = 0; j < width; j++) sum[i][j] = SX_FMA(x, row[j], sum[i][j]);
    }
    UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
        at->a[g] += at->a_k;
        OPAQUE(at->a[g]);
    }
    at->b += at->b_k;
    OPAQUE(at->b);
    UNROLL for (int p = 0; p < (MATMUL_AHEAD == 1 ? panels : MATMUL_AHEAD / 2); p++)
        __builtin_prefetch(at->ahead + p * at->b_panel, 0, 2);
    at->ahead += at->ahead_step;
    OPAQUE(at->ahead);
}

SX_INLINE void matmul_tile_body(const matmul_tile *given, const int rows, const int panels) {
    const matmul_tile t = *given;
    const int width = panels * LANES;
    vf sum[MR][4 * LANES];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++)
            sum[i][j] = t.fresh ? (vf){} : v_load(t.c + i * t.c_row + j * VL);

    // The tile that follows, in most cases: its sums are at hand when it begins.
    const uintptr_t below = (uintptr_t)(t.c + (rows - 1) * t.c_row);
    UNROLL for (int i = 1; i <= rows; i++)
        UNROLL for (int p = 0; p < panels; p++)
            __builtin_prefetch((const void *)(below + (i * t.c_row + p * 16) * (int64_t)sizeof(float)), 1, 3);

    const int64_t size = sizeof(float);
    matmul_at at = {.b = (const char *)t.b, .ahead = t.ahead, .a_row = t.a_row * size, .a_k = t.a_k * size,
                    .b_panel = t.b_panel * size, .b_k = t.b_k * size, .ahead_step = t.ahead_step};
    UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
        at.a[g] = (const char *)(t.a + 3 * g * t.a_row);
        OPAQUE(at.a[g]);
    }
#pragma clang loop unroll(disable)
    for (int64_t k = t.k / STEPS; k > 0; k--)
        UNROLL for (int step = 0; step < STEPS; step++) matmul_tile_step(&at, sum, rows, panels);
    if (t.k % STEPS) matmul_tile_step(&at, sum, rows, panels);
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) v_store(t.c + i * t.c_row + j * VL, sum[i][j]);
}

#define TILE_OF(R, P) static void matmul_tile_##R##x##P(const matmul_tile *t) { matmul_tile_body(t, R, P); }
EACH_TILE(TILE_OF)

#define TILE_ENTRY(R, P) [R][P] = matmul_tile_##R##x##P,
static const matmul_tile_function matmul_tiles[MR + 1][5] = {EACH_TILE(TILE_ENTRY)};

static const int8_t matmul_widths[MR + 1] = {WIDTHS};

// The panels that one tile of `rows` rows takes of `left`: the widest tile that there is.
SX_INLINE int64_t matmul_wide(int64_t rows, int64_t left) {
    int64_t panels = left < matmul_widths[rows] ? left : matmul_widths[rows];
    while (!matmul_tiles[rows][panels]) panels--;
    return panels;
}

// How `rows` rows are cut into tiles of equal height, the first `taller` ones by a row more, and how many panels of
// `left` they take.
typedef struct {
    int64_t panels, tiles, height, taller;
} matmul_cut;

SX_INLINE matmul_cut matmul_cut_of(int64_t rows, int64_t left) {
    matmul_cut cut = {.tiles = 1, .height = rows};
    if (rows <= MR) {
        cut.panels = matmul_wide(rows, left);
        return cut;
    }
#if VL == 16 // as many panels as possible by threes, the others by fours
    cut.panels = left <= 3 ? left : left % 3 == 0 || left == 5 ? 3 : 4;
#else
    cut.panels = 1;
#endif
    cut.tiles = (rows + TALL(cut.panels) - 1) / TALL(cut.panels);
    cut.height = rows / cut.tiles;
    cut.taller = rows % cut.tiles;
    return cut;
}

#endif
