// attention_f32 -- out[i] = sum over j of p[j] v[j] / sum(p), p[j] = exp(s[j] - max(s)), s[j] = scale * q[i] k[j] + mask.
//
//   task    a block of queries of one head
//   block   scores of all keys in scratch, some panels of keys at a time; softmax row by row; then times v
//
// Sums over depth and over keys are sequential with SX_FMA; that of p runs in 16 lanes (key j in lane j % 16), folded 8,
// 4, 2, 1. How queries are cut into blocks depends on shapes alone. So no bit depends on threads, tile or ISA.
#include "attention_f32.h"

#include "elementary.h"
#include "matmul_pack.h"
#include "matmul_panels.h"

// Tunables.
#define BLOCK_FLOATS (64 << 10) // scores of a block: with the packed panels they stay in L2
#define MOST_QUERIES 128
#define LEAST_QUERIES 16
#define SOFTMAX_ROWS 16 // rows of scores that stay in L1 between the two halves of a softmax
#define PACKED_FLOATS (4 << 10) // keys (values) that are packed at once stay in L1

#define INFINITY_F32 __builtin_inff()

SX_INLINE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
SX_INLINE int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
SX_INLINE int64_t whole_lanes(int64_t n) { return (n + 15) / 16 * 16; }
// Floats from one row of scores to the next: an odd number of cache lines, so that rows fall on different sets.
SX_INLINE int64_t pitch_of(int64_t keys) { return whole_lanes(keys) | 16; }
SX_INLINE int64_t blocks_for(int64_t n, int64_t size) { return (n + size - 1) / size; }

static int64_t query_blocks(const attention_f32_args *a) {
    const int64_t fit = BLOCK_FLOATS / pitch_of(a->keys) / LEAST_QUERIES * LEAST_QUERIES;
    return most(1, blocks_for(a->queries, most(LEAST_QUERIES, least(MOST_QUERIES, fit))));
}
static int64_t block_rows(const attention_f32_args *a) { return blocks_for(a->queries, query_blocks(a)); }

// Keys whose panels are packed at once, and values likewise.
static int64_t keys_at_once(const attention_f32_args *a) {
    return most(4, PACKED_FLOATS / 16 / most(a->depth, 1)) * 16;
}
static int64_t values_at_once(const attention_f32_args *a) {
    return most(16, PACKED_FLOATS / most(whole_lanes(a->width), 1));
}
static int64_t packed_floats(const attention_f32_args *a) {
    const int64_t keys = least(keys_at_once(a), whole_lanes(a->keys)) * a->depth;
    const int64_t values = least(values_at_once(a), a->keys) * whole_lanes(a->width);
    return most(keys, values);
}

// Numbers, NaN if one of a pair is.
SX_INLINE f32x16 max_lanes(f32x16 x, f32x16 y) {
    const i32x16 larger = (y > x) | (y != y);
    return (f32x16)(((i32x16)y & larger) | ((i32x16)x & ~larger));
}

// Folds 16 lanes 8, 4, 2, 1.
#define ROTATED(x, n) __builtin_shufflevector(x, x, (n) & 15, (1 + (n)) & 15, (2 + (n)) & 15, (3 + (n)) & 15, (4 + (n)) & 15, \
                                              (5 + (n)) & 15, (6 + (n)) & 15, (7 + (n)) & 15, (8 + (n)) & 15, (9 + (n)) & 15,  \
                                              (10 + (n)) & 15, (11 + (n)) & 15, (12 + (n)) & 15, (13 + (n)) & 15,              \
                                              (14 + (n)) & 15, (15 + (n)) & 15)
SX_INLINE float fold_sum(f32x16 x) {
    x += ROTATED(x, 8);
    x += ROTATED(x, 4);
    x += ROTATED(x, 2);
    x += ROTATED(x, 1);
    return x[0];
}
SX_INLINE float fold_max(f32x16 x) {
    x = max_lanes(x, ROTATED(x, 8));
    x = max_lanes(x, ROTATED(x, 4));
    x = max_lanes(x, ROTATED(x, 2));
    x = max_lanes(x, ROTATED(x, 1));
    return x[0];
}

// The largest of `n` values (whole lanes), NaN if one is.
static float row_max(const float *x, int64_t n) {
    f32x16 top = set16(-INFINITY_F32);
    for (int64_t i = 0; i < n; i += 16) top = max_lanes(top, load16(x + i));
    return fold_max(top);
}

static float exp_and_sum(float *x, int64_t n, float top) {
    f32x16 sum = {};
    for (int64_t i = 0; i < n; i += 16) {
        SX_EACH_LANE
        for (int64_t l = i; l < i + 16; l++) x[l] = exp_negative_f32(x[l] - top);
        sum += load16(x + i);
    }
    return fold_sum(sum);
}

