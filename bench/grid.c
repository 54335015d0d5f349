#include "bench/grid.h"

#include "server/described.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define GIB 0x1p30
#define REQUESTS 100
#define STREAMS 4 /* sequences that decode steadily */
#define MOST_TRIED 9

enum { SLABS = MATMUL_MAX_PARTS / 3 }; /* of a layer, at most */

static const struct {
    const char *name, *policy;
} policy_rows[GRID_POLICIES] = {{"none", "none"},
                                {"zero-inference", "zero-inference"},
                                {"flexgen, cost model", "flexgen"},
                                {"flexgen, by hand", "flexgen"},
                                {"prefetch-group", "prefetch-group"},
                                {"select-n", "select-n"},
                                {"metronome", "metronome"}};

const char *grid_policy_name(enum grid_policy policy) {
    return policy_rows[policy].name;
}

/* Models that hardly fit the device, whole or by the memory that they are given, and one with room to spare. The usual
 * grid is a part of the full one, and the quick one of that. */
uint32_t grid_cells(enum grid_size size, struct grid_cell *cells, uint32_t capacity) {
    static const struct {
        const char *model;
        double memory_gib;
        enum grid_size from;
    } models[] = {{"opt-13b", 24, GRID_QUICK},
                  {"llama-2-13b", 24, GRID_USUAL},
                  {"llama-2-7b", 13, GRID_USUAL},
                  {"opt-6.7b", 24, GRID_USUAL}};
    static const struct {
        uint32_t prompt, output;
        enum grid_size from;
    } loads[] = {{64, 128, GRID_QUICK}, {512, 256, GRID_FULL}};
    static const struct {
        double slack;
        enum grid_size from;
    } promises[] = {{0.1, GRID_QUICK}, {0.5, GRID_QUICK}, {1, GRID_FULL}, {3, GRID_USUAL}};
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        for (size_t j = 0; j < sizeof loads / sizeof loads[0]; j++) {
            for (size_t k = 0; k < sizeof promises / sizeof promises[0] && count < capacity; k++) {
                if (models[i].from <= size && loads[j].from <= size && promises[k].from <= size) {
                    cells[count++] = (struct grid_cell){.model = models[i].model,
                                                        .memory_gib = models[i].memory_gib,
                                                        .prompt_tokens = loads[j].prompt,
                                                        .output_tokens = loads[j].output,
                                                        .slack = promises[k].slack};
                }
            }
        }
    }
    return count;
}

/* ---- what is tried ---- */

/* Settings of one policy's own options. */
struct tries {
    uint32_t count;
    struct policy_options options[MOST_TRIED];
    char text[MOST_TRIED][48];
};

static void add_try(struct tries *tries, const struct policy_options *options, const char *text) {
    if (tries->count < MOST_TRIED) {
        tries->options[tries->count] = *options;
        snprintf(tries->text[tries->count++], sizeof tries->text[0], "%s", text);
    }
}

/* Percentages up to the first that is late even for one sequence, but for none at all. */
static struct status try_percents(const struct plan_case *c, struct tries *tries) {
    const struct policy *policy;
    char text[48];
    TRY(policy_find("flexgen", &policy));
    for (uint32_t i = 0; i <= SLABS; i++) {
        const struct policy_options options = {.percent = 100.0 * i / SLABS};
        struct plan_load load;
        struct plan_limits limits;
        struct plan_choice choice;
        TRY(plan_case_load(c, SLABS, &load, &limits));
        struct policy_request request = {
            .load = &load, .deadline_ns = c->deadline_ns, .limits = limits, .options = options};
        TRY(policy->place(&request, &choice));
        if (choice.late_ns > 0) {
            break;
        }
        snprintf(text, sizeof text, "%.4g %%", options.percent);
        if (choice.short_slabs == 0) {
            add_try(tries, &options, text);
        }
    }
    return STATUS_SUCCESS;
}

/* The fewest and the most layers that fit and are in time, and some between: the last of every so many, and for more
 * than every second one the last n of n + 1. */
