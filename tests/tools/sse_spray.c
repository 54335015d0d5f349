/* A server that streams events as an OpenAI server does and computes nothing: what load generators are measured
 * against.
 *
 *     sse_spray PORT_FILE EVENTS TICK_US
 *
 * Listens on a free loopback port, which it writes to PORT_FILE, and answers every POST with EVENTS events. With a tick
 * each stream gets one event every TICK_US microseconds, all at once, as from an engine's iterations; with 0 all events
 * of a request go at once. Ends when its standard input does. Threads: main's. */
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char token[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":"
    "1700000000,\"model\":\"spray\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},"
    "\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
static const char end[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"choices\":[{"
    "\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";

struct server {
    struct event_base *base;
    struct stream *streams; /* that have a request under way */
    unsigned long events, tick_us;
    struct event *tick;
};

struct stream {
    struct server *server;
    struct bufferevent *connection;
    unsigned long left; /* events of the request under way */
    struct stream *next, **link;
};

static void add_chunk(struct evbuffer *out, const char *text, size_t bytes) {
    evbuffer_add_printf(out, "%zx\r\n", bytes);
    evbuffer_add(out, text, bytes);
    evbuffer_add(out, "\r\n", 2);
}

static void leave(struct stream *stream) {
    if (stream->link) {
        *stream->link = stream->next;
        if (stream->next) {
            stream->next->link = stream->link;
        }
        stream->link = NULL;
    }
}

static void enter(struct stream *stream) {
    stream->next = stream->server->streams;
    stream->link = &stream->server->streams;
    if (stream->next) {
        stream->next->link = &stream->next;
    }
    stream->server->streams = stream;
}

static void send_end(struct stream *stream) {
    struct evbuffer *out = bufferevent_get_output(stream->connection);
    add_chunk(out, end, sizeof end - 1);
    evbuffer_add(out, "0\r\n\r\n", 5);
    leave(stream);
}

static void on_tick(evutil_socket_t unused, short what, void *context) {
    struct server *server = context;
    (void)unused;
    (void)what;
    for (struct stream *stream = server->streams, *next; stream; stream = next) {
        next = stream->next;
        add_chunk(bufferevent_get_output(stream->connection), token, sizeof token - 1);
        if (--stream->left == 0) {
            send_end(stream);
        }
    }
}

static void answer(struct stream *stream) {
    struct evbuffer *out = bufferevent_get_output(stream->connection);
    evbuffer_add(out, head, sizeof head - 1);
    stream->left = stream->server->events;
    if (stream->server->tick_us > 0) {
        enter(stream);
        return;
    }
    for (; stream->left > 0; stream->left--) {
        add_chunk(out, token, sizeof token - 1);
    }
    send_end(stream);
}

/* Whether a whole request is there, which is taken: no more than Content-Length is read of it. */
static bool take_request(struct evbuffer *in) {
    struct evbuffer_ptr blank = evbuffer_search(in, "\r\n\r\n", 4, NULL);
    if (blank.pos < 0) {
        return false;
    }
    char text[2048] = {0};
    evbuffer_copyout(in, text, (size_t)blank.pos < sizeof text ? (size_t)blank.pos : sizeof text - 1);
    const char *length = strcasestr(text, "content-length:");
    size_t bytes = (size_t)blank.pos + 4 + (length ? strtoul(length + 15, NULL, 10) : 0);
    if (evbuffer_get_length(in) < bytes) {
        return false;
    }
    evbuffer_drain(in, bytes);
    return true;
}

static void on_read(struct bufferevent *connection, void *context) {
    struct stream *stream = context;
    while (!stream->link && take_request(bufferevent_get_input(connection))) {
        answer(stream);
    }
}

static void on_event(struct bufferevent *connection, short what, void *context) {
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
        leave(context);
        bufferevent_free(connection);
        free(context);
    }
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t file, struct sockaddr *address, int bytes,
                      void *context) {
    struct stream *stream = calloc(1, sizeof *stream);
    struct server *server = context;
    int one = 1;
    (void)listener;
    (void)address;
    (void)bytes;
    if (!stream) {
        abort();
    }
    setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    stream->server = server;
    stream->connection = bufferevent_socket_new(server->base, file, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(stream->connection, on_read, NULL, on_event, stream);
    bufferevent_enable(stream->connection, EV_READ | EV_WRITE);
}

static void on_input(evutil_socket_t file, short what, void *context) {
    char bytes[64];
    (void)what;
    if (read(file, bytes, sizeof bytes) <= 0) {
        event_base_loopbreak(context);
    }
}

static bool write_port(const char *path, struct evconnlistener *listener) {
    struct sockaddr_in bound;
    socklen_t size = sizeof bound;
    if (getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&bound, &size) != 0) {
        return false;
    }
    FILE *file = fopen(path, "w");
    if (!file) {
        return false;
    }
    fprintf(file, "%u\n", ntohs(bound.sin_port));
    return fclose(file) == 0;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: sse_spray PORT_FILE EVENTS TICK_US\n");
        return 2;
    }
    struct server server = {.events = strtoul(argv[2], NULL, 10), .tick_us = strtoul(argv[3], NULL, 10)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct event_config *config = event_config_new();
    signal(SIGPIPE, SIG_IGN);
    event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
    server.base = event_base_new_with_config(config);
    event_config_free(config);
    struct evconnlistener *listener = evconnlistener_new_bind(server.base, on_accept, &server, LEV_OPT_CLOSE_ON_FREE,
                                                              1024, (struct sockaddr *)&address, sizeof address);
    if (server.events == 0 || !listener || !write_port(argv[1], listener)) {
        perror("sse_spray");
        return 1;
    }
    struct event *input = event_new(server.base, STDIN_FILENO, EV_READ | EV_PERSIST, on_input, server.base);
    struct timeval period = {.tv_sec = (time_t)(server.tick_us / 1000000),
                             .tv_usec = (suseconds_t)(server.tick_us % 1000000)};
    server.tick = event_new(server.base, -1, EV_PERSIST, on_tick, &server);
    event_add(input, NULL);
    if (server.tick_us > 0) {
        event_add(server.tick, &period);
    }
    event_base_dispatch(server.base);
    event_free(server.tick);
    event_free(input);
    evconnlistener_free(listener);
    event_base_free(server.base);
    return 0;
}
