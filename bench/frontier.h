/* Frontiers: what each policy reaches as the promise is relaxed, and what physics allows, as pictures.
 *
 * By the model of time: device memory saved, tokens a second, context; by whole engines on simulated hardware: promises
 * kept as the load grows. Threads: one. */
#ifndef METRONOME_BENCH_FRONTIER_H
#define METRONOME_BENCH_FRONTIER_H

#include "bench/book.h"

/* Adds a section of four charts, for one model on described hardware. `svg` is a folder that gets them as files, too,
 * or NULL. */
struct status frontier_write(const char *hardware, const char *model, uint64_t seed, const char *svg,
                             struct book *book);

#endif
