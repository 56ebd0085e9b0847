// conv_int8_tile.h -- the register tiles of conv_nhwc_int8: a few positions by one or two panels of 16 output channels.
//
//   sums[R][16 P] = bias[16 P] + sum over segments s, words w of dot(x[row r, segment s, word w], W[s][w][16 P])
//
// A segment is a run of bytes that the window sees without a gap: row r of segment s begins at x + r * step + segment[s].
// What is read beyond a segment's end meets weights of 0. Sums wrap, so their order is free.
#ifndef SARDONYX_CONV_INT8_TILE_H
#define SARDONYX_CONV_INT8_TILE_H

#include "requantize.h"

#define UNROLL _Pragma("clang loop unroll(full)")
#define LANES (16 / VL) // registers a panel

// Sums of the tile before, [2 groups][32], that become bytes meanwhile: see requantize_64.
typedef struct {
    const int32_t *sums;
    int64_t groups;      // of 64 sums
    int64_t each, turns; // so many at every `turns`-th opportunity
    uint8_t *y;
    const int64_t *at, *beside; // where rows go in y, and where what is added to them lies
    const requantization *r;
} conv_int8_meanwhile;

typedef struct {
    const char *x;
    int64_t step;            // bytes from row to row
    int64_t next, below;     // of matrix tiles: bytes to the next 64 bytes of K, and to the next 16 rows
    const int64_t *segment;  // bytes from x on
    int64_t segments, words; // words of a segment that are not all 0
    const char *w;           // segment s of panel p at w + p * w_panel + s * w_segment
    int64_t w_panel, w_segment;
    const int32_t *bias;     // [16 P]
    int32_t *sums;           // [R][16 P]
    int64_t x_signed;
    const conv_int8_meanwhile *meanwhile;
    const char *ahead;       // what comes next, of which so many lines are fetched after every 64 bytes of K
    int64_t ahead_lines;
    int once;                // weights are larger than L1
} conv_int8_work;

typedef void (*conv_int8_tile_function)(const conv_int8_work *);

#if SX_TILES // four tiles of sums, two of positions, two of weights

#define MR 32
#define PANELS 2

// Rows 0..15 go to tiles 0 and 1, rows 16..31 to tiles 2 and 3. The bias is loaded as a tile whose rows all lie in one place.
// Weights that do not stay in L1 anyway pass it by, so that x does: 3x3, 512 -> 512 channels 9 % faster.
#define W_LOAD(tile, from)                                                                                  \
    if (once)                                                                                               \
        tile_load_once(tile, from, 64);                                                                     \
    else                                                                                                    \
        tile_load(tile, from, 64)
#define TILE_BODY(ROWS, WIDTH, DOT, MEANWHILE)                                                              \
    {                                                                                                       \
        tile_load(0, t->bias, 0);                                                                           \
        if (WIDTH > 1) tile_load(1, t->bias + 16, 0);                                                       \
        if (ROWS > 1) tile_load(2, t->bias, 0);                                                             \
        if (ROWS > 1 && WIDTH > 1) tile_load(3, t->bias + 16, 0);                                           \
        const int64_t step = t->step, next = t->next, below = t->below, w_panel = t->w_panel;               \
        const char *ahead = t->ahead;                                                                       \
        const int once = t->once;                                                                           \
        for (int64_t s = 0; s < t->segments; s++) {                                                         \
            const char *x = t->x + t->segment[s], *w = t->w + s * t->w_segment;                             \
            for (int64_t k = 0; k < t->words; k += 16, x += next, w += 1024) {                              \
                W_LOAD(6, w);                                                                               \
                tile_load(4, x, step);                                                                      \
                DOT(0, 4, 6);                                                                               \
                if (WIDTH > 1) {                                                                            \
                    W_LOAD(7, w + w_panel);                                                                 \
                }                                                                                           \
                if (WIDTH > 1) DOT(1, 4, 7);                                                                \
                MEANWHILE                                                                                   \
                if (ROWS > 1) tile_load(5, x + below, step);                                                \
                if (ROWS > 1) DOT(2, 5, 6);                                                                 \
                if (ROWS > 1 && WIDTH > 1) DOT(3, 5, 7);                                                    \
                for (int64_t n = t->ahead_lines; n > 0; n--, ahead += 64) __builtin_prefetch(ahead, 0, 2);  \
                MEANWHILE                                                                                   \
            }                                                                                               \
        }                                                                                                   \
    }
