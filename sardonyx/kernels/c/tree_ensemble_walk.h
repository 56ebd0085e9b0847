// tree_ensemble_walk.h -- the body of tree_ensemble_f32 and _f64, which define REAL, KEY, NODE and what reads a node.
//
// Rows are walked in groups of LANES at a time through one tree, and a single row through TREES trees level by level: the
// walks are independent, so that the latency of one hides behind the others. A batch of rows goes chunk by chunk (keys in L1)
// through a block of trees (in L2) before the next block. The order in which a row adds up its trees is always theirs.
#include "simd.h"
#include "tree_ensemble.h"

#if TREE_WIDE
#define LANES 16
#else
#define LANES 8
#endif
#define TREES 64             // trees that a single row walks at one time
#define CHUNK_BYTES 16384    // keys of the rows that go through a tree together
#define TASK_BYTES 131072    // keys of the rows of one task
#define BLOCK_BYTES 196608   // nodes of the trees that a task's rows go through together
#define CHECK_LEVELS 12      // how often a walk looks whether all of its lanes have reached leaves
#define TASK_STEPS 40000     // steps of a walk in the smallest task
#define FEW_STEPS 600        // the same where few rows are walked: about 1 us

SX_INLINE KEY key_of(REAL value, KEY nan) {
    union { REAL real; KEY bits; } v = {.real = value + (REAL)0};
    const KEY top = (KEY)1 << (sizeof(KEY) * 8 - 1);
    return value != value ? nan : v.bits & top ? ~v.bits : v.bits | top;
}

SX_INLINE REAL real_of(KEY bits) {
    union { KEY bits; REAL real; } v = {.bits = bits};
    return v.real;
}

static inline KEY is_missing(const KEY *set, int64_t count, KEY key) {
    int64_t lo = 0;
    for (int64_t n = count; n > 1; n -= n / 2) lo += set[lo + n / 2] <= key ? n / 2 : 0;
    return count == 0 || set[lo] != key;
}

// The columns of one row, `step` keys apart.
static inline void make_keys(const tree_ensemble_args *a, const REAL *x, KEY *keys, int64_t step) {
    int64_t plain = a->columns - a->tests - 1;
    for (int64_t c = 0; c < plain; c++) keys[c * step] = key_of(x[a->sources[2 * c]], a->sources[2 * c + 1] ? 0 : ~(KEY)0);
    for (int64_t t = 0; t < a->tests; t++) {
        const int32_t *m = a->members + 4 * t;
        REAL value = x[m[0]];
        KEY missing = value != value ? !m[3] : is_missing((const KEY *)a->member_keys + m[1], m[2] - m[1], key_of(value, 0));
        keys[(plain + t) * step] = missing;
    }
    keys[(a->columns - 1) * step] = 0;
}

#if TREE_WIDE
#define WIDE_GROUPS 4        // groups of LANES rows that walk side by side: a step waits for two gathers

