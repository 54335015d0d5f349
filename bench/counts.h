/* What must not change unseen: counts that a simulation gives exactly. bench/baseline.json holds them, a unit test
 * compares, `make bench-baseline` renews it. Pure but for the files of descriptions. Threads: any. */
#ifndef METRONOME_BENCH_COUNTS_H
#define METRONOME_BENCH_COUNTS_H

#include "bench/book.h"

/* Adds two tables: what every policy plans, and what whole engines then stream while they decode steadily. */
struct status counts_write(struct book *book);

#endif
