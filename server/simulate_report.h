/* What `metronome simulate` found, in words, as JSON and as a picture. Threads: any; values only. */
#ifndef METRONOME_SERVER_SIMULATE_REPORT_H
#define METRONOME_SERVER_SIMULATE_REPORT_H

#include "scheduler/replay.h"
#include "server/text.h"

/* What admission did, and whether it was right. */
struct simulated_admission {
    bool asked;                           /* slo.on_miss is refuse */
    uint64_t admitted;                    /* with a promise */
    uint64_t first_tokens, first_in_time; /* of them, first tokens predicted to be in time, and those that were */
    uint64_t refused[SHORTAGES];          /* by what was short */
    bool repeated;                        /* the run was made again with nobody refused: */
    uint32_t kept_otherwise;              /* requests that were refused, and keep their promises in it */
    uint32_t all_otherwise;               /* and all that do */
};

/* One run: a policy at a load and with a device's memory. */
struct simulated_run {
    const char *policy;
    double rate; /* requests a second */
    uint64_t device_memory;
    uint64_t weight_bytes; /* of the decoder's layers */
    uint64_t kv_tokens;
    struct status status; /* why there was no run; then the report is empty */
    struct replay_report report;
    struct simulated_admission admission;
};

enum simulated_find { FIND_NOTHING, FIND_RATE, FIND_MEMORY };

struct simulated {
    const char *model, *hardware, *trace;
    double ttft_ms, tpot_ms;     /* promised; 0: none */
    double target;               /* the attainment that is searched for */
    enum simulated_find find;    /* what is searched, for each policy: the largest rate or the smallest memory */
    const char *const *policies; /* (policy_count) */
    uint32_t policy_count;
    const struct simulated_run *runs; /* (run_count) in the order they were made */
    uint32_t run_count;
};

/* The run of a policy that the search ends with; NULL if none meets the target. */
const struct simulated_run *simulated_best(const struct simulated *simulated, const char *policy);

void simulate_report_text(const struct simulated *simulated, struct text *out);
void simulate_report_json(const struct simulated *simulated, struct text *out);

/* Attainment against load, or against memory when that is searched, a line for each policy. */
void simulate_report_svg(const struct simulated *simulated, struct text *out);

#endif
