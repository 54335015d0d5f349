/* offload-bench: what the offload engine promises and what it keeps, with the whole engine and a real model on the cpu
 * device behind a paced link, and on sim.
 *
 *   build/release/offload-bench MODEL.gguf [--json FILE] [SECTION...]
 *
 *   prediction   predicted against measured iteration time
 *   link         bytes streamed / (link x deadline), every policy
 *   idle         what offloading costs when it is configured and nothing is streamed
 *   neighbour    deadlines, while somebody takes half of the link at random times
 *   tuner        what a decision costs
 *
 * Promises and links are set in multiples of what the model takes here with everything on the device, so that every
 * machine runs the same cases. Times are reported, never held to a bound. Threads: main's, and the devices' own. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "bench/neighbour.h"
#include "bench/rig.h"
#include "bench/table.h"
#include "bench/tuner_time.h"
#include "offload/policy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIM_HARDWARE "configs/hardware/a10.json"

enum { SETTLE = 32, MEASURED = 100, MOST_SAMPLES = 4096 };

struct bench {
    const char *model;
    struct table table;
    uint64_t layer_bytes, all_bytes;            /* of a layer's weights, of all of them */
    double resident_ns[RIG_MOST_SEQUENCES + 1]; /* by sequences; 0: not measured yet */
};

/* A run's samples, sorted when asked for. */
struct samples {
    double value[MOST_SAMPLES];
    uint32_t count;
};

static void add(struct samples *samples, double value) {
    CHECK(samples->count < MOST_SAMPLES);
    samples->value[samples->count++] = value;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(struct samples *samples, double share) {
    qsort(samples->value, samples->count, sizeof samples->value[0], compare);
    return samples->value[(uint32_t)(share * (samples->count - 1) + 0.5)];
}

/* The median time of an iteration of so many sequences with everything on the device. */
static double resident_ns(struct bench *bench, const char *hardware, uint32_t sequences) {
    static struct samples samples;
    if (!hardware && bench->resident_ns[sequences] > 0) {
        return bench->resident_ns[sequences];
    }
    struct rig_config config = {.model = bench->model, .hardware = hardware, .policy = "none", .sequences = sequences};
    static struct rig rig;
    rig_open(&config, &rig);
    samples.count = 0;
    for (int i = 0; i < SETTLE + MEASURED; i++) {
        struct offload_report report = rig_decode(&rig);
        if (i >= SETTLE) {
            add(&samples, (double)report.measured_ns);
        }
        bench->all_bytes = report.weight_bytes_device;
        bench->layer_bytes = report.weight_bytes_device / report.layers;
    }
    rig_close(&rig);
    double median = quantile(&samples, 0.5);
    if (!hardware) {
        bench->resident_ns[sequences] = median;
    }
    return median;
}

/* An engine whose promise is `relaxed` times the resident iteration, on a link that carries `reach` of the layers'
 * weights in that time. */
static struct rig_config configure(struct bench *bench, const char *hardware, uint32_t sequences, double relaxed,
                                   double reach) {
    double tpot_ns = relaxed * resident_ns(bench, hardware, sequences);
    return (struct rig_config){.model = bench->model,
                               .hardware = hardware,
                               .policy = "metronome",
                               .sequences = sequences,
                               .tpot_ns = (uint64_t)tpot_ns,
                               .link_bytes_per_s = reach * (double)bench->all_bytes / tpot_ns * 1e9};
}

/* What a run of steady decoding came to. */
struct outcome {
    struct samples error, measured;
    struct offload_report last;
    double bytes; /* a mean iteration's */
    uint32_t late;
};

static void run(struct rig *rig, uint32_t iterations, struct outcome *outcome) {
    outcome->error.count = outcome->measured.count = outcome->late = 0;
    outcome->bytes = 0;
    for (uint32_t i = 0; i < SETTLE + iterations; i++) {
        struct offload_report report = rig_decode(rig);
        if (i < SETTLE) {
            continue;
        }
        add(&outcome->error, fabs((double)report.predicted_ns / (double)report.measured_ns - 1));
        add(&outcome->measured, (double)report.measured_ns);
        outcome->bytes += (double)report.bytes_streamed / iterations;
        outcome->late += rig->config.tpot_ns > 0 && report.measured_ns > rig->config.tpot_ns;
        outcome->last = report;
    }
}

static double link_use(const struct rig_config *config, double bytes) {
    return bytes / (config->link_bytes_per_s * (double)config->tpot_ns / 1e9);
}

/* ---- prediction ---- */

static void show_prediction(struct bench *bench, const char *device, double share, const struct rig_config *config,
                            struct outcome *outcome) {
    struct table *table = &bench->table;
    const struct offload_report *last = &outcome->last;
    table_text(table, "device", device);
    table_number(table, "memory_%", 0, share * 100);
    table_number(table, "batch", 0, config->sequences);
    table_number(table, "promise_ms", 2, (double)config->tpot_ns / 1e6);
    table_number(table, "link_GB/s", 2, config->link_bytes_per_s / 1e9);
    table_number(table, "host_layers", 2, (double)last->streamed_slabs / last->slabs);
    table_text(table, "why", last->why);
    table_number(table, "MB_streamed", 2, outcome->bytes / 1e6);
    table_number(table, "measured_ms", 2, quantile(&outcome->measured, 0.5) / 1e6);
    table_number(table, "error_median_%", 2, 100 * quantile(&outcome->error, 0.5));
    table_number(table, "error_p90_%", 2, 100 * quantile(&outcome->error, 0.9));
    table_number(table, "late_%", 2, 100.0 * outcome->late / outcome->error.count);
    table_end_row(table);
}

static void measure_prediction(struct bench *bench) {
    static const struct {
        double share; /* of the layers' weights that fit the device; 1: all */
        uint32_t sequences;
        double relaxed, reach;
    } cases[] = {{0.25, 1, 8, 0.95}, {0.5, 1, 6, 0.7},   {0.5, 1, 12, 0.7}, {0.75, 1, 5, 0.4},
                 {0.5, 8, 4, 0.7},   {0.75, 16, 3, 0.5}, {1, 4, 5, 0.5}};
    table_section(
        &bench->table, "prediction",
        "prediction: |predicted - measured| / measured of each iteration. memory_%: of the layers' weights that "
        "fit the device");
    static struct outcome outcome;
    static struct rig rig;
    for (size_t device = 0; device < 2; device++) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct rig_config config =
                configure(bench, device ? SIM_HARDWARE : NULL, cases[i].sequences, cases[i].relaxed, cases[i].reach);
            config.device_memory = cases[i].share < 1 ? rig_budget(&config, cases[i].share) : 0;
            rig_open(&config, &rig);
            run(&rig, MEASURED, &outcome);
            rig_close(&rig);
            show_prediction(bench, device ? "sim" : "cpu", cases[i].share, &config, &outcome);
        }
    }
}