static struct status try_groups(const struct plan_case *c, struct tries *tries) {
    const uint32_t layers = c->model.shape.layers;
    const struct policy *policy;
    uint32_t before = 0;
    char text[48];
    TRY(policy_find("prefetch-group", &policy));
    for (uint32_t i = 1; i < 2 * layers; i++) {
        uint32_t group = i <= layers ? layers + 1 - i : i - layers + 1, streamed = i <= layers ? 1 : group - 1;
        struct policy_options options = {.group = group, .group_streamed = streamed, .prefetch_step = 1};
        struct plan_load load;
        struct plan_limits limits;
        struct plan_choice choice;
        TRY(plan_case_load(c, 1, &load, &limits));
        struct policy_request request = {
            .load = &load, .deadline_ns = c->deadline_ns, .limits = limits, .options = options};
        TRY(policy->place(&request, &choice));
        if (choice.feasible && choice.plan.streamed_slabs > before) {
            before = choice.plan.streamed_slabs;
            snprintf(text, sizeof text, "%u of %u, 1 ahead", streamed, group);
            add_try(tries, &options, text);
        }
    }
    return STATUS_SUCCESS;
}

/* Its own choice, and every longer interval that another user might pin. */
static struct status try_intervals(const struct plan_case *c, struct tries *tries) {
    const struct policy_options own = {0};
    const struct policy *policy;
    uint32_t before = 0;
    char text[48];
    add_try(tries, &own, "");
    TRY(policy_find("select-n", &policy));
    for (uint32_t interval = c->model.shape.layers; interval > 0; interval--) {
        const struct policy_options options = {.interval = interval};
        struct plan_load load;
        struct plan_limits limits;
        struct plan_choice choice;
        TRY(plan_case_load(c, 1, &load, &limits));
        struct policy_request request = {
            .load = &load, .deadline_ns = c->deadline_ns, .limits = limits, .options = options};
        TRY(policy->place(&request, &choice));
        if (choice.feasible && choice.plan.streamed_slabs > before) {
            before = choice.plan.streamed_slabs;
            snprintf(text, sizeof text, "interval %u", interval);
            add_try(tries, &options, text);
        }
    }
    return STATUS_SUCCESS;
}

static struct status list_tries(const struct plan_case *c, enum grid_policy policy, struct tries *tries) {
    struct policy_options options = {0};
    tries->count = 0;
    switch (policy) {
    case GRID_FLEXGEN:
        return try_percents(c, tries);
    case GRID_PREFETCH_GROUP:
        return try_groups(c, tries);
    case GRID_SELECT_N:
        return try_intervals(c, tries);
    case GRID_FLEXGEN_MODEL: {
        const struct policy *flexgen;
        struct plan_load load;
        struct plan_limits limits;
        struct plan_choice choice;
        char text[48];
        TRY(policy_find("flexgen", &flexgen));
        TRY(plan_case_load(c, SLABS, &load, &limits));
        struct policy_request request = {.load = &load,
                                         .deadline_ns = c->deadline_ns,
                                         .limits = PLAN_UNLIMITED,
                                         .options = {.percent = -1,
                                                     .layer_flops = plan_case_layer_flops(c),
                                                     .peak_flops_per_s = c->hardware.f16_flops_per_s,
                                                     .peak_link_bytes_per_s = c->hardware.link_nominal_bytes_per_s}};
        TRY(flexgen->place(&request, &choice));
        options.percent = 100.0 * choice.plan.streamed_slabs / (load.layers * load.slabs);
        snprintf(text, sizeof text, "%.4g %%", options.percent);
        add_try(tries, &options, text);
        return STATUS_SUCCESS;
    }
    default:
        add_try(tries, &options, "");
        return STATUS_SUCCESS;
    }
}

/* ---- how good it is ---- */

