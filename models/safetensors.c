/* The safetensors parser, and the files of a directory.
 *
 * A shard's header is JSON and is kept as it was parsed: the names of the tensors lie in it. Threads: as
 * models/safetensors.h says. */
#include "models/safetensors.h"

#include "base/bytes.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MOST_HEADER = 100 * 1000 * 1000, /* as the format's own reader has it */
    MOST_INDEX = 64 << 20,
    MOST_SHARDS = 4096,
    PREFIX_BYTES = 8, /* the header's length */
    QUOTED = 80,      /* of a name, in a message */
};

static const struct json_rules rules = {.depth = 8, .values = 1 << 20};

struct shard {
    const uint8_t *data;
    size_t bytes;
    bool mapped;
    cJSON *header; /* the tensors' names lie in it */
};

struct safetensors {
    struct shard *shards;
    size_t shard_count;
    struct safetensors_tensor *tensors; /* by name */
    size_t tensor_count;
};

/* ---- one tensor ---- */

struct data_type {
    const char *name;
    uint32_t bytes;
    bool readable;
    enum tensor_type type;
};

/* Those that are not read may lie in a file beside what is. */
static const struct data_type data_types[] = {
    {"F32", 4, true, TENSOR_F32}, {"F16", 2, true, TENSOR_F16}, {"BF16", 2, true, TENSOR_BF16}, {"F64", 8, false, 0},
    {"I64", 8, false, 0},         {"I32", 4, false, 0},         {"I16", 2, false, 0},           {"I8", 1, false, 0},
    {"U64", 8, false, 0},         {"U32", 4, false, 0},         {"U16", 2, false, 0},           {"U8", 1, false, 0},
    {"BOOL", 1, false, 0},        {"F8_E4M3", 1, false, 0},     {"F8_E5M2", 1, false, 0},
};

/* A whole number that a double has exactly. */
static struct status read_size(const cJSON *item, const char *field, uint64_t *out) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 0x1p53) ||
        item->valuedouble != floor(item->valuedouble)) {
        return status_error(STATUS_INVALID, "%s: must be whole numbers, 0 or more", field);
    }
    *out = (uint64_t)item->valuedouble;
    return STATUS_SUCCESS;
}

static struct status read_type(const cJSON *entry, struct safetensors_tensor *tensor, size_t *bytes) {
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, "dtype"));
    if (name == NULL) {
        return status_error(STATUS_INVALID, "dtype: is missing");
    }
    for (size_t i = 0; i < sizeof data_types / sizeof data_types[0]; i++) {
        if (strcmp(name, data_types[i].name) == 0) {
            tensor->type_name = data_types[i].name;
            tensor->readable = data_types[i].readable;
            tensor->type = data_types[i].type;
            *bytes = data_types[i].bytes;
            return STATUS_SUCCESS;
        }
    }
    return status_error(STATUS_UNSUPPORTED, "dtype: \"%.16s\" is not known", name);
}

/* The extents, and `bytes` times their product. */
static struct status read_shape(const cJSON *entry, struct safetensors_tensor *tensor, size_t *bytes) {
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape"), *item;
    int dimensions = cJSON_IsArray(shape) ? cJSON_GetArraySize(shape) : -1;
    if (dimensions < 0 || dimensions > 4) {
        return status_error(STATUS_INVALID, "shape: must be a list of at most 4 whole numbers");
    }
    tensor->dimensions = (uint32_t)dimensions;
    for (int i = 0; i < 4; i++) {
        tensor->extent[i] = 1;
    }
    int at = dimensions;
    cJSON_ArrayForEach(item, shape) {
        uint64_t *extent = &tensor->extent[--at];
        TRY(read_size(item, "shape", extent));
        if (!bytes_multiply(*bytes, *extent, bytes)) {
            return status_error(STATUS_INVALID, "shape: the tensor's size does not fit 64 bits");
        }
    }
    return STATUS_SUCCESS;
}

