/* A trace sent to an engine on its device's clock, and what became of the promises: `sim` replays a day of traffic in
 * seconds, a real device in its own time.
 *
 * Owns: the requests of a run. The engine is stepped by hand, so that a run on `sim` is a function of its inputs.
 * Threads: the one that owns the engine's device. */
#ifndef METRONOME_SCHEDULER_REPLAY_H
#define METRONOME_SCHEDULER_REPLAY_H

#include "base/log.h"
#include "scheduler/engine.h"
#include "scheduler/trace.h"

/* Somebody who looks on. */
struct replay_watch {
    void *context;
    void (*before_step)(void *context, struct engine *engine, uint64_t since_ns); /* since the begin; NULL: nothing */
    /* A request has ended, or with FINISH_NONE was refused. NULL: nothing. */
    void (*ended)(void *context, const struct request *request, enum finish_reason finish);
};

struct replay_config {
    const struct trace *trace;
    double stretch;            /* of the times between arrivals: 1 as they are, 0.5 twice the load */
    uint64_t ttft_ns, tpot_ns; /* promised: the first token is due at arrival + ttft, token n at the first + n * tpot;
                                  0: no promise */
    uint32_t vocabulary;       /* of the model: prompts' ids are below it */
    uint32_t longest;    /* prompt and answer together, tokens; the prompts of longer ones lose their beginnings */
    const bool *dropped; /* (trace->count) requests that are never sent; NULL: none */
    struct replay_watch watch;
    struct progress *bar; /* updated with the requests that have ended; NULL: none */
};

/* What became of one request. Times are the device's, since the trace's begin. */
struct replay_outcome {
    uint64_t arrival_ns, first_token_ns, last_token_ns; /* 0: there was none */
    uint32_t tokens;                                    /* that came */
    uint32_t late_tokens;                               /* of them, after they were due; */
    uint32_t crowd_tokens;                              /* and by when the last request had its first, or had none */
    uint64_t tokens_hash;                               /* of their ids, in order: the same for the same answer */
    enum finish_reason finish;                          /* FINISH_NONE: it was refused, or dropped */
    bool clipped;                                       /* its prompt was */
    bool dropped;                                       /* never sent */
};

/* The share q of ascending values, by the nearest rank; 0 if there are none. */
double replay_quantile(const double *ascending, uint32_t count, double q);

struct replay_times {
    double mean_ms, p50_ms, p90_ms, p99_ms;
};

/* Of a whole run. A request keeps its promise when it ends and none of its tokens came late. */
struct replay_report {
    uint32_t requests, dropped, refused, clipped, failed; /* dropped ones are counted nowhere else but in `requests` */
    uint32_t kept, kept_ttft, kept_tpot; /* requests that kept all, the first token's time, the other tokens' */
    uint64_t prompt_tokens, output_tokens, kept_tokens; /* of the requests that ended; of those that kept all */
    double seconds;                                     /* from the first arrival to the last token */
    struct replay_times ttft, tpot, e2e;                /* tpot: of a request's tokens after the first, their mean */
    uint64_t iterations, late_iterations, preemptions;
    uint64_t prefix_queries, prefix_hits; /* prompt tokens looked for in the prefix cache, and found */
    uint64_t bytes_streamed;              /* host to device, at the copy calls, KV and inputs included */
    double host_bytes_mean;               /* weights in host memory, over iterations */
    double predicted_error_median;
    uint32_t running_most;
};

/* Runs the whole trace. `outcomes` (trace->count) may be NULL. STATUS_DEVICE when the engine failed. */
struct status replay_run(struct engine *engine, struct device *device, const struct replay_config *config,
                         struct replay_outcome *outcomes, struct replay_report *out);

/* Requests that kept all of their promises, a second; and of their tokens. */
static inline double replay_goodput(const struct replay_report *report) {
    return report->seconds > 0 ? report->kept / report->seconds : 0;
}

/* Did a request keep all of its promises? */
static inline bool replay_kept(const struct replay_outcome *outcome) {
    return (outcome->finish == FINISH_LENGTH || outcome->finish == FINISH_STOP) && outcome->late_tokens == 0;
}

/* Of the prompts' tokens, those found in the prefix cache. */
static inline double replay_cached(const struct replay_report *report) {
    return report->prefix_queries > 0 ? (double)report->prefix_hits / (double)report->prefix_queries : 0;
}

/* Of all requests, those that kept all of their promises. */
static inline double replay_attainment(const struct replay_report *report) {
    return report->requests > 0 ? (double)report->kept / report->requests : 0;
}

#endif
