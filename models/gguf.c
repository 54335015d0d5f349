/* The GGUF parser.
 *
 * Owns: the mapping, and two directories built from it in one pass: keys sorted by name, tensors in file order with
 * a sorted index. Both are sorted arrays and not hash tables, so that no choice of names can make them slow.
 * Does not own: what a key means, nor the weights' pages, which stay the system's page cache.
 * Threads: opened and closed by one; reading from any. The file must not be cut short while it is open. */
#include "models/gguf_internal.h"

#include "base/bytes.h"
#include "base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF values are read as they lie in memory: a little-endian machine is needed"
#endif

enum {
    NAME_MAX_BYTES = 65535,                   /* the specification's bound for keys; tensor names are far below it */
    KEY_MIN_BYTES = 8 + 1 + 4 + 1,            /* name length, one byte of name, type, one byte of value */
    TENSOR_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8, /* name, dimension count, one extent, type, offset */
    DEFAULT_ALIGNMENT = 32,
    QUOTE_BYTES = 72,
};

/* GGML's numbers of the types that are built, and the names of all its numbers for the messages. */
static const uint32_t tensor_type_ids[TENSOR_FILE_TYPES] = {
    [TENSOR_F32] = 0,  [TENSOR_F16] = 1,   [TENSOR_BF16] = 30, [TENSOR_Q8_0] = 8,  [TENSOR_Q4_0] = 2,
    [TENSOR_Q4_1] = 3, [TENSOR_Q4_K] = 12, [TENSOR_Q5_K] = 13, [TENSOR_Q6_K] = 14, [TENSOR_Q5_0] = 6};