/* `section` and `section_bytes` are what the offsets count in. */
static struct status read_entry(const cJSON *entry, const uint8_t *section, size_t section_bytes,
                                struct safetensors_tensor *tensor) {
    if (!cJSON_IsObject(entry)) {
        return status_error(STATUS_INVALID, "is %s, must be an object", json_type_name(entry));
    }
    size_t bytes = 0;
    uint64_t begin = 0, end = 0;
    tensor->name = entry->string;
    TRY(read_type(entry, tensor, &bytes));
    TRY(read_shape(entry, tensor, &bytes));
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2) {
        return status_error(STATUS_INVALID, "data_offsets: must be a list of two whole numbers");
    }
    TRY(read_size(offsets->child, "data_offsets", &begin));
    TRY(read_size(offsets->child->next, "data_offsets", &end));
    if (cJSON_GetArraySize(entry) != 3) {
        return status_error(STATUS_INVALID, "has other fields than dtype, shape and data_offsets");
    }
    if (begin > end || end > section_bytes) {
        return status_error(STATUS_INVALID,
                            "data_offsets: %llu to %llu do not fit the file's %zu bytes of data; is it complete?",
                            (unsigned long long)begin, (unsigned long long)end, section_bytes);
    }
    if (end - begin != bytes) {
        return status_error(STATUS_INVALID, "data_offsets: hold %llu bytes, and dtype and shape make %zu",
                            (unsigned long long)(end - begin), bytes);
    }
    tensor->data = section + begin;
    tensor->bytes = bytes;
    return STATUS_SUCCESS;
}

/* ---- one file ---- */

static struct status check_metadata(const cJSON *metadata) {
    const cJSON *item;
    if (!cJSON_IsObject(metadata)) {
        return status_error(STATUS_INVALID, "__metadata__: is %s, must be an object", json_type_name(metadata));
    }
    cJSON_ArrayForEach(item, metadata) {
        if (!cJSON_IsString(item)) {
            return status_error(STATUS_INVALID, "__metadata__: '%.*s': is %s, must be a string", QUOTED, item->string,
                                json_type_name(item));
        }
    }
    return STATUS_SUCCESS;
}

static int compare_data(const void *a, const void *b) {
    const struct safetensors_tensor *one = a, *other = b;
    if (one->data != other->data) {
        return one->data < other->data ? -1 : 1;
    }
    return (one->bytes > other->bytes) - (one->bytes < other->bytes);
}

/* The format has no holes and no overlaps. */
static struct status check_cover(struct safetensors_tensor *tensors, size_t count, const uint8_t *section,
                                 size_t section_bytes) {
    const uint8_t *end = section;
    if (count > 0) {
        qsort(tensors, count, sizeof *tensors, compare_data);
    }
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].data != end) {
            return status_error(STATUS_INVALID,
                                "tensor '%.*s': data_offsets: begin at %zu, must be at %zu, where the "
                                "tensor before ends",
                                QUOTED, tensors[i].name, (size_t)(tensors[i].data - section), (size_t)(end - section));
        }
        end += tensors[i].bytes;
    }
    if ((size_t)(end - section) != section_bytes) {
        return status_error(STATUS_INVALID, "the tensors' data_offsets end at %zu of %zu bytes of data",
                            (size_t)(end - section), section_bytes);
    }
    return STATUS_SUCCESS;
}

static struct status read_header(struct shard *shard, size_t *header_bytes) {
    uint64_t length = 0;
    if (shard->bytes < PREFIX_BYTES) {
        return status_error(STATUS_INVALID, "has %zu bytes: this is not a safetensors file", shard->bytes);
    }
    for (int i = 0; i < PREFIX_BYTES; i++) {
        length |= (uint64_t)shard->data[i] << (8 * i);
    }
    if (length > MOST_HEADER || length > shard->bytes - PREFIX_BYTES) {
        return status_error(STATUS_INVALID, "header length: is %llu, and the file has %zu bytes",
                            (unsigned long long)length, shard->bytes);
    }
    *header_bytes = (size_t)length;
    TRY(status_context(json_parse((const char *)shard->data + PREFIX_BYTES, (size_t)length, &rules, &shard->header),
                       "header"));
    return cJSON_IsObject(shard->header)
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID, "header: is %s, must be an object", json_type_name(shard->header));
}

/* Adds the tensors of a shard to the directory. */
static struct status read_shard(struct safetensors *set, struct shard *shard) {
    size_t header_bytes = 0;
    TRY(read_header(shard, &header_bytes));
    const uint8_t *section = shard->data + PREFIX_BYTES + header_bytes;
    const size_t section_bytes = shard->bytes - PREFIX_BYTES - header_bytes;
    const size_t most = set->tensor_count + (size_t)cJSON_GetArraySize(shard->header);
    struct safetensors_tensor *tensors = realloc(set->tensors, (most ? most : 1) * sizeof *tensors);
    if (tensors == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a directory of %zu tensors", most);
    }
    set->tensors = tensors;
    const size_t before = set->tensor_count;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, shard->header) {
        if (strcmp(entry->string, "__metadata__") == 0) {
            TRY(check_metadata(entry));
            continue;
        }
        struct status status = read_entry(entry, section, section_bytes, &tensors[set->tensor_count]);
        if (status_failed(&status)) {
            return status_context(status, "tensor '%.*s'", QUOTED, entry->string);
        }
        set->tensor_count++;
    }
    return check_cover(tensors + before, set->tensor_count - before, section, section_bytes);
}

