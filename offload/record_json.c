#include "offload/record_json.h"

#include "base/check.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define FORMAT 1 /* of the file; another one is refused */

/* Bounds: plans take times up to 2^40 ns; beyond 2^53 JSON's numbers are not exact. */
#define MAX_NS 0x1.0p40
#define MAX_EXACT 0x1.0p53

void record_key_text(char *field, size_t size, const char *text) {
    CHECK(size > 0);
    size_t length = 0;
    for (; length + 1 < size && text[length]; length++) {
        field[length] = text[length] >= 0x20 && text[length] <= 0x7e ? text[length] : '?';
    }
    field[length] = 0;
}

/* ---- the key's table: writing, reading and comparing all go by it ---- */

enum key_type { KEY_TEXT, KEY_U32, KEY_U64 };

struct key_field {
    const char *name;
    enum key_type type;
    size_t offset, size;
};

#define FIELD(member) offsetof(struct record_key, member), sizeof((struct record_key *)0)->member
static const struct key_field key_fields[] = {
    {"model", KEY_TEXT, FIELD(model)},
    {"parameters", KEY_U64, FIELD(parameters)},
    {"model_bytes", KEY_U64, FIELD(model_bytes)},
    {"device", KEY_TEXT, FIELD(device)},
    {"device_description", KEY_TEXT, FIELD(device_description)},
    {"compute", KEY_TEXT, FIELD(compute)},
    {"kv_type", KEY_TEXT, FIELD(kv_type)},
    {"link_bytes_per_s", KEY_U64, FIELD(link_bytes_per_s)},
    {"rows", KEY_U32, FIELD(rows)},
    {"sequences", KEY_U32, FIELD(sequences)},
    {"context", KEY_U32, FIELD(context)},
    {"build", KEY_TEXT, FIELD(build)},
};

static const char *key_at(const struct record_key *key, const struct key_field *field) {
    return (const char *)key + field->offset;
}

static uint64_t key_number(const struct record_key *key, const struct key_field *field) {
    uint32_t narrow = 0;
    uint64_t wide = 0;
    if (field->type == KEY_U32) {
        memcpy(&narrow, key_at(key, field), sizeof narrow);
        return narrow;
    }
    memcpy(&wide, key_at(key, field), sizeof wide);
    return wide;
}

/* Names the first field that differs. */
static struct status compare_keys(const struct record_key *wanted, const struct record_key *found) {
    for (size_t i = 0; i < COUNT(key_fields); i++) {
        const struct key_field *field = &key_fields[i];
        if (field->type == KEY_TEXT && strcmp(key_at(wanted, field), key_at(found, field)) != 0) {
            return status_error(STATUS_NOT_FOUND, "was measured with another %s: \"%.60s\", not \"%.60s\"", field->name,
                                key_at(found, field), key_at(wanted, field));
        }
        if (field->type != KEY_TEXT && key_number(wanted, field) != key_number(found, field)) {
            return status_error(STATUS_NOT_FOUND, "was measured with another %s: %" PRIu64 ", not %" PRIu64,
                                field->name, key_number(found, field), key_number(wanted, field));
        }
    }
    return STATUS_SUCCESS;
}

/* ---- writing ---- */

/* cJSON prints its own numbers with 15 digits where that is nearly right. */
static cJSON *create_number(uint64_t value) {
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    return cJSON_CreateRaw(digits);
}

static bool add_number(cJSON *object, const char *name, uint64_t value) {
    cJSON *item = create_number(value);
    if (!item || !cJSON_AddItemToObject(object, name, item)) {
        cJSON_Delete(item);
        return false;
    }
    return true;
}

static bool add_key(cJSON *tree, const struct record_key *key) {
    cJSON *object = cJSON_AddObjectToObject(tree, "key");
    bool added = object != NULL;
    for (size_t i = 0; i < COUNT(key_fields) && added; i++) {
        const struct key_field *field = &key_fields[i];
        added = field->type == KEY_TEXT ? cJSON_AddStringToObject(object, field->name, key_at(key, field)) != NULL
                                        : add_number(object, field->name, key_number(key, field));
    }
    return added;
}

