// tree_leaves_f64.h -- the leaves that few rows fall to, before tree_ensemble_f64; see tree_ensemble.h.
#ifndef SARDONYX_TREE_LEAVES_F64_H
#define SARDONYX_TREE_LEAVES_F64_H

#include "tree_ensemble.h"

typedef tree_ensemble_args tree_leaves_f64_args;

int64_t tree_leaves_f64_tasks(const tree_ensemble_args *a);
int64_t tree_leaves_f64_scratch(const tree_ensemble_args *a);  // bytes for each running thread
void tree_leaves_f64(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
