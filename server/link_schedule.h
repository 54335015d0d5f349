/* A pace of the link that changes while the server runs, link_schedule: for demonstrations and tests of a link that
 * slows and comes back.
 *
 * Owns: how such a schedule is written. When it is followed is server.c's. Threads: any; values only. */
#ifndef METRONOME_SERVER_LINK_SCHEDULE_H
#define METRONOME_SERVER_LINK_SCHEDULE_H

#include "base/status.h"

#include <stddef.h>

#define LINK_SCHEDULE_STEPS 32

struct link_step {
    double at_s;        /* since the server was ready */
    double bytes_per_s; /* from then on; 0: as fast as it goes */
};

struct link_schedule {
    struct link_step steps[LINK_SCHEDULE_STEPS];
    size_t count;
};

/* Reads "SECONDS:GBPS,SECONDS:GBPS,...", the seconds ascending: "10:0.5,20:1.5". "" has no steps. */
struct status link_schedule_parse(const char *text, struct link_schedule *out);

#endif