// s * scale + mask (NULL: none), which rounds twice, for `keys` scores, -inf up to `n`; the largest, all in one pass.
static float plain_scores(float *s, float scale, const float *mask, int64_t keys, int64_t n) {
    const int64_t whole = keys / 16 * 16;
    f32x16 top = set16(-INFINITY_F32);
    for (int64_t j = 0; j < whole; j += 16) {
        f32x16 x = load16(s + j) * scale;
        if (mask) x += load16(mask + j);
        store16(s + j, x);
        top = max_lanes(top, x);
    }
    if (whole == n) return fold_max(top);
    for (int64_t j = whole; j < keys; j++) s[j] = mask ? s[j] * scale + mask[j] : s[j] * scale;
    for (int64_t j = keys; j < n; j++) s[j] = -INFINITY_F32;
    return fold_max(max_lanes(top, load16(s + whole)));
}

// s * scale + mask, which rounds twice.
static void scale_and_mask(float *restrict s, float scale, const float *restrict mask, int64_t n, int64_t step) {
    if (step == 1)
        for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + mask[j];
    else
        for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + mask[j * step];
}

static void copy_row(float *restrict to, const float *restrict from, int64_t n) {
    for (int64_t j = 0; j < n; j++) to[j] = from[j];
}

SX_INLINE int64_t keys_of(const attention_f32_args *a, int64_t b) {
    return a->lengths ? most(0, least(a->keys, a->lengths[b])) : a->keys;
}

// The keys lo <= j < hi that query i sees.
typedef struct {
    int64_t lo, hi;
} seen_t;

static seen_t seen_keys(const attention_f32_args *a, int64_t b, int64_t i) {
    const int64_t at = i + a->offset + (a->lengths ? a->lengths[b] - a->queries : 0);
    seen_t seen = {0, keys_of(a, b)};
    if (a->before >= 0) seen.lo = most(0, at - a->before);
    if (a->after >= 0) seen.hi = most(0, least(seen.hi, at + a->after + 1));
    return seen;
}

// Scores of query i (products with all keys) as they enter the exponentials; returns the largest. `s` has whole lanes.
static float finish_scores(const attention_f32_args *a, float *s, int64_t b, int64_t head, int64_t i, float *wanted) {
    const int64_t n = whole_lanes(a->keys);
    const float scale = *a->scale;
    const seen_t seen = seen_keys(a, b, i);
    const float *const mask = a->mask ? a->mask + b * a->mask_batch + head * a->mask_head + i * a->mask_row : 0;
    if (!wanted && !(a->softcap > 0) && seen.lo == 0 && seen.hi == a->keys && (!mask || a->mask_col == 1))
        return plain_scores(s, scale, mask, a->keys, n);
    const int plain = !mask || a->softcap > 0 || (wanted && a->stage < 2);
    if (plain)
        for (int64_t j = 0; j < a->keys; j++) s[j] *= scale;
    if (wanted && a->stage == 0) copy_row(wanted, s, a->keys);
    if (a->softcap > 0)
        for (int64_t j = 0; j < a->keys; j++) s[j] = a->softcap * tanh_f32(s[j] / a->softcap);
    if (wanted && a->stage == 1) copy_row(wanted, s, a->keys);
    if (mask) scale_and_mask(s, plain ? 1 : scale, mask, a->keys, a->mask_col);
    for (int64_t j = 0; j < least(seen.lo, n); j++) s[j] = -INFINITY_F32;
    for (int64_t j = seen.hi; j < n; j++) s[j] = -INFINITY_F32;
    if (wanted && a->stage == 2) copy_row(wanted, s, a->keys);
    return row_max(s, n);
}

// Finished scores become p; returns 1 / sum(p).
static float exponentials(const attention_f32_args *a, float *s, float top, float *wanted) {
    const int64_t n = whole_lanes(a->keys);
    const int unseen = a->zero_unseen && top == -INFINITY_F32;
    if (unseen)
        for (int64_t j = 0; j < n; j++) s[j] = 0;
    const float sum = unseen ? 1 : exp_and_sum(s, n, top);
    for (int64_t j = 0; wanted && a->stage == 3 && j < a->keys; j++) wanted[j] = s[j] / sum;
    return 1 / sum;
}

