/* An estimate that is exceeded as often as is allowed: the quantile tracking of adaptive conformal inference (Gibbs and
 * Candes, arXiv 2106.00170). Pure. Threads: any. */
#ifndef METRONOME_SCHEDULER_QUANTILE_H
#define METRONOME_SCHEDULER_QUANTILE_H

#include <stdbool.h>

/* The next estimate, 0 .. `most`: after an observation that was over the last one it is `step` higher, less what it
 * falls by each time, so that in the long run `allowed` of them (0 .. 1) are over. */
double quantile_track(double estimate, bool over, double allowed, double step, double most);

#endif
