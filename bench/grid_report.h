/* How the grid is shown: every cell, and what it comes to. Threads: any; values only. */
#ifndef METRONOME_BENCH_GRID_REPORT_H
#define METRONOME_BENCH_GRID_REPORT_H

#include "bench/book.h"
#include "bench/grid.h"

void grid_report(const struct grid_cell *cells, uint32_t count, const char *hardware, struct book *book);

#endif
