#include "server/chart.h"

#include <math.h>

#define WIDTH 860.0
#define HEIGHT 440.0
#define LEFT 76.0
#define RIGHT 210.0 /* the legend stands there */
#define TOP 44.0
#define BOTTOM 56.0
#define TICKS 6

static const char *const colours[] = {"#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#1f78b4", "#666666"};
#define COLOURS (sizeof colours / sizeof *colours)

/* What the axes span; both begin at 0. */
struct span {
    double x, y;
};

static struct span span_of(const struct chart *chart) {
    struct span span = {0, chart->y_most};
    for (uint32_t i = 0; i < chart->line_count; i++) {
        for (uint32_t j = 0; j < chart->lines[i].count; j++) {
            const struct chart_point *point = &chart->lines[i].points[j];
            span.x = isfinite(point->x) && point->x > span.x ? point->x : span.x;
            span.y = chart->y_most <= 0 && isfinite(point->y) && point->y > span.y ? point->y : span.y;
        }
    }
    span.x = span.x > 0 ? span.x : 1;
    span.y = span.y > 0 ? span.y : 1;
    span.y *= chart->y_most > 0 ? 1 : 1.04; /* the highest point stands clear of the frame */
    return span;
}

static double place_x(const struct span *span, double x) {
    return LEFT + x / span->x * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct span *span, double y) {
    return HEIGHT - BOTTOM - (y < span->y ? y / span->y : 1) * (HEIGHT - TOP - BOTTOM);
}

/* A distance between ticks that reads well: 1, 2 or 5 times a power of ten. */
static double tick_step(double span) {
    double power = pow(10, floor(log10(span / TICKS))), rest = span / TICKS / power;
    return power * (rest < 1.5 ? 1 : rest < 3.5 ? 2 : rest < 7.5 ? 5 : 10);
}

/* Text of the document, with what XML reads as its own taken out. */
static void add_escaped(const char *words, struct text *out) {
    for (; *words; words++) {
        if (*words == '<' || *words == '&') {
            text_adds(out, *words == '<' ? "&lt;" : "&amp;");
        } else {
            text_add(out, words, 1);
        }
    }
}

static void add_words(double x, double y, const char *anchor, const char *words, struct text *out) {
    text_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    add_escaped(words, out);
    text_adds(out, "</text>\n");
}

static void add_rule(double x1, double y1, double x2, double y2, const char *colour, struct text *out) {
    text_addf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour);
}

static void add_axes(const struct chart *chart, const struct span *span, struct text *out) {
    double step = tick_step(span->x), bottom = place_y(span, 0), right = place_x(span, span->x);
    for (uint32_t i = 0; i * step <= span->x * 1.0001; i++) {
        double x = i * step;
        add_rule(place_x(span, x), TOP, place_x(span, x), bottom, "#eeeeee", out);
        text_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.6g</text>\n", place_x(span, x),
                  bottom + 18, x);
    }
    step = tick_step(span->y);
    for (uint32_t i = 0; i * step <= span->y * 1.0001; i++) {
        double y = i * step;
        add_rule(LEFT, place_y(span, y), right, place_y(span, y), "#eeeeee", out);
        text_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT - 6, place_y(span, y) + 4,
                  y);
    }
    add_rule(LEFT, bottom, right, bottom, "#333333", out);
    add_rule(LEFT, TOP, LEFT, bottom, "#333333", out);
    add_words((LEFT + right) / 2, HEIGHT - 14, "middle", chart->x_label, out);
    add_words(LEFT - 60, TOP - 10, "start", chart->y_label, out);
    add_words(WIDTH / 2, 20, "middle", chart->title, out);
}

static void add_line(const struct chart_line *line, const struct span *span, const char *colour, struct text *out) {
    bool open = false;
    for (uint32_t i = 0; i < line->count; i++) {
        const struct chart_point *point = &line->points[i];
        bool there = isfinite(point->x) && isfinite(point->y);
        if (there && !open) {
            text_addf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"", colour,
                      line->dashed ? " stroke-dasharray=\"6 4\"" : "");
        } else if (!there && open) {
            text_adds(out, "\"/>\n");
        }
        if (there) {
            text_addf(out, "%.1f,%.1f ", place_x(span, point->x), place_y(span, point->y));
        }
        open = there;
    }
    if (open) {
        text_adds(out, "\"/>\n");
    }
    for (uint32_t i = 0; i < line->count && line->count <= 64 && !line->dashed; i++) {
        const struct chart_point *point = &line->points[i];
        if (isfinite(point->x) && isfinite(point->y)) {
            text_addf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", place_x(span, point->x),
                      place_y(span, point->y), colour);
        }
    }
}

void chart_svg(const struct chart *chart, struct text *out) {
    const struct span span = span_of(chart);
    text_addf(out,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" font-family=\"sans-serif\" "
              "font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
              WIDTH, HEIGHT);
    add_axes(chart, &span, out);
    for (uint32_t i = 0; i < chart->line_count; i++) {
        const char *colour = colours[i % COLOURS];
        const struct chart_line *line = &chart->lines[i];
        double y = TOP + 14 + i * 20.0, x = WIDTH - RIGHT + 18;
        add_line(line, &span, colour, out);
        text_addf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"3\"%s/>\n",
                  x, y - 4, x + 24, y - 4, colour, line->dashed ? " stroke-dasharray=\"6 4\"" : "");
        add_words(x + 32, y, "start", line->name, out);
    }
    text_adds(out, "</svg>\n");
}