/* Climbs the number of places as long as that pays, and three steps more. */
static struct status climb(const struct serving_case *serving, enum grid_policy policy,
                           const struct policy_options *options, const char *text, struct grid_answer *best) {
    static const uint32_t places[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48, 64, 100};
    double own_best = 0;
    for (uint32_t i = 0, worse = 0; i < sizeof places / sizeof places[0] && worse < 3; i++) {
        const struct serving_setting setting = {
            .policy = policy_rows[policy].policy, .options = *options, .places = places[i]};
        struct serving_result result;
        struct status status = serving_run(serving, &setting, &result);
        if (status.code == STATUS_INVALID || status.code == STATUS_NO_MEMORY) {
            return STATUS_SUCCESS; /* does not fit, or cannot be in time: more places would not mend it */
        }
        TRY(status);
        double rate = result.kept_tokens_per_s;
        bool counts = replay_attainment(&result.report) >= GRID_ATTAINMENT;
        worse = counts && rate > own_best ? 0 : worse + 1;
        own_best = counts && rate > own_best ? rate : own_best;
        if (counts && rate > best->tokens_per_s) {
            best->tokens_per_s = rate;
            best->attainment = replay_attainment(&result.report);
            best->places = places[i];
            snprintf(best->options, sizeof best->options, "%s", text);
        }
    }
    return STATUS_SUCCESS;
}

/* The most that is saved with the promise kept when nobody waits, over what is tried. */
static struct status stream(const struct serving_case *serving, enum grid_policy policy, const struct tries *tries,
                            struct grid_answer *answer) {
    for (uint32_t i = tries->count; i-- > 0;) {
        const struct serving_setting setting = {
            .policy = policy_rows[policy].policy, .options = tries->options[i], .places = STREAMS};
        struct serving_stream streamed;
        struct status status = serving_stream(serving, &setting, &streamed);
        if (status.code == STATUS_INVALID || status.code == STATUS_NO_MEMORY) {
            continue;
        }
        TRY(status);
        double late = (double)streamed.late / streamed.iterations;
        if (late <= 1 - GRID_ATTAINMENT && (answer->link_use == 0 || streamed.saved_bytes > answer->saved_bytes)) {
            double bound = serving->link_bytes_per_s * (double)serving->tpot_ns / 1e9;
            answer->saved_bytes = streamed.saved_bytes;
            answer->link_use = streamed.bytes / bound;
            answer->late = late;
        }
    }
    return STATUS_SUCCESS;
}

struct status grid_fill(const char *hardware, uint64_t seed, struct grid_cell *cell) {
    char path[PATH_MAX];
    struct plan_case c;
    TRY(described_hardware_path(hardware, path));
    TRY(steady_case(hardware, cell->model, PLAN_DECODE, 1, cell->prompt_tokens + cell->output_tokens / 2, &c));
    if (cell->memory_gib > 0) {
        c.hardware.device_memory_bytes = (uint64_t)(cell->memory_gib * GIB);
    }
    cell->resident_ns = plan_case_resident_ns(&c);
    cell->tpot_ns = c.deadline_ns = (uint64_t)((1 + cell->slack) * (double)cell->resident_ns);
    struct serving_case serving = {.hardware = path,
                                   .described = c.model,
                                   .device_memory = c.hardware.device_memory_bytes,
                                   .link_bytes_per_s = c.hardware.link_bytes_per_s,
                                   .tpot_ns = cell->tpot_ns,
                                   .context = 3 * (cell->prompt_tokens + cell->output_tokens) / 2,
                                   .prompt_tokens = cell->prompt_tokens,
                                   .output_tokens = cell->output_tokens,
                                   .requests = REQUESTS,
                                   .seed = seed};
    for (int policy = 0; policy < GRID_POLICIES; policy++) {
        struct grid_answer *answer = &cell->answer[policy];
        struct tries tries;
        *answer = (struct grid_answer){0};
        TRY(list_tries(&c, (enum grid_policy)policy, &tries));
        for (uint32_t i = 0; i < tries.count; i++) {
            TRY(climb(&serving, (enum grid_policy)policy, &tries.options[i], tries.text[i], answer));
        }
        TRY(stream(&serving, (enum grid_policy)policy, &tries, answer));
    }
    return STATUS_SUCCESS;
}
