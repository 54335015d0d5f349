/* A chart of lines as SVG, without anything from outside: what reports draw their figures with.
 *
 * Owns: the scale, the ticks and the legend. Threads: any; values only. */
#ifndef METRONOME_SERVER_CHART_H
#define METRONOME_SERVER_CHART_H

#include "server/text.h"

#include <stdint.h>

struct chart_point {
    double x, y;
};

struct chart_line {
    const char *name;
    const struct chart_point *points; /* (count), ascending in x; one that is not finite breaks the line */
    uint32_t count;
    bool dashed; /* a bound or a promise, not a measurement */
};

struct chart {
    const char *title, *x_label, *y_label;
    const struct chart_line *lines; /* (line_count) */
    uint32_t line_count;
    double y_most; /* the upper end of the y axis; 0: the largest value */
};

/* Appends a whole <svg> element. */
void chart_svg(const struct chart *chart, struct text *out);

#endif
