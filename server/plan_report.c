#include "server/plan_report.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <inttypes.h>
#include <string.h>

#define PICTURE_COLUMNS 100

static double ms(uint64_t ns) {
    return (double)ns / NS_PER_MS;
}

static uint64_t bytes_of(const struct planned *p) {
    return p->choice.plan.streamed_slabs * p->load.slab_bytes;
}

static int64_t freed_bytes(const struct planned *p) {
    return plan_freed_slabs(&p->choice.plan) * (int64_t)p->load.slab_bytes;
}

static int64_t kv_tokens_gained(const struct plan_report *report, const struct planned *p) {
    return freed_bytes(p) / (int64_t)plan_case_kv_token_bytes(report->plan_case);
}

static double layers_offloaded(const struct planned *p) {
    return (double)p->choice.plan.streamed_slabs / p->load.slabs;
}

/* The whole-layer interval of select-n: the last of every so many layers is streamed; 0 for plans of other kinds. */
static uint32_t whole_interval(const struct planned *p) {
    const struct plan *plan = &p->choice.plan;
    uint32_t layer = 0;
    while (layer < plan->layers && plan->streamed[layer] == 0) {
        layer++;
    }
    return strcmp(p->policy->name, "select-n") == 0 && layer < plan->layers ? layer + 1 : 0;
}

static double link_use(const struct plan_report *report, const struct planned *p) {
    return plan_link_use(&p->load, p->choice.prediction.bytes_streamed, report->plan_case->deadline_ns);
}

static const char *phase_name(const struct plan_report *report) {
    return report->plan_case->phase == PLAN_PREFILL ? "prefill" : "decode";
}

/* ---- words ---- */

static void add_signed_bytes(int64_t bytes, struct text *out) {
    char size[16];
    text_addf(out, "%s%s", bytes < 0 ? "-" : "",
              bytes_format((uint64_t)(bytes < 0 ? -bytes : bytes), size, sizeof size));
}

static void add_case(const struct plan_report *report, struct text *out) {
    const struct plan_case *c = report->plan_case;
    char layer[16], memory[16];
    uint64_t resident_ns = plan_case_resident_ns(c);
    text_addf(out, "%s, %u layers of %s (%s), on %s with %s and a link of %.4g GB/s\n", c->model.shape.name,
              c->model.shape.layers, bytes_format(description_slab_bytes(&c->model, 1), layer, sizeof layer),
              tensor_traits(c->model.weight_type)->name, c->hardware.name,
              bytes_format(c->hardware.device_memory_bytes, memory, sizeof memory), c->hardware.link_bytes_per_s / 1e9);
    text_addf(out,
              c->phase == PLAN_PREFILL ? "prefill of a batch of %u, prompts of %u tokens"
                                       : "decode of a batch of %u, contexts of %u tokens",
              c->batch, c->context);
    text_addf(out, ": %.3f ms with every layer on the device (%.3f a layer), due after %.3f ms\n", ms(resident_ns),
              ms(c->layer_ns), ms(c->deadline_ns));
    const struct planned *whole = &report->planned[report->planned_count - 1];
    if (report->planned_count > 1 || whole->load.slabs == 1) {
        text_addf(out, "the copy of a layer takes %.2f times as long as its compute\n",
                  (double)plan_slab_ns(&whole->load) / (double)(c->layer_ns > 0 ? c->layer_ns : 1));
    }
}

static void add_range(const struct plan_report *report, struct text *out) {
    uint32_t layers = report->plan_case->model.shape.layers;
    const struct policy_range range = report->range;
    text_adds(out, "whole-layer intervals: ");
    if (range.least > layers) {
        text_adds(out, "none meets the deadline");
    } else {
        text_addf(out, "%u and above meet the deadline", range.least);
    }
    if (range.most > layers) {
        text_adds(out, "; memory asks for none\n");
    } else if (range.most == 0) {
        text_adds(out, "; none frees what memory asks for\n");
    } else {
        text_addf(out, "; up to %u free what memory asks for%s\n", range.most,
                  range.least > range.most ? ": no interval does both" : "");
    }
}

/* One line of the table: what it is, then each plan's. */
enum row {
    ROW_INTERVAL,
    ROW_LAYERS,
    ROW_WHY,
    ROW_HOST,
    ROW_STREAMED,
    ROW_FREED,
    ROW_KV,
    ROW_TIME,
    ROW_STALL,
    ROW_LINK,
    ROW_RING,
    ROWS,
};

static void add_cell(const struct plan_report *report, const struct planned *p, enum row row, struct text *out) {
    char size[16];
    const struct plan_choice *choice = &p->choice;
    double interval = plan_interval(&p->load, &choice->plan);
    switch (row) {
    case ROW_INTERVAL:
        if (whole_interval(p) > 0) {
            text_addf(out, "%u", whole_interval(p));
        } else {
            text_addf(out, interval > 0 ? "%.2f" : "none", interval);
        }
        break;
    case ROW_LAYERS:
        text_addf(out, "%.2f of %u", layers_offloaded(p), p->load.layers);
        break;
    case ROW_WHY:
        text_adds(out, plan_why_name(choice->why));
        break;
    case ROW_HOST:
        text_adds(out, bytes_format(bytes_of(p), size, sizeof size));
        break;
    case ROW_STREAMED:
        text_adds(out, bytes_format(choice->prediction.bytes_streamed, size, sizeof size));
        break;
    case ROW_FREED:
        add_signed_bytes(freed_bytes(p), out);
        break;
    case ROW_KV:
        text_addf(out, "%" PRId64, kv_tokens_gained(report, p));
        break;
    case ROW_TIME:
        text_addf(out, "%.3f ms%s", ms(choice->prediction.iteration_ns), choice->late_ns > 0 ? ", late" : "");
        break;
    case ROW_STALL:
        text_addf(out, "%.3f ms", ms(choice->prediction.stall_ns));
        break;
    case ROW_LINK:
        text_addf(out, "%.1f %%", 100 * link_use(report, p));
        break;
    case ROW_RING:
        text_addf(out, "%u of %s", choice->plan.staging, bytes_format(p->load.slab_bytes, size, sizeof size));
        break;
    case ROWS:
        break;
    }
}

