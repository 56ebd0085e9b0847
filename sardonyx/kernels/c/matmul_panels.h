// matmul_panels.h -- the register tiles of matmul_tile.h over all rows and panels of a block whose panels are packed.
#ifndef SARDONYX_MATMUL_PANELS_H
#define SARDONYX_MATMUL_PANELS_H

#include "matmul_tile.h"

// Memory that is wanted soon, in parts of `rows` rows, `row` bytes apart, of `lines` cache lines.
typedef struct {
    struct {
        const char *at;
        int64_t row, rows, lines;
    } part[4];
    int64_t parts, part_now, line, done; // what comes next: the part, the line of its rows, the rows done
} matmul_fetch;

// A tile with MATMUL_AHEAD 2 fetches a line of as many rows as it has k. Parts of far fewer rows are left out.
SX_INLINE void matmul_fetch_next(matmul_fetch *f, matmul_tile *t) {
    t->ahead_step = 0;
    while (f->part_now < f->parts && f->part[f->part_now].rows < t->k - t->k / 4) f->part_now++;
    if (f->part_now == f->parts) return;
    const int64_t rows = f->part[f->part_now].rows, last = rows > t->k ? rows - t->k : 0;
    t->ahead_step = f->part[f->part_now].row;
    t->ahead = f->part[f->part_now].at + (f->done < last ? f->done : last) * t->ahead_step + f->line * 64;
    f->done += t->k;
    if (f->done < rows) return;
    f->done = 0;
    if (++f->line == f->part[f->part_now].lines) f->line = 0, f->part_now++;
}

// c[rows][16 * panels] (+)= a * packed panels; all columns are written. `fetch` may be NULL.
static void matmul_panels(matmul_tile t, int64_t rows, int64_t panels, matmul_fetch *fetch) {
    const float *const a = t.a;
    float *const c = t.c;
    t.ahead_step = 0;
    for (int64_t panel = 0; panel < panels;) {
        const matmul_cut cut = matmul_cut_of(rows, panels - panel);
        t.a = a;
        t.c = c + 16 * panel;
        t.ahead = (const char *)t.b;
        for (int64_t i = 0; i < cut.tiles; i++) {
            const int64_t n = cut.height + (i < cut.taller);
            if (fetch) matmul_fetch_next(fetch, &t);
            matmul_tiles[n][cut.panels](&t);
            t.a += n * t.a_row;
            t.c += n * t.c_row;
        }
        t.b += cut.panels * t.b_panel;
        panel += cut.panels;
    }
}

#endif