// Walks `groups` groups of LANES rows through the tree at `root`, each lane an index into `nodes`.
SX_INLINE void walk_wide(const NODE *nodes, const KEY *keys, int64_t width, int32_t root, int64_t depth, const int groups,
                         uint32_t *at) {
    u32x16 i[WIDE_GROUPS], lane;
    for (int l = 0; l < 16; l++) lane[l] = 4 * l;
#pragma clang loop unroll(full)
    for (int g = 0; g < groups; g++) i[g] = (uint32_t)root - (u32x16){};
#pragma clang loop unroll(disable)
    for (int64_t d = 0; d < depth; d++) {
        u32x16 moved = {};
#pragma clang loop unroll(full)
        for (int g = 0; g < groups; g++) {
            const u64x8 low = gather8_u64(nodes, __builtin_shufflevector(i[g], i[g], 0, 1, 2, 3, 4, 5, 6, 7));
            const u64x8 high = gather8_u64(nodes, __builtin_shufflevector(i[g], i[g], 8, 9, 10, 11, 12, 13, 14, 15));
#define BOTH(x, y) __builtin_shufflevector(__builtin_convertvector(x, u32x8), __builtin_convertvector(y, u32x8), 0, 1, 2, 3, 4, 5, \
                                           6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
            const u32x16 column = (BOTH(low, high) & 0xffff) * LANES + lane, key = BOTH(low >> 16, high >> 16);
            const u32x16 offset = BOTH(low >> 48, high >> 48);
#undef BOTH
            i[g] += offset - (u32x16)(key < gather16_u32(keys + g * width, column));
            moved |= offset;
        }
        if (d % CHECK_LEVELS == CHECK_LEVELS - 1 && !__builtin_reduce_or(moved)) break;
    }
#pragma clang loop unroll(full)
    for (int g = 0; g < groups; g++) *(u32x16 *)(at + g * 16) = i[g];
}
#else
SX_INLINE int all_at_leaves(const NODE *nodes, const uint64_t *i) {
    uint64_t offsets = 0;
#pragma clang loop unroll(full)
    for (int l = 0; l < LANES; l++) {
        NODE_AT(n, nodes, i[l]);
        offsets |= NODE_OFFSET(n);
    }
    return offsets == 0;
}

// Walks LANES rows through the tree at `root`.
SX_INLINE void walk(const NODE *nodes, const KEY *keys, int32_t root, int64_t depth, uint64_t *at) {
    uint64_t i[LANES];
#pragma clang loop unroll(full)
    for (int l = 0; l < LANES; l++) i[l] = (uint64_t)root;
#pragma clang loop unroll(disable)
    for (int64_t d = 0; d < depth; d++) {
#pragma clang loop unroll(full)
        for (int l = 0; l < LANES; l++) {
            NODE_AT(n, nodes, i[l]);
            i[l] = i[l] + NODE_OFFSET(n) + (NODE_KEY(n) < COLUMN(keys, n, LANES, l));
        }
        if (d % CHECK_LEVELS == CHECK_LEVELS - 1 && all_at_leaves(nodes, i)) break;
    }
#pragma clang loop unroll(full)
    for (int l = 0; l < LANES; l++) at[l] = i[l];
}
#endif

// Walks one row through `count` <= TREES trees; `leaves` gets the keys of the leaves.
static inline void walk_trees(const tree_ensemble_args *a, const KEY *keys, int64_t first, int64_t count, KEY *leaves) {
    const NODE *const nodes = a->nodes;
    uint32_t at[TREES];
    int64_t depth = 0;
    for (int64_t t = 0; t < count; t++) {
        at[t] = (uint32_t)a->roots[first + t];
        depth = a->depths[first + t] > depth ? a->depths[first + t] : depth;
    }
#pragma clang loop unroll(disable)
    for (int64_t d = 0; d < depth; d++) {
        uint64_t moved = 0;
#pragma clang loop unroll_count(8)
        for (int64_t t = 0; t < count; t++) {
            NODE_AT(n, nodes, at[t]);
            at[t] = (uint32_t)(at[t] + NODE_OFFSET(n) + (NODE_KEY(n) < COLUMN(keys, n, 1, 0)));
        }
        if (d % CHECK_LEVELS != CHECK_LEVELS - 1) continue;
        for (int64_t t = 0; t < count; t++) {
            NODE_AT(n, nodes, at[t]);
            moved |= NODE_OFFSET(n);
        }
        if (!moved) break;
    }
    for (int64_t t = 0; t < count; t++) {
        NODE_AT(n, nodes, at[t]);
        leaves[t] = NODE_KEY(n);
    }
}

SX_INLINE REAL join(int64_t aggregate, REAL sum, REAL w) {
    if (aggregate == TREE_SUM) return sum + w;
    return (aggregate == TREE_MIN ? w < sum : w > sum) ? w : sum;
}

