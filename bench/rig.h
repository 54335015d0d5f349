/* A whole engine on a device of its own, decoding and looked at after every iteration: what benchmarks of offloading
 * share. Owns the device, the model and the engine. What goes wrong ends the program with its message: a measurement
 * that is not whole is none. Threads: one, which steps the engine. */
#ifndef METRONOME_BENCH_RIG_H
#define METRONOME_BENCH_RIG_H

#include "scheduler/engine.h"

#define RIG_MOST_SEQUENCES 16
#define RIG_PROMPT 16
#define RIG_CONTEXT 512

struct rig_config {
    const char *model;    /* a GGUF file */
    const char *hardware; /* sim stands for this description; NULL: the cpu device */
    const char *policy;
    struct policy_options options;
    uint32_t sequences;      /* decoding together, <= RIG_MOST_SEQUENCES */
    uint32_t slabs;          /* of a layer; 0: chosen */
    uint64_t device_memory;  /* 0: as needed */
    double link_bytes_per_s; /* 0: as fast as it goes */
    uint64_t tpot_ns;        /* 0: nothing is promised */
    const struct record *record;
};

struct rig {
    struct rig_config config;
    struct device *device;
    struct model *model;
    struct engine *engine;
    uint32_t prompt[RIG_MOST_SEQUENCES][RIG_PROMPT];
    struct request requests[RIG_MOST_SEQUENCES];
    uint32_t in_flight; /* sequences that have not ended, */
    uint32_t decoding;  /* and of them, those that have their first token */
    uint32_t rounds;    /* times that they began */
    uint64_t begin_ns;  /* of the last iteration, on the device's clock */
};

void rig_check(struct status status);

void rig_open(const struct rig_config *config, struct rig *rig);
void rig_close(struct rig *rig);

/* Bytes of device memory with which `share` of the layers' weights fit, beside everything else. */
uint64_t rig_budget(const struct rig_config *config, double share);

/* One iteration in which every sequence decodes: those that have ended begin anew before it, and the iterations that
 * takes are not returned. The report is the offload engine's of this iteration. */
struct offload_report rig_decode(struct rig *rig);

#endif
