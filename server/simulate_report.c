#include "server/simulate_report.h"

#include "base/bytes.h"
#include "server/chart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool meets(const struct simulated *simulated, const struct simulated_run *run) {
    return run->status.code == STATUS_OK && replay_attainment(&run->report) >= simulated->target;
}

const struct simulated_run *simulated_best(const struct simulated *simulated, const char *policy) {
    const struct simulated_run *best = NULL;
    for (uint32_t i = 0; i < simulated->run_count; i++) {
        const struct simulated_run *run = &simulated->runs[i];
        if (strcmp(run->policy, policy) != 0 || !meets(simulated, run)) {
            continue;
        }
        bool better = best == NULL || (simulated->find == FIND_MEMORY ? run->device_memory < best->device_memory
                                                                      : run->rate > best->rate);
        best = better ? run : best;
    }
    return best;
}

/* ---- words ---- */

static void add_promise(const struct simulated *simulated, struct text *out) {
    text_addf(out, "%s on %s, trace %s; promised: ", simulated->model, simulated->hardware, simulated->trace);
    if (simulated->ttft_ms > 0) {
        text_addf(out, "first token in %g ms%s", simulated->ttft_ms, simulated->tpot_ms > 0 ? ", " : "");
    }
    if (simulated->tpot_ms > 0) {
        text_addf(out, "one each %g ms after it", simulated->tpot_ms);
    }
    if (simulated->ttft_ms <= 0 && simulated->tpot_ms <= 0) {
        text_adds(out, "nothing");
    }
    text_adds(out, "\n\n");
}

static double percent(uint32_t part, uint32_t whole) {
    return whole > 0 ? 100.0 * part / whole : 0;
}

static void add_run(const struct simulated_run *run, struct text *out) {
    const struct replay_report *report = &run->report;
    char memory[16], host[16];
    text_addf(out, "%-15s %8.3f %10s", run->policy, run->rate, bytes_format(run->device_memory, memory, sizeof memory));
    if (run->status.code != STATUS_OK) {
        text_addf(out, "  %s\n", run->status.message);
        return;
    }
    text_addf(out, " %10s %7.2f %7.2f %7.2f %8.3f %8.1f %9.0f %9.0f %8.1f %8.1f %7u %7llu %6.1f\n",
              bytes_format((uint64_t)report->host_bytes_mean, host, sizeof host), 100 * replay_attainment(report),
              percent(report->kept_ttft, report->requests), percent(report->kept_tpot, report->requests),
              replay_goodput(report), report->seconds > 0 ? (double)report->output_tokens / report->seconds : 0,
              report->ttft.p50_ms, report->ttft.p99_ms, report->tpot.p50_ms, report->tpot.p99_ms, report->refused,
              (unsigned long long)report->preemptions, 100 * replay_cached(report));
}

static void add_answer(const struct simulated *simulated, const char *policy, struct text *out) {
    const struct simulated_run *best = simulated_best(simulated, policy);
    char memory[16];
    bool bounded = false; /* was there a run that did not meet it? */
    for (uint32_t i = 0; i < simulated->run_count; i++) {
        bounded = bounded || (strcmp(simulated->runs[i].policy, policy) == 0 && !meets(simulated, &simulated->runs[i]));
    }
    if (best == NULL) {
        text_addf(out, "%s: no %s looked at keeps %g %% of the promises\n", policy,
                  simulated->find == FIND_RATE ? "rate" : "memory", 100 * simulated->target);
    } else if (simulated->find == FIND_RATE) {
        text_addf(out, "%s: %s%.3f requests a second keep %g %% of the promises\n", policy,
                  bounded ? "" : "these requests however fast they come, at least ", best->rate,
                  100 * simulated->target);
    } else {
        text_addf(out, "%s: %s of device memory keep %g %% of the promises\n", policy,
                  bytes_format(best->device_memory, memory, sizeof memory), 100 * simulated->target);
    }
}