SX_INLINE void add_leaf(const tree_ensemble_args *a, KEY leaf, REAL *sum) {
    const REAL *weights = a->weights;
    if (a->leaf == LEAF_VALUE) {
        sum[0] = join(a->aggregate, sum[0], real_of(leaf));
    } else if (a->leaf == LEAF_ROW) {
        const REAL *row = weights + (int64_t)leaf * a->targets;
        for (int64_t k = 0; k < a->targets; k++) sum[k] = join(a->aggregate, sum[k], row[k]);
    } else {
        for (int64_t e = a->starts[leaf]; e < a->starts[leaf + 1]; e++)
            sum[a->targets_of[e]] = join(a->aggregate, sum[a->targets_of[e]], weights[e]);
    }
}

static inline void clear(const tree_ensemble_args *a, REAL *sum, int64_t count) {
    REAL start = a->aggregate == TREE_SUM ? (REAL)0 : a->aggregate == TREE_MIN ? MOST : -MOST;
    for (int64_t k = 0; k < count; k++) sum[k] = start;
}

// The same for leaves that have a weight for each of `targets` sums, which stay in registers.
SX_INLINE void add_rows(const tree_ensemble_args *a, const KEY *leaves, const int targets, REAL *sum) {
    const REAL *const weights = a->weights;
    REAL total[4];
#pragma clang loop unroll(full)
    for (int k = 0; k < targets; k++) total[k] = sum[k];
    for (int64_t t = 0; t < a->trees; t++) {
#pragma clang loop unroll(full)
        for (int k = 0; k < targets; k++)
            total[k] += a->leaf == LEAF_VALUE ? real_of(leaves[t]) : weights[(int64_t)leaves[t] * targets + k];
    }
#pragma clang loop unroll(full)
    for (int k = 0; k < targets; k++) sum[k] = total[k];
}

// Adds the weights of all leaves of a row, in the order of the trees.
static inline void add_leaves(const tree_ensemble_args *a, const KEY *leaves, REAL *sum) {
    const int plain = a->aggregate == TREE_SUM && a->leaf != LEAF_LIST;
    switch (plain ? a->targets : 0) {
    case 1: add_rows(a, leaves, 1, sum); return;
    case 2: add_rows(a, leaves, 2, sum); return;
    case 3: add_rows(a, leaves, 3, sum); return;
    case 4: add_rows(a, leaves, 4, sum); return;
    }
    for (int64_t t = 0; t < a->trees; t++) add_leaf(a, leaves[t], sum);
}

// Rows lo..hi through trees first..last; keys and sums of the groups of LANES rows are given.
static inline void run_chunk(const tree_ensemble_args *a, int64_t groups, int64_t first, int64_t last, const KEY *keys, REAL *sums) {
    const NODE *nodes = a->nodes;
    const int64_t width = a->columns * LANES;
    for (int64_t t = first; t < last; t++) {
        for (int64_t g = 0, many; g < groups; g += many) {
            const KEY *k = keys + g * width;
            REAL *sum = sums + g * LANES * a->targets;
#if TREE_WIDE
            uint32_t at[WIDE_GROUPS * LANES] __attribute__((aligned(64)));
            many = groups - g >= WIDE_GROUPS ? WIDE_GROUPS : 1;
            if (many == 1) walk_wide(nodes, k, width, a->roots[t], a->depths[t], 1, at);
            else walk_wide(nodes, k, width, a->roots[t], a->depths[t], WIDE_GROUPS, at);
#else
            uint64_t at[LANES];
            many = 1;
            walk(nodes, k, a->roots[t], a->depths[t], at);
#endif
            for (int l = 0; l < many * LANES; l++) {
                NODE_AT(n, nodes, at[l]);
                add_leaf(a, NODE_KEY(n), sum + l * a->targets);
            }
        }
    }
}

static inline int64_t row_bytes(const tree_ensemble_args *a) { return a->columns * (int64_t)sizeof(KEY); }

// Rows of a task, a multiple of LANES.
static inline int64_t task_rows(const tree_ensemble_args *a) {
    const int64_t steps = a->steps + 1;
    int64_t rows = (a->rows + 15) / 16, most = TASK_BYTES / row_bytes(a);
    if (rows < TASK_STEPS / steps) rows = TASK_STEPS / steps;
    if (rows > most) rows = most;
    return rows < LANES ? LANES : rows / LANES * LANES;
}

