// tree_ensemble.h -- what the kernels tree_ensemble_f32 and tree_ensemble_f64 share: their arguments and layouts.
//
//   y[r][k] = sum (or minimum, maximum) over all trees, in their order, of the weights for target k at the leaf that row
//   r of x falls to.
//
// Values are compared as *keys*: unsigned integers in the order of the floats that they stand for (-0 counts as +0), so
// that a comparison and the step to a child are two integer instructions. A row is first turned into columns of keys:
//   * a feature whose NaN has the largest key (goes right) or key 0 (goes left),
//   * then the result of a test for set membership, 0 where it holds and 1 where it doesn't,
//   * last a column that is always 0.
// Column numbers, not features, are what nodes hold. An inner node goes to the node `offset` further on when its key is
// not below its column's, and to the one after that otherwise. A leaf has offset 0 and looks at the last column, so that
// a walk which has reached it stays; its key holds what the leaf is worth. A tree's nodes follow each other in order of
// depth, so the first levels share cache lines.
#ifndef SARDONYX_TREE_ENSEMBLE_H
#define SARDONYX_TREE_ENSEMBLE_H

#include "sardonyx.h"

// Few rows go through the trees in two steps: the kernel tree_leaves_f32 (_f64) finds the leaves, each task in some of
// the trees, and then tree_ensemble_f32 adds up their weights in the order of the trees, as it does with many rows.
#define TREE_FEW_ROWS 8

enum { TREE_SUM, TREE_MIN, TREE_MAX };
enum {
    LEAF_VALUE,  // the key holds the bits of the one target's weight
    LEAF_ROW,    // the key is p: a weight for each target at weights[p * targets]
    LEAF_LIST,   // the key is p: entries starts[p] up to starts[p + 1], each with a target and a weight
};

typedef struct {
    const void *x;  // [rows][features]
    void *y;        // [rows][targets]
    int64_t rows, features, targets, trees, columns;
    const void *nodes;       // f32: uint64_t, from bit 0: column * 4 16, key 32, offset 16; f64: tree_node_f64
    const int32_t *roots;    // [trees + 1]: where each tree begins; the end
    const int32_t *depths;   // [trees]: steps to the deepest leaf
    const int32_t *sources;  // [columns - tests - 1][2]: feature; 1 where NaN goes left
    int64_t tests;
    const int32_t *members;   // [tests][4]: feature; first and end of the set in `keys`, sorted; 1 where NaN is in it
    const void *member_keys;
    int64_t leaf, aggregate;  // LEAF_*, TREE_*
    const void *weights;      // float or double
    const int32_t *starts, *targets_of;
    int64_t steps;            // of a walk of one row through all trees, at most
    void *leaves;             // [rows][trees]: keys of the leaves that tree_leaves has found, if rows <= TREE_FEW_ROWS
} tree_ensemble_args;

typedef struct {
    uint64_t key;
    uint32_t offset, column;
} tree_node_f64;

#endif
