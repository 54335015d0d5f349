#include "bench/load/report.h"

#include "server/version.h"

/* ---- words ---- */

static void add_load(const struct load_story *story, struct text *out) {
    text_addf(out, "%s, model %s, %s\n", story->url, story->target->model,
              story->target->completions ? "completions" : "chat");
    text_addf(out, "load     %u requests", story->figures->sent);
    if (story->trace) {
        text_addf(out, " of %s", story->trace);
    } else {
        text_addf(out, ", prompts %s words, answers %s tokens%s, seed %llu", story->prompt, story->output,
                  story->target->ignore_eos ? " (ignore_eos)" : "", (unsigned long long)story->seed);
    }
    if (story->clients > 0) {
        text_addf(out, "; %u client%s, each one request at a time\n", story->clients, story->clients == 1 ? "" : "s");
    } else if (story->rate > 0) {
        text_addf(out, "; %.4g arrivals a second, whatever the server does\n", story->rate);
    } else {
        text_adds(out, "; all at once\n");
    }
}

static double percent(uint32_t part, uint32_t whole) {
    return whole > 0 ? 100.0 * part / whole : 0;
}

static void add_goodput(const struct load_story *story, struct text *out) {
    const struct load_figures *figures = story->figures;
    if (story->promise.ttft_ms <= 0 && story->promise.tpot_ms <= 0) {
        return;
    }
    text_addf(out, "goodput  %.3f requests/s: %.1f %% kept their promise (", figures->goodput,
              percent(figures->kept, figures->sent));
    if (story->promise.ttft_ms > 0) {
        text_addf(out, "TTFT %g ms %.1f %%%s", story->promise.ttft_ms, percent(figures->kept_ttft, figures->sent),
                  story->promise.tpot_ms > 0 ? ", " : "");
    }
    if (story->promise.tpot_ms > 0) {
        text_addf(out, "TPOT %g ms %.1f %%", story->promise.tpot_ms, percent(figures->kept_tpot, figures->sent));
    }
    text_adds(out, ")\n");
}

static void add_summary(const char *name, const struct summary *summary, struct text *out) {
    if (summary->count > 0) {
        text_addf(out, "%-8s %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, summary->mean, summary->p50, summary->p90,
                  summary->p95, summary->p99, summary->max);
    }
}

static void add_kinds(const struct load_report *report, struct text *out) {
    bool any = false;
    for (uint32_t kind = 0; kind < OUTCOME_KINDS; kind++) {
        if (kind == OUTCOME_OK || kind == OUTCOME_UNSENT || report->kinds[kind] == 0) {
            continue;
        }
        text_addf(out, "%s%-12s %7u  %s%s%s%s\n", any ? "" : "\nnot whole:\n", outcome_name((enum outcome_kind)kind),
                  report->kinds[kind], outcome_help((enum outcome_kind)kind), report->example[kind][0] ? ", as: " : "",
                  report->example[kind], "");
        any = true;
    }
}

static void add_self(const struct load_story *story, struct text *out) {
    const struct load_figures *figures = story->figures;
    text_addf(out,
              "\nthis program: %.0f events/s on %.1f %% of a core (%.1f us each); its loop was late by %.2f ms (p99)",
              figures->events_s, 100 * figures->cpu_share, figures->cpu_us_per_event, figures->lag_ms.p99);
    if (story->clients == 0) {
        text_addf(out, ", requests by %.2f ms (p99), %.2f ms (max)", figures->late_ms.p99, figures->late_ms.max);
    }
}

void load_story_text(const struct load_story *story, struct text *out) {
    const struct load_figures *figures = story->figures;
    add_load(story, out);
    text_addf(out, "whole    %u of %u in %.2f s%s: %.3f requests/s\n", figures->whole, figures->sent,
              story->report->seconds, story->report->interrupted ? " (interrupted)" : "", figures->requests_s);
    text_addf(out, "tokens   out %llu (%.1f/s), in %llu (%.1f/s)\n", (unsigned long long)figures->output_tokens,
              figures->output_tokens_s, (unsigned long long)figures->prompt_tokens, figures->prompt_tokens_s);
    if (figures->without_usage > 0) {
        text_addf(out, "         %u answers had no usage: their events with text are counted\n",
                  figures->without_usage);
    }
    if (figures->retries > 0) {
        text_addf(out, "         %u requests were sent again after a 429\n", figures->retries);
    }
    if (figures->reconnects > 0) {
        text_addf(out, "         %u requests were sent again, for the server had closed a kept connection\n",
                  figures->reconnects);
    }
    add_goodput(story, out);
    text_addf(out, "\n%-8s %9s %9s %9s %9s %9s %9s\n", "ms", "mean", "p50", "p90", "p95", "p99", "max");
    add_summary("TTFT", &figures->ttft_ms, out);
    add_summary("TPOT", &figures->tpot_ms, out);
    add_summary("ITL", &figures->itl_ms, out);
    add_summary("E2E", &figures->e2e_ms, out);
    add_kinds(story->report, out);
    add_self(story, out);
}

