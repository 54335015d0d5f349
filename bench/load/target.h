/* The server that a load is sent to: its address, and how a request to it is written.
 *
 * Owns: the URL's parts and the names that were asked for. Threads: main's. */
#ifndef METRONOME_BENCH_LOAD_TARGET_H
#define METRONOME_BENCH_LOAD_TARGET_H

#include "base/status.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

struct event_base;
struct evhttp_request;

struct target {
    char host[256];      /* as in the URL, an IPv6 address without its brackets */
    char authority[272]; /* host:port, for the Host header */
    char prefix[256];    /* of every path: "" or "/openai" */
    uint16_t port;
    char address[64];   /* that answered */
    char model[256];    /* sent with each request */
    char key[512];      /* the bearer token; "" sends none */
    bool completions;   /* /v1/completions, not /v1/chat/completions */
    bool ignore_eos;    /* every answer has as many tokens as were asked for */
    const cJSON *extra; /* an object whose members each request gets, a null taking one away; NULL: none; borrowed */
};

/* Takes http://HOST[:PORT][/PREFIX] apart; a trailing /v1 is no prefix. */
struct status target_parse(const char *url, struct target *target);

/* Finds the first of the host's addresses that takes a connection, and asks /v1/models for the model's name if `model`
 * is empty. */
struct status target_find(struct target *target, double timeout_s);

/* The path that requests are sent to. `path` holds 320 bytes. */
void target_path(const struct target *target, char path[320]);

/* Gives a request the headers of every request. */
bool target_add_headers(const struct target *target, struct evhttp_request *request);

#endif
