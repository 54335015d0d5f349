/* One run of `metronome simulate`. Threads: main's. */
#ifndef METRONOME_SERVER_SIMULATE_RUN_H
#define METRONOME_SERVER_SIMULATE_RUN_H

#include "server/options.h"
#include "server/simulate_report.h"

/* Completes a configuration that names hardware and model: the simulated device, with the memory and the link of its
 * description where no option says otherwise. */
struct status simulate_hardware(struct config *config);

/* Opens a simulated engine with the policy and the device's memory that `run` names, sends it the trace at run->rate
 * but for what is `dropped` (trace->count; NULL: nothing), and fills what is left of `run` and, if not NULL, `outcomes`
 * (trace->count). Returns what kept it from running. */
struct status simulate_run(struct config *config, const struct trace *trace, const bool *dropped,
                           struct replay_outcome *outcomes, struct simulated_run *run);

/* The same of the whole trace; where requests are refused, run once more with nobody refused, to say which of them
 * would have been kept. */
struct status simulate_admission(struct config *config, const struct trace *trace, struct simulated_run *run);

#endif
