// recurrent_int8 -- LSTM, GRU and RNN whose state is rounded to bytes at each step: recurrent_cell.h on exact sums.
//
//   task    a direction with all batch elements, since one range is theirs
//   step    the range of h; h as bytes; sums of a tile of panels (of the matrix's tiles, where the target has them and there
//           are rows enough), at once added to the gates as floats
//
// Sums are those of the engine's operands: sum (a - za)(b - zb) = sum a b - za * sum b - zb * sum (a - za), where a is
// moved by 128 if the dot product wants it signed, and is less its zero point already (za = 0) if it is int16.
#include "recurrent_int8.h"

#define REAL float
#define OF(name) name##_f32
#define fma1_f32 fma1
#define ROWS ((int64_t)1 << 40) // no parts
#define NAME_ARGS recurrent_int8_args
#include "recurrent_cell.h"

#include "recurrent_int8_tile.h"
#include "recurrent_panels.h"

// Tunables: where matrix tiles pay. One takes as long for a row as for 16: hidden 64 with 4 rows 0.9 times as fast as dot
// products, with 8 1.1; hidden 512 with 2 rows 1.0, with 4 1.35, with 8 1.8, with 32 1.9.
#define LEAST_TILE_ROWS 4
#define LEAST_TILE_STATE 512 // numbers of h

typedef int32_t i32x16_unaligned __attribute__((vector_size(64), aligned(4), may_alias));

typedef struct {
    float scale;
    int32_t zero;
} rounding;

// h as the tiles read it: rows `pitch` elements apart, and the sum of each row less its zero points.
typedef struct {
    element *rows;
    int32_t *sums;
    int64_t pitch;
} rounded_state;

SX_INLINE int64_t pitch_of(int64_t hidden) { return (hidden + 63) / 64 * 64; }

static rounded_state state_of(const task_t *t) {
    int32_t *const sums = t->beside;
    return (rounded_state){.rows = (element *)(sums + whole_lanes(t->rows)), .sums = sums, .pitch = pitch_of(t->a->hidden)};
}

// 16 numbers from `j` on; 0 beyond `count`.
SX_INLINE f32x16 lanes_of(const float *h, int64_t j, int64_t count) {
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const f32x16 x = load16(h + j);
    return j + 16 <= count ? x : select16(lane < (int32_t)(count - j), x, (f32x16){});
}

static rounding rounding_of(const task_t *t, const float *h, int64_t h_row) {
    f32x16 high = {}, low = {}, odd = {}; // 0 belongs to the range
    for (int64_t i = 0; i < t->rows; i++) {
        if (t->step > length_of(t->a, t->first + i)) continue;
        for (int64_t j = 0; j < t->a->hidden; j += 16) {
            const f32x16 x = lanes_of(h + i * h_row, j, t->a->hidden);
            high = select16(x > high, x, high);
            low = select16(x < low, x, low);
            odd += x * 0.0f; // NaN from NaNs and infinities
        }
    }
    float most = 0, least = 0, strange = 0;
    for (int j = 0; j < 16; j++) {
        most = high[j] > most ? high[j] : most;
        least = low[j] < least ? low[j] : least;
        strange += odd[j];
    }
    if (strange != 0) return (rounding){.scale = strange};
    const float span = most - least, scale = (span > 0 ? span : 1) / 255;
    float zero = -least / scale;
    zero = zero < 255 ? zero : 255; // a scale so small that it is rounded itself
    return (rounding){.scale = scale, .zero = (int32_t)(zero + 0x1.8p23f - 0x1.8p23f)};
}

static void round_state(const task_t *t, const float *h, int64_t h_row, rounding r) {
    const rounded_state to = state_of(t);
    const f32x16 scale = set16(r.scale);
    const i32x16 least = -r.zero - (i32x16){}, most = 255 - r.zero - (i32x16){};
    for (int64_t i = 0; i < t->rows; i++) {
        i32x16 total = {};
        for (int64_t j = 0; j < t->n; j += 16) {
            f32x16 x = lanes_of(h + i * h_row, j, t->a->hidden) / scale;
            x = select16(x > -300.0f, x, set16(-300.0f)); // NaN too
            x = select16(x < 300.0f, x, set16(300.0f));
            i32x16 words = __builtin_elementwise_min(__builtin_elementwise_max(round_words(x), least), most);
            total += words;
#if SX_DOT_GROUP == 4
            typedef uint8_t bytes __attribute__((vector_size(16), aligned(1), may_alias));
            words += r.zero - A_MOVED;
            *(bytes *)(to.rows + i * to.pitch + j) = __builtin_convertvector(words, bytes);
#else
            typedef int16_t halves __attribute__((vector_size(32), aligned(2), may_alias));
            *(halves *)(to.rows + i * to.pitch + j) = __builtin_convertvector(words, halves);
#endif
        }
        for (int64_t j = (t->a->hidden + 3) / 4 * 4; j < to.pitch; j++) to.rows[i * to.pitch + j] = 0;
        to.sums[i] = 0;
        for (int j = 0; j < 16; j++) to.sums[i] += total[j];
    }
}