static const char *const tensor_type_names[] = {
    "F32",    "F16",      "Q4_0",     "Q4_1",     "Q4_2",  "Q4_3",  "Q5_0",       "Q5_1",       "Q8_0",       "Q8_1",
    "Q2_K",   "Q3_K",     "Q4_K",     "Q5_K",     "Q6_K",  "Q8_K",  "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",    "IQ1_S",
    "IQ4_NL", "IQ3_S",    "IQ2_S",    "IQ4_XS",   "I8",    "I16",   "I32",        "I64",        "F64",        "IQ1_M",
    "BF16",   "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};
static const char built_types[] = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q5_K, Q6_K";

/* ---- names ---- */

static int compare_tensors(const void *a, const void *b) {
    return gguf_compare_names((*(const struct gguf_tensor *const *)a)->name,
                              (*(const struct gguf_tensor *const *)b)->name);
}

/* A name as a message may show it: printable and not long. */
static const char *quote(struct gguf_string name, char buffer[QUOTE_BYTES]) {
    size_t length = 0;
    for (; length < name.bytes && length < QUOTE_BYTES - 1; length++) {
        char c = name.data[length];
        buffer[length] = c >= 0x20 && c < 0x7f ? c : '?';
    }
    buffer[length] = 0;
    return buffer;
}

/* ---- reading forward through the header ---- */

struct cursor {
    const uint8_t *data;
    size_t bytes, at; /* at <= bytes */
};

static struct status take(struct cursor *cursor, uint64_t bytes, const char *field, const uint8_t **out) {
    size_t left = cursor->bytes - cursor->at;
    if (bytes > left) {
        return status_error(STATUS_INVALID, "%s: needs %llu bytes at byte %zu, and the file ends after %zu", field,
                            (unsigned long long)bytes, cursor->at, left);
    }
    *out = cursor->data + cursor->at;
    cursor->at += (size_t)bytes;
    return STATUS_SUCCESS;
}

static struct status take_u32(struct cursor *cursor, const char *field, uint32_t *value) {
    const uint8_t *at = NULL;
    TRY(take(cursor, sizeof *value, field, &at));
    memcpy(value, at, sizeof *value);
    return STATUS_SUCCESS;
}

static struct status take_u64(struct cursor *cursor, const char *field, uint64_t *value) {
    const uint8_t *at = NULL;
    TRY(take(cursor, sizeof *value, field, &at));
    memcpy(value, at, sizeof *value);
    return STATUS_SUCCESS;
}

static struct status take_string(struct cursor *cursor, const char *field, struct gguf_string *string) {
    uint64_t length;
    const uint8_t *at = NULL;
    TRY(take_u64(cursor, field, &length));
    TRY(take(cursor, length, field, &at));
    *string = (struct gguf_string){(const char *)at, (size_t)length};
    return STATUS_SUCCESS;
}

static struct status take_name(struct cursor *cursor, struct gguf_string *name) {
    TRY(take_string(cursor, "name", name));
    if (name->bytes == 0 || name->bytes > NAME_MAX_BYTES) {
        return status_error(STATUS_INVALID, "name: %zu bytes long, must be 1 to %d", name->bytes, NAME_MAX_BYTES);
    }
    for (size_t i = 0; i < name->bytes; i++) {
        if (name->data[i] <= 0x20 || name->data[i] >= 0x7f) {
            return status_error(STATUS_INVALID, "name: byte %zu is 0x%02x, must be printable ASCII", i,
                                (unsigned char)name->data[i]);
        }
    }
    return STATUS_SUCCESS;
}

/* A count of things that take at least `minimum` bytes each cannot exceed what is left of the file. */
static struct status check_count(const struct cursor *cursor, const char *field, uint64_t count, size_t minimum) {
    uint64_t most = (cursor->bytes - cursor->at) / minimum;
    if (count > most) {
        return status_error(STATUS_INVALID, "%s: is %llu, and the rest of the file can hold at most %llu", field,
                            (unsigned long long)count, (unsigned long long)most);
    }
    return STATUS_SUCCESS;
}

static struct status take_type(struct cursor *cursor, const char *field, enum gguf_type *type) {
    uint32_t id = 0;
    TRY(take_u32(cursor, field, &id));
    if (id >= GGUF_VALUE_TYPES) {
        return status_error(STATUS_INVALID, "%s: is %u, must be below %d", field, id, GGUF_VALUE_TYPES);
    }
    *type = (enum gguf_type)id;
    return STATUS_SUCCESS;
}

static struct status take_array(struct cursor *cursor, struct gguf_key *key) {
    uint64_t count = 0;
    TRY(take_type(cursor, "array element type", &key->element));
    if (key->element == GGUF_ARRAY) {
        return status_error(STATUS_UNSUPPORTED, "array element type: arrays of arrays are not built");
    }
    TRY(take_u64(cursor, "array count", &count));
    bool strings = key->element == GGUF_STRING;
    TRY(check_count(cursor, "array count", count, strings ? 8 : gguf_value_types[key->element].bytes));
    key->count = (size_t)count;
    if (!strings) {
        return take(cursor, count * gguf_value_types[key->element].bytes, "array", &key->value);
    }
    key->value = cursor->data + cursor->at;
    for (size_t i = 0; i < key->count; i++) {
        struct gguf_string string;
        struct status status = take_string(cursor, "array string", &string);
        if (status_failed(&status)) {
            return status_context(status, "element %zu", i);
        }
    }
    return STATUS_SUCCESS;
}

static struct status take_value(struct cursor *cursor, struct gguf_key *key) {
    TRY(take_type(cursor, "value type", &key->type));
    if (key->type == GGUF_ARRAY) {
        return take_array(cursor, key);
    }
    key->element = key->type;
    key->count = 1;
    if (key->type == GGUF_STRING) {
        struct gguf_string string;
        key->value = cursor->data + cursor->at;
        return take_string(cursor, "value", &string);
    }
    return take(cursor, gguf_value_types[key->type].bytes, "value", &key->value);
}

static struct status take_key(struct cursor *cursor, size_t index, struct gguf_key *key) {
    struct status status = take_name(cursor, &key->name);
    if (status_failed(&status)) {
        return status_context(status, "key %zu", index);
    }
    status = take_value(cursor, key);
    char name[QUOTE_BYTES];
    return status_failed(&status) ? status_context(status, "key '%s'", quote(key->name, name)) : status;
}

/* ---- tensors ---- */

static struct status take_tensor_type(struct cursor *cursor, enum tensor_type *type) {
    uint32_t id = 0;
    TRY(take_u32(cursor, "type", &id));
    for (int i = 0; i < TENSOR_FILE_TYPES; i++) {
        if (tensor_type_ids[i] == id) {
            *type = (enum tensor_type)i;
            return STATUS_SUCCESS;
        }
    }
    bool known = id < sizeof tensor_type_names / sizeof tensor_type_names[0];
    return status_error(STATUS_UNSUPPORTED, "type: %s (number %u) is not built; built are %s",
                        known ? tensor_type_names[id] : "unknown", id, built_types);
}

/* Bytes of the tensor's data, from its type and extents. */
static struct status measure_tensor(struct gguf_tensor *tensor) {
    const struct tensor_traits *traits = tensor_traits(tensor->type);
    size_t rows = 1, elements;
    for (uint32_t i = 0; i < 4; i++) {
        if (tensor->extent[i] == 0) {
            return status_error(STATUS_INVALID, "extent %u: is 0", i);
        }
        if (i > 0 && !bytes_multiply(rows, tensor->extent[i], &rows)) {
            return status_error(STATUS_INVALID, "extent %u: is %llu, and their product does not fit 64 bits", i,
                                (unsigned long long)tensor->extent[i]);
        }
    }
    if (tensor->extent[0] % traits->block_elements != 0) {
        return status_error(STATUS_INVALID, "extent 0: is %llu, must be a multiple of %u for type %s",
                            (unsigned long long)tensor->extent[0], traits->block_elements, traits->name);
    }
    size_t row_bytes;
    if (!bytes_multiply(tensor->extent[0] / traits->block_elements, traits->block_bytes, &row_bytes) ||
        !bytes_multiply(tensor->extent[0], rows, &elements) || !bytes_multiply(row_bytes, rows, &tensor->bytes)) {
        return status_error(STATUS_INVALID, "extent 0: is %llu, and the tensor's size does not fit 64 bits",
                            (unsigned long long)tensor->extent[0]);
    }
    return STATUS_SUCCESS;
}

static struct status take_tensor_fields(struct cursor *cursor, struct gguf_entry *entry) {
    struct gguf_tensor *tensor = &entry->tensor;
    TRY(take_u32(cursor, "dimension count", &tensor->dimensions));
    if (tensor->dimensions < 1 || tensor->dimensions > 4) {
        return status_error(STATUS_INVALID, "dimension count: is %u, must be 1 to 4", tensor->dimensions);
    }
    for (uint32_t i = 0; i < 4; i++) {
        tensor->extent[i] = 1;
        if (i < tensor->dimensions) {
            TRY(take_u64(cursor, "extent", &tensor->extent[i]));
        }
    }
    TRY(take_tensor_type(cursor, &tensor->type));
    TRY(take_u64(cursor, "offset", &entry->offset));
    return measure_tensor(tensor);
}

static struct status take_tensor(struct cursor *cursor, size_t index, struct gguf_entry *entry) {
    struct status status = take_name(cursor, &entry->tensor.name);
    if (status_failed(&status)) {
        return status_context(status, "tensor %zu", index);
    }
    status = take_tensor_fields(cursor, entry);
    char name[QUOTE_BYTES];
    return status_failed(&status) ? status_context(status, "tensor '%s'", quote(entry->tensor.name, name)) : status;
}

/* Finds every tensor's bytes, now that the header's end is known. */
static struct status place_tensors(struct gguf *gguf, size_t header_bytes) {
    uint64_t alignment = DEFAULT_ALIGNMENT;
    struct status status = gguf_get_u64(gguf, "general.alignment", &alignment);
    if (status.code != STATUS_NOT_FOUND) {
        TRY(status);
    }
    if (alignment < 8 || alignment > UINT32_MAX || (alignment & (alignment - 1)) != 0) {
        return status_error(STATUS_INVALID, "key 'general.alignment': is %llu, must be a power of two, 8 or more",
                            (unsigned long long)alignment);
    }
    size_t start = bytes_align(header_bytes, alignment);
    size_t section = start < gguf->bytes ? gguf->bytes - start : 0;
    for (size_t i = 0; i < gguf->tensor_count; i++) {
        struct gguf_entry *entry = &gguf->entries[i];
        char name[QUOTE_BYTES];
        if (entry->offset % alignment != 0) {
            return status_error(STATUS_INVALID, "tensor '%s': offset: is %llu, must be a multiple of %llu",
                                quote(entry->tensor.name, name), (unsigned long long)entry->offset,
                                (unsigned long long)alignment);
        }
        if (entry->offset > section || entry->tensor.bytes > section - entry->offset) {
            return status_error(STATUS_INVALID,
                                "tensor '%s': data: %zu bytes at offset %llu do not fit the file's %zu bytes of data; "
                                "is the file complete?",
                                quote(entry->tensor.name, name), entry->tensor.bytes, (unsigned long long)entry->offset,
                                section);
        }
        entry->tensor.data = gguf->data + start + entry->offset;
    }
    return STATUS_SUCCESS;
}

/* ---- the header ---- */

static struct status take_version(struct cursor *cursor) {
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    TRY(take(cursor, 4, "magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0) {
        return status_error(STATUS_INVALID, "magic: is not \"GGUF\"; this is not a GGUF file");
    }
    TRY(take_u32(cursor, "version", &version));
    if (version != 0 && (version & 0xffff) == 0) {
        return status_error(STATUS_UNSUPPORTED, "version: the file is big-endian; only little-endian files are read");
    }
    if (version != 2 && version != 3) {
        return status_error(STATUS_UNSUPPORTED, "version: is %u; built are 2 and 3", version);
    }
    return STATUS_SUCCESS;
}

static struct status parse_keys(struct gguf *gguf, struct cursor *cursor, uint64_t count) {
    TRY(check_count(cursor, "metadata_kv_count", count, KEY_MIN_BYTES));
    gguf->keys = calloc(count ? (size_t)count : 1, sizeof *gguf->keys);
    if (gguf->keys == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %llu keys", (unsigned long long)count);
    }
    for (size_t i = 0; i < count; i++) {
        TRY(take_key(cursor, i, &gguf->keys[i]));
    }
    gguf->key_count = (size_t)count;
    qsort(gguf->keys, gguf->key_count, sizeof *gguf->keys, gguf_compare_keys);
    for (size_t i = 1; i < gguf->key_count; i++) {
        if (gguf_compare_names(gguf->keys[i - 1].name, gguf->keys[i].name) == 0) {
            char name[QUOTE_BYTES];
            return status_error(STATUS_INVALID, "key '%s': appears twice", quote(gguf->keys[i].name, name));
        }
    }
    return STATUS_SUCCESS;
}

static struct status parse_tensors(struct gguf *gguf, struct cursor *cursor, uint64_t count) {
    TRY(check_count(cursor, "tensor_count", count, TENSOR_MIN_BYTES));
    gguf->entries = calloc(count ? (size_t)count : 1, sizeof *gguf->entries);
    gguf->by_name = calloc(count ? (size_t)count : 1, sizeof *gguf->by_name);
    if (gguf->entries == NULL || gguf->by_name == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %llu tensors", (unsigned long long)count);
    }
    for (size_t i = 0; i < count; i++) {
        TRY(take_tensor(cursor, i, &gguf->entries[i]));
        gguf->by_name[i] = &gguf->entries[i].tensor;
    }
    gguf->tensor_count = (size_t)count;
    qsort(gguf->by_name, gguf->tensor_count, sizeof *gguf->by_name, compare_tensors);
    for (size_t i = 1; i < gguf->tensor_count; i++) {
        if (gguf_compare_names(gguf->by_name[i - 1]->name, gguf->by_name[i]->name) == 0) {
            char name[QUOTE_BYTES];
            return status_error(STATUS_INVALID, "tensor '%s': appears twice", quote(gguf->by_name[i]->name, name));
        }
    }
    return STATUS_SUCCESS;
}

static struct status parse(struct gguf *gguf) {
    struct cursor cursor = {.data = gguf->data, .bytes = gguf->bytes};
    uint64_t tensors = 0, keys = 0;
    TRY(take_version(&cursor));
    TRY(take_u64(&cursor, "tensor_count", &tensors));
    TRY(take_u64(&cursor, "metadata_kv_count", &keys));
    TRY(parse_keys(gguf, &cursor, keys));
    TRY(parse_tensors(gguf, &cursor, tensors));
    return place_tensors(gguf, cursor.at);
}

/* Takes over the bytes, and with `mapped` their mapping, whether or not it succeeds. */
static struct status open_bytes(const void *data, size_t bytes, bool mapped, struct gguf **out) {
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf == NULL) {
        if (mapped) {
            munmap((void *)data, bytes);
        }
        return status_error(STATUS_NO_MEMORY, "no memory for a GGUF directory");
    }
    *gguf = (struct gguf){.data = data, .bytes = bytes, .mapped = mapped};
    struct status status = parse(gguf);
    if (status_failed(&status)) {
        gguf_close(gguf);
        return status;
    }
    *out = gguf;
    return STATUS_SUCCESS;
}

struct status gguf_open_memory(const void *data, size_t bytes, struct gguf **out) {
    return open_bytes(data, bytes, false, out);
}

/* Maps the whole of a regular file; an empty one gives no bytes and no mapping. */
static struct status map_file(const char *path, int file, const void **data, size_t *bytes) {
    struct stat info;
    if (fstat(file, &info) != 0) {
        return status_error(STATUS_IO, "cannot read '%s': %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return status_error(STATUS_IO, "cannot read '%s': not a regular file", path);
    }
    *bytes = (size_t)info.st_size;
    *data = NULL;
    if (*bytes == 0) {
        return STATUS_SUCCESS;
    }
    void *mapping = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapping == MAP_FAILED) {
        return status_error(STATUS_IO, "cannot map '%s': %s", path, strerror(errno));
    }
    *data = mapping;
    return STATUS_SUCCESS;
}

struct status gguf_open(const char *path, struct gguf **out) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return status_error(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open '%s': %s", path,
                            strerror(errno));
    }
    const void *data = NULL;
    size_t bytes = 0;
    struct status status = map_file(path, file, &data, &bytes);
    close(file);
    if (status_failed(&status)) {
        return status;
    }
    status = open_bytes(data, bytes, bytes > 0, out);
    const char *slash = strrchr(path, '/');
    return status_failed(&status) ? status_context(status, "%.80s", slash ? slash + 1 : path) : status;
}

void gguf_close(struct gguf *gguf) {
    if (gguf == NULL) {
        return;
    }
    if (gguf->mapped) {
        munmap((void *)gguf->data, gguf->bytes);
    }
    free(gguf->keys);
    free(gguf->entries);
    free(gguf->by_name);
    free(gguf);
}

/* ---- tensors ---- */

size_t gguf_tensor_count(const struct gguf *gguf) {
    return gguf->tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index) {
    CHECK(index < gguf->tensor_count);
    return &gguf->entries[index].tensor;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name) {
    struct gguf_tensor wanted = {.name = {name, strlen(name)}};
    const struct gguf_tensor *address = &wanted;
    const struct gguf_tensor **found =
        bsearch(&address, gguf->by_name, gguf->tensor_count, sizeof *gguf->by_name, compare_tensors);
    return found ? *found : NULL;
}
