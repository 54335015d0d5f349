/* Every policy on the cpu device with a real model, behind a paced link, with a share of the model's weights for device
 * memory: tokens a second of requests that keep the promise, in turn, with their spread. Threads: main's, and the
 * devices' own. */
#ifndef METRONOME_BENCH_MEASURED_H
#define METRONOME_BENCH_MEASURED_H

#include "bench/book.h"

/* Adds a section. `model` is a GGUF file, `described` the name of its description. */
struct status measured_write(const char *model, const char *described, uint64_t seed, struct book *book);

#endif
