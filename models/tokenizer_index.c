/* An index of texts by open addressing (which place of an array holds this text?), and texts that grow.
 *
 * Owns: the slots; the texts stay the caller's. Threads: any, once nothing is added any more. */
#include "base/bytes.h"
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
        out->slots[i] = (struct text_slot){.place = TOKEN_NONE};
    }
    return STATUS_SUCCESS;
}

void text_index_destroy(struct text_index *index) {
    free(index->slots);
    index->slots = NULL;
}

/* The slot that holds the text, or the empty one where it would go. Texts are looked at only where the hashes are the
 * same: they lie far apart in memory. */
static struct text_slot *find_slot(const struct text_index *index, const char *text, size_t bytes, uint64_t hash) {
    size_t at = (size_t)hash & index->mask;
    for (;; at = (at + 1) & index->mask) {
        struct text_slot *slot = &index->slots[at];
        if (slot->place == TOKEN_NONE) {
            return slot;
        }
        const struct gguf_string *there = &index->texts[slot->place];
        if (slot->hash == hash >> 32 && there->bytes == bytes && memcmp(there->data, text, bytes) == 0) {
            return slot;
        }
    }
}

uint32_t text_index_find(const struct text_index *index, const char *text, size_t bytes) {
    return find_slot(index, text, bytes, hash_text(text, bytes))->place;
}

uint32_t text_index_add(struct text_index *index, uint32_t place) {
    const struct gguf_string *text = &index->texts[place];
    uint64_t hash = hash_text(text->data, text->bytes);
    struct text_slot *slot = find_slot(index, text->data, text->bytes, hash);
    uint32_t there = slot->place;
    if (there == TOKEN_NONE) {
        *slot = (struct text_slot){.place = place, .hash = (uint32_t)(hash >> 32)};
    }
    return there;
}

struct status text_buffer_reserve(struct text_buffer *buffer, size_t bytes) {
    size_t needed;
    if (!bytes_add(buffer->bytes, bytes, &needed) || needed > SIZE_MAX / 4) {
        return status_error(STATUS_NO_MEMORY, "no memory for a text of more than %zu bytes", buffer->bytes);
    }
    if (needed > buffer->capacity) {
        size_t capacity = needed * 2 + 64;
        char *grown = realloc(buffer->data, capacity);
        if (!grown) {
            return status_error(STATUS_NO_MEMORY, "no memory for a text of %zu bytes", needed);
        }
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    return STATUS_SUCCESS;
}

struct status text_buffer_add(struct text_buffer *buffer, const char *data, size_t bytes) {
    TRY(text_buffer_reserve(buffer, bytes));
    if (bytes > 0) {
        memcpy(buffer->data + buffer->bytes, data, bytes);
        buffer->bytes += bytes;
    }
    return STATUS_SUCCESS;
}
