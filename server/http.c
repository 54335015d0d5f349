#include "server/http.h"

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "server/http_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_S 2.0
#define LISTEN_BACKLOG 1024
#define SEND_BUFFER_BYTES (256 * 1024) /* the kernel's part of what a slow reader can hold */

/* ---- the life of a connection ---- */

size_t connection_unsent(const struct connection *connection) {
    return evbuffer_get_length(bufferevent_get_output(connection->buffer));
}

static struct timeval time_of(double seconds) {
    return (struct timeval){.tv_sec = (time_t)seconds,
                            .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
}

void connection_set_deadline(struct connection *connection, double seconds) {
    struct timeval time = time_of(seconds);
    if (seconds > 0) {
        event_add(connection->deadline, &time);
    } else {
        event_del(connection->deadline);
    }
}

void http_release_body(struct http_exchange *exchange) {
    if (exchange->body) {
        exchange->connection->server->body_bytes -= evbuffer_get_length(exchange->body);
        evbuffer_free(exchange->body);
        exchange->body = NULL;
    }
}

static void connection_free(struct connection *connection) {
    if (connection->deadline) {
        event_free(connection->deadline);
    }
    if (connection->resume) {
        event_free(connection->resume);
    }
    http_release_body(&connection->exchange);
    text_free(&connection->exchange.head_bytes);
    text_free(&connection->exchange.headers);
    if (connection->buffer) {
        bufferevent_free(connection->buffer);
    }
    free(connection);
}

void connection_drop(struct connection *connection, bool tell) {
    struct http_server *server = connection->server;
    struct http_exchange *exchange = &connection->exchange;
    if (connection->state == DEAD) {
        return;
    }
    bool handling = connection->state == HANDLING;
    connection->state = DEAD;
    if (connection->previous) {
        connection->previous->next = connection->next;
    } else {
        server->connections = connection->next;
    }
    if (connection->next) {
        connection->next->previous = connection->previous;
    }
    connection->next = server->dead;
    server->dead = connection;
    server->counts.connections--;
    bufferevent_disable(connection->buffer, EV_READ | EV_WRITE);
    bufferevent_setcb(connection->buffer, NULL, NULL, NULL, NULL);
    connection_set_deadline(connection, 0);
    event_active(server->reaper, EV_TIMEOUT, 0);
    if (handling) {
        server->counts.gone++;
        if (tell && exchange->gone) {
            exchange->gone(exchange->gone_argument);
        }
    }
}

static void reap(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct http_server *server = argument;
    while (server->dead) {
        struct connection *connection = server->dead;
        server->dead = connection->next;
        connection_free(connection);
    }
}

/* Our last byte is out: says so to the client, and waits for it to close. Closing now instead, with bytes of its
 * unread, would reset the connection and could take the response from it. */
void connection_linger(struct connection *connection) {
    if (connection->input_ended) {
        connection_drop(connection, true);
        return;
    }
    connection->state = LINGERING;
    shutdown(bufferevent_getfd(connection->buffer), SHUT_WR);
    connection_set_deadline(connection, LINGER_S);
    connection_advance(connection);
}

void connection_begin_reading(struct connection *connection) {
    connection->state = READING_HEAD;
    connection->request_begun = false;
    connection_set_deadline(connection, connection->server->limits.idle_timeout_s);
}

void exchange_end(struct http_exchange *exchange) {
    struct connection *connection = exchange->connection;
    http_release_body(exchange);
    text_clear(&exchange->headers);
    exchange->gone = NULL;
    exchange->streaming = false;
    connection->used = true;
    if (exchange->close_after) {
        connection->state = CLOSING;
        connection_set_deadline(connection, 0); /* the buffer's own write timeout goes on */
    } else {
        connection_begin_reading(connection);
    }
    if (!connection->advancing) {
        event_active(connection->resume, EV_TIMEOUT, 0);
    }
}

/* ---- accepting ---- */

static void refuse_connection(struct http_server *server, evutil_socket_t fd) {
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
                               "Connection: close\r\n\r\n";
    ssize_t sent = send(fd, full, sizeof full - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent; /* a courtesy: the connection closes either way */
    close(fd);
    server->counts.refused++;
}

static bool connection_open(struct http_server *server, evutil_socket_t fd) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) {
        return false;
    }
    connection->server = server;
    connection->exchange.connection = connection;
    connection->deadline = evtimer_new(server->base, connection_on_deadline, connection);
    connection->resume = evtimer_new(server->base, connection_on_resume, connection);
    connection->buffer = bufferevent_socket_new(server->base, fd, BEV_OPT_CLOSE_ON_FREE);
    if (!connection->deadline || !connection->resume || !connection->buffer) {
        if (connection->buffer) {
            bufferevent_setfd(connection->buffer, -1); /* the caller closes it */
        }
        connection_free(connection);
        return false;
    }
    int on = 1, send_buffer = SEND_BUFFER_BYTES;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    struct timeval unread = time_of(server->limits.idle_timeout_s);
    bufferevent_set_timeouts(connection->buffer, NULL, &unread);
    bufferevent_setwatermark(connection->buffer, EV_READ, 0, server->limits.max_header + 4096);
    bufferevent_setcb(connection->buffer, connection_on_read, connection_on_written, connection_on_event, connection);
    connection->next = server->connections;
    if (connection->next) {
        connection->next->previous = connection;
    }
    server->connections = connection;
    server->counts.connections++;
    connection_begin_reading(connection);
    bufferevent_enable(connection->buffer, EV_READ | EV_WRITE);
    return true;
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int bytes,
                      void *argument) {
    (void)listener;
    (void)address;
    (void)bytes;
    struct http_server *server = argument;
    server->counts.accepted++;
    if (server->counts.connections >= server->limits.max_connections || !connection_open(server, fd)) {
        refuse_connection(server, fd);
    }
}

