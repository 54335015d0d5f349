/* Classes of promises: by a class's name requests say what they want promised, and the server what it does when that
 * cannot be kept.
 *
 * Owns: the table of classes and its merging. A class keeps its place in the table as long as the engine lives, so that
 * requests and numbers find it there whatever is reloaded. Threads: any; values only. */
#ifndef METRONOME_SCHEDULER_CLASSES_H
#define METRONOME_SCHEDULER_CLASSES_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLO_MAX_CLASSES 16
#define SLO_NAME_BYTES 32 /* of a class's name, its end included */

/* When tokens are due: the first `ttft_ns` after the request's arrival, token n after it n * `tpot_ns` after the first.
 */
struct promise {
    uint64_t ttft_ns, tpot_ns; /* 0: nothing is promised */
};

/* What becomes of a request whose promise is predicted to be broken. */
enum on_miss {
    ON_MISS_BEST_EFFORT, /* it is served, as soon as it is lost behind those that can be in time */
    ON_MISS_REFUSE,      /* it is refused at once */
    ON_MISS_DOWNGRADE,   /* it gets another class's promise, and what that class does if it cannot be kept either */
};

struct slo_class {
    char name[SLO_NAME_BYTES];
    struct promise promise;
    double percentile; /* of its requests that shall be in time: how careful the prediction is */
    enum on_miss on_miss;
    uint32_t lesser; /* ON_MISS_DOWNGRADE: the other class */
    bool offered;    /* false: requests cannot choose it any more */
};

struct slo_classes {
    uint32_t count;    /* places in use */
    uint32_t fallback; /* the class of requests that name none */
    struct slo_class items[SLO_MAX_CLASSES];
};

/* The one class there is without any: "default", best effort. */
struct slo_classes slo_classes_of(struct promise promise);

/* The place of an offered class; SLO_MAX_CLASSES if there is none of that name. */
uint32_t slo_classes_find(const struct slo_classes *classes, const char *name, size_t bytes);

/* *classes become those of `next`: what has the same name keeps its place, what is gone is no longer offered.
 * STATUS_INVALID, and nothing changed, if the table has not room for the new ones. */
struct status slo_classes_merge(struct slo_classes *classes, const struct slo_classes *next);

/* Does following `lesser` from each class end? */
bool slo_classes_end(const struct slo_classes *classes);

#endif