typedef struct {
    quad_tile tile; // at the first row and panel
    int matrix;     // by matrix tiles
    const int32_t *column_sums, *row_sums, *zeros;
    const float *scales;
    float h_scale;
    int32_t a_zero;
    float *c;
    int64_t c_row;
} product;

SX_INLINE i32x16 sums_of_panel(const int32_t *from) {
    const i32x16_unaligned *const words = (const i32x16_unaligned *)from;
    if (SPLIT == 1) return words[0];
#define HALF(first) __builtin_shufflevector(words[0], words[1], first, first + 2, first + 4, first + 6, first + 8, first + 10, \
    first + 12, first + 14, first + 16, first + 18, first + 20, first + 22, first + 24, first + 26, first + 28, first + 30)
    return HALF(0) + HALF(1);
#undef HALF
}

static void run_tile(const void *of, panel_tile at) {
    const product *const p = of;
    int32_t sums[TILE_ROWS * MOST_WIDE * 16];
    _Static_assert(MR * SPLIT <= TILE_ROWS, "sums of a tile");
    quad_tile t = p->tile;
    t.a += at.row * t.a_row;
    t.b += at.panel * t.b_panel;
    t.sums = sums;
#if SX_TILES
    if (p->matrix)
        matrix_tile(&t, at.wide);
    else
#endif
        (at.wide > 1 ? quad_wide_tiles : quad_slim_tiles)[at.rows](&t);
    for (int64_t w = 0; w < at.wide; w++) {
        const int64_t column = (at.panel + w) * 16;
        const i32x16 of_columns = *(const i32x16_unaligned *)(p->column_sums + column) * p->a_zero;
        const i32x16 zero = p->zeros ? *(const i32x16_unaligned *)(p->zeros + column) : (i32x16){};
        const f32x16 scale = load16(p->scales + column) * p->h_scale;
        for (int64_t i = 0; i < at.rows; i++) {
            const i32x16 raw = sums_of_panel(sums + (i * at.wide + w) * 16 * SPLIT);
            const i32x16 sum = raw - of_columns - p->row_sums[at.row + i] * zero;
            float *const c = p->c + (at.row + i) * p->c_row + column;
            store16(c, SX_FMA(__builtin_convertvector(sum, f32x16), scale, load16(c)));
        }
    }
}

SX_INLINE int by_matrix_tiles(const args_t *a) {
    return SX_TILES && a->batch >= LEAST_TILE_ROWS && a->batch * a->hidden >= LEAST_TILE_STATE;
}

static void multiply(const task_t *t, const float *h, int64_t h_row, int64_t first, int64_t count, float *c) {
    static const int8_t widths[MR + 1] = {
#define WIDTH_ENTRY(R) [R] = WIDE(R),
        EACH_ROW_COUNT(WIDTH_ENTRY)};
    const args_t *const a = t->a;
    const rounding r = rounding_of(t, h, h_row);
    const rounded_state state = state_of(t);
    const int64_t quads = (a->hidden + 3) / 4, column = t->direction * t->gates + first * 16;
    round_state(t, h, h_row, r);
    const product all = {
        .matrix = by_matrix_tiles(a),
        .tile = {.a = state.rows, .a_row = state.pitch, .b = a->recurrent + column * 4 * quads, .b_panel = 64 * quads, .quads = quads},
        .column_sums = a->sums + column, .row_sums = state.sums, .scales = a->scales + column, .h_scale = r.scale,
        .zeros = a->zeros ? a->zeros + column : 0, .c = c, .c_row = t->gates,
#if SX_DOT_GROUP == 4
        .a_zero = r.zero - A_MOVED,
#endif
    };
    static const int8_t four[TILE_ROWS + 1] = {[1 ... TILE_ROWS] = TILE_PANELS};
    const int64_t most_rows = all.matrix ? TILE_ROWS : MR;
    each_panel_tile(t->rows, most_rows, all.matrix ? four : widths, count, t->step & 1, &all, run_tile);
}

int64_t recurrent_int8_tasks(const recurrent_int8_args *args) { return task_count(args); }
int64_t recurrent_int8_scratch(const recurrent_int8_args *args) {
    const int64_t elements = whole_lanes(slice_rows(args)) * pitch_of(args->hidden); // whole tiles
    return scratch_bytes(args) + whole_lanes(slice_rows(args)) * (int64_t)sizeof(int32_t) + elements * (int64_t)sizeof(element);
}
void recurrent_int8(const void *args, int64_t lo, int64_t hi, void *scratch) {
#if SX_TILES
    if (by_matrix_tiles(args)) tiles_begin((const uint8_t[8]){0}); // 16 rows each
#endif
    run_tasks(args, lo, hi, scratch);
#if SX_TILES
    if (by_matrix_tiles(args)) tiles_end();
#endif
}
