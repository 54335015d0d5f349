#include "server/server.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/link_schedule.h"
#include "server/service.h"
#include "server/slo_config.h"
#include "server/slo_log.h"
#include "server/trace_file.h"

#include <errno.h>
#include <event2/event.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#define SPARE_DESCRIPTORS 64 /* beside those of connections */
#define DRAIN_LOOK_MS 10
#define TRACE_MS 100 /* between two looks at what is to be written into trace_file */

struct server {
    struct service service;
    struct event_base *base;
    struct event *on_terminate, *on_interrupt, *on_hangup, *on_loaded, *on_engine, *drain_look, *on_link, *on_trace;
    struct trace_file *trace; /* NULL: none */
    struct link_schedule schedule;
    size_t link_step; /* the next of its steps */
    uint64_t ready_ns;
    pthread_t loader;
    bool loading; /* the thread is to be joined */
    int loaded_fd;
    struct status result; /* the loader's, to be read once it is joined; then the server's */
    uint64_t load_began_ns, drain_began_ns;
    bool wrote_port_file, clean;
};

/* ---- loading, on a thread of its own ---- */

static void *load(void *argument) {
    struct server *server = argument;
    server->result = runtime_open(server->service.config, &server->service.runtime);
    uint64_t one = 1;
    CHECK(write(server->loaded_fd, &one, sizeof one) == sizeof one);
    return NULL;
}

static void show_ready(const struct server *server) {
    const struct service *service = &server->service;
    const char *host = service->config->host;
    bool bare_ipv6 = strchr(host, ':') != NULL;
    struct device_info device = device_info(service->runtime.device);
    printf("metronome: ready on http://%s%s%s:%u (model %s on %s: %s%s; context %u tokens, KV cache %llu; loaded in "
           "%.2f s)\n",
           bare_ipv6 ? "[" : "", host, bare_ipv6 ? "]" : "", http_server_port(service->http), service->model_name,
           device.name, device.description, device.invariant ? ", invariant" : "", service->runtime.context,
           (unsigned long long)service->runtime.kv_tokens,
           (double)(clock_now_ns() - server->load_began_ns) / (double)NS_PER_S);
    fflush(stdout);
}

static void fail(struct server *server, struct status status) {
    server->result = status;
    event_base_loopbreak(server->base);
}

static void on_engine(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct server *server = argument;
    service_poll(&server->service);
}

/* Waits for the next step of link_schedule, if there is one. */
static struct status await_link_step(struct server *server) {
    if (server->link_step == server->schedule.count) {
        return STATUS_SUCCESS;
    }
    double passed_s = (double)(clock_now_ns() - server->ready_ns) / (double)NS_PER_S;
    double left_s = server->schedule.steps[server->link_step].at_s - passed_s;
    left_s = left_s > 0 ? left_s : 0;
    struct timeval wait = {.tv_sec = (time_t)left_s, .tv_usec = (suseconds_t)((left_s - floor(left_s)) * 1e6)};
    return event_add(server->on_link, &wait) == 0
               ? STATUS_SUCCESS
               : status_error(STATUS_NO_MEMORY, "no memory to wait for link_schedule");
}

static void on_link(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct server *server = argument;
    double bytes_per_s = server->schedule.steps[server->link_step++].bytes_per_s;
    log_info("link_schedule: the link carries %g GB/s from now on", bytes_per_s / 1e9);
    engine_set_link(server->service.runtime.engine, bytes_per_s);
    struct status status = await_link_step(server);
    if (status_failed(&status)) {
        fail(server, status);
    }
}

static void on_trace(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct server *server = argument;
    trace_file_drain(server->trace, server->service.runtime.engine);
}

static struct status begin_trace(struct server *server) {
    struct timeval every = {.tv_usec = TRACE_MS * 1000};
    return !server->trace || event_add(server->on_trace, &every) == 0
               ? STATUS_SUCCESS
               : status_error(STATUS_NO_MEMORY, "no memory to wait for trace_file's turn");
}

static void on_loaded(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct server *server = argument;
    struct service *service = &server->service;
    event_del(server->on_loaded);
    pthread_join(server->loader, NULL);
    server->loading = false;
    if (status_failed(&server->result)) {
        fail(server, server->result);
        return;
    }
    struct status status = engine_start(service->runtime.engine);
    if (status_failed(&status)) {
        fail(server, status);
        return;
    }
    int wake_fd = engine_wake_fd(service->runtime.engine);
    server->on_engine = event_new(server->base, wake_fd, EV_READ | EV_PERSIST, on_engine, server);
    if (!server->on_engine || event_add(server->on_engine, NULL) != 0) {
        fail(server, status_error(STATUS_NO_MEMORY, "no memory to wait for the engine"));
        return;
    }
    service->state = SERVICE_READY;
    server->ready_ns = clock_now_ns();
    status = await_link_step(server);
    if (status.code == STATUS_OK) {
        status = begin_trace(server);
    }
    if (status.code == STATUS_OK && *service->config->slo_log) {
        struct explain_state state = explain_state_of(service->config, service->runtime.engine);
        status = slo_log_open(service->config->slo_log, &state, clock_now_ns(), &service->slo_log);
    }
    if (status_failed(&status)) {
        fail(server, status);
        return;
    }
    show_ready(server);
}

