#include "scheduler/reserve.h"
#include "scheduler/quantile.h"

/* What the reserve grows by. Tokens come into it over some iterations (deadlines.c, CATCH_UP), and those of a sequence
 * that has just begun have nothing of it yet: what they have at once is an eighth of it. */
#define STEP 0.25

void reserve_note(struct reserve *reserve, bool late, double allowed) {
    reserve->share = quantile_track(reserve->share, late, allowed, STEP, RESERVE_MOST);
}