static int compare_tensors(const void *a, const void *b) {
    return strcmp(((const struct safetensors_tensor *)a)->name, ((const struct safetensors_tensor *)b)->name);
}

/* Once all shards are read. */
static struct status sort_tensors(struct safetensors *set) {
    if (set->tensor_count > 0) {
        qsort(set->tensors, set->tensor_count, sizeof *set->tensors, compare_tensors);
    }
    for (size_t i = 1; i < set->tensor_count; i++) {
        if (compare_tensors(&set->tensors[i - 1], &set->tensors[i]) == 0) {
            return status_error(STATUS_INVALID, "tensor '%.*s': appears twice", QUOTED, set->tensors[i].name);
        }
    }
    return STATUS_SUCCESS;
}

/* ---- files of a directory ---- */

bool safetensors_is_file_name(const char *name) {
    static const char ending[] = ".safetensors";
    size_t length = strlen(name);
    return length >= sizeof ending && length < 256 && strchr(name, '/') == NULL && name[0] != '.' &&
           strcmp(name + length - (sizeof ending - 1), ending) == 0;
}

static struct status open_file(const char *directory, const char *name, int *file, size_t *bytes) {
    char path[PATH_MAX];
    struct stat about;
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path) {
        return status_error(STATUS_INVALID, "the path is longer than %d bytes", PATH_MAX);
    }
    *file = open(path, O_RDONLY | O_CLOEXEC);
    if (*file < 0) {
        return status_error(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open: %s", strerror(errno));
    }
    if (fstat(*file, &about) != 0 || !S_ISREG(about.st_mode)) {
        close(*file);
        return status_error(STATUS_INVALID, "is not a regular file");
    }
    *bytes = (size_t)about.st_size;
    return STATUS_SUCCESS;
}

static struct status read_all(int file, char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        ssize_t got = read(file, text + at, bytes - at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return status_error(STATUS_IO, "cannot read: %s", got < 0 ? strerror(errno) : "the file became shorter");
        }
        at += (size_t)got;
    }
    return STATUS_SUCCESS;
}

struct status safetensors_read_text(const char *directory, const char *name, size_t most, char **text, size_t *bytes) {
    int file = -1;
    struct status status = open_file(directory, name, &file, bytes);
    if (status_failed(&status)) {
        return status_context(status, "%s", name);
    }
    char *read = *bytes <= most ? malloc(*bytes + 1) : NULL;
    if (*bytes > most) {
        status = status_error(STATUS_INVALID, "has %zu bytes, must have at most %zu", *bytes, most);
    } else if (read == NULL) {
        status = status_error(STATUS_NO_MEMORY, "no memory for %zu bytes", *bytes);
    } else {
        status = read_all(file, read, *bytes);
        read[*bytes] = 0;
    }
    close(file);
    if (status_failed(&status)) {
        free(read);
        return status_context(status, "%s", name);
    }
    *text = read;
    return STATUS_SUCCESS;
}

static struct status map_shard(const char *directory, const char *name, struct shard *shard) {
    int file = -1;
    TRY(open_file(directory, name, &file, &shard->bytes));
    void *mapping = shard->bytes ? mmap(NULL, shard->bytes, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
    int error = errno;
    close(file);
    if (mapping == MAP_FAILED) {
        return status_error(STATUS_IO, "cannot map: %s", strerror(error));
    }
    shard->data = mapping;
    shard->mapped = shard->bytes > 0;
    return STATUS_SUCCESS;
}

static struct status add_shard(struct safetensors *set, const char *directory, const char *name) {
    struct shard *shards = realloc(set->shards, (set->shard_count + 1) * sizeof *shards);
    if (shards == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for the names of shards");
    }
    set->shards = shards;
    struct shard *shard = &shards[set->shard_count++];
    *shard = (struct shard){0};
    struct status status = map_shard(directory, name, shard);
    if (!status_failed(&status)) {
        status = read_shard(set, shard);
    }
    return status_context(status, "%.*s", QUOTED, name);
}

/* ---- the index ---- */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards' names, each once. */
static struct status list_shards(const cJSON *map, const char **names, size_t *count) {
    const cJSON *item;
    size_t found = 0;
    cJSON_ArrayForEach(item, map) {
        if (!cJSON_IsString(item) || !safetensors_is_file_name(item->valuestring)) {
            return status_error(STATUS_INVALID, "weight_map: '%.*s': must be the name of a .safetensors file beside it",
                                QUOTED, item->string);
        }
        names[found++] = item->valuestring;
    }
    qsort(names, found, sizeof *names, compare_names);
    *count = 0;
    for (size_t i = 0; i < found; i++) {
        if (i == 0 || strcmp(names[i], names[i - 1]) != 0) {
            names[(*count)++] = names[i];
        }
    }
    return *count <= MOST_SHARDS
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID, "weight_map: names %zu shards, may name %d", *count, MOST_SHARDS);
}