/* ---- use of the link ---- */

struct contender {
    struct rig_config config;
    char options[40];
};

/* The load that a policy of whole layers, or of the metronome's slabs, would plan for. */
static struct plan_load load_of(const struct rig *rig, uint32_t slabs, size_t slab_bytes) {
    const struct record *record = engine_record(rig->engine);
    struct record_cell cell;
    record_get(record, rig->config.sequences, RIG_CONTEXT / 2.0, &cell);
    return (struct plan_load){.layers = model_shape(rig->model)->layers,
                              .slabs = slabs,
                              .slab_bytes = slab_bytes,
                              .layer_ns = cell.layer_ns,
                              .after_ns = cell.outside_ns,
                              .link_bytes_per_s = record->link_bytes_per_s,
                              .copy_ns = record->copy_ns};
}

/* Does `options` stream more than `best` does, and keep the promise, by the model of time? */
static bool is_better(const char *name, const struct plan_load *load, uint64_t tpot_ns,
                      const struct policy_options *options, uint32_t *best) {
    const struct policy *policy;
    struct plan_choice choice;
    struct policy_request request = {
        .load = load, .deadline_ns = tpot_ns, .limits = PLAN_UNLIMITED, .options = *options};
    rig_check(policy_find(name, &policy));
    struct status status = policy->place(&request, &choice);
    if (status_failed(&status) || !choice.feasible || choice.plan.streamed_slabs <= *best) {
        return false;
    }
    *best = choice.plan.streamed_slabs;
    return true;
}

/* The options that a user who could see into the model of time would set by hand. */
static void tune_flexgen(const struct plan_load *load, struct contender *contender) {
    uint32_t best = 0;
    for (uint32_t slabs = 0; slabs <= load->slabs; slabs++) {
        struct policy_options options = {.percent = 100.0 * slabs / load->slabs};
        if (is_better("flexgen", load, contender->config.tpot_ns, &options, &best) || slabs == 0) {
            contender->config.options = options;
        }
    }
    snprintf(contender->options, sizeof contender->options, "%.0f %%", contender->config.options.percent);
}

