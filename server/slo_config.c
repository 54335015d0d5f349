#include "server/slo_config.h"

#include "base/json.h"

#include <ctype.h>
#include <string.h>

#define MOST_MS 1e9

static const struct json_rules rules = {.depth = 4, .values = 512, .comments = true, .unique = true};
static const char *const miss_names[] = {
    [ON_MISS_BEST_EFFORT] = "best_effort", [ON_MISS_REFUSE] = "refuse", [ON_MISS_DOWNGRADE] = "downgrade"};

/* Names go into headers, labels of metrics and messages. */
static bool is_name(const char *text) {
    size_t bytes = strlen(text);
    for (size_t i = 0; i < bytes; i++) {
        if (!isalnum((unsigned char)text[i]) && text[i] != '-' && text[i] != '_') {
            return false;
        }
    }
    return bytes > 0 && bytes < SLO_NAME_BYTES && isalpha((unsigned char)text[0]);
}

static struct status read_number(const char *name, const cJSON *item, double minimum, double maximum, double *value) {
    if (!cJSON_IsNumber(item)) {
        return status_error(STATUS_INVALID, "slo.classes.%s.%s: expected a number, found %s", name, item->string,
                            json_type_name(item));
    }
    *value = item->valuedouble;
    return *value >= minimum && *value <= maximum
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID, "slo.classes.%s.%s: %.10g is out of range; allowed are %.10g to %.10g",
                              name, item->string, *value, minimum, maximum);
}

static struct status read_miss(const char *name, const cJSON *item, enum on_miss *out) {
    for (int i = 0; cJSON_IsString(item) && i < 3; i++) {
        if (strcmp(item->valuestring, miss_names[i]) == 0) {
            *out = (enum on_miss)i;
            return STATUS_SUCCESS;
        }
    }
    return status_error(STATUS_INVALID, "slo.classes.%s.on_miss: expected \"best_effort\", \"refuse\" or \"downgrade\"",
                        name);
}

static struct status read_field(const char *name, const cJSON *item, struct slo_class *out, const char **lesser) {
    double ms = 0;
    if (strcmp(item->string, "ttft_ms") == 0) {
        TRY(read_number(name, item, 0, MOST_MS, &ms));
        out->promise.ttft_ns = (uint64_t)(ms * 1e6);
        return STATUS_SUCCESS;
    }
    if (strcmp(item->string, "tpot_ms") == 0) {
        TRY(read_number(name, item, 0, MOST_MS, &ms));
        out->promise.tpot_ns = (uint64_t)(ms * 1e6);
        return STATUS_SUCCESS;
    }
    if (strcmp(item->string, "percentile") == 0) {
        return read_number(name, item, 50, 100, &out->percentile);
    }
    if (strcmp(item->string, "on_miss") == 0) {
        return read_miss(name, item, &out->on_miss);
    }
    if (strcmp(item->string, "downgrade_to") == 0) {
        *lesser = cJSON_IsString(item) ? item->valuestring : NULL;
        return *lesser
                   ? STATUS_SUCCESS
                   : status_error(STATUS_INVALID, "slo.classes.%s.downgrade_to: expected the name of a class, found %s",
                                  name, json_type_name(item));
    }
    return status_error(STATUS_INVALID,
                        "slo.classes.%s: there is no \"%.40s\"; there are ttft_ms, tpot_ms, percentile, on_miss and "
                        "downgrade_to",
                        name, item->string);
}

static struct status read_class(const struct config *config, const cJSON *object, struct slo_classes *classes,
                                const char **lesser) {
    const char *name = object->string;
    if (!is_name(name)) {
        return status_error(
            STATUS_INVALID,
            "slo.classes: \"%.40s\" is no name of a class; a name has up to %d letters, digits, '-' and "
            "'_', a letter first",
            name, SLO_NAME_BYTES - 1);
    }
    if (slo_classes_find(classes, name, strlen(name)) != SLO_MAX_CLASSES) {
        return status_error(STATUS_INVALID, "slo.classes.%s: this class is slo.ttft_ms and slo.tpot_ms", name);
    }
    if (!cJSON_IsObject(object)) {
        return status_error(STATUS_INVALID, "slo.classes.%s: expected an object, found %s", name,
                            json_type_name(object));
    }
    if (classes->count == SLO_MAX_CLASSES) {
        return status_error(STATUS_INVALID, "slo.classes: has more than %d classes", SLO_MAX_CLASSES - 1);
    }
    struct slo_class *item = &classes->items[classes->count];
    *item = (struct slo_class){.percentile = config->slo_percentile, .offered = true};
    memcpy(item->name, name, strlen(name) + 1);
    for (const cJSON *field = object->child; field; field = field->next) {
        TRY(read_field(name, field, item, &lesser[classes->count]));
    }
    classes->count++;
    return STATUS_SUCCESS;
}

