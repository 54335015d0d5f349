#include "offload/tuner.h"

#include "base/check.h"
#include "base/clock.h"

#include <string.h>

/* A link this much slower than its median has changed and is believed at once; one this much faster, after
 * TUNER_WINDOW measurements in a row. Between the two is noise, and the median holds. */
#define LINK_SLOWER 1.07
#define LINK_FASTER 0.93
#define MOST_FASTER 16 /* no link is this many times faster than its record: a measurement that says so is bounded */
#define LINK_SILENT 64 /* iterations without a copy after which an old measurement fades towards the record */

/* An iteration that takes this much longer than predicted was disturbed; margins are for noise. */
#define DISTURBED 1.25
/* The margin is the largest stray among the residuals, and somewhat more: of noise that has no tail to speak of, one
 * iteration in a thousand goes beyond. */
#define MARGIN_FACTOR 1.3

/* What tokens are ahead of their deadlines takes noise as a margin does: so many margins' worth of it stand in for this
 * share of the margin. */
#define AHEAD_MARGINS 8
#define AHEAD_COVERS 0.75

/* Iterations that a rise waits. It is doubled when a rise is taken back SOON after, within so many times the patience,
 * and halved after CALM times the patience without one. A rise by less than a share of the slabs is not worth a refill
 * of the ring. */
#define PATIENCE_LEAST 8
#define PATIENCE_MOST 512
#define PATIENCE_HURRIED 32
#define SOON 4
#define CALM 16
#define LEAST_RISE 64
#define DEVICE_FASTER 10 /* than the link is a copy inside the device, at the least */
#define WORTH_LATE 32    /* a rise by more than such a share of the slabs is worth a late iteration, */
#define NEVER_AHEAD 8    /* if in so many attempts tokens were never far enough ahead for a part of it */

/* ---- estimates ---- */

static void window_add(struct tuner_window *window, double ratio) {
    window->ratio[window->next] = ratio;
    window->next = (uint8_t)((window->next + 1) % TUNER_WINDOW);
    window->count = (uint8_t)(window->count < TUNER_WINDOW ? window->count + 1 : TUNER_WINDOW);
}

static void window_set(struct tuner_window *window, double ratio) {
    *window = (struct tuner_window){.ratio = {ratio}, .count = 1, .next = 1};
}

/* The median, the larger of the middle two; `otherwise` if nothing was measured. */
static double window_median(const struct tuner_window *window, double otherwise) {
    double sorted[TUNER_WINDOW];
    for (uint32_t i = 0; i < window->count; i++) {
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1] > window->ratio[i]; at--) {
            sorted[at] = sorted[at - 1];
        }
        sorted[at] = window->ratio[i];
    }
    return window->count > 0 ? sorted[window->count / 2] : otherwise;
}

static void observe_link(struct tuner *tuner, double ratio) {
    double median = window_median(&tuner->link, 1);
    tuner->link_silent = 0;
    if (ratio > median * LINK_SLOWER) {
        window_set(&tuner->link, ratio);
        tuner->link_better_count = 0;
    } else if (ratio < median * LINK_FASTER) {
        tuner->link_better[tuner->link_better_count++] = ratio;
        if (tuner->link_better_count == TUNER_WINDOW) {
            tuner->link = (struct tuner_window){.count = TUNER_WINDOW};
            memcpy(tuner->link.ratio, tuner->link_better, sizeof tuner->link.ratio);
            tuner->link_better_count = 0;
        }
    } else {
        window_add(&tuner->link, ratio);
        tuner->link_better_count = 0;
    }
}

/* Nothing was copied, so nothing can tell whether the link has become faster again: half of what it was worse is
 * forgotten, and the next copy will tell. */
static void link_unheard(struct tuner *tuner) {
    double median = window_median(&tuner->link, 1);
    if (++tuner->link_silent >= LINK_SILENT && median > 1) {
        window_set(&tuner->link, 1 + (median - 1) / 2);
        tuner->link_silent = 0;
    }
}

