/* What the parser (gguf.c) and the getters of values (gguf_values.c) share: the directory of an open file.
 * Threads: as models/gguf.h says. */
#ifndef METRONOME_MODELS_GGUF_INTERNAL_H
#define METRONOME_MODELS_GGUF_INTERNAL_H

#include "models/gguf.h"

#include <stdbool.h>
#include <string.h>

struct gguf_key {
    struct gguf_string name;
    enum gguf_type type;
    enum gguf_type element; /* of an array; `type` itself otherwise */
    size_t count;           /* of an array; 1 otherwise */
    const uint8_t *value;   /* the first element */
};

struct gguf_entry {
    struct gguf_tensor tensor;
    uint64_t offset; /* from the start of the data section, as the file says */
};

struct gguf {
    const uint8_t *data;
    size_t bytes;
    bool mapped;
    struct gguf_key *keys; /* (key_count), by name */
    size_t key_count;
    struct gguf_entry *entries; /* (tensor_count), in file order */
    size_t tensor_count;
    const struct gguf_tensor **by_name; /* (tensor_count) */
};

/* Names and sizes of the types of values. */
struct gguf_value_type {
    const char *name;
    size_t bytes; /* 0: of variable length */
};
#define GGUF_VALUE_TYPES 13
extern const struct gguf_value_type gguf_value_types[GGUF_VALUE_TYPES];

static inline int gguf_compare_names(struct gguf_string a, struct gguf_string b) {
    size_t common = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = memcmp(a.data, b.data, common);
    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static inline int gguf_compare_keys(const void *a, const void *b) { /* for qsort and bsearch */
    return gguf_compare_names(((const struct gguf_key *)a)->name, ((const struct gguf_key *)b)->name);
}

#endif
