// tree_leaves_f32.h -- the leaves that few rows fall to, before tree_ensemble_f32; see tree_ensemble.h.
#ifndef SARDONYX_TREE_LEAVES_F32_H
#define SARDONYX_TREE_LEAVES_F32_H

#include "tree_ensemble.h"

typedef tree_ensemble_args tree_leaves_f32_args;

int64_t tree_leaves_f32_tasks(const tree_ensemble_args *a);
int64_t tree_leaves_f32_scratch(const tree_ensemble_args *a);  // bytes for each running thread
void tree_leaves_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
