// max_roi_pool_f32.h -- maxima over the bins of regions of images, fp32, NCHW; 0 where a bin is empty.
//
// A region is batch, x1, y1, x2, y2, the corners times `scale` and rounded to pixels, both included.
#ifndef SARDONYX_MAX_ROI_POOL_F32_H
#define SARDONYX_MAX_ROI_POOL_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;           // [images][channels][height][width]
    float *y;                 // [regions][channels][rows][columns]
    const float *regions_at;  // [regions][5]; an image out of range gives zeros
    int64_t images, channels, height, width, regions, rows, columns;
    float scale;
} max_roi_pool_f32_args;

int64_t max_roi_pool_f32_tasks(const max_roi_pool_f32_args *a);  // a region each
int64_t max_roi_pool_f32_scratch(const max_roi_pool_f32_args *a);
void max_roi_pool_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
