#include "bench/load/outcome.h"

#include "base/check.h"
#include "base/clock.h"

static const struct {
    const char *name, *help;
} kinds[OUTCOME_KINDS] = {
    [OUTCOME_UNSENT] = {"unsent", "stopped before its turn"},
    [OUTCOME_OK] = {"ok", "whole"},
    [OUTCOME_NO_TOKENS] = {"no_tokens", "a whole stream without any text"},
    [OUTCOME_CONNECT] = {"connect", "no connection"},
    [OUTCOME_CLOSED] = {"closed", "closed before the answer was whole"},
    [OUTCOME_TIMEOUT] = {"timeout", "not whole in time"},
    [OUTCOME_BAD_HTTP] = {"bad_http", "not HTTP"},
    [OUTCOME_NOT_STREAM] = {"not_stream", "200, but no event stream"},
    [OUTCOME_BAD_EVENT] = {"bad_event", "a broken event stream"},
    [OUTCOME_ERROR_EVENT] = {"error_event", "an error within the stream"},
    [OUTCOME_HTTP_429] = {"http_429", "refused for now"},
    [OUTCOME_HTTP_4XX] = {"http_4xx", "refused"},
    [OUTCOME_HTTP_5XX] = {"http_5xx", "the server failed"},
    [OUTCOME_HTTP_OTHER] = {"http_other", "another HTTP status"},
    [OUTCOME_CANCELLED] = {"cancelled", "under way when the load was stopped"},
};

const char *outcome_name(enum outcome_kind kind) {
    CHECK(kind < OUTCOME_KINDS);
    return kinds[kind].name;
}

const char *outcome_help(enum outcome_kind kind) {
    CHECK(kind < OUTCOME_KINDS);
    return kinds[kind].help;
}

static double ms_between(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (double)(to_ns - from_ns) / (double)NS_PER_MS : 0;
}

double outcome_ttft_ms(const struct outcome *outcome) {
    return ms_between(outcome->arrival_ns, outcome->first_ns);
}

double outcome_e2e_ms(const struct outcome *outcome) {
    return ms_between(outcome->arrival_ns, outcome->end_ns);
}

double outcome_tpot_ms(const struct outcome *outcome) {
    return outcome->output_tokens > 1 ? ms_between(outcome->first_ns, outcome->last_ns) / (outcome->output_tokens - 1)
                                      : 0;
}
