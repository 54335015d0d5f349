/* The figures of the Select-N paper (arXiv 2502.08182) on its hardware, by the model of time: the paper's, those of the
 * policy select-n here, and what metronome makes of the same case. One description of the hardware serves for all of
 * them and nothing is fitted. Pure but for the files of descriptions. Threads: any. */
#ifndef METRONOME_BENCH_PAPER_H
#define METRONOME_BENCH_PAPER_H

#include "bench/book.h"
#include "bench/shared_bus.h"
#include "bench/steady.h"
#include "offload/grant.h"

#define PAPER_SLACK 0.5       /* the promise: half as long again as with everything on the device */
#define PAPER_SEQUENCE 64     /* tokens */
#define PAPER_SERVED 128      /* positions of a sequence where throughput is compared */
#define PAPER_BUS_TPOT_MS 100 /* promised by both models on one bus */

enum paper_policy { PAPER_FLEXGEN, PAPER_SELECT_N, PAPER_METRONOME, PAPER_POLICIES };

/* OPT-6.7B: a phase's interval. */
struct paper_interval {
    enum plan_phase phase;
    uint32_t batch;
    struct plan_case plan_case;
    double ratio; /* the copy of a layer / its compute */
    double least; /* whole layers */
    double any;   /* any part of any layer */
};

/* OPT-13B: device memory saved with the promise kept. FlexGen's share of the weights is set once for all cases. */
struct paper_memory {
    enum plan_phase phase;
    uint32_t batch;
    uint64_t deadline_ns;
    double freed_bytes[PAPER_POLICIES];
};

/* OPT-13B: tokens a second by the batch that fits, each policy's options by hand and the best for the promise. */
struct paper_throughput {
    double tpot_ms;
    uint32_t batch[PAPER_POLICIES];
    double tokens_per_s[PAPER_POLICIES];
};

/* OPT-13B and Llama-2-13B on one bus. */
enum paper_pair { PAIR_FLEXGEN_MODEL, PAIR_FLEXGEN_HAND, PAIR_SELECT_N, PAIR_METRONOME, PAPER_PAIRS };
struct paper_bus {
    struct shared_engine engine[2]; /* run together */
    double alone_ns[2];             /* predicted, with the bus to itself */
};

#define PAPER_BATCHES 4
#define PAPER_PROMISES 13
struct paper {
    struct paper_interval interval[2];
    struct paper_memory memory[2 * PAPER_BATCHES];
    double flexgen_percent; /* of the memory cases */
    struct paper_throughput throughput[PAPER_PROMISES];
    struct paper_bus bus[PAPER_PAIRS];
};

struct status paper_compute(const char *hardware, struct paper *out);

/* Adds the sections: the figures side by side, then what is behind each. */
void paper_write(const struct paper *paper, struct book *book);

/* ---- paper_bus.c ---- */

/* Both models with each policy, alone and together. */
struct status paper_compute_bus(const char *hardware, struct paper_bus bus[PAPER_PAIRS]);

#endif
