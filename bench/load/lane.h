/* One client of the server: a connection that is kept, and at most one request on it.
 *
 * Owns: libevent's HTTP connection, the stream's parser, the request's time limit. Times a token when its bytes have
 * come, and nothing but tokens. Threads: the event loop's. */
#ifndef METRONOME_BENCH_LOAD_LANE_H
#define METRONOME_BENCH_LOAD_LANE_H

#include "base/status.h"
#include "bench/load/outcome.h"
#include "bench/load/samples.h"
#include "bench/load/target.h"

#include <event2/event.h>

struct lane;

/* What all lanes of a load share. */
struct lane_room {
    struct event_base *base;
    const struct target *target;
    char path[320];
    uint64_t start_ns; /* on clock_now_ns(): outcomes count from here */
    struct timeval timeout;
    struct samples *intervals_ms; /* between tokens of a request */
    uint64_t events, bytes;       /* of all streams */
    /* A request ended, `outcome` is filled in: the lane may send again. Called from the loop, never by lane_send(). */
    void (*ended)(void *context, struct lane *lane);
};

struct status lane_open(struct lane_room *room, void *context, struct lane **out);
void lane_close(struct lane *lane);

/* Sends a request; the lane has none. `outcome` has its arrival and is borrowed until the end. An error ends it, too.
 */
void lane_send(struct lane *lane, const char *body, size_t bytes, struct outcome *outcome);

/* Ends the request under way, if there is one, as `kind`. */
void lane_cancel(struct lane *lane, enum outcome_kind kind);

/* Of the last request: what a server said or did, for a failed one; "" if there is nothing to say. */
const char *lane_note(const struct lane *lane);

/* Of the last request: the server had closed the kept connection before it had the request, as servers may. It is to be
 * sent again, and goes on a new connection. */
bool lane_was_stale(const struct lane *lane);

/* Of the last request: seconds that Retry-After asks to wait; 0 without one. */
double lane_retry_after_s(const struct lane *lane);

#endif
