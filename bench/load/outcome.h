/* What became of one request of a load: when what happened, and how it ended.
 *
 * Owns: nothing; plain values. Threads: any. */
#ifndef METRONOME_BENCH_LOAD_OUTCOME_H
#define METRONOME_BENCH_LOAD_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

enum outcome_kind {
    OUTCOME_UNSENT,      /* the load was stopped before its turn */
    OUTCOME_OK,          /* a whole stream with a token at least */
    OUTCOME_NO_TOKENS,   /* a whole stream without any text: nothing to time */
    OUTCOME_CONNECT,     /* no connection came about */
    OUTCOME_CLOSED,      /* the server closed before the answer was whole */
    OUTCOME_TIMEOUT,     /* the answer was not whole in time */
    OUTCOME_BAD_HTTP,    /* what came is not HTTP: status line, headers, chunks */
    OUTCOME_NOT_STREAM,  /* 200, and no event stream */
    OUTCOME_BAD_EVENT,   /* an event stream with lines or JSON that are none */
    OUTCOME_ERROR_EVENT, /* the stream carried an error */
    OUTCOME_HTTP_429,
    OUTCOME_HTTP_4XX,
    OUTCOME_HTTP_5XX,
    OUTCOME_HTTP_OTHER,
    OUTCOME_CANCELLED, /* under way when the load was stopped */
    OUTCOME_KINDS,
};

/* Times are nanoseconds since the load's start; 0 where nothing happened. */
struct outcome {
    uint64_t arrival_ns; /* when it was to be sent: times count from here */
    uint64_t sent_ns;    /* the last time, if it was sent again */
    uint64_t first_ns, last_ns, end_ns;
    uint32_t prompt_tokens, output_tokens; /* by the usage; without one, 0 and token_events */
    uint32_t token_events, empty_events;
    uint32_t retries, reconnects; /* sent again: told to wait, or on a kept connection that was closed */
    enum outcome_kind kind;
    bool has_usage;
};

/* "closed", as reports have it. */
const char *outcome_name(enum outcome_kind kind);

/* What it was, for people. */
const char *outcome_help(enum outcome_kind kind);

double outcome_ttft_ms(const struct outcome *outcome);
double outcome_e2e_ms(const struct outcome *outcome);

/* Milliseconds for each token after the first; 0 if there is no such token. */
double outcome_tpot_ms(const struct outcome *outcome);

#endif
