/* The inside of the HTTP server, shared by its files: http.c has its life and its connections', http_read.c reads
 * requests, http_respond.c writes responses.
 * Threads: the event loop's only. */
#ifndef METRONOME_SERVER_HTTP_INTERNAL_H
#define METRONOME_SERVER_HTTP_INTERNAL_H

#include "server/http.h"
#include "server/text.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

#define HTTP_REQUEST_ID_BYTES 128

enum connection_state {
    READING_HEAD, /* or idle, while nothing has come */
    READING_BODY,
    HANDLING,  /* the handler has the exchange */
    CLOSING,   /* the last response is being written */
    LINGERING, /* written, and our side shut; what still comes is thrown away, so that the client can read to the end */
    DEAD,      /* waits for the reaper */
};

struct connection;

struct http_exchange {
    struct connection *connection;
    struct http_head head;  /* slices point into head_bytes */
    struct text head_bytes; /* kept from request to request */
    struct evbuffer *body;  /* NULL until there is one */
    struct http_chunks chunks;
    uint64_t arrival_ns;
    char request_id[HTTP_REQUEST_ID_BYTES + 1];
    struct text headers; /* of the response, added so far */
    bool streaming, chunked, close_after;
    void (*gone)(void *argument);
    void *gone_argument;
};

struct connection {
    struct http_server *server;
    struct connection *previous, *next; /* in the server's list, or next only in its list of the dead */
    struct bufferevent *buffer;
    struct event *deadline; /* idle, request or lingering */
    struct event *resume;   /* go on reading, from the loop and not from inside a handler */
    enum connection_state state;
    bool request_begun; /* its first byte has come and its deadline runs */
    bool used;          /* has carried an exchange to its end */
    bool advancing;
    bool input_ended; /* the client has shut its side */
    struct http_exchange exchange;
};

struct http_server {
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *accept_again; /* after the process ran out of descriptors */
    struct event *reaper;
    struct http_limits limits;
    struct http_handler handler;
    struct connection *connections, *dead;
    uint64_t id_seed, ids; /* of requests that bring none */
    size_t body_bytes;     /* held in all */
    uint16_t port;
    bool draining;
    struct http_counts counts;
};

/* Takes the connection out of service; what belongs to it is freed from the loop. Its exchange, if the handler has
 * it, is told when `tell` is set. */
void connection_drop(struct connection *connection, bool tell);

/* Our last byte is out: says so to the client, and waits for it to close. */
void connection_linger(struct connection *connection);

/* To its next request, from being new or having answered the one before. */
void connection_begin_reading(struct connection *connection);

/* Goes as far as the bytes that are there allow. */
void connection_advance(struct connection *connection);

/* What the loop calls. */
void connection_on_read(struct bufferevent *buffer, void *argument);
void connection_on_written(struct bufferevent *buffer, void *argument);
void connection_on_event(struct bufferevent *buffer, short events, void *argument);
void connection_on_deadline(evutil_socket_t fd, short events, void *argument);
void connection_on_resume(evutil_socket_t fd, short events, void *argument);

/* The response has been handed over whole: on to the next request, or to the end of the connection. */
void exchange_end(struct http_exchange *exchange);

/* Sets the one deadline of a connection; 0 takes it away. */
void connection_set_deadline(struct connection *connection, double seconds);

size_t connection_unsent(const struct connection *connection);

#endif
