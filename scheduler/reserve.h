/* How far ahead of their deadlines tokens are to be, so that what nobody foresees makes few of them late.
 *
 * Feedback from what counts: tokens that were late raise the reserve at once, and it falls slowly while none is, by so
 * much that in the long run as many iterations have tokens late as is allowed (quantile.h). Where none is ever late it
 * is 0 and costs nothing. Pure. Threads: one owner. */
#ifndef METRONOME_SCHEDULER_RESERVE_H
#define METRONOME_SCHEDULER_RESERVE_H

#include <stdbool.h>

struct reserve {
    double share; /* of the time of a token; 0 at the begin */
};

#define RESERVE_MOST 1.0 /* of the time of a token */

/* After an iteration: did tokens come late that until then had been in time? `allowed`: the share of iterations in
 * which that may be, 0 .. 1. */
void reserve_note(struct reserve *reserve, bool late, double allowed);

#endif
