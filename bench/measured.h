/* Every policy on a device that is here with a real model, on cpu behind a paced link, with a share of the model's
 * weights for device memory: tokens a second of requests that keep the promise, in turn, with their spread. Threads:
 * main's, and the devices' own. */
#ifndef METRONOME_BENCH_MEASURED_H
#define METRONOME_BENCH_MEASURED_H

#include "bench/book.h"
#include "bench/grid.h"

/* Adds a section; `device` is cpu or cuda, `model` is a GGUF file, `described` the name of its description. GRID_USUAL
 * takes twenty minutes, a third of them with a `share` of the layers' weights that the device has room for: 0.3, 0.5 or
 * 0.7; 0 is all three. A policy that gives other tokens than a device with room for all of the model is
 * STATUS_INTERNAL: nothing else that it did would mean anything. */
struct status measured_write(const char *device, const char *model, const char *described, enum grid_size size,
                             double share, uint64_t seed, struct book *book);

#endif