/* Out of descriptors, most likely: a pause, or the loop would spin on a listener that stays readable. */
static void on_accept_error(struct evconnlistener *listener, void *argument) {
    struct http_server *server = argument;
    log_warn("accepting a connection: %s; trying again in 0.1 s", strerror(errno));
    evconnlistener_disable(listener);
    struct timeval pause = time_of(0.1);
    event_add(server->accept_again, &pause);
}

static void on_accept_again(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct http_server *server = argument;
    evconnlistener_enable(server->listener);
}

/* ---- the server ---- */

static uint16_t bound_port(evutil_socket_t fd) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t bytes = sizeof address;
    CHECK(getsockname(fd, &address.any, &bytes) == 0);
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static struct status listen_on(struct http_server *server, const char *host, uint16_t port) {
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    int failure = getaddrinfo(*host ? host : NULL, service, &hints, &found);
    if (failure) {
        return status_error(STATUS_IO, "host: cannot find the address %s: %s", host, gai_strerror(failure));
    }
    unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
    server->listener = evconnlistener_new_bind(server->base, on_accept, server, flags, LISTEN_BACKLOG, found->ai_addr,
                                               (int)found->ai_addrlen);
    int error = errno;
    freeaddrinfo(found);
    if (!server->listener) {
        return status_error(STATUS_IO, "host, port: cannot listen on %s port %u: %s", host, port, strerror(error));
    }
    evconnlistener_set_error_cb(server->listener, on_accept_error);
    server->port = bound_port(evconnlistener_get_fd(server->listener));
    return STATUS_SUCCESS;
}

struct status http_server_create(struct event_base *base, const char *host, uint16_t port,
                                 const struct http_limits *limits, const struct http_handler *handler,
                                 struct http_server **out) {
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        return status_error(STATUS_NO_MEMORY, "no memory for the HTTP server");
    }
    *server = (struct http_server){.base = base, .limits = *limits, .handler = *handler};
    server->reaper = evtimer_new(base, reap, server);
    server->accept_again = evtimer_new(base, on_accept_again, server);
    struct status status;
    if (!server->reaper || !server->accept_again) {
        status = status_error(STATUS_NO_MEMORY, "no memory for the HTTP server");
    } else if (getrandom(&server->id_seed, sizeof server->id_seed, 0) != sizeof server->id_seed) {
        status = status_error(STATUS_IO, "getrandom: %s", strerror(errno));
    } else {
        status = listen_on(server, host, port);
    }
    if (status.code != STATUS_OK) {
        http_server_destroy(server);
        return status;
    }
    *out = server;
    return STATUS_SUCCESS;
}

void http_server_destroy(struct http_server *server) {
    if (!server) {
        return;
    }
    if (server->listener) {
        evconnlistener_free(server->listener);
    }
    while (server->connections) {
        connection_drop(server->connections, true);
    }
    reap(-1, 0, server);
    if (server->reaper) {
        event_free(server->reaper);
    }
    if (server->accept_again) {
        event_free(server->accept_again);
    }
    free(server);
}

uint16_t http_server_port(const struct http_server *server) {
    return server->port;
}

void http_server_drain(struct http_server *server) {
    server->draining = true;
    for (struct connection *connection = server->connections, *next; connection; connection = next) {
        next = connection->next;
        /* One that is new may be about to ask, and must be told to go elsewhere; one that has been used knows that it
         * can close at any time. */
        if (connection->state == READING_HEAD && connection->used && !connection->request_begun &&
            connection_unsent(connection) == 0) {
            connection_linger(connection);
        }
    }
}

bool http_server_is_quiet(const struct http_server *server) {
    for (const struct connection *connection = server->connections; connection; connection = connection->next) {
        if (connection->state == HANDLING || connection_unsent(connection) > 0) {
            return false;
        }
    }
    return true;
}

struct http_counts http_server_counts(const struct http_server *server) {
    return server->counts;
}

/* ---- an exchange ---- */

void http_new_id(struct http_server *server, char id[HTTP_ID_DIGITS + 1]) {
    uint64_t number = ++server->ids;
    snprintf(id, HTTP_ID_DIGITS + 1, "%016llx%016llx", (unsigned long long)random_hash(server->id_seed, number),
             (unsigned long long)random_hash(~server->id_seed, number));
}

const struct http_head *http_request_head(const struct http_exchange *exchange) {
    return &exchange->head;
}

struct http_slice http_body(struct http_exchange *exchange) {
    if (!exchange->body) {
        return (struct http_slice){"", 0};
    }
    size_t bytes = evbuffer_get_length(exchange->body);
    const char *data = (const char *)evbuffer_pullup(exchange->body, -1);
    return (struct http_slice){data ? data : "", bytes};
}

uint64_t http_arrival_ns(const struct http_exchange *exchange) {
    return exchange->arrival_ns;
}

const char *http_request_id(const struct http_exchange *exchange) {
    return exchange->request_id;
}

void http_on_gone(struct http_exchange *exchange, void (*gone)(void *argument), void *argument) {
    exchange->gone = gone;
    exchange->gone_argument = argument;
}
