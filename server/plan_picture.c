/* An iteration's copies and compute as a picture, for a terminal and as SVG. Threads: any. */
#include "base/clock.h"
#include "server/plan_report.h"

#include <stdio.h>
#include <stdlib.h>

/* A stretch of time, and the layer that it belongs to. */
struct stretch {
    int64_t from, to;
    uint32_t layer;
};

/* One iteration, from 0 to iteration_ns. */
struct picture {
    int64_t iteration_ns;
    struct stretch *layers; /* (layer_count) compute */
    struct stretch *copies; /* (copy_count) begin inside the iteration; one may run on into the next */
    uint32_t layer_count, copy_count;
};

static void picture_free(struct picture *picture) {
    free(picture->layers);
    free(picture->copies);
}

/* The steady state repeats, so that a copy that ran ahead in the iteration before is seen at the end of this one. */
static int64_t wrap(int64_t time, int64_t period) {
    int64_t rest = time % period;
    return rest < 0 ? rest + period : rest;
}

/* False if there is no memory for it. */
static bool picture_take(const struct planned *planned, struct picture *picture) {
    const struct plan *plan = &planned->choice.plan;
    uint32_t layers = plan->layers, copies = plan->streamed_slabs, at = 0;
    *picture = (struct picture){.layer_count = layers, .copy_count = copies};
    picture->layers = calloc(layers, sizeof *picture->layers);
    picture->copies = calloc((size_t)copies + 1, sizeof *picture->copies);
    int64_t *times = calloc(2 * ((size_t)layers + copies), sizeof *times);
    if (!picture->layers || !picture->copies || !times) {
        free(times);
        picture_free(picture);
        return false;
    }
    struct plan_timeline line = {times, times + layers, times + 2 * (size_t)layers,
                                 times + 2 * (size_t)layers + copies};
    struct plan_prediction prediction = plan_predict_timeline(&planned->load, plan, &line);
    picture->iteration_ns = prediction.iteration_ns > 0 ? (int64_t)prediction.iteration_ns : 1;
    for (uint32_t layer = 0; layer < layers; layer++) {
        picture->layers[layer] = (struct stretch){line.layer_start[layer], line.layer_end[layer], layer};
        for (uint32_t slab = 0; slab < plan->streamed[layer]; slab++, at++) {
            int64_t from = wrap(line.copy_in[at], picture->iteration_ns);
            picture->copies[at] = (struct stretch){from, from + line.copy_out[at] - line.copy_in[at], layer};
        }
    }
    free(times);
    return true;
}

/* The stretch that covers `time`, or NULL; one that runs past the end covers the begin, too. */
static const struct stretch *covering(const struct stretch *stretches, uint32_t count, int64_t time, int64_t period) {
    for (uint32_t i = 0; i < count; i++) {
        if (wrap(time - stretches[i].from, period) < stretches[i].to - stretches[i].from) {
            return &stretches[i];
        }
    }
    return NULL;
}

/* ---- terminal ---- */

static char copy_mark(const struct picture *picture, int64_t time) {
    const struct stretch *copy = covering(picture->copies, picture->copy_count, time, picture->iteration_ns);
    return !copy ? '.' : copy->layer % 2 ? '=' : '-';
}

static char compute_mark(const struct planned *planned, const struct picture *picture, int64_t time) {
    const struct plan_load *load = &planned->load;
    const struct stretch *layer = covering(picture->layers, picture->layer_count, time, picture->iteration_ns);
    if (layer) {
        return planned->choice.plan.streamed[layer->layer] > 0 ? 'o' : '#';
    }
    int64_t last = picture->layers[picture->layer_count - 1].to;
    bool outside = time < (int64_t)load->before_ns || (time >= last && time < last + (int64_t)load->after_ns);
    return outside ? '+' : '.';
}

void plan_picture_text(const struct planned *planned, uint32_t columns, struct text *out) {
    struct picture picture;
    if (!picture_take(planned, &picture)) {
        out->failed = true;
        return;
    }
    for (int row = 0; row < 2; row++) {
        text_adds(out, row == 0 ? "copy    |" : "compute |");
        for (uint32_t i = 0; i < columns; i++) {
            int64_t time = (int64_t)((i + 0.5) * (double)picture.iteration_ns / columns);
            char mark = row == 0 ? copy_mark(&picture, time) : compute_mark(planned, &picture, time);
            text_add(out, &mark, 1);
        }
        text_adds(out, "|\n");
    }
    text_addf(out, "        0%*.3f ms\n", (int)columns - 2, (double)picture.iteration_ns / NS_PER_MS);
    text_adds(out, "        copy: = odd layers, - even layers, . idle; compute: # resident layer, o streamed layer, "
                   "+ outside layers, . waits\n");
    picture_free(&picture);
}

