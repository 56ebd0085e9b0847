// recurrent_panels.h -- how the products of recurrent_f32, recurrent_int8 and recurrent_bytes_f32 go through the panels of R'.
//
// Weights beyond L2 would all come from L3 again on each step, so odd steps go through the panels backwards: what was read
// last is still near.
#ifndef SARDONYX_RECURRENT_PANELS_H
#define SARDONYX_RECURRENT_PANELS_H

#include "simd.h"

typedef struct {
    int64_t panel, wide; // panels panel .. panel + wide of those of the product
    int64_t row, rows;   // rows row .. row + rows of those of the task, at most `most_rows`
} panel_tile;

// Calls `tile` for all rows and panels; `widths` gives, for each number of rows, how many panels a tile takes. What is left
// over goes one by one.
SX_INLINE void each_panel_tile(int64_t rows, int64_t most_rows, const int8_t *widths, int64_t count, int backwards,
                               const void *product, void (*tile)(const void *product, panel_tile at)) {
    const int64_t tiles = (rows + most_rows - 1) / most_rows, height = rows / tiles, taller = rows % tiles;
    const int64_t wide = widths[height + (taller > 0)], whole = count / wide, groups = whole + count % wide;
    for (int64_t i = 0; i < groups; i++) {
        const int64_t group = backwards ? groups - 1 - i : i;
        panel_tile at = {.panel = group < whole ? group * wide : whole * wide + group - whole, .wide = group < whole ? wide : 1};
        for (int64_t t = 0; t < tiles; t++) {
            at.rows = height + (t < taller);
            tile(product, at);
            at.row += at.rows;
        }
    }
}

#endif
