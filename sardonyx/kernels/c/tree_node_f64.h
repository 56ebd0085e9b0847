// tree_node_f64.h -- the nodes of tree_ensemble_f64 and tree_leaves_f64, for tree_ensemble_walk.h.
#ifndef SARDONYX_TREE_NODE_F64_H
#define SARDONYX_TREE_NODE_F64_H

#include "tree_ensemble.h"

#define TREE_WIDE 0
#define REAL double
#define MOST 0x1.fffffffffffffp1023
#define KEY uint64_t
#define NODE tree_node_f64
#define NODE_AT(n, nodes, i) const tree_node_f64 *n = (nodes) + (i)
#define NODE_KEY(n) ((n)->key)
#define NODE_OFFSET(n) ((n)->offset)
#define COLUMN(keys, n, step, lane) ((keys)[(int64_t)(n)->column * (step) + (lane)])

#include "tree_ensemble_walk.h"

#endif
