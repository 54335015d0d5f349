/* A histogram with fixed bounds, in the form Prometheus wants: cumulative counts, a sum and a count.
 * Threads: one writer; readers on other threads go through histogram_read() and see each number whole, not all of
 * one instant. */
#ifndef METRONOME_BASE_HISTOGRAM_H
#define METRONOME_BASE_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_MAX_BOUNDS 32

struct histogram {
    uint32_t bounds;                           /* number of upper bounds */
    double upper[HISTOGRAM_MAX_BOUNDS];        /* ascending */
    uint64_t counts[HISTOGRAM_MAX_BOUNDS + 1]; /* observations in each bucket; the last is +Inf */
    uint64_t total;
    double sum;
};

/* Copies `bounds` <= HISTOGRAM_MAX_BOUNDS ascending upper bounds. */
void histogram_init(struct histogram *histogram, const double *upper, uint32_t bounds);
void histogram_observe(struct histogram *histogram, double value);
/* The same value so many times. */
void histogram_observe_many(struct histogram *histogram, double value, uint64_t times);

/* A copy whose numbers may be read plainly. */
struct histogram histogram_read(const struct histogram *histogram);

/* The value below which a share q of the observations lies, linear inside its bucket; 0 when empty. */
double histogram_quantile(const struct histogram *snapshot, double q);

#endif
