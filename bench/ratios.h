/* How one policy compares with another over cells in which each may find a setting or none. Threads: any. */
#ifndef METRONOME_BENCH_RATIOS_H
#define METRONOME_BENCH_RATIOS_H

#include "bench/book.h"

struct ratios {
    double least, most, mean; /* of ours to theirs where both are above 0; the mean is geometric; NAN: nowhere */
    uint32_t count;           /* cells where both are */
    uint32_t only_ours, only_theirs;
    uint32_t below; /* cells where theirs is better by more than a hundredth */
};

/* `ours` and `theirs` (count); 0: no setting. */
struct ratios ratios_of(const double *ours, const double *theirs, uint32_t count);

/* The cells of a table's row that all tables of ratios have: metronome to the policy of that name. */
void ratios_write(struct book *book, const char *theirs, const struct ratios *ratios);

#endif