static void observe_residual(struct tuner *tuner, double residual) {
    double *sorted = tuner->residual_sorted;
    uint32_t count = tuner->residuals < TUNER_RESIDUALS ? tuner->residuals : TUNER_RESIDUALS;
    double *oldest = &tuner->residual[tuner->residuals % TUNER_RESIDUALS];
    if (count == TUNER_RESIDUALS) {
        uint32_t at = 0;
        while (sorted[at] != *oldest) {
            at++;
        }
        memmove(sorted + at, sorted + at + 1, (--count - at) * sizeof *sorted);
    }
    uint32_t at = count;
    for (; at > 0 && sorted[at - 1] > residual; at--) {
        sorted[at] = sorted[at - 1];
    }
    sorted[at] = residual;
    *oldest = residual;
    tuner->residuals++;
}

static double bias_of(const struct tuner *tuner) {
    uint32_t count = tuner->residuals < TUNER_RESIDUALS ? tuner->residuals : TUNER_RESIDUALS;
    return count > 0 ? tuner->residual_sorted[count / 2] : 1;
}

static double margin_of(const struct tuner *tuner) {
    uint32_t count = tuner->residuals < TUNER_RESIDUALS ? tuner->residuals : TUNER_RESIDUALS;
    double bias = bias_of(tuner);
    while (count > 0 && tuner->residual_sorted[count - 1] > bias * DISTURBED) {
        count--;
    }
    return count > 0 ? (tuner->residual_sorted[count - 1] / bias - 1) * MARGIN_FACTOR : 0;
}

/* The margin that a deadline needs beside what tokens are ahead of theirs. */
static double margin_beside_slack(const struct tuner *tuner, uint64_t deadline_ns) {
    double margin = margin_of(tuner), wanted_ns = AHEAD_MARGINS * margin * (double)deadline_ns;
    double ahead = (double)tuner->lent_ns < wanted_ns ? (double)tuner->lent_ns / wanted_ns : 1;
    ahead = tuner->steady ? ahead : 0;
    return margin * (1 - AHEAD_COVERS * ahead);
}

/* The load as measurements have corrected it. */
static struct plan_load correct(const struct tuner *tuner, uint32_t bucket, const struct plan_load *recorded) {
    struct plan_load load = *recorded;
    double layer = window_median(&tuner->layer[bucket], window_median(&tuner->any_layer, 1));
    double outside = window_median(&tuner->outside[bucket], 1);
    load.layer_ns = (uint64_t)((double)load.layer_ns * layer + 0.5);
    load.before_ns = (uint64_t)((double)load.before_ns * outside + 0.5);
    load.after_ns = (uint64_t)((double)load.after_ns * outside + 0.5);
    double bytes_per_s = (double)load.link_bytes_per_s / window_median(&tuner->link, 1);
    load.link_bytes_per_s = bytes_per_s > 1 ? (uint64_t)bytes_per_s : 1;
    return load;
}

/* Measured / recorded time of slabs' copies, the fixed cost of each taken for granted; 0 if there are none. */
static double copy_ratio(const struct plan_load *recorded, uint64_t bytes, uint64_t ns) {
    uint64_t copies = bytes / recorded->slab_bytes;
    double fixed = (double)(copies * recorded->copy_ns);
    double expected = (double)(copies * plan_slab_ns(recorded)) - fixed, took = (double)ns - fixed;
    if (copies == 0) {
        return 0;
    }
    return took > expected / MOST_FASTER ? took / expected : 1.0 / MOST_FASTER;
}

