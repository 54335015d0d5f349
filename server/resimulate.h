/* What an option would have changed: the requests of a log sent through the scheduler again, on a simulated device, as
 * it was configured and with each option that an explanation names. Threads: main's. */
#ifndef METRONOME_SERVER_RESIMULATE_H
#define METRONOME_SERVER_RESIMULATE_H

#include "server/slo_log.h"

#define RESIMULATE_CAUSES 3 /* whose advice is tried: the most expensive ones */

/* Runs the log's requests under `config` (which names hardware and model) and once for every piece of advice about the
 * first causes, and writes into `explanation` what was kept; advice that kept more comes first. */
struct status resimulate(const struct config *config, const struct slo_log *log, struct explanation *explanation);

#endif