/* Adds `item` to the array; what cannot be made or added is freed, and said. */
static bool append(cJSON *array, cJSON *item) {
    if (!item || !cJSON_AddItemToArray(array, item)) {
        cJSON_Delete(item);
        return false;
    }
    return true;
}

static bool add_points(cJSON *tree, const char *name, const uint32_t *points, uint32_t count) {
    cJSON *array = cJSON_AddArrayToObject(tree, name);
    bool added = array != NULL;
    for (uint32_t i = 0; i < count && added; i++) {
        added = append(array, create_number(points[i]));
    }
    return added;
}

static uint64_t *time_at(struct record_cell *cell, bool outside) {
    return outside ? &cell->outside_ns : &cell->layer_ns;
}

static bool add_grid(cJSON *tree, const char *name, const struct record *record, bool outside) {
    cJSON *grid = cJSON_AddArrayToObject(tree, name);
    bool added = grid != NULL;
    for (uint32_t i = 0; i < record->row_count && added; i++) {
        cJSON *line = cJSON_CreateArray();
        added = append(grid, line);
        for (uint32_t j = 0; j < record->context_count && added; j++) {
            struct record_cell cell = record->cell[i][j];
            added = append(line, create_number(*time_at(&cell, outside)));
        }
    }
    return added;
}

char *record_json_print(const struct record_key *key, const struct record *record) {
    cJSON *tree = cJSON_CreateObject();
    bool added = tree && add_number(tree, "format", FORMAT) && add_key(tree, key) &&
                 add_number(tree, "link_bytes_per_s", record->link_bytes_per_s) &&
                 add_number(tree, "copy_ns", record->copy_ns) &&
                 add_points(tree, "rows", record->rows, record->row_count) &&
                 add_points(tree, "contexts", record->contexts, record->context_count) &&
                 add_grid(tree, "layer_ns", record, false) && add_grid(tree, "outside_ns", record, true);
    char *compact = added ? cJSON_Print(tree) : NULL;
    cJSON_Delete(tree);
    size_t bytes = compact ? strlen(compact) : 0;
    char *text = compact ? malloc(bytes + 2) : NULL;
    if (text) {
        memcpy(text, compact, bytes);
        memcpy(text + bytes, "\n", 2);
    }
    cJSON_free(compact);
    return text;
}

/* ---- reading ---- */

static struct status read_number(const cJSON *item, const char *name, double least, double most, uint64_t *out) {
    if (!cJSON_IsNumber(item)) {
        return status_error(STATUS_INVALID, "%s: expected a number", name);
    }
    double value = item->valuedouble;
    if (!(value >= least && value <= most) || value != floor(value)) {
        return status_error(STATUS_INVALID, "%s: is %.17g, must be a whole number from %.0f to %.0f", name, value,
                            least, most);
    }
    *out = (uint64_t)value;
    return STATUS_SUCCESS;
}

static struct status read_key_field(const struct key_field *field, const cJSON *item, struct record_key *key) {
    char *place = (char *)key + field->offset;
    if (field->type == KEY_TEXT) {
        if (!cJSON_IsString(item) || strlen(item->valuestring) >= field->size) {
            return status_error(STATUS_INVALID, "key.%s: expected a text of at most %zu bytes", field->name,
                                field->size - 1);
        }
        record_key_text(place, field->size, item->valuestring);
        return STATUS_SUCCESS;
    }
    uint64_t wide = 0;
    char name[32];
    snprintf(name, sizeof name, "key.%s", field->name);
    TRY(read_number(item, name, 0, field->type == KEY_U32 ? UINT32_MAX : MAX_EXACT, &wide));
    uint32_t narrow = (uint32_t)wide;
    memcpy(place, field->type == KEY_U32 ? (void *)&narrow : (void *)&wide, field->size);
    return STATUS_SUCCESS;
}

