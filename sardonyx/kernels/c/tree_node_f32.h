// tree_node_f32.h -- the nodes of tree_ensemble_f32 and tree_leaves_f32, for tree_ensemble_walk.h.
#ifndef SARDONYX_TREE_NODE_F32_H
#define SARDONYX_TREE_NODE_F32_H

#include "simd.h"
#include "tree_ensemble.h"

#define REAL float
#define MOST 0x1.fffffep127f
#define KEY uint32_t
#define NODE uint64_t
#define NODE_AT(n, nodes, i) const uint64_t n = (nodes)[i]
#define NODE_KEY(n) ((uint32_t)((n) >> 16))
#define NODE_OFFSET(n) ((n) >> 48)
// `step`: keys from column to column.
#define COLUMN(keys, n, step, lane) (*(const uint32_t *)((const char *)(keys) + ((n) & 0xffff) * (step) + 4 * (lane)))

// All lanes at once, where nodes and keys can be gathered.
#ifndef TREE_WIDE
#define TREE_WIDE SX_GATHER
#endif

#include "tree_ensemble_walk.h"

#endif
