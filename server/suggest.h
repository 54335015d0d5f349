/* "Did you mean": the known name nearest to a word that is none. Threads: any. */
#ifndef METRONOME_SERVER_SUGGEST_H
#define METRONOME_SERVER_SUGGEST_H

#include <stddef.h>

/* Keeps the nearest of the names offered so far. */
struct suggestion {
    const char *word; /* what was typed */
    const char *best; /* NULL while nothing is near enough to be meant */
    size_t distance;
};

struct suggestion suggestion_for(const char *word);
void suggestion_offer(struct suggestion *suggestion, const char *name);

#endif
