// attention_f32.h -- softmax(scale * q k' + mask) v in fp32, without the matrix of scores in memory.
#ifndef SARDONYX_ATTENTION_F32_H
#define SARDONYX_ATTENTION_F32_H

#include "sardonyx.h"

// Strides count elements and may be 0 (broadcast). Query head h reads key and value head h / (heads / kv_heads).
typedef struct {
    const float *q, *k, *v;
    int64_t q_batch, q_head, q_row, q_col;
    int64_t k_batch, k_head, k_row, k_col; // k_row: from key to key; k_col: along what is summed
    int64_t v_batch, v_head, v_row, v_col;
    const float *mask;                     // added to the scores; NULL: none
    int64_t mask_batch, mask_head, mask_row, mask_col;
    float *out;
    int64_t out_batch, out_head, out_row;  // column stride 1
    float *scores;                         // [batch][heads][queries][keys]: also wanted, at `stage`; NULL: not
    int64_t stage;                         // 0: scaled products, 1: after softcap, 2: after the mask, 3: after softmax
    const float *scale;                    // one number
    float softcap;                         // 0: none; else softcap * tanh(score / softcap), before the mask
    int64_t before, after;                 // query i sees the keys i + offset - before .. i + offset + after
    int64_t offset;                        // added to `i`; with `lengths`, also length - queries
    const int64_t *lengths;                // [batch]: keys beyond are not seen; NULL: all are
    int64_t zero_unseen;                   // a query that sees no key (all -inf) gives 0, not NaN
    int64_t batch, heads, kv_heads, queries, keys, depth, width; // depth of q and k, width of v
} attention_f32_args;

int64_t attention_f32_tasks(const attention_f32_args *args);
int64_t attention_f32_scratch(const attention_f32_args *args);
void attention_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
