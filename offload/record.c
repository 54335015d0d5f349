#include "offload/record.h"

#include "base/check.h"

/* The pair of points that `value` lies between, and how far; beyond the ends, in proportion to the last point. */
struct position {
    uint32_t low, high;
    double share; /* of the way from low to high */
    double scale; /* beyond the last point: value / last */
    bool inside;  /* within the margin */
};

static struct position locate(const uint32_t *points, uint32_t count, double value) {
    struct position position = {.scale = 1, .inside = true};
    while (position.high + 1 < count && points[position.high] < value) {
        position.high++;
    }
    position.low = position.high > 0 ? position.high - 1 : 0;
    uint32_t low = points[position.low], high = points[position.high];
    if (value > high) {
        position.low = position.high;
        position.scale = value / high;
        position.inside = position.scale <= RECORD_MARGIN;
        position.scale = position.inside ? position.scale : RECORD_MARGIN;
    } else if (high > low && value > low) {
        position.share = (value - low) / (high - low);
    } else {
        position.high = position.low;
    }
    return position;
}

static double between(double a, double b, double share) {
    return a + (b - a) * share;
}

bool record_get(const struct record *record, double rows, double context, struct record_cell *cell) {
    CHECK(record->row_count > 0 && record->context_count > 0);
    struct position r = locate(record->rows, record->row_count, rows);
    struct position c = locate(record->contexts, record->context_count, context);
    const struct record_cell *a = &record->cell[r.low][c.low], *b = &record->cell[r.low][c.high];
    const struct record_cell *d = &record->cell[r.high][c.low], *e = &record->cell[r.high][c.high];
    double layer = between(between((double)a->layer_ns, (double)b->layer_ns, c.share),
                           between((double)d->layer_ns, (double)e->layer_ns, c.share), r.share);
    double outside = between(between((double)a->outside_ns, (double)b->outside_ns, c.share),
                             between((double)d->outside_ns, (double)e->outside_ns, c.share), r.share);
    cell->layer_ns = (uint64_t)(layer * r.scale * c.scale);
    cell->outside_ns = (uint64_t)(outside * r.scale);
    return r.inside && c.inside;
}
