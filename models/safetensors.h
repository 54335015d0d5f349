/* Safetensors: a bounds-checked view of the memory-mapped file or files of a Hugging Face directory.
 *
 * Owns: the mappings, and one directory of tensors over all shards. Does not know what a name means. Every length,
 * offset, shape and name is checked before it is used; what is wrong is refused with the name of the field.
 * The format: huggingface/safetensors, README.md; the index beside shards is transformers'.
 * Threads: opened and closed by one; reading from any. */
#ifndef METRONOME_MODELS_SAFETENSORS_H
#define METRONOME_MODELS_SAFETENSORS_H

#include "base/status.h"
#include "kernels/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct safetensors;

struct safetensors_tensor {
    const char *name;      /* terminated */
    const char *type_name; /* "BF16" */
    bool readable;         /* `type` is set: F32, F16 or BF16 */
    enum tensor_type type;
    uint32_t dimensions; /* 0..4 */
    uint64_t extent[4];  /* extent[0] is the fastest: columns; then rows; unused are 1 */
    const uint8_t *data; /* inside the mapping, at any address: the format does not align it */
    size_t bytes;
};

/* The directory's model.safetensors, or the shards that its model.safetensors.index.json names. */
struct status safetensors_open(const char *directory, struct safetensors **out);

/* One file in memory that outlives it; the fuzz target's entrance. */
struct status safetensors_open_memory(const void *data, size_t bytes, struct safetensors **out);
void safetensors_close(struct safetensors *safetensors); /* NULL is allowed */

size_t safetensors_count(const struct safetensors *safetensors);
const struct safetensors_tensor *safetensors_at(const struct safetensors *safetensors, size_t index); /* by name */
const struct safetensors_tensor *safetensors_find(const struct safetensors *safetensors, const char *name);

/* Whether a name of a shard in an index may be opened: a file's name, and nothing that leads out of the directory. */
bool safetensors_is_file_name(const char *name);

/* The whole of a small text file of a directory, terminated; the caller frees it. STATUS_NOT_FOUND if there is none,
 * STATUS_INVALID if it is longer than `most`. */
struct status safetensors_read_text(const char *directory, const char *name, size_t most, char **text, size_t *bytes);

#endif
