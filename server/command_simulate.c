/* `metronome simulate`: a trace of requests through the real scheduler and offload engine, on a simulated device and
 * its virtual clock. Threads: main's. */
#include "base/log.h"
#include "server/command.h"
#include "server/described.h"
#include "server/simulate_compare.h"
#include "server/simulate_report.h"
#include "server/simulate_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct flag flags[] = {
    {"trace", "FILE", "requests: Azure's CSV, Mooncake's JSONL; or \"drawn\", if not given, for random ones"},
    {"requests", "N", "the first so many of the trace, all if not given; of drawn ones 1000"},
    {"rate", "X[,X]...", "requests a second, a run for each; if not given, the trace's own, or 1"},
    {"prompt", "N", "drawn: tokens of a prompt, in the mean; 512 if not given"},
    {"output", "N", "drawn: tokens of an answer, in the mean; 128 if not given"},
    {"burstiness", "B", "drawn: 1 is a Poisson process, if not given; less comes in bursts"},
    {"policy", "P[,P]...", "offload policies, a run for each; offload.policy, or metronome, if not given"},
    {"find", "rate|memory", "searches the highest rate, or the least device memory, that keeps the promises"},
    {"attainment", "A", "the share of requests that must keep their promises for it; 0.99 if not given"},
    {"compare", NULL, "beside first come, first served, and one who knows what is to come, at each rate"},
    {"searches", "N", "runs that finding what the latter can keep may take, at each rate; 40 if not given"},
    {"svg", "FILE", "draws attainment against load; - is standard output"},
    {"json", "FILE", "writes the report as JSON; - is standard output, instead of the text"},
    {"help", NULL, "this"},
};
enum {
    TRACE,
    REQUESTS,
    RATE,
    PROMPT,
    OUTPUT,
    BURSTINESS,
    POLICY,
    FIND,
    ATTAINMENT,
    COMPARE,
    SEARCHES,
    SVG,
    JSON,
    HELP
};

enum {
    MAX_LIST = 16,    /* rates, or policies */
    MAX_RUNS = 1024,  /* in all */
    SEARCH_STEPS = 8, /* halvings of what a search has enclosed */
    SEARCH_DOUBLINGS = 12,
};

