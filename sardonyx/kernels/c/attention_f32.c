// attention_f32 -- out[i] = sum over j of p[j] v[j] / sum(p), p[j] = exp(s[j] - max(s)), s[j] = scale * q[i] k[j] + mask.
//
//   task    a block of queries of one head
//   block   scores of all keys in scratch, some panels of keys at a time; softmax, some rows side by side; then times v;
//           what the next block reads is fetched meanwhile (1.07 times as fast: it comes from L3 where the model is large)
//
// Sums over depth and over keys are sequential with SX_FMA; that of p runs in 16 lanes (key j in lane j % 16), folded 8,
// 4, 2, 1. How queries are cut into blocks depends on shapes alone. So no bit depends on threads, tile or ISA.
#include "attention_f32.h"

#include "elementary.h"
#include "matmul_pack.h"
#define MATMUL_AHEAD 2
#include "matmul_panels.h"

// Tunables.
#define BLOCK_FLOATS (128 << 10) // scores of a block stay in L2; with half of it, 1500 keys were packed so often: 0.91 times
#define MOST_QUERIES 128
#define LEAST_QUERIES 16
#define SIDE (VL == 16 ? 8 : VL == 8 ? 2 : 1) // rows of scores that go through a softmax side by side
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

// The larger of each pair; x where y is NaN (one instruction of x86).
SX_INLINE f32x16 max_lanes(f32x16 x, f32x16 y) {
    const i32x16 larger = y > x;
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

// The largest of `n` values (whole lanes) but for NaNs.
static float row_max(const float *x, int64_t n) {
    f32x16 top = set16(-INFINITY_F32);
    for (int64_t i = 0; i < n; i += 16) top = max_lanes(top, load16(x + i));
    return fold_max(top);
}

static int holds_nan(const float *x, int64_t n) {
    int found = 0;
    for (int64_t i = 0; i < n; i++) found |= x[i] != x[i];
    return found;
}

// Finished scores of `rows` rows, `pitch` apart, become p = exp(s - top); `sums` (at first top) takes the sum of each row.
// Rows go side by side: where keys are few, ends of loops and folds take as long as half of the arithmetic.
SX_INLINE void exponentials(float *s, int64_t pitch, int64_t n, float *sums, const int rows) {
    f32x16 sum[SIDE] = {};
    for (int64_t i = 0; i < n; i += 16)
        UNROLL for (int r = 0; r < rows; r++) {
            float *const x = s + r * pitch + i;
            SX_EACH_LANE
            for (int l = 0; l < 16; l++) x[l] = exp_negative_f32(x[l] - sums[r]);
            sum[r] += load16(x);
        }
    UNROLL for (int r = 0; r < rows; r++) sums[r] = fold_sum(sum[r]);
}

// Products of `rows` rows with `keys` keys become s * scale + mask (NULL: none), which rounds twice, and -inf up to `n`;
// `top` takes the largest of each row.
SX_INLINE void plain_scores(float *s, int64_t pitch, float scale, const float *mask, int64_t mask_row, int64_t keys,
                            int64_t n, float *top, const int rows) {
    const int64_t whole = keys / 16 * 16;
    f32x16 most[SIDE];
    UNROLL for (int r = 0; r < rows; r++) most[r] = set16(-INFINITY_F32);
    for (int64_t j = 0; j < whole; j += 16)
        UNROLL for (int r = 0; r < rows; r++) {
            f32x16 x = load16(s + r * pitch + j) * scale;
            if (mask) x += load16(mask + r * mask_row + j);
            store16(s + r * pitch + j, x);
            most[r] = max_lanes(most[r], x);
        }
    UNROLL for (int r = 0; r < rows && whole < n; r++) {
        float *const x = s + r * pitch;
        for (int64_t j = whole; j < n; j++)
            x[j] = j >= keys ? -INFINITY_F32 : mask ? x[j] * scale + mask[r * mask_row + j] : x[j] * scale;
        most[r] = max_lanes(most[r], load16(x + whole));
    }
    UNROLL for (int r = 0; r < rows; r++) top[r] = fold_max(most[r]);
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

static void scale_row(float *restrict to, const float *restrict from, float factor, int64_t n, int any) {
    for (int64_t j = 0; j < n; j++) to[j] = any ? from[j] * factor : 0;
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
    if (!wanted && !(a->softcap > 0) && seen.lo == 0 && seen.hi == a->keys && (!mask || a->mask_col == 1)) {
        float top;
        plain_scores(s, 0, scale, mask, 0, a->keys, n, &top, 1);
        return top;
    }
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

// A query whose scores are all -inf sees no key.
SX_INLINE int sees_none(const attention_f32_args *a, const float *s, float top) {
    return a->zero_unseen && top == -INFINITY_F32 && !holds_nan(s, whole_lanes(a->keys));
}

// Products of query i become p; returns 1 / sum(p).
static float softmax_row(const attention_f32_args *a, float *s, int64_t b, int64_t head, int64_t i, float *wanted) {
    const int64_t n = whole_lanes(a->keys);
    float sum = finish_scores(a, s, b, head, i, wanted);
    if (sees_none(a, s, sum)) {
        for (int64_t j = 0; j < n; j++) s[j] = 0;
        sum = 1;
    } else {
        exponentials(s, 0, n, &sum, 1);
    }
    for (int64_t j = 0; wanted && a->stage == 3 && j < a->keys; j++) wanted[j] = s[j] / sum;
    return 1 / sum;
}

// The same of SIDE queries from `first` that see all keys, and whose scores nobody wants.
static void softmax_side(const attention_f32_args *a, float *s, int64_t b, int64_t head, int64_t first, float *inverse) {
    const int64_t n = whole_lanes(a->keys), pitch = pitch_of(a->keys);
    const float *const mask = a->mask ? a->mask + b * a->mask_batch + head * a->mask_head + first * a->mask_row : 0;
    if (mask)
        plain_scores(s, pitch, *a->scale, mask, a->mask_row, a->keys, n, inverse, SIDE);
    else
        plain_scores(s, pitch, *a->scale, 0, 0, a->keys, n, inverse, SIDE);
    int none[SIDE];
    for (int r = 0; r < SIDE; r++) none[r] = sees_none(a, s + r * pitch, inverse[r]);
    exponentials(s, pitch, n, inverse, SIDE);
    for (int r = 0; r < SIDE; r++) {
        for (int64_t j = 0; none[r] && j < n; j++) s[r * pitch + j] = 0;
        inverse[r] = none[r] ? 1 : 1 / inverse[r];
    }
}

// Products of `rows` queries from `first` become p; `inverse` takes 1 / sum(p) of each.
static void softmax_rows(const attention_f32_args *a, float *scores, int64_t b, int64_t head, int64_t first, int64_t rows,
                         float *inverse) {
    const int64_t pitch = pitch_of(a->keys);
    float *const all = a->scores ? a->scores + ((b * a->heads + head) * a->queries + first) * a->keys : 0;
    const int plain = !all && !(a->softcap > 0) && a->before < 0 && a->after < 0 && keys_of(a, b) == a->keys &&
                      (!a->mask || a->mask_col == 1);
    int64_t i = 0;
    for (; plain && i + SIDE <= rows; i += SIDE) softmax_side(a, scores + i * pitch, b, head, first + i, inverse + i);
    for (; i < rows; i++)
        inverse[i] = softmax_row(a, scores + i * pitch, b, head, first + i, all ? all + i * a->keys : 0);
}

// Queries apart from each other are copied to `room`: rows 3 KB apart, as heads are mostly stored, share 16 of 64 sets of
// L1, and each is read once for every group of panels.
SX_INLINE int copies_queries(const attention_f32_args *a) { return a->q_row != a->depth && a->keys > 16 * 4; }

// A block of queries, what it reads, and where it works: scores, packed panels, 1 / sums of p, outputs before these.
typedef struct {
    int64_t b, head, first, rows;
    matmul_view q, k, v; // [rows][depth], [depth][keys], [keys][width]
    float *scores, *packed, *inverse, *sums;
    matmul_fetch fetch;  // for the block after it
} attention_block;

static void products_with_keys(const attention_f32_args *a, attention_block *s) {
    const int64_t step = keys_at_once(a);
    for (int64_t lo = 0; lo < a->keys; lo += step) {
        const int64_t keys = least(step, a->keys - lo);
        matmul_pack_b((matmul_view){s->k.data + lo * s->k.col, s->k.row, s->k.col}, a->depth, keys, s->packed);
        matmul_panels((matmul_tile){.a = s->q.data, .a_row = s->q.row, .a_k = s->q.col, .b = s->packed,
                                    .b_panel = 16 * a->depth, .b_k = 16, .c = s->scores + lo, .c_row = pitch_of(a->keys),
                                    .k = a->depth, .fresh = 1},
                      s->rows, blocks_for(keys, 16), &s->fetch);
    }
}

static void sums_of_values(const attention_f32_args *a, attention_block *s) {
    const int64_t step = values_at_once(a), width = whole_lanes(a->width);
    for (int64_t lo = 0; lo < a->keys; lo += step) {
        const int64_t keys = least(step, a->keys - lo);
        matmul_pack_b((matmul_view){s->v.data + lo * s->v.row, s->v.row, s->v.col}, keys, a->width, s->packed);
        matmul_panels((matmul_tile){.a = s->scores + lo, .a_row = pitch_of(a->keys), .a_k = 1, .b = s->packed,
                                    .b_panel = 16 * keys, .b_k = 16, .c = s->sums, .c_row = width, .k = keys,
                                    .fresh = lo == 0},
                      s->rows, width / 16, &s->fetch);
    }
    for (int64_t i = 0; i < s->rows; i++) {
        float *const out = a->out + s->b * a->out_batch + s->head * a->out_head + (s->first + i) * a->out_row;
        scale_row(out, s->sums + i * width, s->inverse[i], a->width, a->keys > 0);
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

// Task `task`, and what of it does not lie in scratch.
static attention_block block_of(const attention_f32_args *a, int64_t task) {
    const int64_t blocks = query_blocks(a), block = task % blocks, first = a->queries * block / blocks;
    attention_block s = {.b = task / blocks / a->heads, .head = task / blocks % a->heads, .first = first};
    const int64_t kv_head = s.head / (a->heads / a->kv_heads);
    s.rows = a->queries * (block + 1) / blocks - first;
    s.q = (matmul_view){a->q + s.b * a->q_batch + s.head * a->q_head + first * a->q_row, a->q_row, a->q_col};
    s.k = (matmul_view){a->k + s.b * a->k_batch + kv_head * a->k_head, a->k_col, a->k_row};
    s.v = (matmul_view){a->v + s.b * a->v_batch + kv_head * a->v_head, a->v_row, a->v_col};
    return s;
}

// Rows that are wanted soon, where they are contiguous.
static void add_soon(matmul_fetch *fetch, const float *at, int64_t rows, int64_t row, int64_t col, int64_t width) {
    if (col != 1 || rows == 0 || width == 0) return;
    const int64_t part = fetch->parts++;
    fetch->part[part].at = (const char *)at;
    fetch->part[part].row = row * (int64_t)sizeof(float);
    fetch->part[part].rows = rows;
    fetch->part[part].lines = blocks_for(width, 16);
}

static void place_in_scratch(const attention_f32_args *a, attention_block *s, float *scratch) {
    const int64_t rows = block_rows(a);
    s->scores = scratch;
    s->packed = s->scores + rows * pitch_of(a->keys);
    s->inverse = s->packed + packed_floats(a);
    s->sums = s->inverse + whole_lanes(rows);
    if (copies_queries(a)) s->q = matmul_copy_a(s->q, s->rows, a->depth, s->sums + rows * whole_lanes(a->width));
}

void attention_f32(const void *args, int64_t lo, int64_t hi, void *scratch) {
    const attention_f32_args *const a = args;
    const int64_t tasks = attention_f32_tasks(a);
    for (int64_t task = lo; task < hi; task++) {
        attention_block s = block_of(a, task);
        const float *const out = a->out + s.b * a->out_batch + s.head * a->out_head + s.first * a->out_row;
        add_soon(&s.fetch, out, s.rows, a->out_row, 1, a->width);
        if (task + 1 < tasks) {
            const attention_block next = block_of(a, task + 1);
            add_soon(&s.fetch, next.k.data, a->keys, a->k_row, a->k_col, a->depth);
            add_soon(&s.fetch, next.v.data, a->keys, a->v_row, a->v_col, a->width);
            add_soon(&s.fetch, next.q.data, next.rows, a->q_row, a->q_col, a->depth);
        }
        place_in_scratch(a, &s, scratch);
        products_with_keys(a, &s);
        softmax_rows(a, s.scores, s.b, s.head, s.first, s.rows, s.inverse);
        sums_of_values(a, &s);
    }
}