/* ---- the end ---- */

static void on_drain_look(evutil_socket_t fd, short events, void *argument) {
    (void)fd;
    (void)events;
    struct server *server = argument;
    double seconds = (double)(clock_now_ns() - server->drain_began_ns) / (double)NS_PER_S;
    if (!server->service.completions && http_server_is_quiet(server->service.http)) {
        log_info("drained in %.2f s", seconds);
        event_base_loopbreak(server->base);
    } else if (seconds >= server->service.config->drain_timeout_s) {
        log_warn("requests are still under way after drain_timeout_s, %g s; cutting them off", seconds);
        server->clean = false;
        event_base_loopbreak(server->base);
    }
}

static void on_signal(evutil_socket_t signal, short events, void *argument) {
    (void)events;
    struct server *server = argument;
    struct service *service = &server->service;
    const char *name = signal == SIGTERM ? "SIGTERM" : "SIGINT";
    if (service->state == SERVICE_LOADING) {
        /* Nothing is under way but the loading thread, which cannot be asked to stop and holds nothing that the
         * system does not take back. */
        log_info("%s while loading: stopping", name);
        fflush(NULL);
        _exit(EXIT_SUCCESS);
    }
    if (service->state == SERVICE_DRAINING) {
        log_warn("%s again: stopping at once", name);
        server->clean = !service->completions && http_server_is_quiet(service->http);
        event_base_loopbreak(server->base);
        return;
    }
    log_info("%s: taking no new requests, finishing those under way", name);
    service->state = SERVICE_DRAINING;
    server->drain_began_ns = clock_now_ns();
    engine_drain(service->runtime.engine);
    http_server_drain(service->http);
    struct timeval every = {.tv_usec = DRAIN_LOOK_MS * 1000};
    event_add(server->drain_look, &every);
}

static void on_hangup(evutil_socket_t signal, short events, void *argument) {
    (void)signal;
    (void)events;
    struct server *server = argument;
    struct text report = {0};
    struct status status = service_reload(&server->service, &report);
    (void)status; /* it is in the log */
    text_free(&report);
}

static void stop(struct server *server) {
    struct service *service = &server->service;
    if (service->runtime.engine && service->state != SERVICE_LOADING) {
        engine_stop(service->runtime.engine);
        service_poll_all(service); /* whoever still waits is told */
        event_base_loop(server->base, EVLOOP_NONBLOCK);
        if (server->trace) {
            trace_file_drain(server->trace, service->runtime.engine);
        }
    }
    http_server_destroy(service->http);
    CHECK(!service->completions);
    runtime_close(&service->runtime);
    trace_file_close(server->trace);
    slo_log_close(service->slo_log);
    struct event *events[] = {server->on_terminate, server->on_interrupt, server->on_hangup, server->on_loaded,
                              server->on_engine,    server->drain_look,   server->on_link,   server->on_trace};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (events[i]) {
            event_free(events[i]);
        }
    }
    if (server->base) {
        event_base_free(server->base);
    }
    if (server->loaded_fd >= 0) {
        close(server->loaded_fd);
    }
    if (server->wrote_port_file) {
        unlink(service->config->port_file);
    }
    free(service->events);
    free(service->model_name);
    free(service->api_key);
}

/* ---- the beginning ---- */

static struct status read_key_file(const char *path, char **key) {
    FILE *file = fopen(path, "r");
    if (!file) {
        return status_error(STATUS_IO, "api_key_file %s: %s", path, strerror(errno));
    }
    size_t capacity = 0;
    ssize_t bytes = getline(key, &capacity, file);
    fclose(file);
    if (bytes > 0) {
        (*key)[strcspn(*key, "\r\n")] = 0;
    }
    return bytes > 0 && **key ? STATUS_SUCCESS
                              : status_error(STATUS_INVALID, "api_key_file %s: its first line is empty", path);
}

static struct status read_api_key(const struct config *config, char **key) {
    if (*config->api_key_file) {
        return read_key_file(config->api_key_file, key);
    }
    *key = *config->api_key ? strdup(config->api_key) : NULL;
    return *config->api_key && !*key ? status_error(STATUS_NO_MEMORY, "no memory for the API key") : STATUS_SUCCESS;
}

