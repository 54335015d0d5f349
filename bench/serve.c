/* `metronome bench serve`: sends load to any server that speaks OpenAI's HTTP API, and times its tokens.
 * Threads: main's. */
#include "base/json.h"
#include "base/log.h"
#include "bench/commands.h"
#include "bench/load/lengths.h"
#include "bench/load/page.h"
#include "bench/load/report.h"
#include "server/command.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct flag flags[] = {
    {"url", "URL", "of the server; http://127.0.0.1:8080 if not given"},
    {"model", "NAME", "asked of /v1/models if not given"},
    {"endpoint", "NAME", "chat, if not given, or completions"},
    {"clients", "N", "closed loop: each sends its next request when its last has ended; 1 if no rate is given"},
    {"rate", "X", "open loop: arrivals a second, whatever the server does"},
    {"burstiness", "B", "of arrivals: 1 is a Poisson process, if not given; less comes in bursts"},
    {"trace", "FILE", "open loop: arrivals and lengths of Azure's CSV or Mooncake's JSONL"},
    {"speed", "X", "plays a trace X times as fast; 1 if not given"},
    {"limit", "N", "the first so many requests of a trace; all if not given"},
    {"requests", "N", "that are sent, if no trace says; 100 if not given"},
    {"seconds", "S", "sends nothing after S seconds, and waits for what is under way"},
    {"prompt", "LENGTH", "words of a prompt: 128, if not given, 64-256, normal:128:32 or lognormal:128:1"},
    {"output", "LENGTH", "tokens of an answer, likewise; 64 if not given"},
    {"ignore-eos", NULL, "asks for answers of the whole length: ignore_eos and min_tokens, if the server knows them"},
    {"body", "JSON", "an object whose members every request gets; null takes one away"},
    {"key-env", "NAME", "the environment variable that holds the API key"},
    {"warmup", "N", "requests before those that count, one after another; 0 if not given"},
    {"retries", "N", "a request told to wait (429) is sent again N times, after Retry-After; 0 if not given"},
    {"timeout", "S", "seconds for a whole answer; 600 if not given"},
    {"seed", "N", "of arrivals, lengths and words; 0 if not given"},
    {"slo.ttft_ms", "MS", "a promise that goodput counts: the first token"},
    {"slo.tpot_ms", "MS", "a promise that goodput counts: each token after it, in the mean of an answer"},
    {"json", "FILE", "writes the report as JSON; - is standard output, instead of the text"},
    {"html", "FILE", "writes a page of its own, pictures included"},
    {"help", NULL, "this"},
};
enum {
    URL,
    MODEL,
    ENDPOINT,
    CLIENTS,
    RATE,
    BURSTINESS,
    TRACE,
    SPEED,
    LIMIT,
    REQUESTS,
    SECONDS,
    PROMPT,
    OUTPUT,
    IGNORE_EOS,
    BODY,
    KEY_ENV,
    WARMUP,
    RETRIES,
    TIMEOUT,
    SEED,
    SLO_TTFT,
    SLO_TPOT,
    JSON,
    HTML,
    HELP
};

#define MOST_REQUESTS (1U << 22)

static void show_help(FILE *file) {
    fprintf(
        file,
        "usage: metronome bench serve [--url URL] [--clients N | --rate X | --trace FILE] [OPTION]...\n\n"
        "Streams completions from a server that speaks OpenAI's HTTP API, and says how long tokens took, from when\n"
        "each request was due. docs/bench.md tells what is counted.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], false);
}

/* What was asked for. */
struct order {
    const struct arguments *arguments;
    struct target target;
    struct load_config load;
    struct load_promise promise;
    const char *prompt, *output;
    double rate, burstiness;
    uint64_t seed;
    uint32_t warmup;
    struct trace trace;
    cJSON *extra;
};

/* ---- reading the order ---- */

static struct status number(const struct arguments *arguments, int flag, double least, double most, bool whole,
                            double *out) {
    if (arguments->values[flag]) {
        TRY(arguments_number(flags[flag].name, arguments->values[flag], least, most, out));
    }
    if (whole && *out != floor(*out)) {
        return status_error(STATUS_INVALID, "--%s: %.40s is not a whole number", flags[flag].name,
                            arguments->values[flag]);
    }
    return STATUS_SUCCESS;
}

static struct status refuse_with(const struct arguments *arguments, int with, const int *others, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (arguments->values[others[i]]) {
            return status_error(STATUS_INVALID, "--%s and --%s: give one of them", flags[with].name,
                                flags[others[i]].name);
        }
    }
    return STATUS_SUCCESS;
}

