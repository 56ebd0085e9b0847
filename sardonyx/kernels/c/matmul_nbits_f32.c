// matmul_nbits_f32 -- C[i,j] = sum over k of A[i,k] * (q[k,j] - zero) * scale, then the epilogue.
//
//   task   a block of rows x a run of panels (16 columns)
//   few rows    numbers become floats in registers, where they are multiplied at once: W is read as it is stored
//   more rows   groups of panels become floats in scratch, KC rows at a time, for the tiles of matmul_f32
//
// With one row the time is that of reading W, where a register of 16 numbers takes no more than 2 cycles: shift, look up,
// scale, multiply (AVX-512); elsewhere mask, convert and subtract take the place of the look-up.
#include "matmul_nbits_f32.h"

#include "matmul_panels.h"

// Tunables.
#define KC 256               // rows of W in scratch, a multiple of 8
#define GROUP 4              // panels in scratch: 64 KB, in L2
#define MOST_ROWS 512        // of a task
#define TASK_WORK (1 << 19)  // products that are worth a task
#define FEW_ROWS 4           // up to these W is not written to scratch: its floats would be read as often as written
#if VL == 16
#define FEW_PANELS(R) ((R) <= 2 ? 4 : 2)
#else
#define FEW_PANELS(R) 1
#endif

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

typedef struct {
    int64_t row_blocks, col_blocks, panels;
} nbits_plan;

static nbits_plan plan_of(const matmul_nbits_f32_args *g) {
    nbits_plan plan = {.row_blocks = ceil_div(g->m, MOST_ROWS), .panels = ceil_div(g->n, 16)};
    const int64_t wanted = most(1, least(64, most(g->m, 4) * g->n * most(g->k, 1) / TASK_WORK));
    plan.col_blocks = most(1, least(ceil_div(plan.panels, GROUP), wanted / most(plan.row_blocks, 1)));
    return plan;
}

// Number `i` of each word, less its zero point, as a float.
SX_INLINE vf number_of(vi word, int i, const int bits, int has_zero, vf zero) {
    vf x;
    if (bits == 4)
        x = v_signed_nibble(word >> (4 * i));
    else
        x = __builtin_convertvector(word << (24 - 8 * i) >> 24, vf);
    return has_zero ? x - zero : x;
}

// `rows` <= FEW_ROWS rows of A times `panels` panels, all of K.
SX_INLINE void few_body(const matmul_nbits_f32_args *g, const float *a, int64_t panel, float *c, int64_t c_row, const int rows,
                        const int panels, const int bits) {
    const int width = panels * LANES, per = 32 / bits;
    const int64_t words = ceil_div(g->k, per), blocks = ceil_div(g->k, g->block), in_block = g->block / per;
    const int32_t *const b = g->b + panel * words * 16;
    vf sum[FEW_ROWS][4 * LANES];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int j = 0; j < width; j++) sum[r][j] = (vf){};
    for (int64_t block = 0; block < blocks; block++) {
        vf scale[4 * LANES], zero[4 * LANES];
        UNROLL for (int j = 0; j < width; j++) {
            const int64_t at = ((panel + j / LANES) * blocks + block) * 16 + j % LANES * VL;
            scale[j] = v_load(g->scales + at);
            zero[j] = g->zeros ? v_load(g->zeros + at) : (vf){};
        }
        const int64_t end = least(words, (block + 1) * in_block);
        for (int64_t w = block * in_block; w < end; w++) {
            vi word[4 * LANES];
            UNROLL for (int j = 0; j < width; j++)
                word[j] = vi_load(b + (j / LANES * words + w) * 16 + j % LANES * VL);
            const float *const x = a + w * per;
            const int64_t count = least(per, g->k - w * per);
#define ONE_NUMBER(i, has_zero)                                                                       \
            UNROLL for (int j = 0; j < width; j++) {                                                  \
                const vf y = number_of(word[j], i, bits, has_zero, zero[j]) * scale[j];               \
                UNROLL for (int r = 0; r < rows; r++)                                                 \
                    sum[r][j] = SX_FMA(v_set1(x[r * g->a_row + i]), y, sum[r][j]);                    \
            }
            if (count == per && !g->zeros) {
                UNROLL for (int i = 0; i < per; i++) { ONE_NUMBER(i, 0) }
            } else if (count == per) {
                UNROLL for (int i = 0; i < per; i++) { ONE_NUMBER(i, 1) }
            } else {
                for (int i = 0; i < count; i++) { ONE_NUMBER(i, 1) }
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int j = 0; j < width; j++) v_store(c + r * c_row + j * VL, sum[r][j]);
}

typedef void (*few_function)(const matmul_nbits_f32_args *, const float *, int64_t, float *, int64_t);
#define FEW(R, P, name)                                                                                              \
    static void name##_4(const matmul_nbits_f32_args *g, const float *a, int64_t panel, float *c, int64_t c_row) {   \
        few_body(g, a, panel, c, c_row, R, P, 4);                                                                    \
    }                                                                                                                \
    static void name##_8(const matmul_nbits_f32_args *g, const float *a, int64_t panel, float *c, int64_t c_row) {   \
        few_body(g, a, panel, c, c_row, R, P, 8);                                                                    \
    }
#define FEW_OF(R) FEW(R, FEW_PANELS(R), few_wide_##R) FEW(R, 1, few_slim_##R)
FEW_OF(1) FEW_OF(2) FEW_OF(3) FEW_OF(4)
static const few_function few_wide[2][FEW_ROWS + 1] = {
    {0, few_wide_1_4, few_wide_2_4, few_wide_3_4, few_wide_4_4}, {0, few_wide_1_8, few_wide_2_8, few_wide_3_8, few_wide_4_8}};
