/* What stands at the head of every report: the program, its commit, the machine and the seed. Threads: any. */
#ifndef METRONOME_BENCH_ABOUT_H
#define METRONOME_BENCH_ABOUT_H

#include "bench/book.h"

/* `hardware` is what is simulated; NULL: nothing is. */
void about_write(const char *hardware, uint64_t seed, struct book *book);

#endif
