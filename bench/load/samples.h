/* Measured values and their percentiles, exact: every value is kept.
 *
 * Owns: its values. A failure to grow is remembered in `failed`. Threads: one owner. */
#ifndef METRONOME_BENCH_LOAD_SAMPLES_H
#define METRONOME_BENCH_LOAD_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>

struct samples {
    float *values; /* (count) */
    size_t count, capacity;
    bool failed;
};

struct summary {
    size_t count; /* 0: all else is 0, too */
    double mean, p50, p90, p95, p99, max;
};

void samples_add(struct samples *samples, double value);
void samples_free(struct samples *samples);

/* Sorts the values. A percentile between two of them is linear, as numpy's. */
struct summary samples_summary(struct samples *samples);

#endif
