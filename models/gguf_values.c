/* Values of a GGUF file's keys, converted and checked.
 *
 * Owns: nothing; reads the directory that the parser made, whose lengths are all checked already.
 * Threads: any. */
#include "models/gguf_internal.h"

#include "base/check.h"

#include <stdlib.h>

const struct gguf_value_type gguf_value_types[GGUF_VALUE_TYPES] = {
    [GGUF_U8] = {"u8", 1},         [GGUF_I8] = {"i8", 1},       [GGUF_U16] = {"u16", 2}, [GGUF_I16] = {"i16", 2},
    [GGUF_U32] = {"u32", 4},       [GGUF_I32] = {"i32", 4},     [GGUF_F32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},
    [GGUF_STRING] = {"string", 0}, [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8}, [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8}};

static const struct gguf_key *find_key(const struct gguf *gguf, const char *name) {
    struct gguf_key wanted = {.name = {name, strlen(name)}};
    return bsearch(&wanted, gguf->keys, gguf->key_count, sizeof *gguf->keys, gguf_compare_keys);
}

bool gguf_has(const struct gguf *gguf, const char *key) {
    return find_key(gguf, key) != NULL;
}

size_t gguf_key_count(const struct gguf *gguf) {
    return gguf->key_count;
}

struct gguf_string gguf_key_at(const struct gguf *gguf, size_t index, enum gguf_type *type) {
    CHECK(index < gguf->key_count);
    *type = gguf->keys[index].type;
    return gguf->keys[index].name;
}

static struct status wrong_type(const char *name, const struct gguf_key *key, const char *wanted) {
    return status_error(STATUS_INVALID, "key '%s': is %s%s, must be %s", name,
                        key->type == GGUF_ARRAY ? "array of " : "", gguf_value_types[key->element].name, wanted);
}

/* The key, if it is there and is an array, or is not one. */
static struct status require_key(const struct gguf *gguf, const char *name, bool array, const char *wanted,
                                 const struct gguf_key **out) {
    const struct gguf_key *key = find_key(gguf, name);
    if (key == NULL) {
        return status_error(STATUS_NOT_FOUND, "key '%s': is missing", name);
    }
    if ((key->type == GGUF_ARRAY) != array) {
        return wrong_type(name, key, wanted);
    }
    *out = key;
    return STATUS_SUCCESS;
}

#define LOAD(type)                            \
    do {                                      \
        type loaded_;                         \
        memcpy(&loaded_, at, sizeof loaded_); \
        *value = loaded_;                     \
        return true;                          \
    } while (0)

/* An integer of any width and sign; false if the type is none. 128 bits hold them all. */
static bool load_integer(enum gguf_type type, const uint8_t *at, __int128 *value) {
    switch (type) {
    case GGUF_U8:
        LOAD(uint8_t);
    case GGUF_I8:
        LOAD(int8_t);
    case GGUF_U16:
        LOAD(uint16_t);
    case GGUF_I16:
        LOAD(int16_t);
    case GGUF_U32:
        LOAD(uint32_t);
    case GGUF_I32:
        LOAD(int32_t);
    case GGUF_U64:
        LOAD(uint64_t);
    case GGUF_I64:
        LOAD(int64_t);
    default:
        return false;
    }
}

static bool load_number(enum gguf_type type, const uint8_t *at, double *value) {
    __int128 integer;
    if (load_integer(type, at, &integer)) {
        *value = (double)integer;
        return true;
    }
    switch (type) {
    case GGUF_F32:
        LOAD(float);
    case GGUF_F64:
        LOAD(double);
    default:
        return false;
    }
}

struct status gguf_get_u64(const struct gguf *gguf, const char *name, uint64_t *value) {
    const struct gguf_key *key = NULL;
    TRY(require_key(gguf, name, false, "an integer", &key));
    __int128 integer = 0;
    if (!load_integer(key->type, key->value, &integer)) {
        return wrong_type(name, key, "an integer");
    }
    if (integer < 0) {
        return status_error(STATUS_INVALID, "key '%s': is %lld, must not be negative", name, (long long)integer);
    }
    *value = (uint64_t)integer;
    return STATUS_SUCCESS;
}