static void show_help(FILE *file) {
    fprintf(file,
            "usage: metronome simulate --hardware NAME --model NAME [--trace FILE] --slo.ttft_ms MS --slo.tpot_ms MS\n"
            "                          [--policy P] [--rate X] [--find rate|memory] [OPTION]...\n\n"
            "Sends the requests of a trace through the scheduler and the offload engine as they are served, on a "
            "device that is\nsimulated from the description of its hardware, and says which promises were kept. "
            "The model is a description\nunder configs/models or a file. The same command gives the same "
            "report.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

/* What was asked for. */
struct order {
    struct config *config;
    struct trace trace;
    double rates[MAX_LIST];
    uint32_t rate_count;
    char *policies[MAX_LIST]; /* cut out of `policy_text` */
    uint32_t policy_count;
    char *policy_text;
    enum simulated_find find;
    double target, searches;
    struct comparison *loads;   /* (rate_count) when comparing, else NULL */
    struct simulated_run *runs; /* (run_count), room for MAX_RUNS */
    uint32_t run_count;
};

/* ---- reading the order ---- */

static struct status read_number(const struct arguments *arguments, int flag, double least, double most, bool whole,
                                 double *out) {
    if (arguments->values[flag]) {
        TRY(arguments_number(flags[flag].name, arguments->values[flag], least, most, out));
    }
    if (whole && *out != floor(*out)) {
        return status_error(STATUS_INVALID, "--%s: %s is not a whole number", flags[flag].name,
                            arguments->values[flag]);
    }
    return STATUS_SUCCESS;
}

static struct status read_trace(const struct arguments *arguments, struct order *order) {
    const char *file = arguments->values[TRACE] ? arguments->values[TRACE] : "drawn";
    const bool drawn = strcmp(file, "drawn") == 0;
    double requests = drawn ? 1000 : TRACE_MAX_REQUESTS, prompt = 512, output = 128, burstiness = 1;
    TRY(read_number(arguments, REQUESTS, 1, TRACE_MAX_REQUESTS, true, &requests));
    TRY(read_number(arguments, PROMPT, 1, 1 << 20, true, &prompt));
    TRY(read_number(arguments, OUTPUT, 1, 1 << 20, true, &output));
    TRY(read_number(arguments, BURSTINESS, 0.01, 1000, false, &burstiness));
    if (drawn) {
        struct trace_shape shape = {.count = (uint32_t)requests,
                                    .rate = 1,
                                    .burstiness = burstiness,
                                    .prompt_tokens = (uint32_t)prompt,
                                    .output_tokens = (uint32_t)output,
                                    .seed = order->config->seed};
        return trace_draw(&shape, &order->trace);
    }
    for (int flag = PROMPT; flag <= BURSTINESS; flag++) {
        if (arguments->values[flag]) {
            return status_error(STATUS_INVALID, "--%s is for drawn requests, and --trace names a file",
                                flags[flag].name);
        }
    }
    TRY(trace_read_file(file, &order->trace));
    order->trace.seed = order->config->seed;
    trace_keep(&order->trace, (uint32_t)requests);
    return STATUS_SUCCESS;
}

static struct status read_rates(const struct arguments *arguments, struct order *order) {
    char *text = arguments->values[RATE] ? strdup(arguments->values[RATE]) : NULL, *rest = text;
    struct status status = STATUS_SUCCESS;
    for (char *item; text && status.code == STATUS_OK && (item = strsep(&rest, ",")) != NULL;) {
        status = order->rate_count < MAX_LIST
                     ? arguments_number("rate", item, 0.001, 1e6, &order->rates[order->rate_count++])
                     : status_error(STATUS_INVALID, "--rate: takes at most %d rates", MAX_LIST);
    }
    free(text);
    if (order->rate_count == 0) {
        double own = trace_rate(&order->trace);
        order->rates[order->rate_count++] = own > 0 ? own : 1;
    }
    return status;
}

static struct status read_policies(const struct arguments *arguments, struct order *order) {
    const char *fallback = config_is_set(order->config, "offload.policy") ? order->config->offload_policy : "metronome";
    order->policy_text = strdup(arguments->values[POLICY] ? arguments->values[POLICY] : fallback);
    if (order->policy_text == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for the names of policies");
    }
    char *rest = order->policy_text;
    for (char *item; (item = strsep(&rest, ",")) != NULL;) {
        const struct policy *policy;
        TRY(policy_find(item, &policy));
        if (order->policy_count == MAX_LIST) {
            return status_error(STATUS_INVALID, "--policy: takes at most %d policies", MAX_LIST);
        }
        order->policies[order->policy_count++] = item;
    }
    return STATUS_SUCCESS;
}

static struct status read_search(const struct arguments *arguments, struct order *order) {
    const char *find = arguments->values[FIND];
    order->target = 0.99;
    TRY(read_number(arguments, ATTAINMENT, 0, 1, false, &order->target));
    if (find && strcmp(find, "rate") != 0 && strcmp(find, "memory") != 0) {
        return status_error(STATUS_INVALID, "--find: \"%.40s\" is neither rate nor memory", find);
    }
    order->find = !find ? FIND_NOTHING : *find == 'r' ? FIND_RATE : FIND_MEMORY;
    const struct config *config = order->config;
    if (order->find != FIND_NOTHING && config->slo_ttft_ms <= 0 && config->slo_tpot_ms <= 0) {
        return status_error(STATUS_INVALID, "--find takes a promise: --slo.ttft_ms MS, --slo.tpot_ms MS, or both");
    }
    if (order->find != FIND_NOTHING && order->rate_count > 1) {
        return status_error(STATUS_INVALID, "--find begins at one --rate, not at %u", order->rate_count);
    }
    return STATUS_SUCCESS;
}

static struct status read_comparison(const struct arguments *arguments, struct order *order) {
    order->searches = 40;
    TRY(read_number(arguments, SEARCHES, 1, 100000, true, &order->searches));
    if (!arguments->values[COMPARE]) {
        return arguments->values[SEARCHES] ? status_error(STATUS_INVALID, "--searches is for --compare")
                                           : STATUS_SUCCESS;
    }
    if (order->find != FIND_NOTHING || order->policy_count > 1 || arguments->values[SVG]) {
        return status_error(STATUS_INVALID, "--compare takes one --policy, and neither --find nor --svg");
    }
    if (config_is_set(order->config, "scheduler.order")) {
        return status_error(STATUS_INVALID, "--compare sets scheduler.order itself; leave it out");
    }
    if (order->config->slo_ttft_ms <= 0 && order->config->slo_tpot_ms <= 0) {
        return status_error(STATUS_INVALID, "--compare takes a promise: --slo.ttft_ms MS, --slo.tpot_ms MS, or both");
    }
    order->loads = calloc(order->rate_count, sizeof *order->loads);
    return order->loads ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for the comparisons");
}

/* Files of what happened are of one run. */
static struct status check_files(const struct order *order) {
    bool one = order->policy_count * order->rate_count == 1 && order->find == FIND_NOTHING && !order->loads;
    return one || (!*order->config->trace_file && !*order->config->slo_log)
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID,
                              "--trace_file and --slo_log are of one run: one --policy at one --rate, and neither "
                              "--find nor --compare");
}

static struct status read_order(const struct arguments *arguments, struct order *order) {
    TRY(simulate_hardware(order->config));
    TRY(read_trace(arguments, order));
    TRY(read_rates(arguments, order));
    TRY(read_policies(arguments, order));
    TRY(read_search(arguments, order));
    TRY(read_comparison(arguments, order));
    TRY(check_files(order));
    order->runs = calloc(MAX_RUNS, sizeof *order->runs);
    return order->runs ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for the runs' reports");
}

static void free_order(struct order *order) {
    trace_free(&order->trace);
    free(order->policy_text);
    free(order->runs);
    free(order->loads);
}

/* ---- running ---- */

/* One run; what keeps a policy from it is a result, too. */
static struct simulated_run *simulate(struct order *order, const char *policy, double rate, uint64_t device_memory) {
    struct simulated_run *run = &order->runs[order->run_count++];
    *run = (struct simulated_run){.policy = policy, .rate = rate, .device_memory = device_memory};
    run->status = order->find == FIND_NOTHING ? simulate_admission(order->config, &order->trace, run)
                                              : simulate_run(order->config, &order->trace, NULL, NULL, run);
    return run;
}

static bool meets(const struct order *order, const struct simulated_run *run) {
    return run->status.code == STATUS_OK && replay_attainment(&run->report) >= order->target;
}

static bool has_room(const struct order *order) {
    return order->run_count < MAX_RUNS;
}

/* Doubles or halves the rate until it is enclosed, then halves what encloses it. */
static void find_rate(struct order *order, const char *policy, uint64_t device_memory) {
    double good = 0, bad = 0, rate = order->rates[0];
    for (int i = 0; i < SEARCH_DOUBLINGS && (good == 0 || bad == 0) && has_room(order); i++) {
        bool met = meets(order, simulate(order, policy, rate, device_memory));
        good = met ? rate : good;
        bad = met ? bad : rate;
        rate = met ? rate * 2 : rate / 2;
    }
    for (int i = 0; i < SEARCH_STEPS && good > 0 && bad > good * 1.01 && has_room(order); i++) {
        rate = sqrt(good * bad);
        bool met = meets(order, simulate(order, policy, rate, device_memory));
        good = met ? rate : good;
        bad = met ? bad : rate;
    }
}

/* Halves what lies between nothing and the memory that there is, if that is enough. */
static void find_memory(struct order *order, const char *policy, uint64_t device_memory) {
    uint64_t bad = 0, good = device_memory;
    if (!meets(order, simulate(order, policy, order->rates[0], device_memory))) {
        return;
    }
    for (int i = 0; i < SEARCH_STEPS && has_room(order); i++) {
        uint64_t middle = bad + (good - bad) / 2;
        bool met = meets(order, simulate(order, policy, order->rates[0], middle));
        good = met ? middle : good;
        bad = met ? bad : middle;
    }
}

static void run_all(struct order *order) {
    const uint64_t device_memory = order->config->device_memory;
    for (uint32_t i = 0; i < order->policy_count; i++) {
        for (uint32_t j = 0; j < order->rate_count && order->find == FIND_NOTHING; j++) {
            simulate(order, order->policies[i], order->rates[j], device_memory);
        }
        if (order->find == FIND_RATE) {
            find_rate(order, order->policies[i], device_memory);
        } else if (order->find == FIND_MEMORY) {
            find_memory(order, order->policies[i], device_memory);
        }
    }
}

/* ---- the comparison ---- */

static void write_comparison(const void *report, enum report_form form, struct text *out) {
    if (form == REPORT_JSON) {
        compare_report_json(report, out);
    } else {
        compare_report_text(report, out);
    }
}

static struct status compare(const struct arguments *arguments, struct order *order, struct compared *compared) {
    const uint64_t device_memory = order->config->device_memory;
    for (uint32_t i = 0; i < order->rate_count; i++) {
        TRY(compare_at(order->config, &order->trace, order->policies[0], order->rates[i], device_memory,
                       (uint32_t)order->searches, &order->loads[i]));
        compared->load_count++;
    }
    TRY(command_write_forms(arguments->values[JSON], NULL, write_comparison, compared));
    return order->loads[0].runs[COMPARED_DEADLINES].status;
}

/* ---- the report ---- */

static void write_form(const void *report, enum report_form form, struct text *out) {
    static void (*const writers[])(const struct simulated *, struct text *) = {
        [REPORT_TEXT] = simulate_report_text, [REPORT_JSON] = simulate_report_json, [REPORT_SVG] = simulate_report_svg};
    writers[form](report, out);
}

/* No run at all came about: the first one's reason is the command's. */
static struct status none_ran(const struct order *order) {
    for (uint32_t i = 0; i < order->run_count; i++) {
        if (order->runs[i].status.code == STATUS_OK) {
            return STATUS_SUCCESS;
        }
    }
    return order->runs[0].status;
}

static struct status run_order(const struct arguments *arguments, struct order *order) {
    TRY(read_order(arguments, order));
    char *model = strdup(order->config->model), *hardware = strdup(order->config->hardware);
    const char *trace = arguments->values[TRACE] ? arguments->values[TRACE] : "drawn";
    struct compared compared = {.model = model ? model : "",
                                .hardware = hardware ? hardware : "",
                                .trace = trace,
                                .policy = order->policies[0],
                                .ttft_ms = order->config->slo_ttft_ms,
                                .tpot_ms = order->config->slo_tpot_ms,
                                .requests = order->trace.count,
                                .loads = order->loads};
    if (order->loads) {
        struct status status = compare(arguments, order, &compared);
        free(model);
        free(hardware);
        return status;
    }
    run_all(order);
    struct simulated simulated = {.model = model ? model : "",
                                  .hardware = hardware ? hardware : "",
                                  .trace = trace,
                                  .ttft_ms = order->config->slo_ttft_ms,
                                  .tpot_ms = order->config->slo_tpot_ms,
                                  .target = order->target,
                                  .find = order->find,
                                  .policies = (const char *const *)order->policies,
                                  .policy_count = order->policy_count,
                                  .runs = order->runs,
                                  .run_count = order->run_count};
    struct status status = command_write_forms(arguments->values[JSON], arguments->values[SVG], write_form, &simulated);
    free(model);
    free(hardware);
    return status.code == STATUS_OK ? none_ran(order) : status;
}

int command_simulate(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        config_free(&config);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID, "simulate takes no \"%.80s\"; a trace is named with --trace",
                              arguments.positional[0]);
    }
    if (status.code == STATUS_OK && !config_is_set(&config, "log_level")) {
        status = config_set(&config, "log_level", "warn", SOURCE_DEFAULT);
    }
    if (status.code == STATUS_OK) {
        command_set_log(&config);
        struct order order = {.config = &config};
        status = run_order(&arguments, &order);
        free_order(&order);
    }
    config_free(&config);
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