static struct status check_together(const struct arguments *arguments) {
    static const int not_clients[] = {RATE, BURSTINESS, TRACE, SPEED};
    static const int not_trace[] = {REQUESTS, PROMPT, OUTPUT, BURSTINESS};
    static const int not_rate[] = {SPEED};
    if (arguments->values[CLIENTS]) {
        TRY(refuse_with(arguments, CLIENTS, not_clients, sizeof not_clients / sizeof *not_clients));
    }
    if (arguments->values[TRACE]) {
        TRY(refuse_with(arguments, TRACE, not_trace, sizeof not_trace / sizeof *not_trace));
    }
    if (arguments->values[RATE]) {
        TRY(refuse_with(arguments, RATE, not_rate, sizeof not_rate / sizeof *not_rate));
    }
    if (!arguments->values[TRACE] && (arguments->values[SPEED] || arguments->values[LIMIT])) {
        return status_error(STATUS_INVALID, "--%s is for a --trace", arguments->values[SPEED] ? "speed" : "limit");
    }
    if (!arguments->values[RATE] && arguments->values[BURSTINESS]) {
        return status_error(STATUS_INVALID, "--burstiness is for a --rate");
    }
    return STATUS_SUCCESS;
}

static struct status read_target(struct order *order) {
    const char *const *values = order->arguments->values;
    const char *endpoint = values[ENDPOINT] ? values[ENDPOINT] : "chat", *model = values[MODEL] ? values[MODEL] : "";
    TRY(target_parse(values[URL] ? values[URL] : "http://127.0.0.1:8080", &order->target));
    if (strcmp(endpoint, "chat") != 0 && strcmp(endpoint, "completions") != 0) {
        return status_error(STATUS_INVALID, "--endpoint: \"%.40s\" is neither chat nor completions", endpoint);
    }
    if (strlen(model) >= sizeof order->target.model) {
        return status_error(STATUS_INVALID, "--model: is longer than %zu bytes", sizeof order->target.model - 1);
    }
    memcpy(order->target.model, model, strlen(model) + 1);
    order->target.completions = *endpoint == 'c' && endpoint[1] == 'o';
    order->target.ignore_eos = values[IGNORE_EOS] != NULL;
    if (values[KEY_ENV]) {
        const char *key = getenv(values[KEY_ENV]);
        if (!key || !*key || strlen(key) >= sizeof order->target.key || strpbrk(key, "\r\n")) {
            return status_error(STATUS_INVALID, "--key-env: the environment has no key in %.80s", values[KEY_ENV]);
        }
        memcpy(order->target.key, key, strlen(key) + 1);
    }
    if (values[BODY]) {
        static const struct json_rules rules = {.depth = 32, .values = 1U << 16, .unique = true};
        struct status status = json_parse(values[BODY], strlen(values[BODY]), &rules, &order->extra);
        if (status_failed(&status)) {
            return status_context(status, "--body");
        }
        if (!cJSON_IsObject(order->extra)) {
            return status_error(STATUS_INVALID, "--body: is %s, not an object", json_type_name(order->extra));
        }
        order->target.extra = order->extra;
    }
    return STATUS_SUCCESS;
}

static struct status read_numbers(struct order *order) {
    const struct arguments *arguments = order->arguments;
    double clients = 1, retries = 0, warmup = 0, seed = 0;
    order->burstiness = 1;
    order->load.timeout_s = 600;
    TRY(number(arguments, CLIENTS, 1, 65536, true, &clients));
    TRY(number(arguments, RATE, 0.001, 1e6, false, &order->rate));
    TRY(number(arguments, BURSTINESS, 0.01, 1000, false, &order->burstiness));
    TRY(number(arguments, SECONDS, 0.001, 1e7, false, &order->load.seconds));
    TRY(number(arguments, RETRIES, 0, 1000, true, &retries));
    TRY(number(arguments, WARMUP, 0, 10000, true, &warmup));
    TRY(number(arguments, TIMEOUT, 0.001, 86400, false, &order->load.timeout_s));
    TRY(number(arguments, SEED, 0, 0x1p53, true, &seed));
    TRY(number(arguments, SLO_TTFT, 0, 1e9, false, &order->promise.ttft_ms));
    TRY(number(arguments, SLO_TPOT, 0, 1e9, false, &order->promise.tpot_ms));
    order->load.clients = arguments->values[RATE] || arguments->values[TRACE] ? 0 : (uint32_t)clients;
    order->load.retries = (uint32_t)retries;
    order->warmup = (uint32_t)warmup;
    order->seed = (uint64_t)seed;
    return STATUS_SUCCESS;
}

/* ---- the requests ---- */

/* Random requests: arrivals by the rate, lengths by what was asked. */
static struct status draw_requests(const struct order *order, uint32_t count, uint64_t seed, struct trace *out) {
    struct lengths prompt, output;
    struct random_state random;
    struct trace_shape shape = {.count = count,
                                .rate = order->rate > 0 ? order->rate : 1,
                                .burstiness = order->burstiness,
                                .prompt_tokens = 1,
                                .output_tokens = 1,
                                .seed = seed};
    TRY(lengths_parse("prompt", order->prompt, &prompt));
    TRY(lengths_parse("output", order->output, &output));
    TRY(trace_draw(&shape, out));
    random_seed(&random, random_hash(seed, count));
    for (uint32_t i = 0; i < out->count; i++) {
        out->requests[i].prompt_tokens = lengths_draw(&prompt, &random);
        out->requests[i].output_tokens = lengths_draw(&output, &random);
    }
    return STATUS_SUCCESS;
}

