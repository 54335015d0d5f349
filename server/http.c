#include "server/http.h"

#include "base/check.h"
#include "base/clock.h"
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
#define BODIES_AT_ONCE 16              /* of the largest size, held for all connections together */

static void connection_advance(struct connection *connection);

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
static void linger(struct connection *connection) {
    if (connection->input_ended) {
        connection_drop(connection, true);
        return;
    }
    connection->state = LINGERING;
    shutdown(bufferevent_getfd(connection->buffer), SHUT_WR);
    connection_set_deadline(connection, LINGER_S);
    connection_advance(connection);
}

static void begin_reading(struct connection *connection) {
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
        begin_reading(connection);
    }
    if (!connection->advancing) {
        event_active(connection->resume, EV_TIMEOUT, 0);
    }
}

/* ---- reading ---- */

static void begin_exchange(struct connection *connection) {
    connection->state = HANDLING;
    connection->exchange.arrival_ns = clock_now_ns();
    connection_set_deadline(connection, 0);
}

static void refuse(struct connection *connection, struct http_fault fault) {
    const struct http_handler *handler = &connection->server->handler;
    struct http_exchange *exchange = &connection->exchange;
    begin_exchange(connection);
    exchange->close_after = true;
    handler->refuse(handler->context, exchange, fault.code, fault.message);
}

void http_new_id(struct http_server *server, char id[HTTP_ID_DIGITS + 1]) {
    uint64_t number = ++server->ids;
    snprintf(id, HTTP_ID_DIGITS + 1, "%016llx%016llx", (unsigned long long)random_hash(server->id_seed, number),
             (unsigned long long)random_hash(~server->id_seed, number));
}

static void set_request_id(struct http_exchange *exchange) {
    struct http_server *server = exchange->connection->server;
    const struct http_slice *given = http_find_header(&exchange->head, "x-request-id");
    bool usable = given && given->bytes > 0 && given->bytes <= HTTP_REQUEST_ID_BYTES;
    for (size_t i = 0; usable && i < given->bytes; i++) {
        usable = given->data[i] > ' ' && given->data[i] < 0x7f;
    }
    if (usable) {
        memcpy(exchange->request_id, given->data, given->bytes);
        exchange->request_id[given->bytes] = 0;
    } else {
        http_new_id(server, exchange->request_id);
    }
}

/* Drops empty lines before a request, as RFC 9112 asks. */
static void skip_empty_lines(struct evbuffer *input) {
    char bytes[2];
    while (evbuffer_copyout(input, bytes, 2) == 2 && bytes[0] == '\r' && bytes[1] == '\n') {
        evbuffer_drain(input, 2);
    }
}

static struct http_fault copy_head(struct http_exchange *exchange, struct evbuffer *input, size_t bytes) {
    const unsigned char *data = evbuffer_pullup(input, (ev_ssize_t)bytes);
    text_clear(&exchange->head_bytes);
    if (data) {
        text_add(&exchange->head_bytes, (const char *)data, bytes);
    }
    evbuffer_drain(input, bytes);
    return data && !exchange->head_bytes.failed
               ? http_parse_head(exchange->head_bytes.data, exchange->head_bytes.bytes, &exchange->head)
               : (struct http_fault){503, "there is no memory for the request"};
}

/* Takes a whole head from the input; false if more must come, or the request has been refused. */
static bool take_head(struct connection *connection) {
    const struct http_limits *limits = &connection->server->limits;
    struct http_exchange *exchange = &connection->exchange;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    skip_empty_lines(input);
    size_t held = evbuffer_get_length(input);
    if (held > 0 && !connection->request_begun) {
        connection->request_begun = true;
        connection_set_deadline(connection, limits->request_timeout_s);
    }
    struct evbuffer_ptr end = evbuffer_search(input, "\r\n\r\n", 4, NULL);
    size_t bytes = end.pos < 0 ? held : (size_t)end.pos + 4;
    bool too_large = bytes > limits->max_header;
    if (end.pos < 0 && !too_large) {
        return false;
    }
    exchange->close_after = false;
    exchange->head = (struct http_head){.method = HTTP_OTHER, .minor = 1};
    struct http_fault fault =
        too_large ? (struct http_fault){431, "the request's line and headers are larger than max_header"}
                  : copy_head(exchange, input, bytes);
    set_request_id(exchange);
    if (fault.code == 0 && exchange->head.content_length > limits->max_body) {
        fault = (struct http_fault){413, "the request's body is larger than max_body"};
    }
    if (fault.code) {
        refuse(connection, fault);
        return false;
    }
    return true;
}