static void tune_prefetch_group(const struct plan_load *load, struct contender *contender) {
    uint32_t best = 0;
    contender->config.options = (struct policy_options){.group = load->layers, .group_streamed = 1, .prefetch_step = 1};
    for (uint32_t group = 1; group <= load->layers; group++) {
        for (uint32_t streamed = 1; streamed <= group; streamed++) {
            for (uint32_t step = 1; step <= 4; step++) {
                struct policy_options options = {.group = group, .group_streamed = streamed, .prefetch_step = step};
                if (is_better("prefetch-group", load, contender->config.tpot_ns, &options, &best)) {
                    contender->config.options = options;
                }
            }
        }
    }
    const struct policy_options *set = &contender->config.options;
    snprintf(contender->options, sizeof contender->options, "%u of %u, %u ahead", set->group_streamed, set->group,
             set->prefetch_step);
}

static void show_use(struct bench *bench, const struct contender *contender, struct outcome *outcome) {
    struct table *table = &bench->table;
    const struct offload_report *last = &outcome->last;
    const struct rig_config *config = &contender->config;
    table_text(table, "policy", config->policy);
    table_text(table, "set by hand", contender->options);
    table_number(table, "batch", 0, config->sequences);
    table_number(table, "promise_ms", 2, (double)config->tpot_ns / 1e6);
    table_number(table, "link_GB/s", 2, config->link_bytes_per_s / 1e9);
    table_number(table, "host_layers", 2, (double)last->streamed_slabs / last->slabs);
    table_number(table, "MB_streamed", 2, outcome->bytes / 1e6);
    table_number(table, "measured_ms", 2, quantile(&outcome->measured, 0.5) / 1e6);
    table_number(table, "link_use", 3, link_use(config, outcome->bytes));
    table_number(table, "late_%", 2, 100.0 * outcome->late / outcome->error.count);
    table_end_row(table);
}

/* Every policy with one promise on one link, from the record that the first of them measured. */
static void compare_policies(struct bench *bench, uint32_t sequences, double relaxed, double reach) {
    static struct outcome outcome;
    static struct rig rig;
    struct contender contender = {.config = configure(bench, NULL, sequences, relaxed, reach)};
    rig_open(&contender.config, &rig);
    run(&rig, MEASURED, &outcome);
    struct record record = *engine_record(rig.engine);
    struct plan_load whole = load_of(&rig, 1, model_slab_bytes(rig.model, rig.device, 1));
    struct plan_load cut = load_of(&rig, outcome.last.slabs, outcome.last.slot_bytes);
    rig_close(&rig);
    show_use(bench, &contender, &outcome);
    contender.config.device_memory = rig_budget(&contender.config, 1.2); /* room for every layer and a ring */
    static const char *const names[] = {"select-n", "flexgen", "prefetch-group", "zero-inference"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        contender.config.policy = names[i];
        contender.config.record = &record;
        contender.config.options = (struct policy_options){0};
        contender.options[0] = 0;
        if (strcmp(names[i], "flexgen") == 0) {
            tune_flexgen(&cut, &contender);
        } else if (strcmp(names[i], "prefetch-group") == 0) {
            tune_prefetch_group(&whole, &contender);
        }
        uint64_t tpot_ns = contender.config.tpot_ns;
        bool chooses = strcmp(names[i], "select-n") == 0; /* the others know no promise, and are not refused for one */
        contender.config.tpot_ns = chooses ? tpot_ns : 0;
        rig_open(&contender.config, &rig);
        run(&rig, i + 1 < sizeof names / sizeof names[0] ? MEASURED : MEASURED / 3, &outcome);
        rig_close(&rig);
        contender.config.tpot_ns = tpot_ns;
        outcome.late = 0;
        for (uint32_t j = 0; j < outcome.measured.count; j++) {
            outcome.late += outcome.measured.value[j] > (double)tpot_ns;
        }
        show_use(bench, &contender, &outcome);
    }
}

static void measure_link(struct bench *bench) {
    table_section(
        &bench->table, "link",
        "use of the link: bytes streamed / (link x promise), the model having more to give; the options set by "
        "hand are the best ones there are by the model of time");
    compare_policies(bench, 1, 6, 0.5);
    compare_policies(bench, 16, 3, 0.4);
}

/* ---- the cost of offloading nothing ---- */

/* The times of a few iterations of steady decoding. */
static void time_iterations(struct rig *rig, uint32_t iterations, struct samples *samples) {
    for (uint32_t i = 0; i < iterations; i++) {
        rig_decode(rig);
        if (samples) {
            add(samples, (double)(clock_now_ns() - rig->begin_ns));
        }
    }
}

