/* Every policy over a grid of models, memories, loads and promises, on simulated hardware: what each can do with the
 * options that are best for it.
 *
 * Owns: the grid, and the search over what a user may set by hand: how many sequences run together for all policies,
 * and each policy's own options. Threads: one. */
#ifndef METRONOME_BENCH_GRID_H
#define METRONOME_BENCH_GRID_H

#include "bench/serving.h"
#include "bench/steady.h"

enum grid_policy {
    GRID_NONE,
    GRID_ZERO_INFERENCE,
    GRID_FLEXGEN_MODEL, /* by its cost model */
    GRID_FLEXGEN,       /* by hand */
    GRID_PREFETCH_GROUP,
    GRID_SELECT_N,
    GRID_METRONOME,
    GRID_POLICIES
};
const char *grid_policy_name(enum grid_policy policy);

#define GRID_ATTAINMENT 0.99 /* of requests that must keep their promise, for throughput to count */

struct grid_answer {
    double tokens_per_s; /* of requests that kept the promise, at the best setting; 0: no setting keeps it */
    double attainment;   /* there */
    uint32_t places;
    char options[48];
    double saved_bytes; /* of device memory, decoding steadily with nobody waiting */
    double link_use;    /* bytes streamed / (link x promise), likewise */
    double late;        /* of these iterations, the share that took longer than promised */
};

struct grid_cell {
    const char *model;
    double memory_gib; /* of the device; 0: what the hardware has */
    uint32_t prompt_tokens, output_tokens;
    double slack; /* the promise: 1 + slack times what one sequence takes with everything on the device */
    uint64_t resident_ns, tpot_ns;
    struct grid_answer answer[GRID_POLICIES];
};

#define GRID_MOST_CELLS 64

enum grid_size { GRID_QUICK, GRID_USUAL, GRID_FULL }; /* 2, 9 and 32 cells */

/* Writes the cells to fill, without answers, and returns how many there are. */
uint32_t grid_cells(enum grid_size size, struct grid_cell *cells, uint32_t capacity);

/* Fills the answers of one cell. `hardware` is the name of a description. */
struct status grid_fill(const char *hardware, uint64_t seed, struct grid_cell *cell);

#endif
