#include "offload/record.h"

#include "base/check.h"

/* The pair of points that `value` lies between, and how far; beyond the end, in proportion to the last point. */
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

/* A layer's time at one of the grid's rows. Attention takes time in proportion to the context and the rest none: beyond
 * the last context it goes on as between the last two, though no steeper than in proportion. */
static double layer_at(const struct record *record, uint32_t row, const struct position *c, double context) {
    const struct record_cell *cells = record->cell[row];
    double time = between((double)cells[c->low].layer_ns, (double)cells[c->high].layer_ns, c->share);
    uint32_t last = record->context_count - 1;
    if (context <= record->contexts[last]) {
        return time;
    }
    double end = record->contexts[last], beyond = context - end, steepest = time / end;
    double slope = steepest;
    if (last > 0) {
        slope = (time - (double)cells[last - 1].layer_ns) / (end - record->contexts[last - 1]);
        slope = slope < 0 ? 0 : slope > steepest ? steepest : slope;
    }
    return time + slope * beyond;
}

bool record_get(const struct record *record, double rows, double context, struct record_cell *cell) {
    CHECK(record->row_count > 0 && record->context_count > 0);
    struct position r = locate(record->rows, record->row_count, rows);
    struct position c = locate(record->contexts, record->context_count, context);
    const struct record_cell *a = &record->cell[r.low][c.low], *b = &record->cell[r.low][c.high];
    const struct record_cell *d = &record->cell[r.high][c.low], *e = &record->cell[r.high][c.high];
    double layer = between(layer_at(record, r.low, &c, context), layer_at(record, r.high, &c, context), r.share);
    double outside = between(between((double)a->outside_ns, (double)b->outside_ns, c.share),
                             between((double)d->outside_ns, (double)e->outside_ns, c.share), r.share);
    cell->layer_ns = (uint64_t)(layer * r.scale);
    cell->outside_ns = (uint64_t)(outside * r.scale);
    return r.inside && c.inside;
}