static bool begin_body(struct connection *connection) {
    struct http_exchange *exchange = &connection->exchange;
    connection->state = READING_BODY;
    exchange->chunks = (struct http_chunks){0};
    exchange->body = evbuffer_new();
    if (!exchange->body) {
        refuse(connection, (struct http_fault){503, "there is no memory for the request"});
        return false;
    }
    bool comes = exchange->head.chunked || exchange->head.content_length > 0;
    if (exchange->head.expects_continue && comes) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        bufferevent_write(connection->buffer, go_on, sizeof go_on - 1);
    }
    return true;
}

static struct http_fault check_body(const struct connection *connection, size_t more) {
    const struct http_server *server = connection->server;
    if (evbuffer_get_length(connection->exchange.body) + more > server->limits.max_body) {
        return (struct http_fault){413, "the request's body is larger than max_body"};
    }
    if (server->body_bytes + more > BODIES_AT_ONCE * server->limits.max_body) {
        return (struct http_fault){503, "too many large requests are being received at once; try again"};
    }
    return (struct http_fault){0};
}

/* Moves the body's bytes out of the input; *whole when there are no more to come. */
static struct http_fault take_counted(struct connection *connection, bool *whole) {
    struct http_exchange *exchange = &connection->exchange;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    size_t left = (size_t)exchange->head.content_length - evbuffer_get_length(exchange->body);
    size_t here = evbuffer_get_length(input) < left ? evbuffer_get_length(input) : left;
    struct http_fault fault = check_body(connection, here);
    if (fault.code == 0 && here > 0) {
        evbuffer_remove_buffer(input, exchange->body, here);
        connection->server->body_bytes += here;
    }
    *whole = here == left;
    return fault;
}

static struct http_fault take_chunks(struct connection *connection, bool *whole) {
    struct http_exchange *exchange = &connection->exchange;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    struct http_fault fault = {0};
    while (fault.code == 0 && exchange->chunks.state != CHUNK_DONE && evbuffer_get_length(input) > 0) {
        size_t contiguous = evbuffer_get_contiguous_space(input), used;
        const char *data = (const char *)evbuffer_pullup(input, (ev_ssize_t)contiguous);
        struct http_slice payload;
        fault = http_chunks_take(&exchange->chunks, data, contiguous, &used, &payload);
        if (fault.code == 0 && payload.bytes > 0) {
            fault = check_body(connection, payload.bytes);
        }
        if (fault.code == 0 && payload.bytes > 0) {
            evbuffer_add(exchange->body, payload.data, payload.bytes);
            connection->server->body_bytes += payload.bytes;
        }
        evbuffer_drain(input, used);
    }
    *whole = exchange->chunks.state == CHUNK_DONE;
    return fault;
}

static bool take_body(struct connection *connection) {
    bool whole = false;
    struct http_fault fault =
        connection->exchange.head.chunked ? take_chunks(connection, &whole) : take_counted(connection, &whole);
    if (fault.code) {
        refuse(connection, fault);
        return false;
    }
    return whole;
}

