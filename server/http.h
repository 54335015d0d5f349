/* An HTTP/1.1 server on libevent: connections, requests with bounds in bytes and time, whole and streamed responses.
 *
 * Owns: the listener and every connection. A connection carries one exchange (a request and its response) at a time;
 * bytes that a client sends ahead wait in its socket. Knows nothing of what is served.
 * It reads buffered sockets itself instead of using evhttp, which of libevent's releases in use bounds neither how
 * long a request may take to arrive nor how many connections there are, cannot say that a client left while its
 * response is being made, and answers its own errors in HTML.
 * Threads: the event loop's only. */
#ifndef METRONOME_SERVER_HTTP_H
#define METRONOME_SERVER_HTTP_H

#include "base/status.h"
#include "server/http_parse.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct http_server;
struct http_exchange;

struct http_limits {
    size_t max_header, max_body;
    size_t stream_buffer; /* bytes of response that a client may be behind with */
    size_t max_connections;
    double request_timeout_s; /* from a request's first byte to its last */
    double idle_timeout_s;    /* between requests, and for a client that does not read */
};

/* Each must answer, now or later, with http_respond() or http_stream_begin() ... http_stream_end(), or else be told
 * through http_on_gone() that nobody waits any more. */
struct http_handler {
    void (*handle)(void *context, struct http_exchange *exchange);
    /* Answers a request that could not be read; what the exchange has of it may be incomplete. */
    void (*refuse)(void *context, struct http_exchange *exchange, int code, const char *message);
    void *context;
};

/* Listens; `port` 0 takes any that is free. STATUS_IO says the address and why not. */
struct status http_server_create(struct event_base *base, const char *host, uint16_t port,
                                 const struct http_limits *limits, const struct http_handler *handler,
                                 struct http_server **out);

/* Closes every connection at once; exchanges under way are told that they are gone. */
void http_server_destroy(struct http_server *server);

uint16_t http_server_port(const struct http_server *server);

/* From now on every response closes its connection; used ones that are idle close now. */
void http_server_drain(struct http_server *server);

/* Is no exchange under way and no response unsent? */
bool http_server_is_quiet(const struct http_server *server);

struct http_counts {
    uint64_t connections; /* open now */
    uint64_t accepted, refused;
    uint64_t slow_readers; /* connections closed because their client did not read */
    uint64_t timeouts;     /* requests that took too long to arrive */
    uint64_t gone;         /* exchanges whose client left before the end */
    uint64_t responses[6]; /* by hundreds of the status */
};
struct http_counts http_server_counts(const struct http_server *server);

/* ---- an exchange: valid from the handler's call until its response has ended or it is gone ---- */

const struct http_head *http_request_head(const struct http_exchange *exchange);
struct http_slice http_body(struct http_exchange *exchange);
void http_release_body(struct http_exchange *exchange); /* when it is not needed any more */
uint64_t http_arrival_ns(const struct http_exchange *exchange);
const char *http_request_id(const struct http_exchange *exchange); /* the client's X-Request-Id, or a new one */

/* A new id, 32 hexadecimal digits: no other of this server has it, and another server's hardly ever. */
#define HTTP_ID_DIGITS 32
void http_new_id(struct http_server *server, char id[HTTP_ID_DIGITS + 1]);

/* `gone` is called once if the client leaves, or is dropped, before the response has ended; the exchange is no more
 * when it returns. */
void http_on_gone(struct http_exchange *exchange, void (*gone)(void *argument), void *argument);

/* Adds a header to the response, which has not begun. The value is our own or checked: it has no control
 * characters. */
void http_add_header(struct http_exchange *exchange, const char *name, const char *value);

/* A whole response; the exchange is over. */
void http_respond(struct http_exchange *exchange, int code, const char *content_type, const char *body, size_t bytes);

/* A response in pieces. http_stream_write() returns false if the client is too far behind: it has then been dropped,
 * the exchange is over and `gone` is not called. */
void http_stream_begin(struct http_exchange *exchange, int code, const char *content_type);
bool http_stream_write(struct http_exchange *exchange, const char *data, size_t bytes);
void http_stream_end(struct http_exchange *exchange);

#endif
