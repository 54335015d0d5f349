/* GGUF files, versions 2 and 3: a bounds-checked view of a memory-mapped file.
 *
 * Owns: the mapping and the directory of keys and tensors. Does not know what any key means. Every count, length,
 * offset and type is checked before it is used; what is wrong is refused with the name of the field.
 * The format: the GGUF specification in ggml-org/ggml, docs/gguf.md.
 * Threads: opened and closed by one; reading from any. */
#ifndef METRONOME_MODELS_GGUF_H
#define METRONOME_MODELS_GGUF_H

#include "base/status.h"
#include "kernels/tensor.h"

#include <stddef.h>
#include <stdint.h>

struct gguf;

/* A string inside the mapping: not terminated, valid until gguf_close(). */
struct gguf_string {
    const char *data;
    size_t bytes;
};

/* Values as the file has them. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
};

struct gguf_tensor {
    struct gguf_string name;
    enum tensor_type type;
    uint32_t dimensions; /* 1..4 */
    uint64_t extent[4];  /* extent[0] is the fastest: columns; then rows; unused are 1 */
    const void *data;    /* inside the mapping */
    size_t bytes;
};

struct status gguf_open(const char *path, struct gguf **out);

/* The same over bytes in memory that outlive it; the fuzz target's entrance. */
struct status gguf_open_memory(const void *data, size_t bytes, struct gguf **out);
void gguf_close(struct gguf *gguf);

/* Each returns STATUS_NOT_FOUND if the key is absent and STATUS_INVALID if it has another type or does not fit;
 * integers of any width and sign are accepted where they fit. */
struct status gguf_get_u64(const struct gguf *gguf, const char *key, uint64_t *value);
struct status gguf_get_f64(const struct gguf *gguf, const char *key, double *value);
struct status gguf_get_bool(const struct gguf *gguf, const char *key, bool *value);
struct status gguf_get_string(const struct gguf *gguf, const char *key, struct gguf_string *value);
bool gguf_has(const struct gguf *gguf, const char *key);

/* All keys, in the order of their names. */
size_t gguf_key_count(const struct gguf *gguf);
struct gguf_string gguf_key_at(const struct gguf *gguf, size_t index, enum gguf_type *type);

/* An array's element type and count. */
struct status gguf_get_array(const struct gguf *gguf, const char *key, enum gguf_type *type, size_t *count);

/* Walks an array of strings in order: calls `visit` with each; stops at the first error. */
struct status gguf_visit_strings(const struct gguf *gguf, const char *key,
                                 struct status (*visit)(void *context, size_t index, struct gguf_string string),
                                 void *context);

/* Copies an array of integers or floats, converted, to `out` (count as gguf_get_array() said). */
struct status gguf_copy_i32(const struct gguf *gguf, const char *key, int32_t *out, size_t count);
struct status gguf_copy_f32(const struct gguf *gguf, const char *key, float *out, size_t count);

size_t gguf_tensor_count(const struct gguf *gguf);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name); /* NULL if absent */

#endif
