// tree_ensemble_f32.c -- see tree_ensemble.h for what is computed, tree_ensemble_walk.h for how.
#include "tree_ensemble_f32.h"

#include "tree_node_f32.h"

int64_t tree_ensemble_f32_tasks(const tree_ensemble_f32_args *a) { return ensemble_tasks(a); }
int64_t tree_ensemble_f32_scratch(const tree_ensemble_f32_args *a) { return ensemble_scratch(a); }
void tree_ensemble_f32(const void *args, int64_t lo, int64_t hi, void *scratch) { run_ensemble(args, lo, hi, scratch); }
