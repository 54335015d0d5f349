#include "server/suggest.h"

#include <stdint.h>
#include <string.h>

#define MAX_NAME_BYTES 63

static char folded(char byte) {
    return byte == '-' ? '_' : byte >= 'A' && byte <= 'Z' ? (char)(byte - 'A' + 'a') : byte;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Levenshtein's distance, two neighbours swapped counting as one; names that are too long are far away. */
static size_t edit_distance(const char *a, const char *b) {
    size_t a_bytes = strlen(a), b_bytes = strlen(b);
    if (a_bytes > MAX_NAME_BYTES || b_bytes > MAX_NAME_BYTES) {
        return SIZE_MAX;
    }
    size_t rows[3][MAX_NAME_BYTES + 1]; /* the last two rows and the one being filled, in turn */
    for (size_t j = 0; j <= b_bytes; j++) {
        rows[0][j] = j;
    }
    for (size_t i = 1; i <= a_bytes; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i - 1) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= b_bytes; j++) {
            size_t changed = above[j - 1] + (folded(a[i - 1]) != folded(b[j - 1]));
            row[j] = smaller(changed, smaller(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) && folded(a[i - 2]) == folded(b[j - 1])) {
                row[j] = smaller(row[j], two_above[j - 2] + 1);
            }
        }
    }
    return rows[a_bytes % 3][b_bytes];
}

struct suggestion suggestion_for(const char *word) {
    return (struct suggestion){.word = word};
}

void suggestion_offer(struct suggestion *suggestion, const char *name) {
    size_t distance = edit_distance(suggestion->word, name);
    const char *tail = strrchr(name, '.');
    if (tail && strcmp(tail + 1, suggestion->word) == 0) {
        distance = 0; /* the right name without its group */
    }
    size_t near = strlen(suggestion->word) / 3 + 1;
    if (distance <= near && (!suggestion->best || distance < suggestion->distance)) {
        suggestion->best = name;
        suggestion->distance = distance;
    }
}
