/* The performance record: what an iteration costs on one device with one model, with nothing else on the link.
 *
 * Owns: a grid of measured layer times and times outside layers over (rows, context each row attends to), the link's
 * rate and fixed cost, and the interpolation between them. Who measures is scheduler/profile.h. Pure.
 * Threads: any; immutable once filled. */
#ifndef METRONOME_OFFLOAD_RECORD_H
#define METRONOME_OFFLOAD_RECORD_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

#define RECORD_MAX_ROWS 12
#define RECORD_MAX_CONTEXTS 8

/* Beyond the grid's last rows a time is scaled in proportion, up to this factor; beyond its last context it goes on as
 * between the last two. What is more than this factor beyond either is said to be. */
#define RECORD_MARGIN 2.0

struct record_cell {
    uint64_t layer_ns;   /* of one layer, everything resident */
    uint64_t outside_ns; /* before the first layer and after the last, together */
};

struct record {
    uint32_t row_count, context_count;
    uint32_t rows[RECORD_MAX_ROWS];         /* ascending: tokens in an iteration */
    uint32_t contexts[RECORD_MAX_CONTEXTS]; /* ascending: positions that each of them attends to */
    struct record_cell cell[RECORD_MAX_ROWS][RECORD_MAX_CONTEXTS];
    uint64_t link_bytes_per_s, copy_ns;
};

/* The times for `rows` tokens that attend to `context` positions each, linear between points. False if that is more
 * than RECORD_MARGIN beyond the grid; *cell is then a guess. */
bool record_get(const struct record *record, double rows, double context, struct record_cell *cell);

#endif