/* What admission did in a run, a line. */
static void add_admission(const struct simulated_run *run, struct text *out) {
    const struct simulated_admission *admission = &run->admission;
    if (run->status.code != STATUS_OK || !admission->asked) {
        return;
    }
    text_addf(out,
              "%s at %.3f: %llu admitted, %.2f %% of their first tokens in time (of %llu predicted), %.2f %% kept "
              "all; refused for",
              run->policy, run->rate, (unsigned long long)admission->admitted,
              percent((uint32_t)admission->first_in_time, (uint32_t)admission->first_tokens),
              (unsigned long long)admission->first_tokens, percent(run->report.kept, (uint32_t)admission->admitted));
    for (int i = SHORT_OF_TTFT; i < SHORTAGES; i++) {
        text_addf(out, "%s %s %llu", i > SHORT_OF_TTFT ? "," : "", shortage_name((enum shortage)i),
                  (unsigned long long)admission->refused[i]);
    }
    if (admission->repeated) {
        text_addf(out, "; with nobody refused %u of these would have been kept, and %u of all",
                  admission->kept_otherwise, admission->all_otherwise);
    }
    text_adds(out, "\n");
}

void simulate_report_text(const struct simulated *simulated, struct text *out) {
    add_promise(simulated, out);
    text_adds(out, "                                        weights    % of requests that kept        output "
                   "  TTFT p50       p99 TPOT p50      p99           pre-   % of\n"
                   "policy           requests     device    in host     all    TTFT    TPOT  goodput tokens/s "
                   "       ms        ms       ms       ms refused empted cached\n");
    for (uint32_t i = 0; i < simulated->run_count; i++) {
        add_run(&simulated->runs[i], out);
    }
    text_adds(out, "requests and goodput are a second; a request keeps its promise when it ends and none of its tokens "
                   "is late; cached: of the prompts' tokens, from the prefix cache\n");
    for (uint32_t i = 0; i < simulated->run_count; i++) {
        add_admission(&simulated->runs[i], out);
    }
    for (uint32_t i = 0; i < simulated->policy_count && simulated->find != FIND_NOTHING; i++) {
        add_answer(simulated, simulated->policies[i], out);
    }
}

/* ---- JSON ---- */

static void add_number(const char *name, double value, struct text *out) {
    text_addf(out, ", \"%s\": ", name);
    text_add_number(out, value);
}

static void add_times(const char *name, const struct replay_times *times, struct text *out) {
    text_addf(out, ", \"%s\": {\"mean\": ", name);
    text_add_number(out, times->mean_ms);
    add_number("p50", times->p50_ms, out);
    add_number("p90", times->p90_ms, out);
    add_number("p99", times->p99_ms, out);
    text_adds(out, "}");
}

static void add_admission_json(const struct simulated_admission *admission, struct text *out) {
    text_addf(out, ", \"admission\": {\"admitted\": %llu", (unsigned long long)admission->admitted);
    add_number("first_tokens", (double)admission->first_tokens, out);
    add_number("first_in_time", (double)admission->first_in_time, out);
    for (int i = SHORT_OF_TTFT; i < SHORTAGES; i++) {
        char name[32];
        snprintf(name, sizeof name, "refused_%s", shortage_name((enum shortage)i));
        add_number(name, (double)admission->refused[i], out);
    }
    if (admission->repeated) {
        add_number("refused_kept_otherwise", admission->kept_otherwise, out);
        add_number("all_kept_otherwise", admission->all_otherwise, out);
    }
    text_adds(out, "}");
}

static void add_run_json(const struct simulated_run *run, struct text *out) {
    const struct replay_report *report = &run->report;
    text_adds(out, "{\"policy\": ");
    text_adds_json(out, run->policy);
    add_number("rate_per_s", run->rate, out);
    add_number("device_memory_bytes", (double)run->device_memory, out);
    if (run->status.code != STATUS_OK) {
        text_adds(out, ", \"error\": ");
        text_adds_json(out, run->status.message);
        text_adds(out, "}");
        return;
    }
    add_number("weight_bytes", (double)run->weight_bytes, out);
    add_number("kv_tokens", (double)run->kv_tokens, out);
    add_number("requests", report->requests, out);
    add_number("refused", report->refused, out);
    add_number("clipped", report->clipped, out);
    add_number("failed", report->failed, out);
    add_number("kept", report->kept, out);
    add_number("kept_ttft", report->kept_ttft, out);
    add_number("kept_tpot", report->kept_tpot, out);
    add_number("attainment", replay_attainment(report), out);
    add_number("goodput_per_s", replay_goodput(report), out);
    add_number("seconds", report->seconds, out);
    add_number("prompt_tokens", (double)report->prompt_tokens, out);
    add_number("output_tokens", (double)report->output_tokens, out);
    add_number("kept_tokens", (double)report->kept_tokens, out);
    add_times("ttft_ms", &report->ttft, out);
    add_times("tpot_ms", &report->tpot, out);
    add_times("e2e_ms", &report->e2e, out);
    add_number("iterations", (double)report->iterations, out);
    add_number("late_iterations", (double)report->late_iterations, out);
    add_number("preemptions", (double)report->preemptions, out);
    add_number("prefix_queries", (double)report->prefix_queries, out);
    add_number("prefix_hits", (double)report->prefix_hits, out);
    add_number("running_most", report->running_most, out);
    add_number("host_bytes_mean", report->host_bytes_mean, out);
    add_number("bytes_streamed", (double)report->bytes_streamed, out);
    add_number("predicted_error_median", report->predicted_error_median, out);
    if (run->admission.asked) {
        add_admission_json(&run->admission, out);
    }
    text_adds(out, "}");
}

