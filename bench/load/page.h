/* The report of a load as a page of its own, with pictures of its times. Owns: nothing. Threads: any. */
#ifndef METRONOME_BENCH_LOAD_PAGE_H
#define METRONOME_BENCH_LOAD_PAGE_H

#include "bench/load/report.h"

/* Writes it to a file; "-" is standard output. STATUS_IO, STATUS_NO_MEMORY. */
struct status load_story_page(const struct load_story *story, const char *path);

#endif
