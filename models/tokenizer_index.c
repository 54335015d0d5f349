/* An index of texts by open addressing: which place of an array holds this text?
 *
 * Owns: the slots; the texts stay the caller's. Threads: any, once nothing is added any more. */
#include "base/random.h"
#include "models/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static uint64_t hash_text(const char *text, size_t bytes) {
    uint64_t hash = bytes;
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, text + at, bytes - at < 8 ? bytes - at : 8);
        hash = random_hash(hash, word);
    }
    return hash;
}

struct status text_index_create(const struct gguf_string *texts, size_t count, struct text_index *out) {
    size_t slots = 16;
    while (slots / 2 < count) {
        slots *= 2;
    }
    *out = (struct text_index){.texts = texts, .slots = malloc(slots * sizeof *out->slots), .mask = slots - 1};
    if (!out->slots) {
        return status_error(STATUS_NO_MEMORY, "no memory for an index of %zu tokens", count);
    }
    for (size_t i = 0; i < slots; i++) {
        out->slots[i] = TOKEN_NONE;
    }
    return STATUS_SUCCESS;
}

void text_index_destroy(struct text_index *index) {
    free(index->slots);
    index->slots = NULL;
}

/* The slot that holds the text, or the empty one where it would go. */
static uint32_t *index_slot(const struct text_index *index, const char *text, size_t bytes) {
    size_t slot = (size_t)hash_text(text, bytes) & index->mask;
    for (;; slot = (slot + 1) & index->mask) {
        uint32_t place = index->slots[slot];
        if (place == TOKEN_NONE) {
            return &index->slots[slot];
        }
        const struct gguf_string *there = &index->texts[place];
        if (there->bytes == bytes && memcmp(there->data, text, bytes) == 0) {
            return &index->slots[slot];
        }
    }
}

uint32_t text_index_find(const struct text_index *index, const char *text, size_t bytes) {
    return *index_slot(index, text, bytes);
}

uint32_t text_index_add(struct text_index *index, uint32_t place) {
    uint32_t *slot = index_slot(index, index->texts[place].data, index->texts[place].bytes);
    uint32_t there = *slot;
    if (there == TOKEN_NONE) {
        *slot = place;
    }
    return there;
}
