#include "server/pacing.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

void pacing_free(struct pacing *pacing) {
    text_free(&pacing->held);
    free(pacing->pieces);
    *pacing = (struct pacing){0};
}

uint64_t pacing_due(struct pacing *pacing, bool token, uint64_t tpot_ns, uint64_t now_ns) {
    if (token) {
        pacing->first_ns = pacing->tokens == 0 ? now_ns : pacing->first_ns;
        pacing->due_ns = pacing->first_ns + pacing->tokens * tpot_ns;
        pacing->tokens++;
    }
    return pacing->tokens > 0 ? pacing->due_ns : now_ns;
}

/* Moves what is held to the beginning of its arrays. */
static void close_up(struct pacing *pacing) {
    if (pacing->sent > 0) {
        memmove(pacing->held.data, pacing->held.data + pacing->sent, pacing_bytes(pacing));
        pacing->held.bytes -= pacing->sent;
        pacing->sent = 0;
    }
    if (pacing->first > 0) {
        memmove(pacing->pieces, pacing->pieces + pacing->first, pacing->count * sizeof *pacing->pieces);
        pacing->first = 0;
    }
}

bool pacing_hold(struct pacing *pacing, uint64_t due_ns, const char *data, size_t bytes) {
    if (pacing->first + pacing->count == pacing->capacity) {
        if (pacing->first > pacing->capacity / 2) {
            close_up(pacing);
        } else {
            size_t capacity = pacing->capacity > 0 ? 2 * pacing->capacity : 64;
            struct pacing_piece *pieces = realloc(pacing->pieces, capacity * sizeof *pieces);
            if (!pieces) {
                return false;
            }
            pacing->pieces = pieces;
            pacing->capacity = capacity;
        }
    }
    text_add(&pacing->held, data, bytes);
    if (pacing->held.failed) {
        return false;
    }
    size_t last = pacing->first + pacing->count;
    CHECK(pacing->count == 0 || pacing->pieces[last - 1].due_ns <= due_ns);
    pacing->pieces[last] = (struct pacing_piece){due_ns, bytes};
    pacing->count++;
    return true;
}

void pacing_take(struct pacing *pacing, uint64_t now_ns, struct text *out) {
    while (pacing->count > 0 && pacing->pieces[pacing->first].due_ns <= now_ns) {
        size_t bytes = pacing->pieces[pacing->first].bytes;
        text_add(out, pacing->held.data + pacing->sent, bytes);
        pacing->sent += bytes;
        pacing->first++;
        pacing->count--;
    }
    if (pacing->count == 0) {
        text_clear(&pacing->held);
        pacing->sent = pacing->first = 0;
    }
}

uint64_t pacing_next(const struct pacing *pacing) {
    return pacing->count > 0 ? pacing->pieces[pacing->first].due_ns : UINT64_MAX;
}
