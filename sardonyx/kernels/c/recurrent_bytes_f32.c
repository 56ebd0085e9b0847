// recurrent_bytes_f32 -- LSTM, GRU and RNN in float with weights of bytes, which become floats in registers.
//
// A register of 16 weights takes a conversion in two steps and a product with its scales beside the fused multiply-add: 2 cycles
// for one row, which is what L2 takes to give 16 floats. So it pays where floats would not fit L2.
#include "recurrent_bytes_f32.h"

#define REAL float
#define OF(name) name##_f32
#define fma1_f32 fma1
#define ROWS 4
#define NAME_ARGS recurrent_bytes_f32_args
#include "recurrent_cell.h"

#include "recurrent_panels.h"

// Tunables. Registers: R * P * LANES for sums, P * LANES for scales, LANES for weights, 1 for h.
#define LANES (16 / VL)
#if VL == 16
#define MR 9
#define WIDE(R) ((R) <= 4 ? 4 : 2)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#elif VL == 8
#define MR 4
#define WIDE(R) ((R) == 1 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4)
#elif VREGS == 32
#define MR 4
#define WIDE(R) ((R) == 1 ? 2 : 1)
#define EACH_ROW_COUNT(X) X(1) X(2) X(3) X(4)
#else
#define MR 1
#define WIDE(R) 1
#define EACH_ROW_COUNT(X) X(1)
#endif

typedef struct {
    const float *h;
    int64_t h_row;
    const int8_t *b; // panel p at b[p * 16 * k]
    const float *scales;
    float *c;
    int64_t c_row, k;
} bytes_tile;

typedef void (*bytes_tile_function)(const bytes_tile *);

#define UNROLL _Pragma("clang loop unroll(full)")

SX_INLINE vf weights_of(const int8_t *b) {
    typedef int8_t bytes __attribute__((vector_size(VL), aligned(1), may_alias));
    return __builtin_convertvector(__builtin_convertvector(*(const bytes *)b, vi), vf);
}

SX_INLINE void bytes_tile_body(const bytes_tile *t, const int rows, const int panels) {
    const int width = panels * LANES;
    vf sum[MR][4 * LANES], scale[4 * LANES];
    const int64_t h_row = t->h_row, panel = 16 * t->k;
    const int8_t *b = t->b;
    UNROLL for (int j = 0; j < width; j++) scale[j] = v_load(t->scales + j * VL);
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) sum[i][j] = v_load(t->c + i * t->c_row + j * VL);
    const float *h[(MR + 2) / 3];
    UNROLL for (int g = 0; g < (rows + 2) / 3; g++) {
        h[g] = t->h + 3 * g * h_row;
        __asm__("" : "+r"(h[g])); // hides how it was made: otherwise one pointer is stepped through all rows
    }
#pragma clang loop unroll(disable)
    for (int64_t k = t->k; k > 0; k--) {
        UNROLL for (int j = 0; j < width; j++) {
            const vf y = weights_of(b + j / LANES * panel + j % LANES * VL) * scale[j];
            UNROLL for (int i = 0; i < rows; i++) sum[i][j] = SX_FMA(v_set1(h[i / 3][i % 3 * h_row]), y, sum[i][j]);
        }
        UNROLL for (int g = 0; g < (rows + 2) / 3; g++) h[g]++;
        b += 16;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < width; j++) v_store(t->c + i * t->c_row + j * VL, sum[i][j]);
}

#define WIDE_TILE(R) static void bytes_tile_wide_##R(const bytes_tile *t) { bytes_tile_body(t, R, WIDE(R)); }
#define SLIM_TILE(R) static void bytes_tile_slim_##R(const bytes_tile *t) { bytes_tile_body(t, R, 1); }
EACH_ROW_COUNT(WIDE_TILE)
EACH_ROW_COUNT(SLIM_TILE)
#define WIDE_ENTRY(R) [R] = bytes_tile_wide_##R,
#define SLIM_ENTRY(R) [R] = bytes_tile_slim_##R,
static const bytes_tile_function bytes_wide_tiles[MR + 1] = {EACH_ROW_COUNT(WIDE_ENTRY)};
static const bytes_tile_function bytes_slim_tiles[MR + 1] = {EACH_ROW_COUNT(SLIM_ENTRY)};

static void run_tile(const void *product, panel_tile at) {
    bytes_tile t = *(const bytes_tile *)product;
    t.h += at.row * t.h_row;
    t.b += at.panel * 16 * t.k;
    t.scales += at.panel * 16;
    t.c += at.row * t.c_row + at.panel * 16;
    (at.wide > 1 ? bytes_wide_tiles : bytes_slim_tiles)[at.rows](&t);
}

static void multiply(const task_t *t, const float *h, int64_t h_row, int64_t first, int64_t count, float *c) {
    static const int8_t widths[MR + 1] = {
#define WIDTH_ENTRY(R) [R] = WIDE(R),
        EACH_ROW_COUNT(WIDTH_ENTRY)};
    const int64_t column = t->direction * t->gates + first * 16;
    const bytes_tile whole = {.h = h, .h_row = h_row, .b = t->a->recurrent + column * t->a->hidden, .k = t->a->hidden,
                              .scales = t->a->scales + column, .c = c, .c_row = t->gates};
    each_panel_tile(t->rows, MR, widths, count, t->step & 1, &whole, run_tile);
}

int64_t recurrent_bytes_f32_tasks(const recurrent_bytes_f32_args *args) { return task_count(args); }
int64_t recurrent_bytes_f32_scratch(const recurrent_bytes_f32_args *args) { return scratch_bytes(args); }
void recurrent_bytes_f32(const void *args, int64_t lo, int64_t hi, void *scratch) { run_tasks(args, lo, hi, scratch); }