static void add_table(const struct plan_report *report, struct text *out) {
    static const char *const names[ROWS] = {
        "interval",         "layers in host memory", "no more because of", "weights in host memory",
        "streamed",         "device memory freed",   "KV tokens gained",   "predicted",
        "waits for copies", "link use by deadline",  "staging slots"};
    text_addf(out, "\n%-24s", "");
    for (uint32_t i = 0; i < report->planned_count; i++) {
        text_addf(out, "%20s", report->planned[i].policy->name);
    }
    for (enum row row = 0; row < ROWS; row++) {
        text_addf(out, "\n%-24s", names[row]);
        for (uint32_t i = 0; i < report->planned_count; i++) {
            struct text cell = {0};
            add_cell(report, &report->planned[i], row, &cell);
            const char *value = text_string(&cell);
            text_addf(out, "%20s", value ? value : "");
            text_free(&cell);
        }
    }
    text_adds(out, "\n");
}

void plan_report_text(const struct plan_report *report, struct text *out) {
    add_case(report, out);
    add_range(report, out);
    add_table(report, out);
    for (uint32_t i = 0; i < report->planned_count; i++) {
        text_addf(out, "\n%s, one iteration of the steady state\n", report->planned[i].policy->name);
        plan_picture_text(&report->planned[i], PICTURE_COLUMNS, out);
    }
}

/* ---- JSON ---- */

static void add_plan_json(const struct plan_report *report, const struct planned *p, struct text *out) {
    const struct plan_choice *choice = &p->choice;
    text_addf(out,
              "\"policy\":\"%s\",\"interval\":%.17g,\"layers_offloaded\":%.17g,\"layers\":%u,\"why\":\"%s\","
              "\"feasible\":%s,\"bytes_streamed\":%" PRIu64 ",\"predicted_ms\":%.6f,\"deadline_ms\":%.6f,"
              "\"stall_ms\":%.6f,\"link_use\":%.6f,\"slabs\":%u,\"slab_bytes\":%" PRIu64 ",\"staging\":%u,"
              "\"bytes_host\":%" PRIu64 ",\"device_bytes_freed\":%" PRId64 ",\"kv_tokens_gained\":%" PRId64,
              p->policy->name, plan_interval(&p->load, &choice->plan), layers_offloaded(p), p->load.layers,
              plan_why_name(choice->why), choice->feasible ? "true" : "false", choice->prediction.bytes_streamed,
              ms(choice->prediction.iteration_ns), ms(report->plan_case->deadline_ns), ms(choice->prediction.stall_ns),
              link_use(report, p), p->load.slabs, p->load.slab_bytes, choice->plan.staging, bytes_of(p), freed_bytes(p),
              kv_tokens_gained(report, p));
    if (whole_interval(p) > 0) {
        text_addf(out, ",\"whole_interval\":%u", whole_interval(p));
    }
    if (!choice->feasible) {
        struct status refusal = plan_refusal(&p->load, report->plan_case->deadline_ns, &p->limits, choice);
        text_adds(out, ",\"refusal\":");
        text_adds_json(out, refusal.message);
    }
}

/* A bound of the range; null where there is none. */
static void add_bound(const char *name, uint32_t bound, bool there, struct text *out) {
    text_addf(out, "\"%s\":", name);
    if (there) {
        text_addf(out, "%u", bound);
    } else {
        text_adds(out, "null");
    }
}

void plan_report_json(const struct plan_report *report, struct text *out) {
    const struct plan_case *c = report->plan_case;
    text_adds(out, "{\"model\":");
    text_adds_json(out, c->model.shape.name);
    text_adds(out, ",\"hardware\":");
    text_adds_json(out, c->hardware.name);
    text_addf(out,
              ",\"phase\":\"%s\",\"batch\":%u,\"context\":%u,\"weight_type\":\"%s\",\"link_bytes_per_s\":%.17g,"
              "\"layer_ms\":%.6f,\"resident_ms\":%.6f,\"range\":{",
              phase_name(report), c->batch, c->context, tensor_traits(c->model.weight_type)->name,
              c->hardware.link_bytes_per_s, ms(c->layer_ns), ms(plan_case_resident_ns(c)));
    uint32_t layers = c->model.shape.layers;
    add_bound("least", report->range.least, report->range.least <= layers, out);
    text_adds(out, ",");
    add_bound("most", report->range.most, report->range.most <= layers, out);
    text_adds(out, "},");
    add_plan_json(report, &report->planned[0], out);
    for (uint32_t i = 1; i < report->planned_count; i++) {
        text_adds(out, i > 1 ? ",{" : ",\"beside\":[{");
        add_plan_json(report, &report->planned[i], out);
        text_adds(out, "}");
    }
    text_adds(out, report->planned_count > 1 ? "]}" : "}");
}
