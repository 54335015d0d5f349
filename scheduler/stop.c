#include "scheduler/stop.h"

#include "base/check.h"

#include <string.h>

void stop_matcher_init(struct stop_matcher *matcher, const struct stop_string *stops, uint32_t count, char *held,
                       size_t capacity) {
    *matcher = (struct stop_matcher){.stops = stops, .count = count, .held = held, .capacity = capacity};
}

static void drop_shown(struct stop_matcher *matcher) {
    matcher->held_bytes -= matcher->shown;
    memmove(matcher->held, matcher->held + matcher->shown, matcher->held_bytes);
    matcher->shown = 0;
}

/* The first place in `held` where a stop string is whole, or where one is begun at the very end; held_bytes if
 * neither. *whole says which. */
static size_t first_stop(const struct stop_matcher *matcher, bool *whole) {
    size_t best = matcher->held_bytes;
    *whole = false;
    for (size_t at = 0; at < matcher->held_bytes; at++) {
        size_t left = matcher->held_bytes - at;
        for (uint32_t i = 0; i < matcher->count; i++) {
            const struct stop_string *stop = &matcher->stops[i];
            size_t compared = stop->bytes < left ? stop->bytes : left;
            if (stop->bytes == 0 || memcmp(matcher->held + at, stop->text, compared) != 0) {
                continue;
            }
            if (compared == stop->bytes) {
                /* A whole one ends the text here, unless an earlier begun one could still become whole first: the
                 * whole one is complete now, so it wins, and the text before it is shown. */
                *whole = true;
                return at;
            }
            best = at < best ? at : best;
        }
    }
    return best;
}

bool stop_matcher_push(struct stop_matcher *matcher, const char *text, size_t bytes, bool armed) {
    CHECK(!matcher->matched);
    drop_shown(matcher);
    CHECK(matcher->held_bytes + bytes <= matcher->capacity);
    memcpy(matcher->held + matcher->held_bytes, text, bytes);
    matcher->held_bytes += bytes;
    if (!armed) {
        matcher->shown = matcher->held_bytes;
        return false;
    }
    matcher->shown = first_stop(matcher, &matcher->matched);
    return matcher->matched;
}

void stop_matcher_finish(struct stop_matcher *matcher) {
    drop_shown(matcher);
    matcher->shown = matcher->matched ? 0 : matcher->held_bytes;
}