void tuner_observe(struct tuner *tuner, const struct tuner_measurement *measurement) {
    const struct plan_load *recorded = &tuner->recorded;
    CHECK(recorded->layers > 0); /* after a decision */
    if (measurement->layers_ns > 0 && recorded->layer_ns > 0) {
        double ratio = (double)measurement->layers_ns / (double)(recorded->layers * recorded->layer_ns);
        window_add(&tuner->layer[tuner->bucket], ratio);
        window_add(&tuner->any_layer, ratio);
        uint64_t outside = recorded->before_ns + recorded->after_ns;
        uint64_t inside = measurement->layers_ns + measurement->stall_ns;
        if (outside > 0 && measurement->iteration_ns >= inside && !measurement->link_shared) {
            window_add(&tuner->outside[tuner->bucket], (double)(measurement->iteration_ns - inside) / (double)outside);
        }
    }
    double all = copy_ratio(recorded, measurement->link_bytes, measurement->link_ns);
    double late = copy_ratio(recorded, measurement->late_bytes, measurement->late_ns);
    if (all > 0) {
        observe_link(tuner, late > all * LINK_SLOWER ? late : all);
    } else if (!measurement->link_shared) {
        link_unheard(tuner);
    }
    if (!tuner->unsettled && !measurement->link_shared) {
        observe_residual(tuner, (double)measurement->iteration_ns / (double)tuner->predicted_ns);
    }
}

struct tuner_estimates tuner_report(const struct tuner *tuner) {
    struct plan_load load = correct(tuner, tuner->bucket, &tuner->recorded);
    return (struct tuner_estimates){
        .layer_ratio = window_median(&tuner->layer[tuner->bucket], window_median(&tuner->any_layer, 1)),
        .link_bytes_per_s = load.link_bytes_per_s,
        .bias = bias_of(tuner),
        .margin = margin_of(tuner),
        .patience = tuner->patience,
    };
}

/* ---- decisions ---- */

struct plan_prediction tuner_predict(const struct tuner *tuner, uint32_t bucket, const struct plan_load *recorded,
                                     const struct plan *plan, uint64_t *at_most_ns) {
    struct plan_load load = correct(tuner, bucket, recorded);
    struct plan_prediction prediction = plan_predict(&load, plan);
    *at_most_ns = (uint64_t)((double)prediction.iteration_ns * bias_of(tuner) * (1 + margin_of(tuner)));
    return prediction;
}

void tuner_init(struct tuner *tuner, uint32_t slabs) {
    *tuner = (struct tuner){.slabs = slabs, .patience = PATIENCE_LEAST, .since_rise = UINT32_MAX / 2};
}

void tuner_lend(struct tuner *tuner, uint64_t slack_ns, bool steady) {
    tuner->lent_ns = slack_ns;
    tuner->steady = steady;
}

static uint32_t log2_floor(uint32_t value) {
    return value > 0 ? 31 - (uint32_t)__builtin_clz(value) : 0;
}

uint32_t tuner_bucket(bool prefill, uint32_t tokens, uint32_t context) {
    uint32_t by_tokens = log2_floor(tokens), by_context = log2_floor(context / 512);
    by_tokens = by_tokens < 7 ? by_tokens : 7;
    by_context = by_context < 7 ? by_context : 7;
    return (prefill ? 64 : 0) + by_tokens * 8 + by_context;
}

/* Slots of the ring whose slabs, copied ahead for `from`, are of no use to `to`: those behind the first layer that
 * changes. */
static uint32_t refill_slots(const struct plan *from, const struct plan *to) {
    uint32_t kept = 0, layer = 0;
    while (layer < to->layers && from->streamed[layer] == to->streamed[layer]) {
        kept += to->streamed[layer++];
    }
    return layer < to->layers && kept < to->staging ? to->staging - kept : 0;
}

/* What an iteration takes that changes the plan from `now`: the ring is filled anew, those that come back are copied
 * once more, and slabs inside the device take the places of those that leave. */
static double change_ns(const struct plan_load *load, const struct plan *now, const struct plan *plan) {
    const bool rises = plan->streamed_slabs > now->streamed_slabs;
    const struct plan *fuller = rises ? plan : now, *emptier = rises ? now : plan;
    uint64_t refill_ns = refill_slots(now, plan) * plan_slab_ns(load);
    uint32_t moved = fuller->streamed_slabs - emptier->streamed_slabs;
    uint64_t move_ns = moved * (2 * load->copy_ns + plan_slab_ns(load) / DEVICE_FASTER);
    return (double)(plan_predict(load, fuller).iteration_ns + refill_ns + move_ns);
}