static struct status read_trace(struct order *order) {
    const struct arguments *arguments = order->arguments;
    double limit = TRACE_MAX_REQUESTS, speed = 1;
    TRY(number(arguments, LIMIT, 1, TRACE_MAX_REQUESTS, true, &limit));
    TRY(number(arguments, SPEED, 1e-3, 1e6, false, &speed));
    TRY(trace_read_file(arguments->values[TRACE], &order->trace));
    trace_keep(&order->trace, (uint32_t)limit);
    order->trace.seed = order->seed;
    double own = trace_rate(&order->trace);
    if (order->rate > 0 && own > 0) {
        speed = order->rate / own;
    }
    for (uint32_t i = 0; i < order->trace.count; i++) {
        order->trace.requests[i].arrival_ns = (uint64_t)((double)order->trace.requests[i].arrival_ns / speed);
    }
    order->rate = trace_rate(&order->trace);
    return STATUS_SUCCESS;
}

static struct status read_requests(struct order *order) {
    const struct arguments *arguments = order->arguments;
    const char *const *values = arguments->values;
    double requests = 100;
    order->prompt = values[PROMPT] ? values[PROMPT] : "128";
    order->output = values[OUTPUT] ? values[OUTPUT] : "64";
    if (values[TRACE]) {
        return read_trace(order);
    }
    TRY(number(arguments, REQUESTS, 1, MOST_REQUESTS, true, &requests));
    if (values[SECONDS] && !values[REQUESTS]) { /* more than come in that time, or than any server answers in it */
        double most_rate = order->rate > 0 ? 2 * order->rate : 10000;
        requests = fmin(MOST_REQUESTS, ceil(order->load.seconds * most_rate + 1000));
    }
    return draw_requests(order, (uint32_t)requests, order->seed, &order->trace);
}

/* ---- running ---- */

/* The first failure of a warm-up is the command's: there is nothing to measure. */
static struct status warm_up(const struct order *order) {
    struct load_config config = order->load;
    struct load_report report;
    struct trace trace;
    TRY(draw_requests(order, order->warmup, random_hash(order->seed, order->warmup), &trace));
    config.trace = &trace;
    config.clients = 1;
    config.seconds = 0;
    config.bar = NULL;
    struct status status = load_run(&config, &report);
    if (status.code == STATUS_OK) {
        for (int kind = OUTCOME_NO_TOKENS + 1; kind < OUTCOME_KINDS && status.code == STATUS_OK; kind++) {
            if (report.kinds[kind] > 0) {
                status = status_error(STATUS_IO, "warm-up: %s (%s) %.120s", outcome_name((enum outcome_kind)kind),
                                      outcome_help((enum outcome_kind)kind), report.example[kind]);
            }
        }
        load_report_free(&report);
    }
    trace_free(&trace);
    return status;
}

static void write_form(const void *story, enum report_form form, struct text *out) {
    if (form == REPORT_JSON) {
        load_story_json(story, out);
    } else {
        load_story_text(story, out);
    }
}

static struct status write_report(const struct order *order, struct load_report *report) {
    const char *const *values = order->arguments->values;
    struct load_figures figures;
    TRY(load_figures(report, &order->promise, &figures));
    struct load_story story = {.url = values[URL] ? values[URL] : "http://127.0.0.1:8080",
                               .target = &order->target,
                               .trace = values[TRACE],
                               .prompt = values[TRACE] ? NULL : order->prompt,
                               .output = values[TRACE] ? NULL : order->output,
                               .clients = order->load.clients,
                               .rate = order->rate,
                               .burstiness = order->burstiness,
                               .seed = order->seed,
                               .promise = order->promise,
                               .report = report,
                               .figures = &figures};
    TRY(command_write_forms(values[JSON], NULL, write_form, &story));
    if (values[HTML]) {
        TRY(load_story_page(&story, values[HTML]));
    }
    return figures.whole > 0 ? STATUS_SUCCESS
                             : status_error(STATUS_IO, "bench serve: none of %u answers came whole", figures.sent);
}

static struct status run_order(struct order *order) {
    struct load_report report;
    struct progress bar;
    TRY(check_together(order->arguments));
    TRY(read_target(order));
    TRY(read_numbers(order));
    TRY(read_requests(order));
    TRY(target_find(&order->target, order->load.timeout_s));
    order->load.target = &order->target;
    order->load.trace = &order->trace;
    order->load.bar = &bar;
    if (order->warmup > 0) {
        TRY(warm_up(order));
    }
    progress_begin(&bar, "bench serve", load_work(&order->load));
    struct status status = load_run(&order->load, &report);
    progress_end(&bar);
    if (status.code == STATUS_OK) {
        status = write_report(order, &report);
        load_report_free(&report);
    }
    return status;
}

int bench_serve(int argc, const char **argv) {
    struct arguments arguments;
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], NULL, &arguments);
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID, "bench serve takes no \"%.80s\"; a server is named with --url",
                              arguments.positional[0]);
    }
    if (status.code == STATUS_OK) {
        struct order order = {.arguments = &arguments};
        signal(SIGPIPE, SIG_IGN);
        status = run_order(&order);
        trace_free(&order.trace);
        cJSON_Delete(order.extra);
    }
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
