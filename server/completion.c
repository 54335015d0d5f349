/* A completion: one HTTP request, the sequences that it has the engine generate, and the one response to it.
 *
 * Owns: every completion under way, in the service's list, until the engine has sent the last event of each of its
 * sequences; the exchange may be over long before that (the client left, an error was sent).
 * Threads: the event loop's only. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/api_error.h"
#include "server/offload_header.h"
#include "server/openai.h"
#include "server/pacing.h"
#include "server/reply.h"
#include "server/service.h"
#include "server/slo_log.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sequence_slot {
    struct completion *completion;
    struct request request; /* lent to the engine while `open` */
    struct reply_choice choice;
    struct pacing pacing; /* what of a paced stream is not yet due */
    bool open;
};

struct completion {
    struct service *service;
    struct completion *previous, *next;
    struct http_exchange *exchange; /* NULL: nobody waits any more */
    struct completion_request request;
    struct slo_choice slo;
    struct reply reply;
    struct token_list *prompts; /* (prompt_count) shared by their n sequences */
    uint32_t prompt_count;
    struct sequence_slot *slots;  /* (count) */
    struct reply_choice *choices; /* (count) for reply_write(), filled at the end */
    uint32_t count, open;
    size_t held; /* bytes in all choices, and in paced streams what is not yet due; other streams have hardly any */
    bool paced;
    struct event *on_due; /* with `paced`: when the first piece is */
    struct text scratch;
};

/* ---- its life ---- */

static void completion_free(struct completion *completion) {
    CHECK(completion->open == 0 && !completion->exchange);
    struct service *service = completion->service;
    if (completion->previous) {
        completion->previous->next = completion->next;
    } else {
        service->completions = completion->next;
    }
    if (completion->next) {
        completion->next->previous = completion->previous;
    }
    for (uint32_t i = 0; i < completion->count; i++) {
        reply_choice_free(&completion->slots[i].choice);
        pacing_free(&completion->slots[i].pacing);
    }
    if (completion->on_due) {
        event_free(completion->on_due);
    }
    for (uint32_t i = 0; i < completion->prompt_count; i++) {
        token_list_free(&completion->prompts[i]);
    }
    free(completion->prompts);
    free(completion->slots);
    free(completion->choices);
    text_free(&completion->scratch);
    completion_request_free(&completion->request);
    free(completion);
}

/* Nobody waits any more: what is still being generated ends now, and its last events free the completion. */
static void abandon(struct completion *completion) {
    completion->exchange = NULL;
    for (uint32_t i = 0; i < completion->count; i++) {
        if (completion->slots[i].open) {
            engine_cancel(completion->service->runtime.engine, &completion->slots[i].request);
        }
    }
}

static void on_gone(void *argument) {
    struct completion *completion = argument;
    log_debug("%s: the client left", completion->reply.id);
    abandon(completion);
    if (completion->open == 0) { /* all was generated, and some of it not yet due */
        completion_free(completion);
    }
}

static void send_scratch(struct completion *completion) {
    struct text *scratch = &completion->scratch;
    bool kept = scratch->failed || http_stream_write(completion->exchange, scratch->data, scratch->bytes);
    bool failed = scratch->failed;
    text_clear(scratch);
    if (!kept) {
        log_info("%s: dropped, the client does not read its stream", completion->reply.id);
        abandon(completion);
    } else if (failed) { /* a stream that lost a piece must not look whole: without its end it does not */
        log_error("%s: no memory for a piece of the stream", completion->reply.id);
        http_stream_end(completion->exchange);
        abandon(completion);
    }
}

/* ---- paced streams ---- */

/* Moves what is due by `now_ns` to the scratch. */
static void take_due(struct completion *completion, uint64_t now_ns) {
    for (uint32_t i = 0; i < completion->count; i++) {
        struct pacing *pacing = &completion->slots[i].pacing;
        completion->held -= pacing_bytes(pacing);
        pacing_take(pacing, now_ns, &completion->scratch);
        completion->held += pacing_bytes(pacing);
    }
}

/* When the next piece is due; UINT64_MAX if none is held back. */
static uint64_t next_due(const struct completion *completion) {
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < completion->count; i++) {
        uint64_t due = pacing_next(&completion->slots[i].pacing);
        next = due < next ? due : next;
    }
    return next;
}

