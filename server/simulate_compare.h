/* What the scheduler keeps of a trace's promises, beside two others on the same simulated device: first come, first
 * served, and one who knows what is to come (scheduler/clairvoyant.h). Threads: main's. */
#ifndef METRONOME_SERVER_SIMULATE_COMPARE_H
#define METRONOME_SERVER_SIMULATE_COMPARE_H

#include "server/options.h"
#include "server/simulate_report.h"
#include "server/text.h"

enum compared_scheduler { COMPARED_DEADLINES, COMPARED_FCFS, COMPARED_CLAIRVOYANT, COMPARED_SCHEDULERS };

/* One load. */
struct comparison {
    double rate;    /* requests a second */
    double seconds; /* from the first arrival to the last */
    struct simulated_run runs[COMPARED_SCHEDULERS];
    uint32_t searched; /* runs that the search of the clairvoyant's set took */
};

/* Fills the runs at `rate`; `searches` bounds how many the clairvoyant's set may take. A run that could not be made
 * says why in its status. STATUS_NO_MEMORY is the only error. */
struct status compare_at(struct config *config, const struct trace *trace, const char *policy, double rate,
                         uint64_t device_memory, uint32_t searches, struct comparison *out);

/* Requests that kept all of their promises, a second of the trace: the same seconds for all of them, however long it
 * took each to be done with the rest. */
double compared_goodput(const struct comparison *comparison, enum compared_scheduler scheduler);

struct compared {
    const char *model, *hardware, *trace, *policy;
    double ttft_ms, tpot_ms;
    uint32_t requests;
    const struct comparison *loads; /* (load_count) */
    uint32_t load_count;
};
void compare_report_text(const struct compared *compared, struct text *out);
void compare_report_json(const struct compared *compared, struct text *out);

#endif