static struct status write_port_file(const char *path, uint16_t port) {
    FILE *file = fopen(path, "w");
    bool written = file && fprintf(file, "%u\n", port) > 0;
    written = file && fclose(file) == 0 && written;
    return written ? STATUS_SUCCESS : status_error(STATUS_IO, "port_file %s: %s", path, strerror(errno));
}

/* As many connections as were asked for need as many descriptors. */
static struct status raise_descriptor_limit(uint64_t connections) {
    struct rlimit limit;
    uint64_t wanted = connections + SPARE_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return status_error(STATUS_IO, "getrlimit: %s", strerror(errno));
    }
    if (limit.rlim_cur >= wanted) {
        return STATUS_SUCCESS;
    }
    if (limit.rlim_max < wanted) {
        return status_error(STATUS_INVALID,
                            "max_connections: %llu connections need %llu descriptors, and this process may open %llu; "
                            "lower it, or raise `ulimit -n`",
                            (unsigned long long)connections, (unsigned long long)wanted,
                            (unsigned long long)limit.rlim_max);
    }
    limit.rlim_cur = wanted;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? STATUS_SUCCESS
                                                 : status_error(STATUS_IO, "setrlimit: %s", strerror(errno));
}

static struct status listen_for_requests(struct server *server) {
    struct service *service = &server->service;
    const struct config *config = service->config;
    struct http_limits limits = {.max_header = config->max_header,
                                 .max_body = config->max_body,
                                 .stream_buffer = config->stream_buffer,
                                 .max_connections = config->max_connections,
                                 .request_timeout_s = config->request_timeout_s,
                                 .idle_timeout_s = config->idle_timeout_s};
    struct http_handler handler = {.handle = api_handle, .refuse = api_refuse, .context = service};
    TRY(raise_descriptor_limit(config->max_connections));
    TRY(http_server_create(server->base, config->host, (uint16_t)config->port, &limits, &handler, &service->http));
    log_info("listening on %s port %u; loading %s", config->host, http_server_port(service->http), config->model);
    if (*config->port_file) {
        TRY(write_port_file(config->port_file, http_server_port(service->http)));
        server->wrote_port_file = true;
    }
    return STATUS_SUCCESS;
}

static struct status watch(struct server *server) {
    server->on_terminate = evsignal_new(server->base, SIGTERM, on_signal, server);
    server->on_interrupt = evsignal_new(server->base, SIGINT, on_signal, server);
    server->on_hangup = evsignal_new(server->base, SIGHUP, on_hangup, server);
    server->on_loaded = event_new(server->base, server->loaded_fd, EV_READ, on_loaded, server);
    server->drain_look = event_new(server->base, -1, EV_PERSIST, on_drain_look, server);
    server->on_link = event_new(server->base, -1, 0, on_link, server);
    server->on_trace = event_new(server->base, -1, EV_PERSIST, on_trace, server);
    bool made = server->on_terminate && server->on_interrupt && server->on_hangup && server->on_loaded &&
                server->drain_look && server->on_link && server->on_trace;
    if (!made || event_add(server->on_terminate, NULL) || event_add(server->on_hangup, NULL) ||
        event_add(server->on_interrupt, NULL) || event_add(server->on_loaded, NULL)) {
        return status_error(STATUS_NO_MEMORY, "no memory for the event loop");
    }
    return STATUS_SUCCESS;
}

static struct status begin(struct server *server) {
    struct service *service = &server->service;
    signal(SIGPIPE, SIG_IGN);
    server->base = service->base = event_base_new();
    server->loaded_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    service->events = calloc(SERVICE_EVENTS, sizeof *service->events);
    service->model_name = runtime_model_name(service->config);
    if (!server->base || server->loaded_fd < 0 || !service->events || !service->model_name) {
        return status_error(STATUS_NO_MEMORY, "no memory or descriptors for the event loop");
    }
    TRY(link_schedule_parse(service->config->link_schedule, &server->schedule));
    TRY(slo_config_read(service->config, &service->classes));
    TRY(read_api_key(service->config, &service->api_key));
    if (*service->config->trace_file) {
        TRY(trace_file_open(service->config->trace_file, &server->trace));
    }
    TRY(watch(server));
    TRY(listen_for_requests(server));
    server->load_began_ns = clock_now_ns();
    int failure = pthread_create(&server->loader, NULL, load, server);
    if (failure) {
        return status_error(STATUS_IO, "starting a thread: %s", strerror(failure));
    }
    server->loading = true;
    return STATUS_SUCCESS;
}

struct status server_run(struct config *config, int argc, const char *const *argv, bool *clean) {
    struct server server = {.service = {.config = config, .reload = {argc, argv}, .started_s = clock_unix_s()},
                            .loaded_fd = -1,
                            .clean = true};
    struct status status = begin(&server);
    if (status.code == STATUS_OK) {
        event_base_dispatch(server.base);
        status = server.result;
    }
    CHECK(!server.loading);
    stop(&server);
    *clean = server.clean;
    return status;
}