/* Opens the engine that may offload, by the record of the first one opened. With a promise nothing gets over the link
 * by the promised time, as that record is made to say. */
static void open_idle(struct rig_config config, struct record *record, uint64_t tpot_ns, struct rig *rig) {
    config.policy = "metronome";
    if (record->link_bytes_per_s == 0) {
        rig_open(&config, rig);
        *record = *engine_record(rig->engine);
        record->link_bytes_per_s = tpot_ns > 0 ? 1000 : record->link_bytes_per_s;
        rig_close(rig);
    }
    config.record = record;
    config.tpot_ns = tpot_ns;
    rig_open(&config, rig);
}

/* Two engines side by side, a few iterations each in turn, so that whatever else the machine does befalls both. Where
 * memory happened to lie makes one engine slower than its twin by more than what is looked for: so they are opened anew
 * several times, each first in turn, and each opening gives one ratio of their median iterations. */
static void compare_idle(struct bench *bench, uint32_t sequences, uint64_t tpot_ns, const char *what) {
    enum { OPENINGS = 24, TURNS = 24 };
    static struct rig without, with;
    static struct samples ratios, without_ns, with_ns;
    const struct rig_config config = {.model = bench->model, .policy = "none", .sequences = sequences};
    const uint32_t iterations = sequences > 1 ? 2 : 6;
    struct record record = {0};
    uint64_t streamed = 0;
    ratios.count = 0;
    for (int opening = 0; opening < OPENINGS; opening++) {
        if (opening % 2) {
            open_idle(config, &record, tpot_ns, &with);
            rig_open(&config, &without);
        } else {
            rig_open(&config, &without);
            open_idle(config, &record, tpot_ns, &with);
        }
        time_iterations(&without, SETTLE, NULL);
        time_iterations(&with, SETTLE, NULL);
        without_ns.count = with_ns.count = 0;
        for (int turn = 0; turn < TURNS; turn++) {
            time_iterations(turn % 2 ? &without : &with, iterations, turn % 2 ? &without_ns : &with_ns);
            time_iterations(turn % 2 ? &with : &without, iterations, turn % 2 ? &with_ns : &without_ns);
        }
        add(&ratios, quantile(&with_ns, 0.5) / quantile(&without_ns, 0.5));
        struct engine_stats stats;
        engine_stats(with.engine, &stats);
        streamed += stats.offload.total_bytes_streamed;
        rig_close(&with);
        rig_close(&without);
    }
    struct table *table = &bench->table;
    table_text(table, "promise", what);
    table_number(table, "batch", 0, sequences);
    table_number(table, "MB_streamed", 0, (double)streamed / 1e6);
    table_number(table, "cost_median_%", 2, 100 * (quantile(&ratios, 0.5) - 1));
    table_number(table, "cost_p25_%", 2, 100 * (quantile(&ratios, 0.25) - 1));
    table_number(table, "cost_p75_%", 2, 100 * (quantile(&ratios, 0.75) - 1));
    table_number(table, "openings", 0, OPENINGS);
    table_end_row(table);
}

static void measure_idle(struct bench *bench) {
    table_section(&bench->table, "idle",
                  "time of an iteration with policy metronome and nothing to stream, beyond that with policy none");
    compare_idle(bench, 1, 0, "none");
    compare_idle(bench, 1, (uint64_t)(10 * resident_ns(bench, NULL, 1)), "kept");
    compare_idle(bench, 16, (uint64_t)(10 * resident_ns(bench, NULL, 16)), "kept");
}

/* ---- a neighbour ---- */

