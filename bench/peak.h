/* What this machine's cores can do at most, measured by loops that do nothing else: the limits that the cpu device's
 * kernels are held against.
 *
 * Owns its threads, which run for the time of a call. Threads: any. */
#ifndef METRONOME_BENCH_PEAK_H
#define METRONOME_BENCH_PEAK_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum peak_kind {
    PEAK_READ, /* bytes a second that are read, of memory that all threads share out */
    PEAK_INT8, /* operations a second (a multiply-add is two) of the integer dot product that quantized matmuls use */
    PEAK_F32,  /* of fused multiply-adds of floats */
};

/* The best of a few tries with all `threads` at once, in the instruction set `isa` ("avx512", "avx2", "scalar", which
 * the processor must have). `bytes` is how much PEAK_READ reads over and over: little of it stays in a cache. */
struct status peak_measure(enum peak_kind kind, const char *isa, uint32_t threads, size_t bytes, double *per_s);

#endif
