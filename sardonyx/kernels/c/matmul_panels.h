// matmul_panels.h -- the register tiles of matmul_tile.h over all rows and panels of a block whose panels are packed.
#ifndef SARDONYX_MATMUL_PANELS_H
#define SARDONYX_MATMUL_PANELS_H

#include "matmul_tile.h"

// c[rows][16 * panels] (+)= a * packed panels; all columns are written.
static void matmul_panels(matmul_tile t, int64_t rows, int64_t panels) {
    static const int8_t widths[MR + 1] = {
#define WIDTH_ENTRY(R) [R] = WIDE(R),
        EACH_ROW_COUNT(WIDTH_ENTRY)};
    const int64_t tiles = (rows + MR - 1) / MR, height = rows / tiles, taller = rows % tiles; // the first by one more
    const int64_t wide = widths[height + (taller > 0)];
    const float *const a = t.a;
    float *const c = t.c;
    t.ahead_step = 0;
    for (int64_t panel = 0; panel < panels;) {
        const int64_t group = panels - panel >= wide ? wide : 1;
        const matmul_tile_function *const functions = group == wide ? matmul_wide_tiles : matmul_slim_tiles;
        t.a = a;
        t.c = c + 16 * panel;
        t.ahead = (const char *)t.b;
        for (int64_t i = 0; i < tiles; i++) {
            const int64_t n = height + (i < taller);
            functions[n](&t);
            t.a += n * t.a_row;
            t.c += n * t.c_row;
        }
        t.b += group * t.b_panel;
        panel += group;
    }
}

#endif
