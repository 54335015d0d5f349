#include "bench/load/figures.h"

#include "base/clock.h"

struct figure_samples {
    struct samples ttft, tpot, e2e, late;
};

static void add_whole(const struct outcome *outcome, const struct load_promise *promise, struct load_figures *out,
                      struct figure_samples *samples) {
    double ttft = outcome_ttft_ms(outcome), tpot = outcome_tpot_ms(outcome);
    bool in_time = promise->ttft_ms <= 0 || ttft <= promise->ttft_ms;
    bool on_beat = promise->tpot_ms <= 0 || tpot <= promise->tpot_ms;
    out->whole++;
    out->without_usage += !outcome->has_usage;
    out->output_tokens += outcome->output_tokens;
    out->prompt_tokens += outcome->prompt_tokens;
    out->empty_events += outcome->empty_events;
    out->kept_ttft += in_time;
    out->kept_tpot += on_beat;
    out->kept += in_time && on_beat;
    samples_add(&samples->ttft, ttft);
    samples_add(&samples->e2e, outcome_e2e_ms(outcome));
    if (outcome->output_tokens > 1) {
        samples_add(&samples->tpot, tpot);
    }
}

struct status load_figures(struct load_report *report, const struct load_promise *promise, struct load_figures *out) {
    struct figure_samples samples = {0};
    double seconds = report->seconds > 0 ? report->seconds : 1e-9;
    *out = (struct load_figures){.sent = report->count};
    for (uint32_t i = 0; i < report->count; i++) {
        const struct outcome *outcome = &report->outcomes[i];
        out->retries += outcome->retries;
        out->reconnects += outcome->reconnects;
        if (outcome->retries + outcome->reconnects == 0) {
            samples_add(&samples.late, (double)(outcome->sent_ns - outcome->arrival_ns) / (double)NS_PER_MS);
        }
        if (outcome->kind == OUTCOME_OK) {
            add_whole(outcome, promise, out, &samples);
        }
    }
    out->requests_s = out->whole / seconds;
    out->output_tokens_s = (double)out->output_tokens / seconds;
    out->prompt_tokens_s = (double)out->prompt_tokens / seconds;
    out->goodput = out->kept / seconds;
    out->ttft_ms = samples_summary(&samples.ttft);
    out->tpot_ms = samples_summary(&samples.tpot);
    out->e2e_ms = samples_summary(&samples.e2e);
    out->late_ms = samples_summary(&samples.late);
    out->itl_ms = samples_summary(&report->intervals_ms);
    out->lag_ms = samples_summary(&report->lag_ms);
    out->events_s = (double)report->events / seconds;
    out->cpu_share = report->cpu_s / seconds;
    out->cpu_us_per_event = report->events > 0 ? report->cpu_s * 1e6 / (double)report->events : 0;
    bool failed = samples.ttft.failed || samples.tpot.failed || samples.e2e.failed || samples.late.failed;
    samples_free(&samples.ttft);
    samples_free(&samples.tpot);
    samples_free(&samples.e2e);
    samples_free(&samples.late);
    return failed ? status_error(STATUS_NO_MEMORY, "no memory for the times of %u requests", report->count)
                  : STATUS_SUCCESS;
}
