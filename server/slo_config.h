/* The classes of promises that a configuration names.
 *
 * Owns: the fields of slo.classes and what they mean. Threads: any; values only. */
#ifndef METRONOME_SERVER_SLO_CONFIG_H
#define METRONOME_SERVER_SLO_CONFIG_H

#include "scheduler/classes.h"
#include "server/options.h"

/* Fills *out: "default" first, of slo.ttft_ms and the options beside it, then slo.classes in their order. The first
 * thing that is wrong is refused with its path. */
struct status slo_config_read(const struct config *config, struct slo_classes *out);

/* Appends the names of the classes that are offered, separated by commas. */
void slo_names(const struct slo_classes *classes, struct text *out);

/* May a request ask for these times? A time that is not promised may be; STATUS_INVALID says the number and what is
 * allowed. */
struct status slo_check_range(const struct config *config, const struct promise *promise);

#endif
