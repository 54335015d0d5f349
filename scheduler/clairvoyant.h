/* How many promises could have been kept by one who knew what was to come: a bound to measure a scheduler by.
 *
 * He knows every arrival and every length, sends the engine those requests that he means to keep and drops the rest
 * before they cost anything. Which those are he finds by search, each guess being a whole run: the cheapest first, as
 * many as does best; then what was late in the best run is dropped, and others come back, many at a time and then
 * fewer, as long as more are kept. The best set that was found is the bound: what is best of all takes 2^n runs.
 *
 * Owns: nothing but its arrays. Knows no engine: a run is the caller's. Threads: any. */
#ifndef METRONOME_SCHEDULER_CLAIRVOYANT_H
#define METRONOME_SCHEDULER_CLAIRVOYANT_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

struct clairvoyant_config {
    uint32_t count;     /* requests */
    const double *cost; /* (count) of each, in any unit: the cheap ones are tried first */
    uint32_t runs;      /* at most, > 0 */
    uint64_t seed;      /* of the order in which others come back */
    /* Runs the requests that are not in `dropped` (count), says which kept their promises, (count) in `kept`. */
    struct status (*run)(void *context, const bool *dropped, bool *kept);
    void *context;
};

/* Finds a set. `kept` (count) has, on entry, those of a run of all, if it is known (all false: it is not); on return,
 * those of the best run, and *dropped (count) what was left out in it. */
struct status clairvoyant_search(const struct clairvoyant_config *config, bool *kept, bool *dropped, uint32_t *runs);

#endif
