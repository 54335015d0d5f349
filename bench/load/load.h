/* A load: the requests of a trace, sent to a server at their times or by so many clients, and what became of them.
 *
 * Owns: the event loop, the clients, the outcomes. An open loop sends each request at its arrival, whatever the server
 * does; a closed one has `clients`, of which each sends the next request when its last has ended.
 * Threads: load_run() is one event loop on the caller's. */
#ifndef METRONOME_BENCH_LOAD_LOAD_H
#define METRONOME_BENCH_LOAD_LOAD_H

#include "base/log.h"
#include "base/status.h"
#include "bench/load/outcome.h"
#include "bench/load/samples.h"
#include "bench/load/target.h"
#include "scheduler/trace.h"

struct load_config {
    const struct target *target;
    const struct trace *trace;
    uint32_t clients; /* 0: an open loop */
    uint32_t retries; /* of a request that is told to wait (429), after Retry-After or a second */
    double timeout_s; /* for a whole answer */
    double seconds;   /* nothing is sent after these; 0: all of the trace is */
    struct progress *bar;
};

struct load_report {
    struct outcome *outcomes; /* (count), in the trace's order */
    uint32_t count;           /* that were sent */
    uint32_t kinds[OUTCOME_KINDS];
    char example[OUTCOME_KINDS][160]; /* what the first of each kind said */
    struct samples intervals_ms;      /* between tokens, of all requests */
    struct samples lag_ms;            /* by which the event loop looks up late, every 10 ms */
    uint64_t events, bytes;           /* of all streams */
    double seconds;                   /* from the start to the last end */
    double cpu_s;                     /* of this process, meanwhile */
    bool interrupted;                 /* by SIGINT: what was under way was given up */
};

/* How far the bar goes: requests, or milliseconds where the time ends the load. */
uint64_t load_work(const struct load_config *config);

/* Runs until every request has ended. The report is the caller's to free. */
struct status load_run(const struct load_config *config, struct load_report *out);
void load_report_free(struct load_report *report);

#endif
