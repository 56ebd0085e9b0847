// tree_ensemble_f32.c -- see tree_ensemble.h for what is computed, tree_ensemble_walk.h for how.
#include "tree_ensemble_f32.h"

#define REAL float
#define MOST 0x1.fffffep127f
#define KEY uint32_t
#define NODE uint64_t
#define FUNCTION(suffix) tree_ensemble_f32##suffix
#define NODE_AT(n, nodes, i) const uint64_t n = (nodes)[i]
#define NODE_KEY(n) ((uint32_t)((n) >> 16))
#define NODE_OFFSET(n) ((n) >> 48)
// `step`: keys from column to column.
#define COLUMN(keys, n, step, lane) (*(const uint32_t *)((const char *)(keys) + ((n) & 0xffff) * (step) + 4 * (lane)))

#include "tree_ensemble_walk.h"