/* The object's members are these names, each once; `within` is "key." or "". Their items, in the names' order. */
static struct status take_members(const cJSON *object, const char *within, const char *const *names, size_t count,
                                  const cJSON **items) {
    for (const cJSON *item = object->child; item; item = item->next) {
        size_t i = 0;
        while (i < count && strcmp(names[i], item->string) != 0) {
            i++;
        }
        if (i == count) {
            return status_error(STATUS_INVALID, "%s%.64s: there is no such field", within, item->string);
        }
        if (items[i]) {
            return status_error(STATUS_INVALID, "%s%s: is there twice", within, names[i]);
        }
        items[i] = item;
    }
    for (size_t i = 0; i < count; i++) {
        if (!items[i]) {
            return status_error(STATUS_INVALID, "%s%s: is missing", within, names[i]);
        }
    }
    return STATUS_SUCCESS;
}

static struct status read_key(const cJSON *object, struct record_key *key) {
    const char *names[COUNT(key_fields)];
    const cJSON *items[COUNT(key_fields)] = {0};
    if (!cJSON_IsObject(object)) {
        return status_error(STATUS_INVALID, "key: expected an object");
    }
    for (size_t i = 0; i < COUNT(key_fields); i++) {
        names[i] = key_fields[i].name;
    }
    TRY(take_members(object, "key.", names, COUNT(names), items));
    for (size_t i = 0; i < COUNT(key_fields); i++) {
        TRY(read_key_field(&key_fields[i], items[i], key));
    }
    return STATUS_SUCCESS;
}

/* Ascending points of the grid, at least one. */
static struct status read_points(const cJSON *array, const char *name, uint32_t most, uint32_t *points,
                                 uint32_t *count) {
    uint32_t found = 0;
    uint64_t value = 0;
    if (!cJSON_IsArray(array)) {
        return status_error(STATUS_INVALID, "%s: expected an array of numbers", name);
    }
    for (const cJSON *item = array->child; item; item = item->next) {
        if (found == most) {
            return status_error(STATUS_INVALID, "%s: has more than %u points", name, most);
        }
        TRY(read_number(item, name, (double)value + 1, UINT32_MAX, &value)); /* ascending */
        points[found++] = (uint32_t)value;
    }
    *count = found;
    return found > 0 ? STATUS_SUCCESS : status_error(STATUS_INVALID, "%s: is empty", name);
}

static struct status read_grid(const cJSON *grid, const char *name, bool outside, struct record *record) {
    if (!cJSON_IsArray(grid) || (uint32_t)cJSON_GetArraySize(grid) != record->row_count) {
        return status_error(STATUS_INVALID, "%s: expected %u arrays, one for each of rows", name, record->row_count);
    }
    const cJSON *line = grid->child;
    for (uint32_t i = 0; i < record->row_count; i++, line = line->next) {
        if (!cJSON_IsArray(line) || (uint32_t)cJSON_GetArraySize(line) != record->context_count) {
            return status_error(STATUS_INVALID, "%s[%u]: expected %u numbers, one for each of contexts", name, i,
                                record->context_count);
        }
        const cJSON *item = line->child;
        for (uint32_t j = 0; j < record->context_count; j++, item = item->next) {
            TRY(read_number(item, name, outside ? 0 : 1, MAX_NS, time_at(&record->cell[i][j], outside)));
        }
    }
    return STATUS_SUCCESS;
}

