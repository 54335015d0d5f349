#include "server/link_schedule.h"

#include <math.h>
#include <stdlib.h>

#define MOST_SECONDS 1e6
#define MOST_GBPS 1e5

/* Reads a number from 0 to `most` that `end` follows; returns what follows that, or NULL. */
static const char *read_number(const char *text, double most, const char *ends, double *value) {
    char *after;
    *value = strtod(text, &after);
    if (after == text || !(*value >= 0 && *value <= most)) {
        return NULL;
    }
    for (; *ends; ends++) {
        if (*after == *ends) {
            return after + 1;
        }
    }
    return *after ? NULL : after;
}

struct status link_schedule_parse(const char *text, struct link_schedule *out) {
    *out = (struct link_schedule){0};
    for (const char *rest = text; *rest;) {
        if (out->count == LINK_SCHEDULE_STEPS) {
            return status_error(STATUS_INVALID, "link_schedule has more than %d steps", LINK_SCHEDULE_STEPS);
        }
        struct link_step *step = &out->steps[out->count];
        double gbps;
        const char *rate = read_number(rest, MOST_SECONDS, ":", &step->at_s);
        const char *next = rate && rate[-1] == ':' ? read_number(rate, MOST_GBPS, ",", &gbps) : NULL;
        if (!next || (next[-1] == ',' && !*next) || (out->count > 0 && step->at_s <= step[-1].at_s)) {
            return status_error(STATUS_INVALID,
                                "link_schedule: \"%.60s\" is not SECONDS:GBPS,SECONDS:GBPS,... with ascending seconds, "
                                "such as \"10:0.5,20:1.5\"",
                                rest);
        }
        step->bytes_per_s = gbps * 1e9;
        out->count++;
        rest = next;
    }
    return STATUS_SUCCESS;
}