#define STORE_BODY(ROWS, WIDTH, MEANWHILE)                                                                  \
    {                                                                                                       \
        tile_store(0, t->sums, 64 * WIDTH);                                                                 \
        if (WIDTH > 1) tile_store(1, t->sums + 16, 64 * WIDTH);                                             \
        MEANWHILE                                                                                           \
        if (ROWS > 1) tile_store(2, t->sums + 256 * WIDTH, 64 * WIDTH);                                     \
        if (ROWS > 1 && WIDTH > 1) tile_store(3, t->sums + 256 * WIDTH + 16, 64 * WIDTH);                   \
        MEANWHILE                                                                                           \
    }
#define TILE(ROWS, WIDTH)                                                                                   \
    static void conv_int8_tile_##ROWS##_##WIDTH(const conv_int8_work *t) {                                  \
        if (t->x_signed) TILE_BODY(ROWS, WIDTH, tile_dot_s8, )                                              \
        else TILE_BODY(ROWS, WIDTH, tile_dot_u8, )                                                          \
    }                                                                                                       \
    static void conv_int8_store_##ROWS##_##WIDTH(const conv_int8_work *t) STORE_BODY(ROWS, WIDTH, )
TILE(1, 1) TILE(1, 2) TILE(2, 1) TILE(2, 2)

// The same with bytes of the tile before between products and stores. Left to itself the processor does not overlap them:
// 16 groups after four products and four stores take 311 cycles, between them 245 (of which the bytes alone 160).
#define SOME(SIGNED, ADDS)                                                                                  \
    if (--turns == 0) {                                                                                     \
        turns = m->turns;                                                                                   \
        for (int64_t n = m->each; n > 0 && groups > 0; n--, groups--, sums += 64, at += 2, beside += 2)     \
            requantize_64(sums, 2, 32, y, at, ADDS, other, beside, &v, SIGNED, 0);                          \
    }
#define BUSY_TILE(NAME, DOT, SIGNED, ADDS)                                                                  \
    static void conv_int8_busy_##NAME(const conv_int8_work *t) {                                            \
        const conv_int8_meanwhile *const m = t->meanwhile;                                                  \
        const requantization_vectors v = requantization_of(m->r, 32);                                       \
        const int32_t *sums = m->sums;                                                                      \
        const int64_t *at = m->at, *beside = m->beside;                                                     \
        const uint8_t *const other = m->r->other;                                                           \
        uint8_t *const y = m->y;                                                                            \
        int64_t groups = m->groups, turns = m->turns;                                                       \
        TILE_BODY(2, 2, DOT, SOME(SIGNED, ADDS))                                                            \
        STORE_BODY(2, 2, SOME(SIGNED, ADDS))                                                                \
    }
BUSY_TILE(u8_u8, tile_dot_u8, 0, 0) BUSY_TILE(u8_s8, tile_dot_u8, 1, 0)
BUSY_TILE(s8_u8, tile_dot_s8, 0, 0) BUSY_TILE(s8_s8, tile_dot_s8, 1, 0)
BUSY_TILE(u8_u8_add, tile_dot_u8, 0, 1) BUSY_TILE(u8_s8_add, tile_dot_u8, 1, 1)
BUSY_TILE(s8_u8_add, tile_dot_s8, 0, 1) BUSY_TILE(s8_s8_add, tile_dot_s8, 1, 1)

static void conv_int8_busy_tile(const conv_int8_work *t) {
    static const conv_int8_tile_function tiles[2][2][2] = {
        {{conv_int8_busy_u8_u8, conv_int8_busy_u8_u8_add}, {conv_int8_busy_u8_s8, conv_int8_busy_u8_s8_add}},
        {{conv_int8_busy_s8_u8, conv_int8_busy_s8_u8_add}, {conv_int8_busy_s8_s8, conv_int8_busy_s8_s8_add}},
    };
    tiles[t->x_signed != 0][t->meanwhile->r->is_signed][t->meanwhile->r->other != NULL](t);
}