static void meet_neighbour(struct bench *bench, const char *hardware, double relaxed, uint32_t iterations,
                           double every) {
    struct rig_config config = configure(bench, hardware, 1, relaxed, 0.5);
    static struct rig rig;
    static struct neighbour neighbour;
    rig_open(&config, &rig);
    for (int i = 0; i < 2 * SETTLE; i++) {
        rig_decode(&rig);
    }
    uint64_t span_ns = iterations * config.tpot_ns;
    neighbour_begin(&rig, span_ns, (uint64_t)(every * (double)config.tpot_ns), 7, &neighbour);
    for (uint32_t i = 0; i < iterations; i++) {
        struct offload_report report = rig_decode(&rig);
        neighbour_judge(&neighbour, rig.begin_ns, &report);
    }
    neighbour_end(&neighbour);
    struct engine_stats stats;
    engine_stats(rig.engine, &stats);
    struct table *table = &bench->table;
    double percent = 100.0 / iterations;
    table_text(table, "device", hardware ? "sim" : "cpu");
    table_number(table, "iterations", 0, iterations);
    table_number(table, "every", 0, every);
    table_number(table, "drops", 0, (double)neighbour.drops);
    table_number(table, "placements", 0, (double)stats.offload.placements);
    table_number(table, "host_layers", 2, (double)neighbour.slabs / iterations / stats.offload.slabs);
    table_number(table, "MB_streamed", 2, (double)neighbour.bytes / iterations / 1e6);
    table_number(table, "late_%", 3, percent * (double)neighbour.late);
    table_number(table, "in_a_drop_%", 3, percent * (double)neighbour.late_drop);
    table_number(table, "after_it_%", 3, percent * (double)neighbour.late_after);
    table_number(table, "by_plan_%", 3, percent * (double)neighbour.late_plan);
    table_number(table, "late_tokens_%", 3, percent * (double)neighbour.late_tokens);
    table_end_row(table);
    rig_close(&rig);
}

static void measure_neighbour(struct bench *bench) {
    table_section(
        &bench->table, "neighbour",
        "a neighbour takes half of the link at random times, every so many iterations; late: after the promised "
        "time, of them\n  in_a_drop: the link fell while they ran\n  after_it: no plan could have kept them, "
        "for all that was not on the device had to pass the slower link\n  by_plan: the rest\n"
        "late_tokens: after the first token + n x promise");
    meet_neighbour(bench, SIM_HARDWARE, 2, 20000, 0);
    meet_neighbour(bench, SIM_HARDWARE, 2, 100000, 4000);
    meet_neighbour(bench, SIM_HARDWARE, 2, 100000, 150);
    meet_neighbour(bench, NULL, 6, 400, 0);
    meet_neighbour(bench, NULL, 6, 800, 150);
}

/* ---- the tuner ---- */

static void measure_tuner(struct bench *bench) {
    double best = tuner_time_us();
    for (int i = 0; i < 9; i++) { /* what it takes when nobody else uses the core */
        double now = tuner_time_us();
        best = now < best ? now : best;
    }
    table_section(&bench->table, "tuner", "the tuner: decide and observe, once an iteration");
    table_number(&bench->table, "layers", 0, tuner_time_load.layers);
    table_number(&bench->table, "slabs_of_a_layer", 0, tuner_time_load.slabs);
    table_number(&bench->table, "us", 2, best);
    table_end_row(&bench->table);
}

/* ---- */

static const struct section {
    const char *name;
    void (*measure)(struct bench *bench);
} sections[] = {{"prediction", measure_prediction},
                {"link", measure_link},
                {"idle", measure_idle},
                {"neighbour", measure_neighbour},
                {"tuner", measure_tuner}};
#define SECTIONS (sizeof sections / sizeof sections[0])

static void show_machine(struct bench *bench) {
    struct device *device;
    const struct device_config config = {.name = "cpu"};
    rig_check(device_open(&config, &device));
    struct device_info info = device_info(device);
    device_close(device);
    double load = 0;
    char date[16];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    table_section(&bench->table, "machine", "where and when");
    table_text(&bench->table, "cpu", info.description);
    table_text(&bench->table, "date", date);
    table_number(&bench->table, "load", 2, getloadavg(&load, 1) == 1 ? load : 0);
    table_end_row(&bench->table);
}

static bool is_wanted(const char *name, int count, char **names) {
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return count == 0;
}

static bool names_sections(int count, char **names) {
    for (int i = 0; i < count; i++) {
        bool known = false;
        for (size_t j = 0; j < SECTIONS; j++) {
            known = known || strcmp(sections[j].name, names[i]) == 0;
        }
        if (!known) {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv) {
    static struct bench bench;
    const char *json = argc > 3 && strcmp(argv[2], "--json") == 0 ? argv[3] : NULL;
    int first = json ? 4 : 2;
    if (argc < 2 || !names_sections(argc - first, argv + first)) {
        fprintf(stderr,
                "Usage: offload-bench MODEL.gguf [--json FILE] [prediction | link | idle | neighbour | tuner]...\n");
        return 2;
    }
    bench.model = argv[1];
    log_set_level(LOG_WARN);
    rig_check(table_open(json, &bench.table));
    show_machine(&bench);
    for (size_t i = 0; i < SECTIONS; i++) {
        if (is_wanted(sections[i].name, argc - first, argv + first)) {
            sections[i].measure(&bench);
        }
    }
    rig_check(table_close(&bench.table));
    return 0;
}