/* The most slabs up to `wanted` with which the very iteration that changes the plan is in time, though it fills the
 * ring anew. */
static uint32_t most_in_time(const struct tuner *tuner, uint32_t wanted, const struct plan_load *load, double due_ns,
                             uint32_t staging) {
    struct plan now, plan;
    plan_nested(load, tuner->slabs, staging, &now);
    for (uint32_t slabs = wanted; slabs > tuner->slabs; slabs--) {
        plan_nested(load, slabs, staging, &plan);
        if (change_ns(load, &now, &plan) <= due_ns) {
            return slabs;
        }
    }
    return tuner->slabs;
}

/* The same; but if there is no such number, and more than WORTH_LATE to gain: `wanted`, and one iteration is late. */
static uint32_t most_worth_it(struct tuner *tuner, uint32_t wanted, const struct plan_load *load, double due_ns,
                              uint32_t staging) {
    uint32_t slabs = most_in_time(tuner, wanted, load, due_ns, staging);
    bool worth_late = wanted - tuner->slabs > tuner->slabs / WORTH_LATE;
    tuner->rise_tried = slabs == tuner->slabs ? tuner->rise_tried + 1 : 0;
    return worth_late && tuner->rise_tried >= NEVER_AHEAD ? wanted : slabs;
}

/* A rise to `wanted` slabs is possible: how many to take now. What is left of it follows at once, in rises that get
 * smaller and leave more of the ring as it is. */
static uint32_t rise(struct tuner *tuner, uint32_t wanted, const struct plan_load *load, double due_ns,
                     uint32_t staging) {
    if (wanted < tuner->slabs + 1 + tuner->slabs / LEAST_RISE) {
        tuner->rise_for = 0;
        return tuner->slabs;
    }
    if (tuner->rise_to <= tuner->slabs) { /* as many have left for another reason */
        tuner->rise_for = 0;
    }
    tuner->rise_to = tuner->rise_for == 0 || wanted < tuner->rise_to ? wanted : tuner->rise_to;
    if (++tuner->rise_for < tuner->patience) {
        return tuner->slabs;
    }
    uint32_t slabs = most_worth_it(tuner, tuner->rise_to, load, due_ns, staging);
    if (slabs == tuner->slabs || slabs == tuner->rise_to) {
        tuner->rise_for = 0;
    }
    if (slabs > tuner->slabs) {
        tuner->since_rise = 0;
    }
    return slabs;
}

/* More slabs are streamed than need be, and in time: the fewest, down to `best`, with which the very iteration that
 * brings the others back is in time, too. */
static uint32_t fewest_in_time(const struct tuner *tuner, uint32_t best, const struct plan_load *load,
                               const struct plan *now, double due_ns) {
    struct plan plan;
    for (uint32_t fewer = tuner->slabs - best; fewer > 0; fewer /= 2) {
        plan_nested(load, tuner->slabs - fewer, now->staging, &plan);
        if (change_ns(load, now, &plan) <= due_ns) {
            return tuner->slabs - fewer;
        }
    }
    return tuner->slabs;
}

/* `best` slabs are fewer than there are: how many to keep. An iteration that changes the plan is due at
 * change_due_ns. */
