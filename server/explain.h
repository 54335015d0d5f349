/* Why promises were missed, summed up: the causes by the time that they cost, examples, and which options may help.
 *
 * Owns: the ranking and the advice. What came late is the engine's to say (scheduler/causes.h), or a log's
 * (server/slo_log.h). Threads: pure, any. */
#ifndef METRONOME_SERVER_EXPLAIN_H
#define METRONOME_SERVER_EXPLAIN_H

#include "scheduler/engine.h"
#include "server/options.h"
#include "server/text.h"

#define EXPLAIN_EXAMPLES 3
#define EXPLAIN_ADVICE 4

/* An option to try. */
struct advice {
    const char *option; /* a row of the table */
    char value[32];
    const char *why;
    bool simulated; /* a re-simulation shows what it does: it is no matter of this machine's */
    /* what that showed (server/resimulate.h) */
    bool tried;
    struct status failure; /* it could not run so, ... */
    double kept;           /* ... else the share of promises that were kept */
};

struct cause_report {
    uint64_t late_tokens;                       /* in these runs */
    uint64_t lost_ns;                           /* the sum of how late the latest token of each run was */
    struct late_run examples[EXPLAIN_EXAMPLES]; /* (example_count) the latest ones first */
    struct advice advice[EXPLAIN_ADVICE];       /* (advice_count) the likeliest first */
    enum cause cause;
    uint32_t runs; /* of late tokens */
    uint32_t example_count, advice_count;
};

/* What the advice looks at besides what came late. */
struct explain_state {
    const struct config *config;
    uint32_t kv_blocks;
    uint64_t weight_bytes_host; /* of decoder layers, that live in host memory only */
};

/* Of a running engine, now. `config` is lent. */
struct explain_state explain_state_of(const struct config *config, const struct engine *engine);

struct explanation {
    uint64_t promised, kept, late_first, late_later; /* requests */
    uint64_t late_tokens[CAUSES];                    /* since the start */
    uint32_t runs;                                   /* that the ranking is of */
    uint64_t now_ns;                                 /* on the clock of the runs; 0: there is none, they are a log's */
    struct cause_report causes[CAUSES];              /* (cause_count) by what they cost, most first */
    uint32_t cause_count;
    /* a re-simulation of the same requests without any change */
    char resimulated_on[96]; /* "opt-6.7b on a10"; "": there was none */
    double resimulated_kept; /* the share of promises that were kept */
};

/* Ranks `runs` (count), the latest first. The counts of requests and tokens in `out` are the caller's to fill. */
void explain_rank(const struct late_run *runs, uint32_t count, const struct explain_state *state,
                  struct explanation *out);

/* What the cause means, in words: "it waited to be admitted". */
const char *explain_cause(enum cause cause);

/* {"queue":1.5,...,"planned_copies":2}: in ms, without what is 0. */
void explain_write_spent(const struct spent *spent, struct text *out);

void explain_write_json(const struct explanation *explanation, struct text *out);
void explain_write_text(const struct explanation *explanation, struct text *out);

#endif
