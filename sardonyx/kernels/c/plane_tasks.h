// plane_tasks.h -- how kernels that treat each channel block alone (depthwise, pooling) are cut into tasks.
//
// A plane is one channel block of one image, number image * c_blocks + block. A task is either some whole planes, or a
// range of output rows of one plane.
#ifndef SARDONYX_PLANE_TASKS_H
#define SARDONYX_PLANE_TASKS_H

#include <stdint.h>

#define PLANE_POSITIONS 2048  // at most so many in a range of rows, unless one row is longer: 128 KB of output
#define PLANE_TASKS 64        // more tasks than this only where a plane has several ranges

typedef struct {
    int64_t planes, group;  // in all, of a task
    int64_t rows, ranges;   // output rows of a range, ranges of a plane
    int64_t tasks;
} plane_tasks;

// `work`: operations of 16 lanes in all. A function of the arguments alone; about 10 us a task, at most 16 by this
// rule.
static inline plane_tasks cut_planes(int64_t planes, int64_t oh, int64_t ow, int64_t work) {
    plane_tasks p = {planes, 1, 0, 0, 0};
    if (planes == 0 || oh * ow == 0) return p;
    int64_t wanted = work >> 14;
    if (wanted > 16) wanted = 16;
    int64_t ranges = (oh * ow + PLANE_POSITIONS - 1) / PLANE_POSITIONS;
    if (ranges * planes < wanted) ranges = (wanted + planes - 1) / planes;
    if (ranges > oh) ranges = oh;
    p.rows = (oh + ranges - 1) / ranges;
    p.ranges = (oh + p.rows - 1) / p.rows;
    if (p.ranges == 1) {
        int64_t tasks = work >> 10;  // 0.6 us; sharing out a task takes 0.2 us
        if (tasks > PLANE_TASKS) tasks = PLANE_TASKS;
        if (tasks < 1) tasks = 1;
        p.group = (planes + tasks - 1) / tasks;
    }
    p.tasks = (planes + p.group - 1) / p.group * p.ranges;
    return p;
}

#endif
