/* Pieces of a stream, held back until the user has read so far: token n of a stream is due n * tpot after its first.
 *
 * The engine runs ahead of that, and what it is ahead by is time that the scheduler lends to others. A token that the
 * engine brings late is sent at once, and those after it are due when they were. Owns: the bytes held. Knows no clock
 * and no sockets. Threads: one at a time. */
#ifndef METRONOME_SERVER_PACING_H
#define METRONOME_SERVER_PACING_H

#include "server/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pacing_piece {
    uint64_t due_ns;
    size_t bytes;
};

/* One stream. All zero: one that has not begun. */
struct pacing {
    struct text held; /* of the pieces, one after the other, from `sent` on */
    size_t sent;
    struct pacing_piece *pieces; /* (capacity) those from `first` on, `count` of them; due in order */
    size_t first, count, capacity;
    uint64_t first_ns, tokens, due_ns; /* of the first token; tokens so far; when the latest is due */
};
void pacing_free(struct pacing *pacing);

/* Has a token come just now? Then the next one; returns when what came is due. Text without a token is due with the
 * token before it, and at once if there was none. */
uint64_t pacing_due(struct pacing *pacing, bool token, uint64_t tpot_ns, uint64_t now_ns);

/* Holds a piece back; `due_ns` is no earlier than that of the one before it. False: there was no memory. */
bool pacing_hold(struct pacing *pacing, uint64_t due_ns, const char *data, size_t bytes);

/* Appends to `out` what is due by now, and forgets it. */
void pacing_take(struct pacing *pacing, uint64_t now_ns, struct text *out);

/* When the first piece held is due; UINT64_MAX if none is. */
uint64_t pacing_next(const struct pacing *pacing);

static inline size_t pacing_bytes(const struct pacing *pacing) {
    return pacing->held.bytes - pacing->sent;
}

#endif
