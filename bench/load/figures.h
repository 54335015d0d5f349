/* What a load came to: percentiles, rates, and the share of requests that were served in time.
 *
 * Owns: nothing; plain values. Threads: any. */
#ifndef METRONOME_BENCH_LOAD_FIGURES_H
#define METRONOME_BENCH_LOAD_FIGURES_H

#include "base/status.h"
#include "bench/load/load.h"

/* What each request is promised; 0: nothing. */
struct load_promise {
    double ttft_ms, tpot_ms;
};

struct load_figures {
    uint32_t sent, whole, without_usage, retries, reconnects;
    uint64_t output_tokens, prompt_tokens, empty_events; /* of whole answers */
    double requests_s, output_tokens_s, prompt_tokens_s; /* of whole answers */
    struct summary ttft_ms, tpot_ms, itl_ms, e2e_ms;     /* of whole answers, but itl_ms: of all streams */
    struct summary late_ms;                              /* by which requests were sent after their arrival */
    struct summary lag_ms;                               /* of the event loop */
    uint32_t kept_ttft, kept_tpot, kept;                 /* of those sent; a failed request keeps nothing */
    double goodput;                                      /* requests a second that kept all promises */
    double events_s, cpu_share, cpu_us_per_event;        /* of the load generator */
};

/* STATUS_NO_MEMORY alone. Sorts the report's samples. */
struct status load_figures(struct load_report *report, const struct load_promise *promise, struct load_figures *out);

#endif