/* ---- SVG ---- */

#define SVG_LEFT 190.0
#define SVG_WIDTH 1200.0 /* of the time axis */
#define SVG_ROW 26.0
#define SVG_TOP 50.0

static void add_rectangle(double scale, double top, int64_t from, int64_t to, const char *colour, struct text *out) {
    text_addf(out,
              "<rect x=\"%.2f\" y=\"%.0f\" width=\"%.2f\" height=\"%.0f\" fill=\"%s\" stroke=\"white\" "
              "stroke-width=\"0.3\"/>\n",
              SVG_LEFT + (double)from * scale, top, (double)(to - from) * scale, SVG_ROW - 6, colour);
}

static void add_copies(const struct picture *picture, double scale, double top, struct text *out) {
    for (uint32_t i = 0; i < picture->copy_count; i++) {
        const struct stretch *copy = &picture->copies[i];
        const char *colour = copy->layer % 2 ? "#d95f02" : "#fdae61";
        int64_t end = picture->iteration_ns, over = copy->to - end;
        add_rectangle(scale, top, copy->from, over > 0 ? end : copy->to, colour, out);
        if (over > 0) {
            add_rectangle(scale, top, 0, over, colour, out);
        }
    }
}

static void add_compute(const struct planned *planned, const struct picture *picture, double scale, double top,
                        struct text *out) {
    int64_t before = (int64_t)planned->load.before_ns, after = (int64_t)planned->load.after_ns;
    add_rectangle(scale, top, 0, before, "#999999", out);
    for (uint32_t i = 0; i < picture->layer_count; i++) {
        const char *colour = planned->choice.plan.streamed[i] > 0 ? "#1b9e77" : "#7570b3";
        add_rectangle(scale, top, picture->layers[i].from, picture->layers[i].to, colour, out);
    }
    int64_t last = picture->layers[picture->layer_count - 1].to;
    add_rectangle(scale, top, last, last + after, "#999999", out);
}

static void add_words(double x, double y, const char *anchor, const char *words, struct text *out) {
    text_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, words);
}

static void add_lanes(const struct planned *planned, double scale, double top, struct text *out) {
    struct picture picture;
    if (!picture_take(planned, &picture)) {
        out->failed = true;
        return;
    }
    char label[64];
    snprintf(label, sizeof label, "%s: copy", planned->policy->name);
    add_words(SVG_LEFT - 8, top + 15, "end", label, out);
    add_words(SVG_LEFT - 8, top + SVG_ROW + 15, "end", "compute", out);
    add_copies(&picture, scale, top, out);
    add_compute(planned, &picture, scale, top + SVG_ROW, out);
    picture_free(&picture);
}

void plan_picture_svg(const struct plan_report *report, struct text *out) {
    const struct plan_case *c = report->plan_case;
    uint64_t longest = c->deadline_ns;
    for (uint32_t i = 0; i < report->planned_count; i++) {
        uint64_t ns = report->planned[i].choice.prediction.iteration_ns;
        longest = ns > longest ? ns : longest;
    }
    double scale = SVG_WIDTH / (double)longest, lanes = report->planned_count * (2 * SVG_ROW + 12);
    double bottom = SVG_TOP + lanes, due = SVG_LEFT + (double)c->deadline_ns * scale;
    char words[160];
    text_addf(out,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
              "font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
              SVG_LEFT + SVG_WIDTH + 30, bottom + 50);
    add_words(
        SVG_LEFT, 20, "start",
        "copies: orange, by layer; compute: green layers stream, violet ones are resident, grey is outside layers",
        out);
    for (uint32_t i = 0; i < report->planned_count; i++) {
        add_lanes(&report->planned[i], scale, SVG_TOP + i * (2 * SVG_ROW + 12), out);
    }
    text_addf(out, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.0f\" stroke=\"#d00000\" stroke-width=\"2\"/>\n",
              due, due, SVG_TOP - 12, bottom);
    snprintf(words, sizeof words, "due: %.3f ms", (double)c->deadline_ns / NS_PER_MS);
    add_words(due, bottom + 18, "end", words, out);
    snprintf(words, sizeof words, "0 to %.3f ms, one iteration of the steady state", (double)longest / NS_PER_MS);
    add_words(SVG_LEFT, bottom + 36, "start", words, out);
    text_adds(out, "</svg>");
}