/* Once all names are known: where those that are downgraded go. */
static struct status link_lesser(struct slo_classes *classes, const char *const *lesser) {
    for (uint32_t i = 0; i < classes->count; i++) {
        struct slo_class *item = &classes->items[i];
        if ((item->on_miss == ON_MISS_DOWNGRADE) != (lesser[i] != NULL)) {
            return status_error(STATUS_INVALID,
                                "slo.classes.%s: \"on_miss\": \"downgrade\" and \"downgrade_to\" go together",
                                item->name);
        }
        if (lesser[i]) {
            item->lesser = slo_classes_find(classes, lesser[i], strlen(lesser[i]));
            if (item->lesser == SLO_MAX_CLASSES) {
                return status_error(STATUS_INVALID, "slo.classes.%s.downgrade_to: there is no class \"%.40s\"",
                                    item->name, lesser[i]);
            }
        }
    }
    return slo_classes_end(classes)
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID, "slo.classes: downgrade_to goes in a circle; one of its classes must "
                                              "refuse or be best_effort");
}

static struct status read_classes(const struct config *config, const cJSON *tree, struct slo_classes *classes) {
    const char *lesser[SLO_MAX_CLASSES] = {0};
    for (const cJSON *object = tree->child; object; object = object->next) {
        TRY(read_class(config, object, classes, lesser));
    }
    TRY(link_lesser(classes, lesser));
    const char *fallback = config->slo_default_class;
    classes->fallback = slo_classes_find(classes, fallback, strlen(fallback));
    if (classes->fallback == SLO_MAX_CLASSES) {
        struct text names = {0};
        slo_names(classes, &names);
        struct status status =
            status_error(STATUS_INVALID, "slo.default_class: there is no class \"%.40s\"; there are %s", fallback,
                         text_string(&names) ? names.data : "others");
        text_free(&names);
        return status;
    }
    return STATUS_SUCCESS;
}

struct status slo_config_read(const struct config *config, struct slo_classes *out) {
    cJSON *tree = NULL;
    *out = slo_classes_of((struct promise){.ttft_ns = (uint64_t)(config->slo_ttft_ms * 1e6),
                                           .tpot_ns = (uint64_t)(config->slo_tpot_ms * 1e6)});
    out->items[0].percentile = config->slo_percentile;
    out->items[0].on_miss = strcmp(config->slo_on_miss, "refuse") == 0 ? ON_MISS_REFUSE : ON_MISS_BEST_EFFORT;
    TRY(status_context(json_parse(config->slo_classes, strlen(config->slo_classes), &rules, &tree), "slo.classes"));
    struct status status =
        cJSON_IsObject(tree)
            ? read_classes(config, tree, out)
            : status_error(STATUS_INVALID, "slo.classes: expected an object, found %s", json_type_name(tree));
    cJSON_Delete(tree);
    return status;
}

void slo_names(const struct slo_classes *classes, struct text *out) {
    const char *between = "";
    for (uint32_t i = 0; i < classes->count; i++) {
        if (classes->items[i].offered) {
            text_addf(out, "%s%s", between, classes->items[i].name);
            between = ", ";
        }
    }
}

static struct status check_time(const char *name, uint64_t ns, double least_ms, double most_ms) {
    double ms = (double)ns / 1e6;
    return ns == 0 || (ms >= least_ms && ms <= most_ms)
               ? STATUS_SUCCESS
               : status_error(STATUS_INVALID, "slo.%s: %.10g is out of range; this server allows %.10g to %.10g ms",
                              name, ms, least_ms, most_ms);
}

struct status slo_check_range(const struct config *config, const struct promise *promise) {
    TRY(check_time("ttft_ms", promise->ttft_ns, config->slo_ttft_min_ms, config->slo_ttft_max_ms));
    return check_time("tpot_ms", promise->tpot_ns, config->slo_tpot_min_ms, config->slo_tpot_max_ms);
}
