#include "scheduler/reserve.h"

/* What the reserve grows by. Tokens come into it over some iterations (deadlines.c, CATCH_UP), and those of a sequence
 * that has just begun have nothing of it yet: what they have at once is an eighth of it. */
#define STEP 0.25

void reserve_note(struct reserve *reserve, bool late, double allowed) {
    const double share = reserve->share + STEP * ((late ? 1 : 0) - allowed);
    reserve->share = share < 0 ? 0 : share > RESERVE_MOST ? RESERVE_MOST : share;
}
