// row_cover.h -- how a row of outputs is covered by tiles of neighbouring positions, inner ones apart from those at a border.
#ifndef SARDONYX_ROW_COVER_H
#define SARDONYX_ROW_COVER_H

#include <stdint.h>

// A window as one row sees it.
typedef struct {
    int64_t iw, stride, reach, pad_left;  // reach: from the first tap to the last, in columns, plus 1
} row_window;

// `tiles` tiles of `size` positions from position `ow` on, whose first tap is in column `iw`.
typedef struct {
    int64_t size, ow, iw, tiles, border;  // border: some taps of theirs may lie outside
} row_piece;

typedef struct {
    int64_t count;
    row_piece piece[12];
} row_cover;

// Adds `tiles` tiles of `size` positions from `ow` on. Neighbours are one piece when all or none of them are at a border:
// three pieces at most.
static void cover_tiles(const row_window *w, row_cover *c, int64_t size, int64_t ow, int64_t tiles) {
    int64_t width = (size - 1) * w->stride + w->reach, first = c->count;
    for (; tiles > 0; tiles--, ow += size) {
        int64_t iw = ow * w->stride - w->pad_left;
        int border = iw < 0 || iw + width > w->iw;
        if (c->count > first && c->piece[c->count - 1].border == border) c->piece[c->count - 1].tiles++;
        else c->piece[c->count++] = (row_piece){size, ow, iw, 1, border};
    }
}

#endif