/* Goes as far as the bytes that are there allow. */
static void connection_advance(struct connection *connection) {
    const struct http_handler *handler = &connection->server->handler;
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    connection->advancing = true;
    bool going = true;
    while (going) {
        switch (connection->state) {
        case READING_HEAD:
            /* A client that sends requests and reads no responses must not fill our memory with them. */
            going = connection_unsent(connection) <= connection->server->limits.stream_buffer &&
                    take_head(connection) && begin_body(connection);
            break;
        case READING_BODY:
            going = take_body(connection);
            if (going) {
                begin_exchange(connection);
                handler->handle(handler->context, &connection->exchange);
            }
            break;
        case LINGERING:
            evbuffer_drain(input, evbuffer_get_length(input));
            going = false;
            break;
        case CLOSING:
        case HANDLING:
        case DEAD:
            going = false;
            break;
        }
    }
    connection->advancing = false;
    if (connection->state == CLOSING && connection_unsent(connection) == 0) {
        linger(connection);
    }
}

/* ---- what the loop tells ---- */

static void on_read(struct bufferevent *buffer, void *argument) {
    (void)buffer;
    connection_advance(argument);
}

static void on_resume(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct connection *connection = argument;
    if (connection->state != DEAD) {
        connection_advance(connection);
    }
}

static void on_written(struct bufferevent *buffer, void *argument) {
    (void)buffer;
    connection_advance(argument);
}

static void on_end_of_input(struct connection *connection) {
    struct evbuffer *input = bufferevent_get_input(connection->buffer);
    connection->input_ended = true;
    switch (connection->state) {
    case READING_HEAD:
        if (evbuffer_get_length(input) > 0 && connection_unsent(connection) == 0) {
            set_request_id(&connection->exchange);
            refuse(connection, (struct http_fault){400, "the request ends inside its headers"});
        } else if (connection_unsent(connection) > 0) {
            connection->state = CLOSING; /* the client may have shut its side only: it gets its last response */
        } else {
            connection_drop(connection, true);
        }
        break;
    case READING_BODY:
        refuse(connection, (struct http_fault){400, "the request ends inside its body"});
        break;
    case CLOSING:
        break;
    case HANDLING:
    case LINGERING:
    case DEAD:
        connection_drop(connection, true);
        break;
    }
}

static void on_event(struct bufferevent *buffer, short events, void *argument) {
    (void)buffer;
    struct connection *connection = argument;
    if ((events & BEV_EVENT_TIMEOUT) && (events & BEV_EVENT_WRITING)) {
        connection->server->counts.slow_readers++;
        connection_drop(connection, true);
    } else if (events & BEV_EVENT_ERROR) {
        connection_drop(connection, true);
    } else if (events & BEV_EVENT_EOF) {
        on_end_of_input(connection);
    }
}

static void on_deadline(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct connection *connection = argument;
    bool begun = (connection->state == READING_HEAD && connection->request_begun) || connection->state == READING_BODY;
    if (!begun && connection->state == READING_HEAD && connection_unsent(connection) > 0) {
        begin_reading(connection); /* a slow reader is not an idle one; the buffer's write timeout watches it */
        return;
    }
    if (!begun) {
        connection_drop(connection, true);
        return;
    }
    connection->server->counts.timeouts++;
    if (connection->state == READING_HEAD) {
        connection->exchange.head = (struct http_head){.method = HTTP_OTHER, .minor = 1};
        set_request_id(&connection->exchange);
    }
    refuse(connection, (struct http_fault){408, "the request took longer to arrive than request_timeout_s"});
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
    connection->deadline = evtimer_new(server->base, on_deadline, connection);
    connection->resume = evtimer_new(server->base, on_resume, connection);
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
    bufferevent_setcb(connection->buffer, on_read, on_written, on_event, connection);
    connection->next = server->connections;
    if (connection->next) {
        connection->next->previous = connection;
    }
    server->connections = connection;
    server->counts.connections++;
    begin_reading(connection);
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
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    CHECK(getsockname(fd, (struct sockaddr *)&address, &bytes) == 0);
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
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
    struct status status = STATUS_SUCCESS;
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
            linger(connection);
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
