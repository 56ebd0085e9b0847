// roi_align_f32.h -- mean or maximum of bilinear samples in the bins of regions of images, fp32, NCHW or NCHW16c to NCHW.
//
//   y[r][c][row][column] over the samples (iy, ix) of the bin, which are `ratio` in each direction, or as many as the bin
//   has pixels (rounded up) when ratio is 0. A sample more than one pixel outside of the image counts as 0.
//
// A region is x1, y1, x2, y2, times `scale`; it lies in image batch[r]. Samples are added up row by row, the four pixels of
// each first; layouts, processors and numbers of threads give the same bits.
#ifndef SARDONYX_ROI_ALIGN_F32_H
#define SARDONYX_ROI_ALIGN_F32_H

#include "sardonyx.h"

typedef struct {
    const float *x;           // [images][channels][height][width], or if `blocked` [images][blocks][height][width][16]
    float *y;                 // [regions][channels][rows][columns]
    const float *regions_at;  // [regions][4]
    const int64_t *batch;     // [regions]; a number out of range gives zeros
    int64_t x_image;          // numbers from image to image
    int64_t blocked;
    int64_t images, channels, height, width, regions, rows, columns;
    int64_t ratio, half_pixel, largest;
    float scale;
} roi_align_f32_args;

int64_t roi_align_f32_tasks(const roi_align_f32_args *a);  // a region each
int64_t roi_align_f32_scratch(const roi_align_f32_args *a);
void roi_align_f32(const void *args, int64_t lo, int64_t hi, void *scratch);

#endif
