/* A case to plan for, from descriptions alone: a model, the hardware, one kind of iteration and its deadline.
 *
 * Owns: how a description's costs become the planner's load and its sizes the planner's limits. Which plan is right is
 * the policies'; how it is shown is plan_report.h. Threads: any; values only. */
#ifndef METRONOME_SERVER_PLAN_CASE_H
#define METRONOME_SERVER_PLAN_CASE_H

#include "kernels/sim/hardware.h"
#include "models/description.h"
#include "offload/policy.h"
#include "scheduler/engine.h"

enum plan_phase { PLAN_PREFILL, PLAN_DECODE };

struct plan_case {
    struct hardware hardware; /* with the link's pace and device memory as the user overrides them */
    struct model_description model;
    enum compute_mode compute;
    enum kv_type kv_type;
    enum plan_phase phase;
    uint32_t batch;           /* sequences in the iteration */
    uint32_t context;         /* prefill: tokens of each prompt; decode: positions that each token attends to */
    struct sampling sampling; /* what each sequence asks of its token: temperature, top_k and top_p count */
    uint64_t host_memory;     /* that weights may take; 0: no bound */
    uint64_t deadline_ns;     /* of the iteration */

    /* what plan_case_measure() fills in */
    uint64_t layer_ns;  /* the mean of all layers: in prefill the last one has less to do */
    uint64_t before_ns; /* the embedding */
    uint64_t after_ns;  /* the head, and what the mean leaves over */
};

/* Checks the iteration's shape and works out what it costs. */
struct status plan_case_measure(struct plan_case *plan_case);

/* The iteration with every layer on the device. */
uint64_t plan_case_resident_ns(const struct plan_case *plan_case);

/* The load for layers cut into `slabs`, and the limits that memory sets: weights, embedding and head, and the KV cache
 * of the batch; activations are not counted. */
struct status plan_case_load(const struct plan_case *plan_case, uint32_t slabs, struct plan_load *load,
                             struct plan_limits *limits);

/* Bytes of one position of a sequence in the KV cache. */
uint64_t plan_case_kv_token_bytes(const struct plan_case *plan_case);

/* What flexgen's cost model asks for: 2 FLOPs for each weight and row, 4 for each element of a query and position. */
double plan_case_layer_flops(const struct plan_case *plan_case);

/* One policy's answer. */
struct planned {
    const struct policy *policy;
    struct plan_load load;
    struct plan_limits limits;
    struct plan_choice choice;
};

#endif