void simulate_report_json(const struct simulated *simulated, struct text *out) {
    static const char *const finds[] = {"nothing", "rate", "memory"};
    text_adds(out, "{\"model\": ");
    text_adds_json(out, simulated->model);
    text_adds(out, ", \"hardware\": ");
    text_adds_json(out, simulated->hardware);
    text_adds(out, ", \"trace\": ");
    text_adds_json(out, simulated->trace);
    text_adds(out, ", \"slo\": {\"ttft_ms\": ");
    text_add_number(out, simulated->ttft_ms);
    add_number("tpot_ms", simulated->tpot_ms, out);
    text_addf(out, "}, \"find\": \"%s\"", finds[simulated->find]);
    add_number("target", simulated->target, out);
    text_adds(out, ", \"runs\": [");
    for (uint32_t i = 0; i < simulated->run_count; i++) {
        text_adds(out, i > 0 ? ",\n " : "\n ");
        add_run_json(&simulated->runs[i], out);
    }
    text_adds(out, "]");
    if (simulated->find != FIND_NOTHING) {
        text_adds(out, ", \"found\": {");
        for (uint32_t i = 0; i < simulated->policy_count; i++) {
            const struct simulated_run *best = simulated_best(simulated, simulated->policies[i]);
            text_adds(out, i > 0 ? ", " : "");
            text_adds_json(out, simulated->policies[i]);
            text_adds(out, ": ");
            if (best) {
                text_add_number(out, simulated->find == FIND_RATE ? best->rate : (double)best->device_memory);
            } else {
                text_adds(out, "null");
            }
        }
        text_adds(out, "}");
    }
    text_adds(out, "}");
}

/* ---- the picture ---- */

static int by_x(const void *a, const void *b) {
    const struct chart_point *one = a, *other = b;
    return one->x < other->x ? -1 : one->x > other->x;
}

void simulate_report_svg(const struct simulated *simulated, struct text *out) {
    const uint32_t lines = simulated->policy_count;
    struct chart_point *points = calloc((size_t)lines * simulated->run_count + 1, sizeof *points);
    struct chart_line *line = calloc(lines + 1, sizeof *line);
    if (points == NULL || line == NULL) {
        free(points);
        free(line);
        out->failed = true;
        return;
    }
    const bool memory = simulated->find == FIND_MEMORY;
    for (uint32_t i = 0; i < lines; i++) {
        struct chart_point *own = points + (size_t)i * simulated->run_count;
        line[i] = (struct chart_line){.name = simulated->policies[i], .points = own};
        for (uint32_t j = 0; j < simulated->run_count; j++) {
            const struct simulated_run *run = &simulated->runs[j];
            if (strcmp(run->policy, simulated->policies[i]) == 0) {
                double share = run->status.code == STATUS_OK ? replay_attainment(&run->report) : 0;
                own[line[i].count++] =
                    (struct chart_point){memory ? (double)run->device_memory / 0x1p30 : run->rate, 100 * share};
            }
        }
        qsort(own, line[i].count, sizeof *own, by_x);
    }
    char title[256];
    snprintf(title, sizeof title, "%s on %s: TTFT %g ms, TPOT %g ms", simulated->model, simulated->hardware,
             simulated->ttft_ms, simulated->tpot_ms);
    struct chart chart = {.title = title,
                          .x_label = memory ? "device memory, GiB" : "requests a second",
                          .y_label = "% of requests that keep their promise",
                          .lines = line,
                          .line_count = lines,
                          .y_most = 100};
    chart_svg(&chart, out);
    free(points);
    free(line);
}