static const few_function few_slim[2][FEW_ROWS + 1] = {
    {0, few_slim_1_4, few_slim_2_4, few_slim_3_4, few_slim_4_4}, {0, few_slim_1_8, few_slim_2_8, few_slim_3_8, few_slim_4_8}};

static void run_few(const matmul_nbits_f32_args *g, int64_t row, int64_t rows, int64_t lo, int64_t hi) {
    static const int8_t widths[FEW_ROWS + 1] = {0, FEW_PANELS(1), FEW_PANELS(2), FEW_PANELS(3), FEW_PANELS(4)};
    const float *const a = g->a + row * g->a_row;
    float *const c = g->c + row * g->c_row;
    for (int64_t panel = lo; panel < hi;) {
        const int64_t wide = hi - panel >= widths[rows] && (panel + widths[rows]) * 16 <= g->n ? widths[rows] : 1;
        const few_function run = (wide > 1 ? few_wide : few_slim)[g->bits == 8][rows];
        const int64_t columns = g->n - panel * 16;
        if (columns >= 16) {
            run(g, a, panel, c + panel * 16, g->c_row);
        } else { // the columns beyond N are not C's
            float beside[FEW_ROWS * 16];
            run(g, a, panel, beside, 16);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < columns; j++) c[i * g->c_row + panel * 16 + j] = beside[i * 16 + j];
        }
        panel += wide;
    }
}

// Rows lo .. hi of a panel of W as floats.
static void widen_panel(const matmul_nbits_f32_args *g, int64_t panel, int64_t lo, int64_t hi, float *to) {
    const int64_t per = 32 / g->bits, words = ceil_div(g->k, per), blocks = ceil_div(g->k, g->block);
    for (int64_t w = lo / per; w * per < hi; w++) {
        const int64_t at = (panel * blocks + w * per / g->block) * 16, count = least(per, hi - w * per);
        float *const out = to + (w * per - lo) * 16;
        for (int j = 0; j < LANES; j++) {
            const vi word = vi_load(g->b + (panel * words + w) * 16 + j * VL);
            const vf scale = v_load(g->scales + at + j * VL), zero = g->zeros ? v_load(g->zeros + at + j * VL) : (vf){};
            if (g->bits == 4)
                for (int i = 0; i < count; i++) v_store(out + i * 16 + j * VL, number_of(word, i, 4, 1, zero) * scale);
            else
                for (int i = 0; i < count; i++) v_store(out + i * 16 + j * VL, number_of(word, i, 8, 1, zero) * scale);
        }
    }
}

static void run_many(const matmul_nbits_f32_args *g, int64_t row, int64_t rows, int64_t lo, int64_t hi, float *scratch) {
    float *const beside = scratch + GROUP * KC * 16;
    for (int64_t panel = lo; panel < hi; panel += GROUP) {
        const int64_t panels = least(GROUP, hi - panel), columns = least(panels * 16, g->n - panel * 16);
        float *const own = g->c + row * g->c_row + panel * 16;
        const int whole = columns == panels * 16;
        for (int64_t k = 0; k == 0 || k < g->k; k += KC) {
            const int64_t depth = least(KC, g->k - k);
            for (int64_t p = 0; p < panels; p++) widen_panel(g, panel + p, k, k + depth, scratch + p * depth * 16);
            matmul_panels((matmul_tile){.a = g->a + row * g->a_row + k, .a_row = g->a_row, .a_k = 1, .b = scratch,
                                   .b_panel = 16 * depth, .b_k = 16, .c = whole ? own : beside,
                                   .c_row = whole ? g->c_row : GROUP * 16, .k = depth, .fresh = k == 0},
                          rows, panels, NULL);
        }
        for (int64_t i = 0; i < rows && !whole; i++)
            for (int64_t j = 0; j < columns; j++) own[i * g->c_row + j] = beside[i * GROUP * 16 + j];
    }
}

int64_t matmul_nbits_f32_tasks(const matmul_nbits_f32_args *args) {
    const nbits_plan plan = plan_of(args);
    return args->n ? plan.row_blocks * plan.col_blocks : 0;
}

int64_t matmul_nbits_f32_scratch(const matmul_nbits_f32_args *args) {
    if (args->m <= FEW_ROWS) return 0;
    return (GROUP * KC * 16 + least(args->m, MOST_ROWS) * GROUP * 16) * (int64_t)sizeof(float);
}

void matmul_nbits_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const matmul_nbits_f32_args *const g = args;
    const nbits_plan plan = plan_of(g);
    for (int64_t task = lo; task < hi; task++) {
        const int64_t of_rows = task % plan.row_blocks, of_cols = task / plan.row_blocks;
        const int64_t first = g->m * of_rows / plan.row_blocks, end = g->m * (of_rows + 1) / plan.row_blocks;
        const int64_t from = plan.panels * of_cols / plan.col_blocks, to = plan.panels * (of_cols + 1) / plan.col_blocks;
        if (end - first <= FEW_ROWS)
            run_few(g, first, end - first, from, to);
        else
            run_many(g, first, end - first, from, to, scratch);
        if (g->epilogue) g->epilogue(g->operands, g->dims, 0, 0, first, end, from * 16, least(g->n, to * 16));
    }
}
