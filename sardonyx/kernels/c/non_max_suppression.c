// non_max_suppression.c -- see non_max_suppression.h.
#include "non_max_suppression.h"

#include "integer.h"
#include "order.h"

typedef struct {
    float top, left, bottom, right;
} box_t;

static box_t box_of(const float *p, int64_t centered) {
    if (centered) return (box_t){p[1] - p[3] / 2, p[0] - p[2] / 2, p[1] + p[3] / 2, p[0] + p[2] / 2};
    return (box_t){min_f32(p[0], p[2]), min_f32(p[1], p[3]), max_f32(p[0], p[2]), max_f32(p[1], p[3])};
}

static int overlaps(box_t a, box_t b, float limit) {
    const float height = min_f32(a.bottom, b.bottom) - max_f32(a.top, b.top);
    const float width = min_f32(a.right, b.right) - max_f32(a.left, b.left);
    if (!(height > 0) || !(width > 0)) return 0;
    const float area_a = (a.bottom - a.top) * (a.right - a.left), area_b = (b.bottom - b.top) * (b.right - b.left);
    const float both = height * width, either = area_a + area_b - both;
    return area_a > 0 && area_b > 0 && either > 0 && both / either > limit;
}

static int64_t keep(const non_max_suppression_args *a, int64_t batch, int64_t class, sx_ranked *queue, box_t *chosen,
                    int64_t *kept) {
    const float *scores = a->scores + (batch * a->classes + class) * a->count, *boxes = a->boxes + batch * a->count * 4;
    const float limit = a->overlap ? a->overlap[0] : 0, least = a->least ? a->least[0] : 0;
    int64_t waiting = 0, found = 0;
    for (int64_t i = 0; i < a->count; ++i)  // heaps have the last in order on top, so the best score gets the largest key
        if (!a->has_least || scores[i] > least)
            queue[waiting++] = (sx_ranked){scores[i] == scores[i] ? order_f32(scores[i]) : 0, -i};
    ranked_heapify(queue, waiting);
    while (waiting && found < a->most) {
        const int64_t i = -queue[0].at;
        queue[0] = queue[--waiting];
        if (waiting) ranked_sink(queue, 0, waiting);
        const box_t box = box_of(boxes + 4 * i, a->centered);
        int64_t j = 0;
        while (j < found && !overlaps(box, chosen[j], limit)) ++j;
        if (j < found) continue;
        chosen[found] = box;
        kept[3 * found] = batch, kept[3 * found + 1] = class, kept[3 * found + 2] = i;
        ++found;
    }
    return found;
}

int64_t non_max_suppression(const non_max_suppression_args *a, sx_host *host) {
    if (a->count == 0 || a->most <= 0) return 0;
    char *memory = host->allocate(host, a->count * (int64_t)(sizeof(sx_ranked) + sizeof(box_t)));
    if (!memory) return -SX_ERROR_MEMORY;
    int64_t found = 0;
    for (int64_t batch = 0; batch < a->batches; ++batch)
        for (int64_t class = 0; class < a->classes; ++class)
            found += keep(a, batch, class, (sx_ranked *)memory, (box_t *)(memory + a->count * (int64_t)sizeof(sx_ranked)),
                          a->kept + 3 * found);
    host->release(host, memory);
    return found;
}
