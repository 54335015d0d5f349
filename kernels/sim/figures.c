#include "kernels/sim/figures.h"

#include "base/check.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whole numbers up to here are exact in the double that JSON gives. */
#define MAX_EXACT 0x1.0p53

static const char *type_name(const cJSON *item) {
    return cJSON_IsString(item)   ? "a string"
           : cJSON_IsNumber(item) ? "a number"
           : cJSON_IsBool(item)   ? "true or false"
           : cJSON_IsObject(item) ? "an object"
           : cJSON_IsArray(item)  ? "an array"
                                  : "null";
}

static bool is_number(const struct figure *figure) {
    return figure->type == FIGURE_U32 || figure->type == FIGURE_U64 || figure->type == FIGURE_F64;
}

static const struct figure *find(const struct figure *figures, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(figures[i].name, name) == 0) {
            return &figures[i];
        }
    }
    return NULL;
}

static bool is_printable(const char *text) {
    for (; *text; text++) {
        if (*text < 0x20 || *text > 0x7e) {
            return false;
        }
    }
    return true;
}

static struct status read_text(const struct figure *figure, const cJSON *item, void *out) {
    if (!cJSON_IsString(item)) {
        return status_error(STATUS_INVALID, "%s: expected a string, found %s", figure->name, type_name(item));
    }
    size_t length = strlen(item->valuestring);
    if ((double)length < figure->least || (double)length > figure->most || !is_printable(item->valuestring)) {
        return status_error(STATUS_INVALID, "%s: must be %.0f to %.0f printable characters, has %zu", figure->name,
                            figure->least, figure->most, length);
    }
    memcpy((char *)out + figure->offset, item->valuestring, length + 1);
    return STATUS_SUCCESS;
}

static struct status read_number(const struct figure *figure, const cJSON *item, void *out) {
    if (!cJSON_IsNumber(item)) {
        return status_error(STATUS_INVALID, "%s: expected a number, found %s", figure->name, type_name(item));
    }
    double value = item->valuedouble;
    if (!(value >= figure->least && value <= figure->most)) {
        return status_error(STATUS_INVALID, "%s: is %g, must be %g to %g", figure->name, value, figure->least,
                            figure->most);
    }
    char *place = (char *)out + figure->offset;
    if (figure->type == FIGURE_F64) {
        memcpy(place, &value, sizeof value);
        return STATUS_SUCCESS;
    }
    if (value != floor(value)) {
        return status_error(STATUS_INVALID, "%s: is %.17g, must be a whole number", figure->name, value);
    }
    if (figure->type == FIGURE_U32) {
        uint32_t whole = (uint32_t)value;
        memcpy(place, &whole, sizeof whole);
    } else {
        uint64_t whole = (uint64_t)value;
        memcpy(place, &whole, sizeof whole);
    }
    return STATUS_SUCCESS;
}

static struct status read_figure(const struct figure *figure, const cJSON *item, void *out) {
    if (figure->type == FIGURE_TEXT) {
        return read_text(figure, item, out);
    }
    if (is_number(figure)) {
        return read_number(figure, item, out);
    }
    if (!cJSON_IsBool(item)) {
        return status_error(STATUS_INVALID, "%s: expected true or false, found %s", figure->name, type_name(item));
    }
    bool value = cJSON_IsTrue(item);
    memcpy((char *)out + figure->offset, &value, sizeof value);
    return STATUS_SUCCESS;
}