static struct status open_shards(struct safetensors *set, const char *directory, const cJSON *index) {
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map"), *item;
    int entries = cJSON_IsObject(map) ? cJSON_GetArraySize(map) : 0;
    if (entries == 0) {
        return status_error(STATUS_INVALID, "weight_map: is missing");
    }
    const char **names = calloc((size_t)entries, sizeof *names);
    if (names == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for %d names", entries);
    }
    size_t count = 0;
    struct status status = list_shards(map, names, &count);
    for (size_t i = 0; i < count && !status_failed(&status); i++) {
        status = add_shard(set, directory, names[i]);
    }
    free(names);
    TRY(status);
    TRY(sort_tensors(set));
    cJSON_ArrayForEach(item, map) {
        if (safetensors_find(set, item->string) == NULL) {
            return status_error(STATUS_INVALID, "weight_map: '%.*s': is not in '%.*s'", QUOTED, item->string, QUOTED,
                                item->valuestring);
        }
    }
    return STATUS_SUCCESS;
}

static struct status open_index(struct safetensors *set, const char *directory, const char *text, size_t bytes) {
    cJSON *index = NULL;
    TRY(json_parse(text, bytes, &rules, &index));
    struct status status = open_shards(set, directory, index);
    cJSON_Delete(index);
    return status;
}

/* ---- the set ---- */

static struct status open_directory(struct safetensors *set, const char *directory) {
    static const char index_name[] = "model.safetensors.index.json";
    char *text = NULL;
    size_t bytes = 0;
    struct status status = safetensors_read_text(directory, index_name, MOST_INDEX, &text, &bytes);
    if (status.code == STATUS_NOT_FOUND) {
        TRY(add_shard(set, directory, "model.safetensors"));
        return sort_tensors(set);
    }
    TRY(status);
    status = open_index(set, directory, text, bytes);
    free(text);
    return status_context(status, "%s", index_name);
}

struct status safetensors_open(const char *directory, struct safetensors **out) {
    struct safetensors *set = calloc(1, sizeof *set);
    if (set == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a directory of tensors");
    }
    struct status status = open_directory(set, directory);
    if (status_failed(&status)) {
        safetensors_close(set);
        return status;
    }
    *out = set;
    return STATUS_SUCCESS;
}

struct status safetensors_open_memory(const void *data, size_t bytes, struct safetensors **out) {
    struct safetensors *set = calloc(1, sizeof *set);
    struct shard *shard = calloc(1, sizeof *shard);
    if (set == NULL || shard == NULL) {
        free(set);
        free(shard);
        return status_error(STATUS_NO_MEMORY, "no memory for a directory of tensors");
    }
    *shard = (struct shard){.data = data, .bytes = bytes};
    *set = (struct safetensors){.shards = shard, .shard_count = 1};
    struct status status = read_shard(set, shard);
    if (!status_failed(&status)) {
        status = sort_tensors(set);
    }
    if (status_failed(&status)) {
        safetensors_close(set);
        return status;
    }
    *out = set;
    return STATUS_SUCCESS;
}

void safetensors_close(struct safetensors *set) {
    if (set == NULL) {
        return;
    }
    for (size_t i = 0; i < set->shard_count; i++) {
        cJSON_Delete(set->shards[i].header);
        if (set->shards[i].mapped) {
            munmap((void *)(uintptr_t)set->shards[i].data, set->shards[i].bytes);
        }
    }
    free(set->shards);
    free(set->tensors);
    free(set);
}

size_t safetensors_count(const struct safetensors *set) {
    return set->tensor_count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *set, size_t index) {
    return &set->tensors[index];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *set, const char *name) {
    const struct safetensors_tensor wanted = {.name = name};
    return set->tensor_count == 0
               ? NULL
               : bsearch(&wanted, set->tensors, set->tensor_count, sizeof *set->tensors, compare_tensors);
}
