/* What a policy can make of one iteration that repeats: a described model on described hardware, by the model of time
 * alone (plan_predict()).
 *
 * Owns: the best that each policy has, its hand-set options tried one by one, so that no baseline is worse than its
 * best user would have it. Pure. Threads: any. */
#ifndef METRONOME_BENCH_STEADY_H
#define METRONOME_BENCH_STEADY_H

#include "server/plan_case.h"

struct steady {
    const char *policy;
    bool possible; /* it fits the device, and is in time if that was asked for */
    struct plan_load load;
    struct plan_choice choice;
    struct policy_options options; /* as it was tuned */
    char options_text[48];         /* "6 %", "1 of 11, 1 ahead"; empty if nothing is set by hand */
};

/* A case of `model` on `hardware`, both descriptions by name, measured. The deadline is left 0. */
struct status steady_case(const char *hardware, const char *model, enum plan_phase phase, uint32_t batch,
                          uint32_t context, struct plan_case *out);

/* The plan that frees the most device memory and keeps the case's deadline; memory that the KV cache needs is not
 * asked for. */
struct status steady_most_freed(const struct plan_case *plan_case, const char *policy, struct steady *out);

/* The quickest plan that leaves the device room for the KV cache of the case's batch. */
struct status steady_quickest(const struct plan_case *plan_case, const char *policy, struct steady *out);

/* The batch, of those up to `most_batch`, that decodes the most tokens a second with each iteration in tpot_ns; 0 if
 * not even one sequence can. *best is its plan, *tokens_per_s what it gives. */
struct status steady_batch(const struct plan_case *plan_case, const char *policy, uint64_t tpot_ns, uint32_t most_batch,
                           uint32_t *batch, double *tokens_per_s, struct steady *best);

/* Bytes of device memory that the plan frees, the ring paid for. */
static inline double steady_freed_bytes(const struct steady *steady) {
    return (double)plan_freed_slabs(&steady->choice.plan) * (double)steady->load.slab_bytes;
}

/* Layers' worth in host memory. */
static inline double steady_layers(const struct steady *steady) {
    return (double)steady->choice.plan.streamed_slabs / steady->load.slabs;
}

#endif