static void await_due(struct completion *completion) {
    const uint64_t due = next_due(completion), now = clock_now_ns();
    if (due == UINT64_MAX) {
        return;
    }
    uint64_t us = due > now ? (due - now + 999) / 1000 : 0;
    const struct timeval wait = {.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
    if (event_add(completion->on_due, &wait) != 0) {
        log_error("%s: no memory to wait until its next token is due", completion->reply.id);
        completion->scratch.failed = true; /* send_scratch() ends it */
    }
}

/* What a paced stream's event made known, in the scratch: sent at once if it is due, else held back. */
static void pace_scratch(struct completion *completion, struct sequence_slot *slot, uint64_t due) {
    struct text *scratch = &completion->scratch;
    if (due > clock_now_ns() || pacing_next(&slot->pacing) != UINT64_MAX) {
        bool first = due < next_due(completion);
        completion->held += scratch->bytes;
        if (!scratch->failed && pacing_hold(&slot->pacing, due, scratch->data, scratch->bytes)) {
            text_clear(scratch);
        } else {
            scratch->failed = true;
        }
        if (first && !scratch->failed) {
            await_due(completion);
        }
    }
    if (scratch->bytes > 0 || scratch->failed) {
        send_scratch(completion);
    }
}

/* Answers with an error, in the stream if it has begun, and gives up what is being generated. */
static void fail(struct completion *completion, const struct api_error *error, bool streaming) {
    if (!completion->exchange) {
        return;
    }
    if (!streaming) {
        api_respond_error(completion->exchange, error);
    } else {
        text_clear(&completion->scratch);
        take_due(completion, UINT64_MAX); /* what was generated before it */
        reply_write_error_chunk(error, &completion->scratch);
        send_scratch(completion);
        if (completion->exchange) {
            http_stream_end(completion->exchange);
        }
    }
    abandon(completion);
}

/* ---- events ---- */

static struct reply_usage usage_of(const struct completion *completion) {
    struct reply_usage usage = {0};
    for (uint32_t i = 0; i < completion->prompt_count; i++) {
        usage.prompt_tokens += completion->prompts[i].count;
        usage.cached_tokens += completion->slots[i * completion->request.n].choice.cached_tokens;
    }
    for (uint32_t i = 0; i < completion->count; i++) {
        usage.completion_tokens += completion->slots[i].choice.completion_tokens;
    }
    return usage;
}

static void end_stream(struct completion *completion) {
    struct reply_usage usage = usage_of(completion);
    if (completion->reply.include_usage) {
        reply_write_usage_chunk(&completion->reply, &usage, &completion->scratch);
    }
    reply_write_done(&completion->scratch);
    send_scratch(completion);
    if (completion->exchange) {
        http_stream_end(completion->exchange);
    }
}

/* Adds the header that tells of the offloading, if the client asked for it. */
static void tell_offload(const struct completion *completion) {
    if (!offload_header_asked(http_request_head(completion->exchange))) {
        return;
    }
    struct engine_stats stats;
    struct text value = {0};
    engine_stats(completion->service->runtime.engine, &stats);
    offload_header_write(&stats.offload, &value);
    const char *string = text_string(&value);
    if (string) {
        http_add_header(completion->exchange, OFFLOAD_HEADER, string);
    }
    text_free(&value);
}

/* Adds the header that tells what became of the promise, if the client asked for one or it is another. */
static void tell_slo(const struct completion *completion) {
    const struct request *request = &completion->slots[0].request;
    enum admission_outcome outcome = request->admission.outcome;
    struct text value = {0};
    if (!completion->slo.asked && outcome != ADMITTED_LESSER && outcome != ADMITTED_BEST_EFFORT) {
        return;
    }
    api_slo_write(completion->service, request, &value);
    if (text_string(&value)) {
        http_add_header(completion->exchange, SLO_HEADER, value.data);
    }
    text_free(&value);
}

static void end_whole(struct completion *completion) {
    struct reply_usage usage = usage_of(completion);
    for (uint32_t i = 0; i < completion->count; i++) {
        completion->choices[i] = completion->slots[i].choice; /* lent: its texts stay the slot's */
    }
    reply_write(&completion->reply, completion->choices, completion->count, &usage, &completion->scratch);
    tell_offload(completion);
    tell_slo(completion);
    api_respond_json(completion->exchange, &completion->scratch);
}

/* What an ending that is not the sequence's own means to the client. */
static struct api_error error_of(const struct engine_event *event) {
    if (event->finish == FINISH_ERROR) {
        return api_error_from(&event->status, "");
    }
    return api_refusal(503, NULL, "the server stopped before the completion had ended");
}

static void take_event(struct completion *completion, struct sequence_slot *slot, const struct engine_event *event) {
    struct reply_choice *choice = &slot->choice;
    if (event->finish == FINISH_ERROR || event->finish == FINISH_CANCELLED) {
        struct api_error error = error_of(event);
        fail(completion, &error, completion->request.stream);
        return;
    }
    completion->held -= reply_held(choice);
    reply_take(&completion->reply, choice, event);
    uint64_t due = 0;
    if (completion->paced) {
        bool token = event->has_token && !event->is_prompt;
        due = pacing_due(&slot->pacing, token, slot->request.promise.tpot_ns, clock_now_ns());
    }
    if (completion->request.stream && reply_has_news(&completion->reply, choice)) {
        reply_write_chunk(&completion->reply, choice, &completion->scratch);
        if (completion->paced) {
            pace_scratch(completion, slot, due);
        } else {
            send_scratch(completion);
        }
    }
    completion->held += reply_held(choice);
    if (completion->exchange && completion->held > completion->service->config->max_response) {
        struct api_error error = api_invalid(
            "stream", completion->paced ? "what is not yet due of the paced stream is larger than max_response; leave "
                                          "\"pace\" out, or ask for fewer choices, tokens or logprobs"
                                        : "the response is larger than max_response; ask for it as a stream, or for "
                                          "fewer choices, tokens or logprobs");
        fail(completion, &error, completion->request.stream);
    }
}

/* Everything has been generated, and if it is paced, sent. */
static void end(struct completion *completion) {
    if (completion->exchange) {
        if (completion->request.stream) {
            end_stream(completion);
        } else {
            end_whole(completion);
        }
        completion->exchange = NULL;
    }
    completion_free(completion);
}

static void on_due(evutil_socket_t fd, short what, void *argument) {
    (void)fd;
    (void)what;
    struct completion *completion = argument;
    if (completion->exchange) {
        take_due(completion, clock_now_ns());
        await_due(completion);
        send_scratch(completion);
    }
    if (completion->open == 0 && (!completion->exchange || next_due(completion) == UINT64_MAX)) {
        end(completion);
    }
}

static void log_promise(const struct sequence_slot *slot, enum finish_reason finish) {
    const struct completion *completion = slot->completion;
    const struct service *service = completion->service;
    if (service->slo_log) {
        slo_log_add(service->slo_log, &slot->request, completion->reply.id,
                    service->classes.items[slot->request.class_index].name, finish);
    }
}

static void route_event(const struct engine_event *event) {
    struct sequence_slot *slot = event->request->owner;
    struct completion *completion = slot->completion;
    if (completion->exchange) {
        take_event(completion, slot, event);
    }
    if (event->finish == FINISH_NONE) {
        return;
    }
    if (event->finish == FINISH_ERROR && !status_failed(&completion->service->fault)) {
        completion->service->fault = event->status;
    }
    slot->open = false;
    log_promise(slot, event->finish);
    completion->open--;
    if (completion->open == 0 && (!completion->exchange || next_due(completion) == UINT64_MAX)) {
        end(completion);
    }
}

/* True if there may be more. */
static bool poll_once(struct service *service) {
    uint32_t count = engine_poll(service->runtime.engine, service->events, SERVICE_EVENTS);
    for (uint32_t i = 0; i < count; i++) {
        route_event(&service->events[i]);
    }
    return count == SERVICE_EVENTS;
}

void service_poll(struct service *service) {
    enum { ROUNDS = 16 }; /* then the sockets get their turn; the engine keeps its descriptor readable */
    for (int round = 0; round < ROUNDS && poll_once(service); round++) {
    }
}

void service_poll_all(struct service *service) {
    while (poll_once(service)) {
    }
}

/* ---- from the request to the engine ---- */

static struct api_error read_prompt(struct completion *completion, uint32_t index) {
    struct completion_request *request = &completion->request;
    struct token_list *tokens = &completion->prompts[index];
    if (request->api == API_CHAT) {
        return api_encode_chat(completion->service, request, tokens);
    }
    struct prompt_source *source = &request->prompts[index];
    char param[32] = "prompt";
    if (request->prompt_count > 1) {
        snprintf(param, sizeof param, "prompt[%u]", index);
    }
    if (source->text) {
        return api_encode(completion->service, source->text, source->bytes, true, param, tokens);
    }
    *tokens = (struct token_list){source->tokens, source->token_count, source->token_count};
    source->tokens = NULL;
    return (struct api_error){0};
}

static struct api_error check_size(const struct completion *completion) {
    const struct completion_request *request = &completion->request;
    size_t prompts = request->api == API_CHAT ? 1 : request->prompt_count;
    uint64_t most = completion->service->config->max_queue;
    if (prompts > most || prompts * request->n > most) {
        return api_invalid(request->n > 1 ? "n" : "prompt",
                           "%zu prompts of %u choices are more sequences than the %llu of max_queue", prompts,
                           request->n, (unsigned long long)most);
    }
    return (struct api_error){0};
}

static struct api_error check_token_ids(const struct completion *completion) {
    const struct sampling *sampling = &completion->request.sampling;
    uint32_t vocabulary = model_shape(completion->service->runtime.model)->vocabulary;
    for (uint32_t i = 0; i < sampling->bias_count; i++) {
        if (sampling->bias[i].token >= vocabulary) {
            return api_invalid("logit_bias", "logit_bias: %u is not below the vocabulary's %u", sampling->bias[i].token,
                               vocabulary);
        }
    }
    for (uint32_t i = 0; i < sampling->stop_token_count; i++) {
        if (sampling->stop_tokens[i] >= vocabulary) {
            return api_invalid("stop_token_ids", "stop_token_ids[%u]: %u is not below the vocabulary's %u", i,
                               sampling->stop_tokens[i], vocabulary);
        }
    }
    return (struct api_error){0};
}

static void fill_slot(struct completion *completion, uint32_t index) {
    struct completion_request *request = &completion->request;
    struct sequence_slot *slot = &completion->slots[index];
    const struct token_list *prompt = &completion->prompts[index / request->n];
    uint32_t context = completion->service->runtime.context;
    *slot = (struct sequence_slot){.completion = completion,
                                   .request = {.prompt = prompt->ids,
                                               .prompt_count = (uint32_t)prompt->count,
                                               .sampling = request->sampling,
                                               .arrival_ns = http_arrival_ns(completion->exchange),
                                               .class_index = completion->slo.class_index,
                                               .has_promise = completion->slo.has_promise,
                                               .promise = completion->slo.promise,
                                               .salt = request->salt,
                                               .owner = slot},
                                   .choice = {.index = index}};
    struct sampling *sampling = &slot->request.sampling;
    sampling->seed += index % request->n; /* choices of one prompt differ, and each can be had again */
    if (request->api == API_CHAT && !request->has_max_tokens) {
        sampling->max_tokens = prompt->count < context ? context - (uint32_t)prompt->count : 1;
    }
    if (request->return_token_ids) {
        slot->choice.prompt = prompt->ids;
        slot->choice.prompt_count = (uint32_t)prompt->count;
    }
}

/* Is the stream to be paced? Only one that is promised a time per token can be; a request that asks for it and is not
 * is refused, one that the server's option would have paced is sent as it comes. */
static struct api_error prepare_pacing(struct completion *completion) {
    const struct completion_request *request = &completion->request;
    const struct config *config = completion->service->config;
    double tpot_ms = (double)completion->slo.promise.tpot_ns / 1e6;
    bool wanted = request->has_pace ? request->pace : request->stream && strcmp(config->pace, "on") == 0;
    if (wanted && tpot_ms <= 0 && request->has_pace) {
        return api_invalid("pace", "pace: no time per token is promised to keep to; give \"slo\": {\"tpot_ms\": ...}");
    }
    completion->paced = wanted && tpot_ms > 0;
    if (completion->paced) {
        completion->on_due = event_new(completion->service->base, -1, 0, on_due, completion);
        if (!completion->on_due) {
            return api_refusal(503, NULL, "there is no memory for the request");
        }
    }
    return (struct api_error){0};
}

/* Everything up to the engine's door. */
static struct api_error prepare(struct completion *completion) {
    struct completion_request *request = &completion->request;
    struct api_error error = api_check_model(completion->service, request->model);
    error = error.code ? error : check_size(completion);
    error = error.code ? error : check_token_ids(completion);
    if (error.code == 0) {
        error = api_choose_slo(completion->service, http_request_head(completion->exchange), request, &completion->slo);
    }
    error = error.code ? error : prepare_pacing(completion);
    if (error.code) {
        return error;
    }
    uint32_t prompts = request->api == API_CHAT ? 1 : (uint32_t)request->prompt_count;
    uint32_t count = prompts * request->n;
    completion->prompts = calloc(prompts, sizeof *completion->prompts);
    completion->slots = calloc(count, sizeof *completion->slots);
    completion->choices = calloc(count, sizeof *completion->choices);
    if (!completion->prompts || !completion->slots || !completion->choices) {
        return api_refusal(503, NULL, "there is no memory for the request");
    }
    for (uint32_t i = 0; i < prompts; i++) {
        completion->prompt_count++;
        error = read_prompt(completion, i);
        if (error.code) {
            return error;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        fill_slot(completion, i);
        completion->count++;
    }
    completion_request_drop_input(request);
    http_release_body(completion->exchange);
    return error;
}

static struct api_error submit(struct completion *completion) {
    const char *param = completion->request.api == API_CHAT ? "messages" : "prompt";
    for (uint32_t i = 0; i < completion->count; i++) {
        struct sequence_slot *slot = &completion->slots[i];
        struct status status = engine_submit(completion->service->runtime.engine, &slot->request);
        if (status.code == STATUS_BUSY) {
            log_promise(slot, FINISH_NONE);
        }
        if (status.code != STATUS_OK) {
            struct api_error error = api_error_from(&status, status.code == STATUS_INVALID ? param : "");
            if (slot->request.admission.outcome == ADMISSION_REFUSED && status.code == STATUS_BUSY) {
                return api_slo_refusal(completion->service, &slot->request, &status);
            }
            if (slot->request.prompt_count >= completion->service->runtime.context) {
                error.slug = "context_length_exceeded";
            }
            return error;
        }
        slot->open = true;
        completion->open++;
    }
    return (struct api_error){0};
}

static void set_reply(struct completion *completion) {
    const struct completion_request *request = &completion->request;
    struct service *service = completion->service;
    char id[HTTP_ID_DIGITS + 1];
    http_new_id(service->http, id);
    completion->reply = (struct reply){.api = request->api,
                                       .model = service->model_name,
                                       .created = clock_unix_s(),
                                       .tokenizer = service->runtime.tokenizer,
                                       .logprobs = request->sampling.logprobs,
                                       .token_ids = request->return_token_ids,
                                       .include_usage = request->include_usage};
    snprintf(completion->reply.id, sizeof completion->reply.id, "%s-%s", request->api == API_CHAT ? "chatcmpl" : "cmpl",
             id);
}

static void begin(struct service *service, struct http_exchange *exchange, enum openai_api api) {
    struct completion *completion = calloc(1, sizeof *completion);
    if (!completion) {
        struct api_error error = api_refusal(503, NULL, "there is no memory for the request");
        api_respond_error(exchange, &error);
        return;
    }
    completion->service = service;
    completion->exchange = exchange;
    completion->next = service->completions;
    if (completion->next) {
        completion->next->previous = completion;
    }
    service->completions = completion;

    struct http_slice body = http_body(exchange);
    struct api_error error = completion_request_parse(api, body.data, body.bytes, &completion->request);
    error = error.code ? error : prepare(completion);
    if (error.code == 0) {
        set_reply(completion);
        error = submit(completion);
    }
    if (error.code) {
        fail(completion, &error, false);
        if (completion->open == 0) {
            completion_free(completion);
        }
        return;
    }
    http_on_gone(exchange, on_gone, completion);
    if (completion->request.stream) {
        http_add_header(exchange, "Cache-Control", "no-cache");
        tell_offload(completion);
        tell_slo(completion);
        http_stream_begin(exchange, 200, "text/event-stream; charset=utf-8");
    }
}

void api_completions(struct service *service, struct http_exchange *exchange) {
    begin(service, exchange, API_COMPLETIONS);
}

void api_chat_completions(struct service *service, struct http_exchange *exchange) {
    begin(service, exchange, API_CHAT);
}