// `count` rows: all 16 or 32 are computed, and stay in registers until they are stored.
static void conv_int8_tile(const conv_int8_work *t, int64_t count, int64_t panels) {
    if (panels == 2)
        (count > 16 ? conv_int8_tile_2_2 : conv_int8_tile_1_2)(t);
    else
        (count > 16 ? conv_int8_tile_2_1 : conv_int8_tile_1_1)(t);
}

static void conv_int8_store(const conv_int8_work *t, int64_t count, int64_t panels) {
    if (panels == 2)
        (count > 16 ? conv_int8_store_2_2 : conv_int8_store_1_2)(t);
    else
        (count > 16 ? conv_int8_store_2_1 : conv_int8_store_1_1)(t);
}

#else // words broadcast from x, dot products with a row of weights

// Registers: R * P * LANES for sums, P * LANES for weights, 1 for x, and 1 for a product where the dot product is two steps.
#if VL == 16
#define MR 14
#define PANELS 2
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif VREGS == 32 && SX_DOT_GROUP == 2
#define MR 5
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

typedef int32_t word_unaligned __attribute__((aligned(1), may_alias));

SX_INLINE void conv_int8_tile_body(const conv_int8_work *t, const int rows, const int panels) {
    const int width = panels * LANES;
    vi sum[MR][PANELS * LANES];
    const int64_t step = t->step, w_panel = t->w_panel;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) sum[i][j] = vi_load(t->bias + j * VL);
    for (int64_t s = 0; s < t->segments; s++) {
        const char *x[(MR + 2) / 3], *w = t->w + s * t->w_segment;
        UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
            x[g] = t->x + t->segment[s] + 3 * g * step;
            __asm__("" : "+r"(x[g])); // hides how it was made: otherwise one pointer is stepped through all rows
        }
#pragma clang loop unroll(disable)
        for (int64_t k = t->words; k > 0; k--) {
            vi row[PANELS * LANES];
            UNROLL for (int j = 0; j < width; j++)
                row[j] = vi_load((const int32_t *)(w + j / LANES * w_panel) + j % LANES * VL);
            UNROLL for (int i = 0; i < rows; i++) {
                const vi word = vi_set1(*(const word_unaligned *)(x[i / 3] + i % 3 * step));
                UNROLL for (int j = 0; j < width; j++) sum[i][j] = vi_dot(sum[i][j], word, row[j]);
            }
            UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
                x[g] += 4;
                if (rows > 6) __asm__("" : "+r"(x[g])); // or else one general register a row, which are too many
            }
            w += 64;
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) vi_store(t->sums + i * panels * 16 + j * VL, sum[i][j]);
}

#define WIDE_TILE(R) static void conv_int8_wide_##R(const conv_int8_work *t) { conv_int8_tile_body(t, R, PANELS); }
EACH_ROW_COUNT(WIDE_TILE)
#define WIDE_ENTRY(R) [R] = conv_int8_wide_##R,
static const conv_int8_tile_function conv_int8_wide[MR + 1] = {EACH_ROW_COUNT(WIDE_ENTRY)};
#if PANELS > 1
#define SLIM_TILE(R) static void conv_int8_slim_##R(const conv_int8_work *t) { conv_int8_tile_body(t, R, 1); }
EACH_ROW_COUNT(SLIM_TILE)
#define SLIM_ENTRY(R) [R] = conv_int8_slim_##R,
static const conv_int8_tile_function conv_int8_slim[MR + 1] = {EACH_ROW_COUNT(SLIM_ENTRY)};
#else
#define conv_int8_slim conv_int8_wide
#endif

static void conv_int8_tile(const conv_int8_work *t, int64_t count, int64_t panels) {
    (panels == 1 ? conv_int8_slim : conv_int8_wide)[count](t);
}

#endif

#endif
