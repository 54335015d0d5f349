/* Stop strings across token borders.
 *
 * Owns: the text of one sequence that may still turn out to begin a stop string and is therefore not shown yet.
 * Threads: one owner per matcher. */
#ifndef METRONOME_SCHEDULER_STOP_H
#define METRONOME_SCHEDULER_STOP_H

#include "scheduler/engine.h"

#include <stdbool.h>
#include <stddef.h>

struct stop_matcher {
    const struct stop_string *stops; /* (count), borrowed */
    uint32_t count;
    char *held; /* (capacity), owned by the caller */
    size_t held_bytes, capacity;
    size_t shown; /* leading bytes of `held` that may be shown */
    bool matched;
};

/* `held` must hold the longest stop string plus the longest piece that is pushed. */
void stop_matcher_init(struct stop_matcher *matcher, const struct stop_string *stops, uint32_t count, char *held,
                       size_t capacity);

/* Adds a piece of text, after dropping what was showable before. Returns true if a stop string is now complete:
 * text from its first byte on is never shown. `armed` false takes the text without looking for stops. */
bool stop_matcher_push(struct stop_matcher *matcher, const char *text, size_t bytes, bool armed);

/* No more text comes: all that is held may be shown (nothing, after a match). */
void stop_matcher_finish(struct stop_matcher *matcher);

/* The text that may be shown now; valid until the next push. */
static inline const char *stop_matcher_text(const struct stop_matcher *matcher, size_t *bytes) {
    *bytes = matcher->shown;
    return matcher->held;
}

#endif
