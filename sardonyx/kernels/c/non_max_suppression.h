// non_max_suppression.h -- boxes of each class in order of their scores, without those that overlap a better one.
//
// Writes (batch, class, box) for each box kept and returns how many there are: at most
// batches * classes * min(boxes, most). A box is kept if its score is above `least` (when `has_least`) and its
// intersection over union with every box kept before is at most `overlap`. Of equal scores the first box comes first.
#ifndef SARDONYX_NON_MAX_SUPPRESSION_H
#define SARDONYX_NON_MAX_SUPPRESSION_H

#include "sardonyx.h"

typedef struct {
    const float *boxes;   // [batches][boxes][4]: y1, x1, y2, x2 (any two opposite corners), or centre x, y, width, height
    const float *scores;  // [batches][classes][boxes]
    int64_t *kept;        // [..][3]
    int64_t batches, classes, count;
    int64_t most;         // of one class
    const float *overlap, *least;  // thresholds; NULL: 0
    int64_t centered, has_least;
} non_max_suppression_args;

int64_t non_max_suppression(const non_max_suppression_args *a, sx_host *host);

#endif