/* Every number has a source, its own or that of all; every source is of something. */
static struct status check_sources(const struct figure *figures, size_t count, const cJSON *sources) {
    if (!cJSON_IsObject(sources)) {
        return status_error(STATUS_INVALID, "sources: expected an object that says where each number is from");
    }
    bool all = false, seen[FIGURES_MAX] = {false};
    for (const cJSON *item = sources->child; item; item = item->next) {
        const struct figure *figure = find(figures, count, item->string);
        bool *known = figure ? &seen[figure - figures] : strcmp(item->string, "all") == 0 ? &all : NULL;
        if (!known) {
            return status_error(STATUS_INVALID, "sources.%.64s: there is no such figure", item->string);
        }
        if (*known) {
            return status_error(STATUS_INVALID, "sources.%s: is there twice", item->string);
        }
        if (!cJSON_IsString(item) || item->valuestring[0] == 0) {
            return status_error(STATUS_INVALID, "sources.%s: expected the name of a document", item->string);
        }
        *known = true;
    }
    for (size_t i = 0; i < count; i++) {
        if (is_number(&figures[i]) && !all && !seen[i]) {
            return status_error(STATUS_INVALID, "sources.%s: is missing; say where the number is from",
                                figures[i].name);
        }
    }
    return STATUS_SUCCESS;
}

static struct status read_object(const cJSON *object, const struct figure *figures, size_t count, void *out) {
    if (!cJSON_IsObject(object)) {
        return status_error(STATUS_INVALID, "expected an object of figures, found %s", type_name(object));
    }
    const cJSON *sources = NULL;
    bool seen[FIGURES_MAX] = {false};
    for (const cJSON *item = object->child; item; item = item->next) {
        bool is_sources = strcmp(item->string, "sources") == 0;
        const struct figure *figure = is_sources ? NULL : find(figures, count, item->string);
        if (!figure && !is_sources) {
            return status_error(STATUS_INVALID, "%.64s: there is no such figure", item->string);
        }
        if (is_sources ? sources != NULL : seen[figure - figures]) {
            return status_error(STATUS_INVALID, "%s: is there twice", item->string);
        }
        if (is_sources) {
            sources = item;
        } else {
            TRY(read_figure(figure, item, out));
            seen[figure - figures] = true;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (!seen[i]) {
            return status_error(STATUS_INVALID, "%s: is missing", figures[i].name);
        }
    }
    return check_sources(figures, count, sources);
}

static void check_table(const struct figure *figures, size_t count) {
    CHECK(count <= FIGURES_MAX);
    for (size_t i = 0; i < count; i++) {
        CHECK(figures[i].type != FIGURE_U32 || figures[i].most <= (double)UINT32_MAX);
        CHECK(figures[i].type != FIGURE_U64 || figures[i].most <= MAX_EXACT);
        CHECK(!is_number(&figures[i]) || figures[i].least >= 0);
    }
}

struct status figures_parse(const char *text, size_t bytes, const struct figure *figures, size_t count, void *out) {
    check_table(figures, count);
    if (bytes > FIGURES_MAX_BYTES) {
        return status_error(STATUS_INVALID, "is longer than %d bytes, which no description is", FIGURES_MAX_BYTES);
    }
    const char *end = text;
    cJSON *tree = cJSON_ParseWithLengthOpts(text, bytes, &end, false);
    if (!tree) {
        return status_error(STATUS_INVALID, "is not JSON: something is wrong at byte %zu",
                            end >= text && end <= text + bytes ? (size_t)(end - text) : 0);
    }
    struct status status = STATUS_SUCCESS;
    for (; end < text + bytes && status.code == STATUS_OK; end++) {
        if (*end == 0 || !strchr(" \t\r\n", *end)) {
            status =
                status_error(STATUS_INVALID, "something follows the description at byte %zu", (size_t)(end - text));
        }
    }
    if (status.code == STATUS_OK) {
        status = read_object(tree, figures, count, out);
    }
    cJSON_Delete(tree);
    return status;
}

struct status figures_load(const char *path, const struct figure *figures, size_t count, void *out) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        return status_error(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: %s", path, strerror(errno));
    }
    char *text = malloc(FIGURES_MAX_BYTES + 1);
    if (!text) {
        fclose(file);
        return status_error(STATUS_NO_MEMORY, "%s: no memory to read it", path);
    }
    size_t bytes = fread(text, 1, FIGURES_MAX_BYTES + 1, file);
    struct status status = ferror(file) ? status_error(STATUS_IO, "%s: %s", path, strerror(errno))
                                        : status_context(figures_parse(text, bytes, figures, count, out), "%s", path);
    fclose(file);
    free(text);
    return status;
}