struct status gguf_get_f64(const struct gguf *gguf, const char *name, double *value) {
    const struct gguf_key *key = NULL;
    TRY(require_key(gguf, name, false, "a number", &key));
    return load_number(key->type, key->value, value) ? STATUS_SUCCESS : wrong_type(name, key, "a number");
}

struct status gguf_get_bool(const struct gguf *gguf, const char *name, bool *value) {
    const struct gguf_key *key = NULL;
    TRY(require_key(gguf, name, false, "a bool", &key));
    if (key->type != GGUF_BOOL) {
        return wrong_type(name, key, "a bool");
    }
    if (key->value[0] > 1) {
        return status_error(STATUS_INVALID, "key '%s': is %u, must be 0 or 1", name, key->value[0]);
    }
    *value = key->value[0] == 1;
    return STATUS_SUCCESS;
}

/* The string at `at`, which parsing has walked once already. */
static struct gguf_string load_string(const uint8_t *at) {
    uint64_t length;
    memcpy(&length, at, sizeof length);
    return (struct gguf_string){(const char *)at + sizeof length, (size_t)length};
}

struct status gguf_get_string(const struct gguf *gguf, const char *name, struct gguf_string *value) {
    const struct gguf_key *key = NULL;
    TRY(require_key(gguf, name, false, "a string", &key));
    if (key->type != GGUF_STRING) {
        return wrong_type(name, key, "a string");
    }
    *value = load_string(key->value);
    return STATUS_SUCCESS;
}

struct status gguf_get_array(const struct gguf *gguf, const char *name, enum gguf_type *type, size_t *count) {
    const struct gguf_key *key = NULL;
    TRY(require_key(gguf, name, true, "an array", &key));
    *type = key->element;
    *count = key->count;
    return STATUS_SUCCESS;
}

struct status gguf_visit_strings(const struct gguf *gguf, const char *name,
                                 struct status (*visit)(void *context, size_t index, struct gguf_string string),
                                 void *context) {
    const struct gguf_key *key = NULL;
    TRY(require_key(gguf, name, true, "an array of strings", &key));
    if (key->element != GGUF_STRING) {
        return wrong_type(name, key, "an array of strings");
    }
    const uint8_t *at = key->value;
    for (size_t i = 0; i < key->count; i++) {
        struct gguf_string string = load_string(at);
        TRY(visit(context, i, string));
        at = (const uint8_t *)string.data + string.bytes;
    }
    return STATUS_SUCCESS;
}

/* An array of exactly `count` values. */
static struct status require_array(const struct gguf *gguf, const char *name, size_t count, const char *wanted,
                                   const struct gguf_key **key) {
    TRY(require_key(gguf, name, true, wanted, key));
    if ((*key)->count != count) {
        return status_error(STATUS_INVALID, "key '%s': has %zu elements, must have %zu", name, (*key)->count, count);
    }
    return STATUS_SUCCESS;
}

struct status gguf_copy_i32(const struct gguf *gguf, const char *name, int32_t *out, size_t count) {
    const struct gguf_key *key = NULL;
    TRY(require_array(gguf, name, count, "an array of integers", &key));
    for (size_t i = 0; i < count; i++) {
        __int128 integer;
        if (!load_integer(key->element, key->value + i * gguf_value_types[key->element].bytes, &integer)) {
            return wrong_type(name, key, "an array of integers");
        }
        if (integer < INT32_MIN || integer > INT32_MAX) {
            return status_error(STATUS_INVALID, "key '%s': element %zu does not fit 32 bits", name, i);
        }
        out[i] = (int32_t)integer;
    }
    return STATUS_SUCCESS;
}

struct status gguf_copy_f32(const struct gguf *gguf, const char *name, float *out, size_t count) {
    const struct gguf_key *key = NULL;
    TRY(require_array(gguf, name, count, "an array of numbers", &key));
    for (size_t i = 0; i < count; i++) {
        double number;
        if (!load_number(key->element, key->value + i * gguf_value_types[key->element].bytes, &number)) {
            return wrong_type(name, key, "an array of numbers");
        }
        out[i] = (float)number;
    }
    return STATUS_SUCCESS;
}