static uint32_t fall(struct tuner *tuner, uint32_t best, const struct plan_load *load, uint64_t deadline_ns,
                     double due_ns, double change_due_ns, const struct plan_limits *limits) {
    uint32_t slabs = load->slabs < limits->staging ? load->slabs : limits->staging;
    if (tuner->slabs <= limits->bus_slabs && tuner->slabs <= load->layers * slabs) {
        struct plan plan;
        plan_nested(load, tuner->slabs, limits->staging, &plan);
        if ((double)plan_predict(load, &plan).iteration_ns <= due_ns) {
            return tuner->slabs <= limits->max_slabs ? tuner->slabs
                                                     : fewest_in_time(tuner, best, load, &plan, change_due_ns);
        }
    }
    /* A rise that is taken back soon was wrong, and the next one waits longer; if it is a stricter deadline that takes
     * it back, only somewhat longer, for deadlines come and go with requests. */
    uint32_t most = deadline_ns < tuner->rise_due_ns ? PATIENCE_HURRIED : PATIENCE_MOST;
    if (tuner->since_rise < SOON * tuner->patience && tuner->patience < most) {
        tuner->patience *= 2;
    }
    return best;
}

struct tuner_decision tuner_decide(struct tuner *tuner, uint32_t bucket, const struct plan_load *recorded,
                                   uint64_t deadline_ns, const struct plan_limits *limits) {
    CHECK(bucket < TUNER_BUCKETS && limits->staging > 0);
    struct plan_load load = correct(tuner, bucket, recorded);
    double bias = bias_of(tuner), margin = margin_beside_slack(tuner, deadline_ns), due_ns = (double)deadline_ns / bias;
    struct plan_limits near = *limits;
    near.near = tuner->slabs;
    struct plan_choice choice = plan_choose(&load, (uint64_t)(due_ns / (1 + margin)), &near, PLAN_NESTED);
    tuner->since_rise++;
    if (tuner->patience > PATIENCE_LEAST && tuner->since_rise >= CALM * tuner->patience) {
        tuner->patience /= 2;
    }

    uint32_t best = choice.plan.streamed_slabs, slabs = best;
    const double change_due_ns = (due_ns + (double)tuner->lent_ns / bias) / (1 + margin / 2);
    int64_t least = (int64_t)limits->floor_slabs + limits->staging; /* so many must leave, and at once */
    if (tuner->slabs < least && best > tuner->slabs) {
        slabs = best < least ? best : (uint32_t)least;
    } else if (best > tuner->slabs) {
        uint32_t soon = best < limits->soon_slabs ? best : limits->soon_slabs;
        slabs = soon > tuner->slabs ? most_in_time(tuner, soon, &load, change_due_ns, limits->staging)
                                    : rise(tuner, best, &load, change_due_ns, limits->staging);
        tuner->rise_due_ns = slabs > tuner->slabs ? deadline_ns : tuner->rise_due_ns;
    } else if (best < tuner->slabs) {
        /* Half of the margin may be used up first: estimates waver. */
        slabs = fall(tuner, best, &load, deadline_ns, due_ns / (1 + margin / 2), change_due_ns, limits);
    }
    struct tuner_decision decision = {.changed = slabs != tuner->slabs};
    bool kv_changed =
        recorded->kv_copies != tuner->recorded.kv_copies || plan_kv_bytes(recorded) != plan_kv_bytes(&tuner->recorded);
    bool ring_changed = limits->staging != tuner->staging; /* as the first iteration's has */
    tuner->unsettled = decision.changed || kv_changed || ring_changed;
    tuner->staging = limits->staging;
    if (best <= slabs || slabs < tuner->slabs) {
        tuner->rise_for = 0;
    }
    if (slabs != best) {
        plan_nested(&load, slabs, limits->staging, &choice.plan);
        choice.prediction = plan_predict(&load, &choice.plan);
    }
    decision.plan = choice.plan;
    decision.prediction = choice.prediction;
    decision.expected_ns = (uint64_t)((double)choice.prediction.iteration_ns * bias + 0.5);
    decision.feasible = decision.expected_ns <= deadline_ns && plan_freed_slabs(&choice.plan) >= limits->floor_slabs;
    decision.why = plan_reason(&load, limits, &choice.plan, decision.feasible);
    tuner->lent_ns = 0;
    tuner->slabs = slabs;
    tuner->bucket = bucket;
    tuner->recorded = *recorded;
    tuner->predicted_ns = choice.prediction.iteration_ns;
    return decision;
}
