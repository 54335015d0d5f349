/* The report of a load, in words and as JSON. Owns: nothing. Threads: any. */
#ifndef METRONOME_BENCH_LOAD_REPORT_H
#define METRONOME_BENCH_LOAD_REPORT_H

#include "bench/load/figures.h"
#include "server/text.h"

struct load_story {
    const char *url;
    const struct target *target;
    const char *trace;           /* a file's name; NULL: drawn */
    const char *prompt, *output; /* how lengths were drawn; NULL: the trace's own */
    uint32_t clients;            /* 0: an open loop */
    double rate;                 /* arrivals a second; 0: they came together, or it is a closed loop */
    double burstiness;
    uint64_t seed;
    struct load_promise promise;
    const struct load_report *report;
    const struct load_figures *figures;
};

void load_story_text(const struct load_story *story, struct text *out);
void load_story_json(const struct load_story *story, struct text *out);

#endif
