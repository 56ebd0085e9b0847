// recurrent.h -- the interface of the recurrent_* kernels: LSTM, GRU and RNN layers after their input projection.
#ifndef SARDONYX_RECURRENT_H
#define SARDONYX_RECURRENT_H

#include "sardonyx.h"

enum { RECURRENT_RNN, RECURRENT_GRU, RECURRENT_LSTM };

// `lanes` is `hidden` rounded up to 16; what lies in lanes beyond `hidden` is 0. Strides count elements.
//
//   projected   x W' + bias, [gate][lanes] for each time, batch element and direction
//   WEIGHTS     R' of each direction, as its kernel reads it
//   rest        GRU with linear_before_reset: the recurrent bias of the hidden gate, [directions][lanes]; else NULL
//   peephole    LSTM: [directions][3][lanes] for the gates i, o, f; or NULL
//   functions   [directions][3] of {kind, alpha, beta} for the activations f, g, h (see recurrent_cell.h)
//   h0, c0      state before the first step, [hidden] each; NULL is 0
//   lengths     steps of each batch element; NULL: `time` for all. Output beyond them is 0
//   y           h after each step; y_last, c_last: state after the last one. NULL: not wanted
#define RECURRENT_INTERFACE(NAME, REAL, WEIGHTS)                                                                       \
    typedef struct {                                                                                                   \
        const REAL *projected, *rest, *peephole, *functions, *h0, *c0;                                                 \
        WEIGHTS                                                                                                        \
        const int32_t *lengths;                                                                                        \
        REAL *y, *y_last, *c_last;                                                                                     \
        int64_t projected_time, projected_batch, projected_direction;                                                  \
        int64_t y_time, y_batch, y_direction;                                                                          \
        int64_t state_batch, state_direction; /* of h0, c0, y_last and c_last */                                       \
        int64_t time, batch, directions, hidden;                                                                       \
        int64_t cell;         /* RECURRENT_* */                                                                        \
        int64_t backwards;    /* bit d: direction d begins with the last step */                                       \
        int64_t linear_before_reset, input_forget;                                                                     \
        REAL clip;            /* what goes into activations is kept within -clip .. clip; infinite: as it is */        \
    } NAME##_args;                                                                                                     \
    int64_t NAME##_tasks(const NAME##_args *args);                                                                     \
    int64_t NAME##_scratch(const NAME##_args *args);                                                                   \
    void NAME(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