// Scores of `rows` queries from `first` become p; `inverse` takes 1 / sum(p) of each. Several rows go through one half
// and then the other, so that the folds of one row run beside those of the next.
static void softmax_rows(const attention_f32_args *a, float *scores, int64_t b, int64_t head, int64_t first, int64_t rows,
                         float *inverse) {
    const int64_t pitch = pitch_of(a->keys);
    float *const all = a->scores ? a->scores + ((b * a->heads + head) * a->queries + first) * a->keys : 0;
    for (int64_t lo = 0; lo < rows; lo += SOFTMAX_ROWS) {
        const int64_t hi = least(rows, lo + SOFTMAX_ROWS);
        for (int64_t i = lo; i < hi; i++)
            inverse[i] = finish_scores(a, scores + i * pitch, b, head, first + i, all ? all + i * a->keys : 0);
        for (int64_t i = lo; i < hi; i++)
            inverse[i] = exponentials(a, scores + i * pitch, inverse[i], all ? all + i * a->keys : 0);
    }
}

// Queries apart from each other are copied to `room`: rows 3 KB apart, as heads are mostly stored, share 16 of 64 sets of
// L1, and each is read once for every group of panels.
SX_INLINE int copies_queries(const attention_f32_args *a) { return a->q_row != a->depth && a->keys > 16 * 4; }

static matmul_view queries_of(const attention_f32_args *a, int64_t b, int64_t head, int64_t first, int64_t rows,
                              float *room) {
    const matmul_view q = {a->q + b * a->q_batch + head * a->q_head + first * a->q_row, a->q_row, a->q_col};
    return copies_queries(a) ? matmul_copy_a(q, rows, a->depth, room) : q;
}

// Scores of `rows` queries from `first`, then their outputs. Scratch: scores, packed panels, sums, outputs, queries.
static void run_block(const attention_f32_args *a, int64_t b, int64_t head, int64_t first, int64_t rows, float *scratch) {
    const int64_t n = pitch_of(a->keys), width = whole_lanes(a->width), kv_head = head / (a->heads / a->kv_heads);
    float *const packed = scratch + block_rows(a) * n, *const inverse = packed + packed_floats(a);
    float *const sums = inverse + whole_lanes(block_rows(a));
    const matmul_view q = queries_of(a, b, head, first, rows, sums + block_rows(a) * width);
    const float *const k = a->k + b * a->k_batch + kv_head * a->k_head;
    const float *const v = a->v + b * a->v_batch + kv_head * a->v_head;

    for (int64_t lo = 0, step = keys_at_once(a); lo < a->keys; lo += step) {
        const int64_t keys = least(step, a->keys - lo);
        matmul_pack_b((matmul_view){k + lo * a->k_row, a->k_col, a->k_row}, a->depth, keys, packed);
        matmul_panels((matmul_tile){.a = q.data, .a_row = q.row, .a_k = q.col, .b = packed, .b_panel = 16 * a->depth,
                               .b_k = 16, .c = scratch + lo, .c_row = n, .k = a->depth, .fresh = 1},
                 rows, blocks_for(keys, 16));
    }
    softmax_rows(a, scratch, b, head, first, rows, inverse);
    for (int64_t lo = 0, step = values_at_once(a); lo < a->keys; lo += step) {
        const int64_t keys = least(step, a->keys - lo);
        matmul_pack_b((matmul_view){v + lo * a->v_row, a->v_row, a->v_col}, keys, a->width, packed);
        matmul_panels((matmul_tile){.a = scratch + lo, .a_row = n, .a_k = 1, .b = packed, .b_panel = 16 * keys, .b_k = 16,
                               .c = sums, .c_row = width, .k = keys, .fresh = lo == 0},
                 rows, width / 16);
    }
    for (int64_t i = 0; i < rows; i++) {
        float *const out = a->out + b * a->out_batch + head * a->out_head + (first + i) * a->out_row;
        for (int64_t j = 0; j < a->width; j++) out[j] = a->keys ? sums[i * width + j] * inverse[i] : 0;
    }
}

int64_t attention_f32_tasks(const attention_f32_args *args) {
    return args->queries ? args->batch * args->heads * query_blocks(args) : 0;
}

int64_t attention_f32_scratch(const attention_f32_args *args) {
    const int64_t rows = block_rows(args), width = whole_lanes(args->width);
    const int64_t queries = copies_queries(args) ? matmul_a_copy_floats(rows, args->depth) : 0;
    const int64_t floats = rows * (pitch_of(args->keys) + width) + packed_floats(args) + whole_lanes(rows) + queries;
    return floats * (int64_t)sizeof(float);
}

void attention_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const attention_f32_args *const a = args;
    const int64_t blocks = query_blocks(a);
    for (int64_t task = lo; task < hi; task++) {
        const int64_t block = task % blocks, head = task / blocks % a->heads, b = task / blocks / a->heads;
        const int64_t first = a->queries * block / blocks, end = a->queries * (block + 1) / blocks;
        run_block(a, b, head, first, end - first, scratch);
    }
}