static struct status read_tree(const cJSON *tree, struct record_key *key, struct record *record) {
    static const char *const names[] = {"format", "key",      "link_bytes_per_s", "copy_ns",
                                        "rows",   "contexts", "layer_ns",         "outside_ns"};
    enum { FORMAT_ITEM, KEY_ITEM, LINK, COPY, ROW_POINTS, CONTEXT_POINTS, LAYER_GRID, OUTSIDE_GRID, ITEMS };
    const cJSON *items[ITEMS] = {0};
    uint64_t format;
    if (!cJSON_IsObject(tree)) {
        return status_error(STATUS_INVALID, "expected an object");
    }
    TRY(take_members(tree, "", names, ITEMS, items));
    TRY(read_number(items[FORMAT_ITEM], "format", FORMAT, FORMAT, &format));
    TRY(read_key(items[KEY_ITEM], key));
    TRY(read_number(items[LINK], "link_bytes_per_s", 1, MAX_EXACT, &record->link_bytes_per_s));
    TRY(read_number(items[COPY], "copy_ns", 0, MAX_NS, &record->copy_ns));
    TRY(read_points(items[ROW_POINTS], "rows", RECORD_MAX_ROWS, record->rows, &record->row_count));
    TRY(read_points(items[CONTEXT_POINTS], "contexts", RECORD_MAX_CONTEXTS, record->contexts, &record->context_count));
    TRY(read_grid(items[LAYER_GRID], "layer_ns", false, record));
    return read_grid(items[OUTSIDE_GRID], "outside_ns", true, record);
}

struct status record_json_parse(const char *text, size_t bytes, struct record_key *key, struct record *record) {
    if (bytes > RECORD_FILE_BYTES) {
        return status_error(STATUS_INVALID, "is longer than %d bytes, which no record is", RECORD_FILE_BYTES);
    }
    const char *end = text;
    cJSON *tree = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
    if (!tree) {
        return status_error(STATUS_INVALID, "is not JSON: something is wrong at byte %zu",
                            end >= text && end <= text + bytes ? (size_t)(end - text) : 0);
    }
    *key = (struct record_key){0};
    *record = (struct record){0};
    struct status status = STATUS_SUCCESS;
    for (; end < text + bytes && status.code == STATUS_OK; end++) {
        if (*end == 0 || !strchr(" \t\r\n", *end)) {
            status = status_error(STATUS_INVALID, "something follows the record at byte %zu", (size_t)(end - text));
        }
    }
    if (status.code == STATUS_OK) {
        status = read_tree(tree, key, record);
    }
    cJSON_Delete(tree);
    return status;
}

/* ---- files ---- */

static struct status load(const char *path, const struct record_key *key, struct record *record) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        return status_error(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s", strerror(errno));
    }
    char *text = malloc(RECORD_FILE_BYTES + 1);
    size_t bytes = text ? fread(text, 1, RECORD_FILE_BYTES + 1, file) : 0;
    bool failed = ferror(file);
    int error = errno;
    fclose(file);
    struct record_key found;
    struct record filled;
    struct status status = !text    ? status_error(STATUS_NO_MEMORY, "no memory to read it")
                           : failed ? status_error(STATUS_IO, "%s", strerror(error))
                                    : record_json_parse(text, bytes, &found, &filled);
    free(text);
    TRY(status);
    TRY(compare_keys(key, &found));
    *record = filled;
    return STATUS_SUCCESS;
}

struct status record_json_load(const char *path, const struct record_key *key, struct record *record) {
    return status_context(load(path, key, record), "performance record %s", path);
}

static bool write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (!file) {
        return false;
    }
    size_t bytes = strlen(text);
    bool written = fwrite(text, 1, bytes, file) == bytes;
    return fclose(file) == 0 && written;
}

struct status record_json_save(const char *path, const struct record_key *key, const struct record *record) {
    char *text = record_json_print(key, record), *beside = NULL;
    struct status status = STATUS_SUCCESS;
    if (!text || asprintf(&beside, "%s.new", path) < 0) {
        status = status_error(STATUS_NO_MEMORY, "performance record %s: no memory to write it", path);
    } else if (!write_file(beside, text) || rename(beside, path) != 0) {
        status = status_error(STATUS_IO, "performance record %s: %s", path, strerror(errno));
        remove(beside);
    }
    free(beside);
    free(text);
    return status;
}
