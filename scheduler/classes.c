#include "scheduler/classes.h"

#include <string.h>

struct slo_classes slo_classes_of(struct promise promise) {
    return (struct slo_classes){.count = 1,
                                .items = {{.name = "default", .promise = promise, .percentile = 99, .offered = true}}};
}

static uint32_t find(const struct slo_classes *classes, const char *name, size_t bytes, bool offered) {
    for (uint32_t i = 0; i < classes->count; i++) {
        const struct slo_class *item = &classes->items[i];
        if (strlen(item->name) == bytes && memcmp(item->name, name, bytes) == 0 && (item->offered || !offered)) {
            return i;
        }
    }
    return SLO_MAX_CLASSES;
}

uint32_t slo_classes_find(const struct slo_classes *classes, const char *name, size_t bytes) {
    return find(classes, name, bytes, true);
}

struct status slo_classes_merge(struct slo_classes *classes, const struct slo_classes *next) {
    struct slo_classes merged = *classes;
    uint32_t places[SLO_MAX_CLASSES];
    for (uint32_t i = 0; i < merged.count; i++) {
        merged.items[i].offered = false;
    }
    for (uint32_t i = 0; i < next->count; i++) {
        const char *name = next->items[i].name;
        places[i] = find(&merged, name, strlen(name), false);
        if (places[i] == SLO_MAX_CLASSES) {
            if (merged.count == SLO_MAX_CLASSES) {
                return status_error(STATUS_INVALID,
                                    "slo.classes: \"%s\" would be the %dth name of a class since the start, and there "
                                    "is room for %d: it takes a restart",
                                    name, SLO_MAX_CLASSES + 1, SLO_MAX_CLASSES);
            }
            places[i] = merged.count++;
        }
        merged.items[places[i]] = next->items[i];
    }
    for (uint32_t i = 0; i < next->count; i++) {
        merged.items[places[i]].lesser = places[next->items[i].lesser];
    }
    merged.fallback = places[next->fallback];
    *classes = merged;
    return STATUS_SUCCESS;
}

bool slo_classes_end(const struct slo_classes *classes) {
    for (uint32_t i = 0; i < classes->count; i++) {
        uint32_t at = i, steps = 0;
        while (classes->items[at].on_miss == ON_MISS_DOWNGRADE && steps <= classes->count) {
            at = classes->items[at].lesser;
            steps++;
        }
        if (steps > classes->count) {
            return false;
        }
    }
    return true;
}