/* ---- JSON ---- */

static void add_json_number(const char *name, double value, struct text *out) {
    text_addf(out, "\"%s\":", name);
    text_add_number(out, value);
    text_adds(out, ",");
}

static void add_json_string(const char *name, const char *value, struct text *out) {
    text_addf(out, "\"%s\":", name);
    if (value) {
        text_adds_json(out, value);
    } else {
        text_adds(out, "null");
    }
    text_adds(out, ",");
}

static void add_json_summary(const char *name, const struct summary *summary, struct text *out) {
    text_addf(out, "\"%s\":{", name);
    add_json_number("mean", summary->mean, out);
    add_json_number("p50", summary->p50, out);
    add_json_number("p90", summary->p90, out);
    add_json_number("p95", summary->p95, out);
    add_json_number("p99", summary->p99, out);
    add_json_number("max", summary->max, out);
    text_addf(out, "\"count\":%zu},", summary->count);
}

static void add_json_load(const struct load_story *story, struct text *out) {
    text_adds(out, "\"load\":{");
    add_json_string("url", story->url, out);
    add_json_string("model", story->target->model, out);
    add_json_string("endpoint", story->target->completions ? "completions" : "chat", out);
    add_json_string("trace", story->trace, out);
    add_json_string("prompt", story->prompt, out);
    add_json_string("output", story->output, out);
    add_json_number("clients", story->clients, out);
    add_json_number("rate_per_s", story->rate, out);
    add_json_number("burstiness", story->burstiness, out);
    add_json_number("seed", (double)story->seed, out);
    add_json_number("slo_ttft_ms", story->promise.ttft_ms, out);
    add_json_number("slo_tpot_ms", story->promise.tpot_ms, out);
    text_addf(out, "\"ignore_eos\":%s},", story->target->ignore_eos ? "true" : "false");
}

static void add_json_outcomes(const struct load_report *report, struct text *out) {
    text_adds(out, "\"outcomes\":{");
    bool any = false;
    for (uint32_t kind = OUTCOME_OK; kind < OUTCOME_KINDS; kind++) {
        text_addf(out, "%s\"%s\":%u", any ? "," : "", outcome_name((enum outcome_kind)kind), report->kinds[kind]);
        any = true;
    }
    text_adds(out, "},");
}

void load_story_json(const struct load_story *story, struct text *out) {
    const struct load_figures *figures = story->figures;
    text_adds(out, "{");
    add_json_string("version", version_text(), out);
    add_json_load(story, out);
    add_json_number("requests", figures->sent, out);
    add_json_number("whole", figures->whole, out);
    add_json_number("without_usage", figures->without_usage, out);
    add_json_number("retries", figures->retries, out);
    add_json_number("reconnects", figures->reconnects, out);
    add_json_outcomes(story->report, out);
    add_json_number("seconds", story->report->seconds, out);
    add_json_number("requests_per_s", figures->requests_s, out);
    add_json_number("output_tokens", (double)figures->output_tokens, out);
    add_json_number("output_tokens_per_s", figures->output_tokens_s, out);
    add_json_number("prompt_tokens", (double)figures->prompt_tokens, out);
    add_json_number("prompt_tokens_per_s", figures->prompt_tokens_s, out);
    add_json_number("empty_events", (double)figures->empty_events, out);
    add_json_number("kept_ttft", figures->kept_ttft, out);
    add_json_number("kept_tpot", figures->kept_tpot, out);
    add_json_number("kept", figures->kept, out);
    add_json_number("goodput_per_s", figures->goodput, out);
    add_json_summary("ttft_ms", &figures->ttft_ms, out);
    add_json_summary("tpot_ms", &figures->tpot_ms, out);
    add_json_summary("itl_ms", &figures->itl_ms, out);
    add_json_summary("e2e_ms", &figures->e2e_ms, out);
    text_adds(out, "\"self\":{");
    add_json_summary("late_ms", &figures->late_ms, out);
    add_json_summary("loop_lag_ms", &figures->lag_ms, out);
    add_json_number("events", (double)story->report->events, out);
    add_json_number("bytes", (double)story->report->bytes, out);
    add_json_number("events_per_s", figures->events_s, out);
    add_json_number("cpu_share", figures->cpu_share, out);
    text_addf(out, "\"cpu_us_per_event\":%.3f},", figures->cpu_us_per_event);
    text_addf(out, "\"interrupted\":%s}", story->report->interrupted ? "true" : "false");
}
