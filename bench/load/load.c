#include "bench/load/load.h"

#include "base/clock.h"
#include "bench/load/body.h"
#include "bench/load/lane.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define LAG_PERIOD_NS (10 * NS_PER_MS)
#define LONGEST_TIMER_S 86400.0

/* A lane and what it does next. */
struct client {
    struct load *load;
    struct lane *lane;
    struct event *pause; /* told to wait: sends, or goes on, when it is over */
    uint32_t index;      /* of the request in hand */
    bool again;          /* the pause is before sending it once more */
    struct client *next_idle, *next;
};

struct load {
    const struct load_config *config;
    struct load_report *report;
    struct lane_room room;
    struct event *arrival, *lag, *interrupt;
    struct client *clients, *idle;
    uint32_t next;      /* request to be sent */
    uint32_t ended;     /* requests */
    bool stopped;       /* no more are sent */
    uint64_t lag_at_ns; /* when the next look is due */
    struct text body;
    struct status status; /* that stopped it */
};

uint64_t load_work(const struct load_config *config) {
    return config->seconds > 0 ? (uint64_t)(config->seconds * 1000) : config->trace->count;
}

static uint64_t since_start(const struct load *load) {
    return clock_now_ns() - load->room.start_ns;
}

static void fail(struct load *load, struct status status) {
    if (load->status.code == STATUS_OK) {
        load->status = status;
    }
    event_base_loopbreak(load->room.base);
}

static void set_timer(struct event *event, double seconds) {
    double kept = fmin(fmax(seconds, 0), LONGEST_TIMER_S);
    struct timeval delay = {.tv_sec = (time_t)kept, .tv_usec = (suseconds_t)ceil((kept - floor(kept)) * 1e6)};
    if (delay.tv_usec >= 1000000) {
        delay.tv_sec++;
        delay.tv_usec = 0;
    }
    event_add(event, &delay);
}

/* ---- sending ---- */

static void send_request(struct client *client) {
    struct load *load = client->load;
    struct outcome *outcome = &load->report->outcomes[client->index];
    text_clear(&load->body);
    struct status status = body_write(load->config->target, load->config->trace, client->index, &load->body);
    if (status_failed(&status)) {
        fail(load, status);
        return;
    }
    lane_send(client->lane, load->body.data, load->body.bytes, outcome);
}

/* Whether there is one more to send, which is counted as sent. */
static bool take_next(struct load *load, uint32_t *index) {
    const double seconds = load->config->seconds;
    if (load->next == load->config->trace->count ||
        (seconds > 0 && (double)since_start(load) >= seconds * (double)NS_PER_S)) {
        load->stopped = true;
    }
    if (load->stopped) {
        return false;
    }
    *index = load->next++;
    return true;
}

static void stop_when_done(struct load *load) {
    if (load->stopped && load->ended == load->next) {
        event_base_loopbreak(load->room.base);
    }
}

static void send_next(struct client *client) {
    if (take_next(client->load, &client->index)) {
        client->load->report->outcomes[client->index].arrival_ns = since_start(client->load);
        send_request(client);
    } else {
        stop_when_done(client->load);
    }
}

static void on_pause(evutil_socket_t unused, short what, void *context) {
    struct client *client = context;
    (void)unused;
    (void)what;
    if (client->again) {
        client->again = false;
        send_request(client);
    } else {
        send_next(client);
    }
}

static void count_end(struct load *load, struct client *client, const struct outcome *outcome) {
    struct load_report *report = load->report;
    if (report->kinds[outcome->kind]++ == 0) {
        snprintf(report->example[outcome->kind], sizeof report->example[0], "%s", lane_note(client->lane));
    }
    load->ended++;
}

