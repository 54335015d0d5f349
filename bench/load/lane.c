#include "bench/load/lane.h"

#include "base/check.h"
#include "base/clock.h"
#include "bench/load/sse.h"
#include "bench/load/stream_event.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#define HEADERS_MOST_BYTES (64 << 10)
#define STREAM_MOST_BYTES (1LL << 30)
#define PIECES 8 /* of a buffer, looked at together */

struct lane {
    struct lane_room *room;
    void *context;
    struct evhttp_connection *connection;
    struct evhttp_request *request; /* NULL: none under way */
    struct event *limit, *ending;   /* the time is up; the request has ended, told out of libevent's own calls */
    struct sse_parser sse;
    struct outcome *outcome;
    uint64_t now_ns; /* when the piece in hand came */
    bool kept;       /* the connection has carried a request before this one */
    bool answered;   /* headers came */
    bool streaming;  /* 200 and an event stream */
    bool done;       /* [DONE] came */
    bool finished;   /* a finish_reason came */
    bool stale;      /* of the last request, see lane_was_stale() */
    enum evhttp_request_error error;
    bool failed; /* `error` says why */
    double retry_after_s;
    char note[160];
};

/* ---- what events of the stream say ---- */

static void keep_note(struct lane *lane, const char *text, size_t bytes) {
    size_t kept = strlen(lane->note), room = sizeof lane->note - 1 - kept;
    bytes = bytes < room ? bytes : room;
    for (size_t i = 0; i < bytes; i++) { /* it is shown on terminals */
        lane->note[kept + i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? ' ' : text[i];
    }
    lane->note[kept + bytes] = 0;
}

/* The request is over for us, whatever the connection does. */
static void end_as(struct lane *lane, enum outcome_kind kind) {
    if (lane->outcome->kind == OUTCOME_UNSENT) {
        lane->outcome->kind = kind;
        event_active(lane->ending, EV_TIMEOUT, 0);
    }
}

static void take_token(struct lane *lane) {
    struct outcome *outcome = lane->outcome;
    if (outcome->token_events++ == 0) {
        outcome->first_ns = lane->now_ns;
    } else {
        samples_add(lane->room->intervals_ms, (double)(lane->now_ns - outcome->last_ns) / (double)NS_PER_MS);
    }
    outcome->last_ns = lane->now_ns;
}

/* The end of the body is all that may still come: it is not waited for. */
static void take_done(struct lane *lane) {
    static const struct timeval soon = {.tv_sec = 1};
    lane->done = true;
    lane->outcome->end_ns = lane->now_ns;
    event_add(lane->limit, &soon);
}

static void take_event(void *context, const char *data, size_t bytes, bool named_error) {
    struct lane *lane = context;
    lane->room->events++;
    if (lane->done || lane->outcome->kind != OUTCOME_UNSENT) {
        return;
    }
    struct stream_event event = stream_event_read(data, bytes);
    if (event.has_usage) {
        lane->outcome->has_usage = true;
        lane->outcome->prompt_tokens = event.prompt_tokens;
        lane->outcome->output_tokens = event.completion_tokens;
    }
    lane->finished = lane->finished || event.finished;
    if (named_error || event.kind == EVENT_ERROR || event.kind == EVENT_BROKEN) {
        keep_note(lane, data, bytes);
        end_as(lane, named_error || event.kind == EVENT_ERROR ? OUTCOME_ERROR_EVENT : OUTCOME_BAD_EVENT);
    } else if (event.kind == EVENT_DONE) {
        take_done(lane);
    } else if (event.kind == EVENT_TOKEN) {
        take_token(lane);
    } else {
        lane->outcome->empty_events++;
    }
}

/* ---- libevent's calls ---- */

static int on_headers(struct evhttp_request *request, void *context) {
    struct lane *lane = context;
    struct evkeyvalq *headers = evhttp_request_get_input_headers(request);
    const char *type = evhttp_find_header(headers, "Content-Type");
    const char *wait = evhttp_find_header(headers, "Retry-After");
    static const char stream[] = "text/event-stream";
    lane->answered = true;
    lane->streaming = evhttp_request_get_response_code(request) == HTTP_OK && type != NULL &&
                      strncasecmp(type, stream, sizeof stream - 1) == 0;
    if (wait != NULL) { /* in seconds; a date counts as none */
        char *end;
        double seconds = strtod(wait, &end);
        lane->retry_after_s = *end == 0 && seconds > 0 && seconds < 3600 ? seconds : 0;
    }
    return 0;
}

static void on_piece(struct evhttp_request *request, void *context) {
    struct lane *lane = context;
    struct evbuffer *buffer = evhttp_request_get_input_buffer(request);
    struct evbuffer_iovec pieces[PIECES];
    lane->now_ns = clock_now_ns() - lane->room->start_ns;
    lane->room->bytes += evbuffer_get_length(buffer);
    while (evbuffer_get_length(buffer) > 0) {
        int count = evbuffer_peek(buffer, -1, NULL, pieces, PIECES);
        size_t taken = 0;
        for (int i = 0; i < count && i < PIECES; i++) {
            taken += pieces[i].iov_len;
            if (!lane->streaming) {
                keep_note(lane, pieces[i].iov_base, pieces[i].iov_len);
            } else if (lane->outcome->kind == OUTCOME_UNSENT &&
                       (!sse_feed(&lane->sse, pieces[i].iov_base, pieces[i].iov_len, take_event, lane) ||
                        lane->sse.strays > 0)) {
                keep_note(lane, pieces[i].iov_base, pieces[i].iov_len);
                end_as(lane, OUTCOME_BAD_EVENT);
            }
        }
        evbuffer_drain(buffer, taken);
    }
}

static void on_error(enum evhttp_request_error error, void *context) {
    struct lane *lane = context;
    lane->error = error;
    lane->failed = true;
}

static enum outcome_kind kind_of_status(int code) {
    return code == 429                 ? OUTCOME_HTTP_429
           : code >= 400 && code < 500 ? OUTCOME_HTTP_4XX
           : code >= 500 && code < 600 ? OUTCOME_HTTP_5XX
                                       : OUTCOME_HTTP_OTHER;
}

static enum outcome_kind kind_of_end(const struct lane *lane, const struct evhttp_request *request) {
    int code = request ? evhttp_request_get_response_code(request) : 0;
    if (lane->failed && !lane->done) {
        return lane->error == EVREQ_HTTP_TIMEOUT ? OUTCOME_TIMEOUT
               : lane->error == EVREQ_HTTP_EOF   ? OUTCOME_CLOSED
                                                 : OUTCOME_BAD_HTTP;
    }
    if (code == 0 && !lane->done) {
        return OUTCOME_CONNECT;
    }
    if (!lane->done && code != HTTP_OK) {
        return kind_of_status(code);
    }
    if (!lane->streaming) {
        return OUTCOME_NOT_STREAM;
    }
    if (!lane->done && !lane->finished) {
        return OUTCOME_CLOSED;
    }
    return lane->outcome->token_events > 0 ? OUTCOME_OK : OUTCOME_NO_TOKENS;
}

static void on_end(struct evhttp_request *request, void *context) {
    struct lane *lane = context;
    if (lane->request != NULL) {
        lane->request = NULL;
        end_as(lane, kind_of_end(lane, request));
    }
}

/* ---- the end ---- */

static void on_ending(evutil_socket_t unused, short what, void *context) {
    struct lane *lane = context;
    struct evhttp_request *request = lane->request;
    struct outcome *outcome = lane->outcome;
    (void)unused;
    (void)what;
    event_del(lane->limit);
    lane->stale = lane->kept && !lane->answered && outcome->kind == OUTCOME_CLOSED;
    lane->kept = request == NULL && !lane->failed;
    lane->request = NULL;
    if (request != NULL) {
        evhttp_cancel_request(request);
    }
    outcome->output_tokens = outcome->has_usage ? outcome->output_tokens : outcome->token_events;
    if (outcome->end_ns == 0) {
        outcome->end_ns = clock_now_ns() - lane->room->start_ns;
    }
    lane->room->ended(lane->context, lane);
}

static void on_limit(evutil_socket_t unused, short what, void *context) {
    struct lane *lane = context;
    (void)unused;
    (void)what;
    end_as(lane, lane->done ? kind_of_end(lane, NULL) : OUTCOME_TIMEOUT);
}

/* ---- lanes ---- */

struct status lane_open(struct lane_room *room, void *context, struct lane **out) {
    struct lane *lane = calloc(1, sizeof *lane);
    if (lane != NULL) {
        lane->room = room;
        lane->context = context;
        lane->limit = evtimer_new(room->base, on_limit, lane);
        lane->ending = event_new(room->base, -1, 0, on_ending, lane);
        lane->connection = evhttp_connection_base_new(room->base, NULL, room->target->address, room->target->port);
    }
    if (lane == NULL || !lane->limit || !lane->ending || !lane->connection) {
        lane_close(lane);
        return status_error(STATUS_NO_MEMORY, "no memory for one more client");
    }
    evhttp_connection_set_timeout_tv(lane->connection, &room->timeout);
    evhttp_connection_set_max_headers_size(lane->connection, HEADERS_MOST_BYTES);
    evhttp_connection_set_max_body_size(lane->connection, STREAM_MOST_BYTES);
    *out = lane;
    return STATUS_SUCCESS;
}

void lane_close(struct lane *lane) {
    if (lane == NULL) {
        return;
    }
    lane->request = NULL; /* freed with its connection; on_end() has nothing to say */
    if (lane->connection) {
        evhttp_connection_free(lane->connection);
    }
    if (lane->limit) {
        event_free(lane->limit);
    }
    if (lane->ending) {
        event_free(lane->ending);
    }
    sse_free(&lane->sse);
    free(lane);
}

/* Small writes go at once. */
static void set_no_delay(struct lane *lane) {
    int one = 1, file = bufferevent_getfd(evhttp_connection_get_bufferevent(lane->connection));
    if (file >= 0) {
        setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
}

void lane_send(struct lane *lane, const char *body, size_t bytes, struct outcome *outcome) {
    CHECK(lane->request == NULL);
    struct evhttp_request *request = evhttp_request_new(on_end, lane);
    lane->outcome = outcome;
    lane->answered = lane->streaming = lane->done = lane->finished = lane->failed = lane->stale = false;
    lane->retry_after_s = 0;
    lane->note[0] = 0;
    sse_reset(&lane->sse);
    outcome->kind = OUTCOME_UNSENT;
    outcome->sent_ns = clock_now_ns() - lane->room->start_ns;
    event_add(lane->limit, &lane->room->timeout);
    if (request == NULL || !target_add_headers(lane->room->target, request) ||
        evhttp_add_header(evhttp_request_get_output_headers(request), "Content-Type", "application/json") != 0 ||
        evbuffer_add(evhttp_request_get_output_buffer(request), body, bytes) != 0) {
        if (request != NULL) {
            evhttp_request_free(request);
        }
        keep_note(lane, "no memory", strlen("no memory"));
        end_as(lane, OUTCOME_CONNECT);
        return;
    }
    evhttp_request_set_header_cb(request, on_headers);
    evhttp_request_set_chunked_cb(request, on_piece);
    evhttp_request_set_error_cb(request, on_error);
    lane->request = request;
    if (evhttp_make_request(lane->connection, request, EVHTTP_REQ_POST, lane->room->path) != 0) {
        lane->request = NULL;
        end_as(lane, OUTCOME_CONNECT);
        return;
    }
    set_no_delay(lane);
}

void lane_cancel(struct lane *lane, enum outcome_kind kind) {
    if (lane->request != NULL) {
        end_as(lane, kind);
    }
}

const char *lane_note(const struct lane *lane) {
    return lane->note;
}

bool lane_was_stale(const struct lane *lane) {
    return lane->stale;
}

double lane_retry_after_s(const struct lane *lane) {
    return lane->retry_after_s;
}