static inline void run_rows(const tree_ensemble_args *a, int64_t lo, int64_t hi, void *scratch) {
    int64_t groups = (hi - lo + LANES - 1) / LANES, width = a->columns * LANES;
    KEY *keys = scratch;
    REAL *sums = (REAL *)(keys + groups * width);
    for (int64_t row = lo; row < lo + groups * LANES; row++) {
        int64_t g = (row - lo) / LANES, l = (row - lo) % LANES;
        int64_t from = row < hi ? row : hi - 1;  // lanes beyond the last row repeat it
        make_keys(a, (const REAL *)a->x + from * a->features, keys + g * width + l, LANES);
    }
    clear(a, sums, groups * LANES * a->targets);
    int64_t chunk = CHUNK_BYTES / (row_bytes(a) * LANES);
    chunk = chunk < 1 ? 1 : chunk;
    for (int64_t first = 0, last; first < a->trees; first = last) {
        for (last = first + 1; last < a->trees; last++)
            if ((a->roots[last + 1] - a->roots[first]) * (int64_t)sizeof(NODE) > BLOCK_BYTES) break;
        for (int64_t g = 0; g < groups; g += chunk)
            run_chunk(a, groups - g < chunk ? groups - g : chunk, first, last, keys + g * width, sums + g * LANES * a->targets);
    }
    REAL *y = (REAL *)a->y + lo * a->targets;
    for (int64_t i = 0; i < (hi - lo) * a->targets; i++) y[i] = sums[i];
}

static inline int64_t ensemble_tasks(const tree_ensemble_args *a) {
    return a->rows <= TREE_FEW_ROWS ? 1 : (a->rows + task_rows(a) - 1) / task_rows(a);
}

static inline int64_t ensemble_scratch(const tree_ensemble_args *a) {
    if (a->rows <= TREE_FEW_ROWS) return 0;
    int64_t rows = (task_rows(a) + LANES - 1) / LANES * LANES;
    return rows * (row_bytes(a) + a->targets * (int64_t)sizeof(REAL));
}

static inline void run_ensemble(const tree_ensemble_args *a, int64_t lo, int64_t hi, void *scratch) {
    if (a->rows <= TREE_FEW_ROWS) {
        clear(a, a->y, a->rows * a->targets);
        for (int64_t row = 0; row < a->rows; row++)
            add_leaves(a, (const KEY *)a->leaves + row * a->trees, (REAL *)a->y + row * a->targets);
        return;
    }
    int64_t rows = task_rows(a);
    for (int64_t task = lo; task < hi; task++) {
        int64_t end = (task + 1) * rows;
        run_rows(a, task * rows, end < a->rows ? end : a->rows, scratch);
    }
}

// Of few rows: a task has some of the trees, a multiple of 8.
static inline int64_t task_trees(const tree_ensemble_args *a) {
    int64_t trees = a->trees * FEW_STEPS / (a->rows * a->steps + 1) / 8 * 8;
    return trees < 8 ? 8 : trees;
}

static inline int64_t leaves_tasks(const tree_ensemble_args *a) {
    if (a->rows == 0 || a->rows > TREE_FEW_ROWS) return 0;
    return (a->trees + task_trees(a) - 1) / task_trees(a);
}

static inline int64_t leaves_scratch(const tree_ensemble_args *a) { return row_bytes(a); }

static inline void run_leaves(const tree_ensemble_args *a, int64_t lo, int64_t hi, void *scratch) {
    const int64_t trees = task_trees(a), end = hi * trees < a->trees ? hi * trees : a->trees;
    for (int64_t row = 0; row < a->rows; row++) {
        make_keys(a, (const REAL *)a->x + row * a->features, scratch, 1);
        for (int64_t t = lo * trees; t < end; t += TREES)
            walk_trees(a, scratch, t, end - t < TREES ? end - t : TREES, (KEY *)a->leaves + row * a->trees + t);
    }
}