static void on_ended(void *context, struct lane *lane) {
    struct client *client = context;
    struct load *load = client->load;
    struct outcome *outcome = &load->report->outcomes[client->index];
    double wait = lane_retry_after_s(lane);
    bool refused = outcome->kind == OUTCOME_HTTP_429 && !load->report->interrupted;
    if (lane_was_stale(lane) && !load->report->interrupted) {
        *outcome = (struct outcome){
            .arrival_ns = outcome->arrival_ns, .retries = outcome->retries, .reconnects = outcome->reconnects + 1};
        send_request(client);
        return;
    }
    if (refused && outcome->retries < load->config->retries) {
        *outcome = (struct outcome){
            .arrival_ns = outcome->arrival_ns, .retries = outcome->retries + 1, .reconnects = outcome->reconnects};
        client->again = true;
        set_timer(client->pause, wait > 0 ? wait : 1);
        return;
    }
    count_end(load, client, outcome);
    if (load->config->clients == 0) {
        client->next_idle = load->idle;
        load->idle = client;
        stop_when_done(load);
    } else if (refused && wait > 0 && !load->stopped && load->next < load->config->trace->count) {
        set_timer(client->pause, wait);
    } else {
        send_next(client);
    }
}

/* ---- clients ---- */

static struct status add_client(struct load *load, struct client **out) {
    struct client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for one more client");
    }
    client->load = load;
    client->next = load->clients;
    load->clients = client;
    client->pause = evtimer_new(load->room.base, on_pause, client);
    if (client->pause == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for one more client");
    }
    *out = client;
    return lane_open(&load->room, client, &client->lane);
}

static struct status idle_client(struct load *load, struct client **out) {
    if (load->idle == NULL) {
        return add_client(load, out);
    }
    *out = load->idle;
    load->idle = load->idle->next_idle;
    return STATUS_SUCCESS;
}

static void on_arrival(evutil_socket_t unused, short what, void *context) {
    struct load *load = context;
    const struct trace *trace = load->config->trace;
    uint32_t index;
    (void)unused;
    (void)what;
    while (load->next < trace->count && trace->requests[load->next].arrival_ns <= since_start(load) &&
           take_next(load, &index)) {
        struct client *client;
        struct status status = idle_client(load, &client);
        if (status_failed(&status)) {
            fail(load, status);
            return;
        }
        client->index = index;
        load->report->outcomes[index].arrival_ns = trace->requests[index].arrival_ns;
        send_request(client);
    }
    if (load->next < trace->count && !load->stopped) {
        uint64_t due = trace->requests[load->next].arrival_ns, now = since_start(load);
        set_timer(load->arrival, due > now ? (double)(due - now) / (double)NS_PER_S : 0);
    } else {
        load->stopped = true;
        stop_when_done(load);
    }
}

static struct status start_clients(struct load *load) {
    uint32_t count =
        load->config->clients < load->config->trace->count ? load->config->clients : load->config->trace->count;
    for (uint32_t i = 0; i < count; i++) {
        struct client *client;
        TRY(add_client(load, &client));
        send_next(client);
    }
    return load->status;
}

/* ---- the loop ---- */

static void on_lag(evutil_socket_t unused, short what, void *context) {
    struct load *load = context;
    uint64_t now = clock_now_ns();
    (void)unused;
    (void)what;
    samples_add(&load->report->lag_ms, now > load->lag_at_ns ? (double)(now - load->lag_at_ns) / (double)NS_PER_MS : 0);
    load->lag_at_ns = now + LAG_PERIOD_NS;
    if (load->config->bar) {
        progress_update(load->config->bar, load->config->seconds > 0 ? since_start(load) / NS_PER_MS : load->ended);
    }
    set_timer(load->lag, (double)LAG_PERIOD_NS / (double)NS_PER_S);
}

/* Sends no more and gives up what is under way: the report is of what has ended. */
static void on_interrupt(evutil_socket_t unused, short what, void *context) {
    struct load *load = context;
    (void)unused;
    (void)what;
    load->stopped = true;
    load->report->interrupted = true;
    for (struct client *client = load->clients; client; client = client->next) {
        if (client->again) { /* it waits to be sent once more */
            client->again = false;
            event_del(client->pause);
            load->report->outcomes[client->index].kind = OUTCOME_CANCELLED;
            count_end(load, client, &load->report->outcomes[client->index]);
        }
        lane_cancel(client->lane, OUTCOME_CANCELLED);
    }
    stop_when_done(load);
}

