/* Reading a configuration file: JSON with comments, nested objects being dotted names. Threads: any. */
#include "base/json.h"
#include "server/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (1 << 20)
#define MAX_PATH_BYTES 128

static const struct json_rules rules = {.depth = 8, .values = 4096, .comments = true, .unique = true};

/* What the type of an option's row takes, for messages. */
static const char *wanted_type(const struct option *option) {
    switch (option->type) {
    case OPTION_INT:
        return "a whole number";
    case OPTION_FLOAT:
        return "a number";
    case OPTION_BYTES:
        return "a size, such as 1048576 or \"512MiB\"";
    case OPTION_OBJECT:
        return "an object";
    case OPTION_STRING:
    case OPTION_PATH:
    case OPTION_CHOICE:
        break;
    }
    return "a string";
}

static struct status read_value(struct config *config, const char *path, const cJSON *item) {
    const struct option *option = option_find(path);
    if (!option || strcmp(option->name, path) != 0) {
        struct status unknown = config_set(config, path, "", SOURCE_FILE);
        return option ? status_error(STATUS_NOT_FOUND, "there is no option %s; did you mean %s?", path, option->name)
                      : unknown;
    }
    bool numeric = option->type == OPTION_INT || option->type == OPTION_FLOAT || option->type == OPTION_BYTES;
    if (option->type == OPTION_OBJECT && cJSON_IsObject(item)) {
        char *text = cJSON_PrintUnformatted(item);
        struct status status = text ? config_set(config, path, text, SOURCE_FILE)
                                    : status_error(STATUS_NO_MEMORY, "%s: no memory for its value", path);
        cJSON_free(text);
        return status;
    }
    bool textual = (!numeric && option->type != OPTION_OBJECT) || option->type == OPTION_BYTES;
    if (cJSON_IsString(item) && textual) {
        return config_set(config, path, item->valuestring, SOURCE_FILE);
    }
    if (cJSON_IsNumber(item) && numeric) {
        char number[32];
        snprintf(number, sizeof number, "%.17g", item->valuedouble);
        if (item->valuedouble >= 0 && item->valuedouble < 0x1.0p63 &&
            item->valuedouble == (double)(uint64_t)item->valuedouble) {
            snprintf(number, sizeof number, "%llu", (unsigned long long)item->valuedouble);
        }
        return config_set(config, path, number, SOURCE_FILE);
    }
    return status_error(STATUS_INVALID, "%s: expected %s, found %s", path, wanted_type(option), json_type_name(item));
}

static struct status read_object(struct config *config, const char *prefix, const cJSON *object) {
    for (const cJSON *item = object->child; item; item = item->next) {
        char path[MAX_PATH_BYTES];
        int length = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", item->string);
        if (length < 0 || (size_t)length >= sizeof path) {
            return status_error(STATUS_NOT_FOUND, "there is no option %.100s...", path);
        }
        bool is_option = option_find(path) != NULL;
        if (cJSON_IsObject(item) && !is_option && item->child) {
            TRY(read_object(config, path, item));
        } else {
            TRY(read_value(config, path, item));
        }
    }
    return STATUS_SUCCESS;
}

struct status config_read_json(struct config *config, const char *text, size_t bytes) {
    cJSON *tree;
    TRY(json_parse(text, bytes, &rules, &tree));
    struct status status = cJSON_IsObject(tree)
                               ? read_object(config, "", tree)
                               : status_error(STATUS_INVALID, "expected an object, found %s", json_type_name(tree));
    cJSON_Delete(tree);
    return status;
}

struct status config_read_file(struct config *config, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    }
    char *text = malloc(MAX_FILE_BYTES + 1);
    if (!text) {
        fclose(file);
        return status_error(STATUS_NO_MEMORY, "%s: no memory to read it", path);
    }
    size_t bytes = fread(text, 1, MAX_FILE_BYTES + 1, file);
    struct status status;
    if (ferror(file)) {
        status = status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    } else if (bytes > MAX_FILE_BYTES) {
        status = status_error(STATUS_INVALID, "%s: larger than 1 MiB, which no configuration is", path);
    } else {
        status = status_context(config_read_json(config, text, bytes), "%s", path);
    }
    fclose(file);
    free(text);
    return status;
}
