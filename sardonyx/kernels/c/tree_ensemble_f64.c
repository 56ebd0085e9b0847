// tree_ensemble_f64.c -- see tree_ensemble.h for what is computed, tree_ensemble_walk.h for how.
#include "tree_ensemble_f64.h"

#define REAL double
#define MOST 0x1.fffffffffffffp1023
#define KEY uint64_t
#define NODE tree_node_f64
#define FUNCTION(suffix) tree_ensemble_f64##suffix
#define NODE_AT(n, nodes, i) const tree_node_f64 *n = (nodes) + (i)
#define NODE_KEY(n) ((n)->key)
#define NODE_OFFSET(n) ((n)->offset)
#define COLUMN(keys, n, step, lane) ((keys)[(int64_t)(n)->column * (step) + (lane)])

#include "tree_ensemble_walk.h"