static struct status open_loop(struct load *load) {
    struct event_config *config = event_config_new();
    if (config != NULL) {
        event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER | EVENT_BASE_FLAG_NOLOCK);
        load->room.base = event_base_new_with_config(config);
        event_config_free(config);
    }
    if (load->room.base != NULL) {
        load->arrival = evtimer_new(load->room.base, on_arrival, load);
        load->lag = evtimer_new(load->room.base, on_lag, load);
        load->interrupt = evsignal_new(load->room.base, SIGINT, on_interrupt, load);
    }
    return load->arrival && load->lag && load->interrupt ? STATUS_SUCCESS
                                                         : status_error(STATUS_NO_MEMORY, "no memory for the load");
}

static void close_loop(struct load *load) {
    for (struct client *client = load->clients, *next; client; client = next) {
        next = client->next;
        lane_close(client->lane);
        if (client->pause) {
            event_free(client->pause);
        }
        free(client);
    }
    struct event *const events[] = {load->arrival, load->lag, load->interrupt};
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (events[i]) {
            event_free(events[i]);
        }
    }
    if (load->room.base) {
        event_base_free(load->room.base);
    }
    text_free(&load->body);
}

static double cpu_seconds(void) {
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static struct status run_loop(struct load *load) {
    double cpu = cpu_seconds();
    load->room.start_ns = clock_now_ns();
    load->lag_at_ns = load->room.start_ns + LAG_PERIOD_NS;
    event_add(load->interrupt, NULL);
    set_timer(load->lag, (double)LAG_PERIOD_NS / (double)NS_PER_S);
    if (load->config->clients > 0) {
        TRY(start_clients(load));
    } else {
        set_timer(load->arrival, 0);
    }
    event_base_dispatch(load->room.base);
    load->report->cpu_s = cpu_seconds() - cpu;
    return load->status;
}

/* A connection takes a file; the soft limit is often small. */
static void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void finish_report(struct load *load) {
    struct load_report *report = load->report;
    uint64_t last = 0;
    report->count = load->next;
    report->events = load->room.events;
    report->bytes = load->room.bytes;
    for (uint32_t i = 0; i < report->count; i++) {
        last = report->outcomes[i].end_ns > last ? report->outcomes[i].end_ns : last;
    }
    report->seconds = (double)last / (double)NS_PER_S;
}

struct status load_run(const struct load_config *config, struct load_report *out) {
    *out = (struct load_report){0};
    struct load load = {.config = config, .report = out, .room = {.target = config->target, .ended = on_ended}};
    load.room.intervals_ms = &out->intervals_ms;
    load.room.timeout.tv_sec = (time_t)config->timeout_s;
    load.room.timeout.tv_usec = (suseconds_t)((config->timeout_s - floor(config->timeout_s)) * 1e6);
    target_path(config->target, load.room.path);
    out->outcomes = calloc(config->trace->count, sizeof *out->outcomes);
    struct status status = out->outcomes
                               ? open_loop(&load)
                               : status_error(STATUS_NO_MEMORY, "no memory for %u requests", config->trace->count);
    if (status.code == STATUS_OK) {
        raise_file_limit();
        status = run_loop(&load);
    }
    finish_report(&load);
    close_loop(&load);
    if (status.code == STATUS_OK && (out->intervals_ms.failed || out->lag_ms.failed)) {
        status = status_error(STATUS_NO_MEMORY, "no memory for the times of %zu tokens", out->intervals_ms.count);
    }
    if (status_failed(&status)) {
        load_report_free(out);
    }
    return status;
}

void load_report_free(struct load_report *report) {
    free(report->outcomes);
    samples_free(&report->intervals_ms);
    samples_free(&report->lag_ms);
    *report = (struct load_report){0};
}
