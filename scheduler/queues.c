/* The bounded queues between the submitter's thread and the engine's, and the plain ring they are made of. */
#include "base/random.h"
#include "scheduler/engine_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* So many events come into the open together, or those of an iteration that has fewer. */
#define STAGED_EVENTS 32

struct status queue_create(struct sequence_queue *queue, uint32_t capacity) {
    *queue = (struct sequence_queue){.capacity = capacity, .items = calloc(capacity, sizeof(struct sequence *))};
    return queue->items ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for a queue of %u", capacity);
}

void queue_destroy(struct sequence_queue *queue) {
    free(queue->items);
    *queue = (struct sequence_queue){0};
}

static struct sequence **queue_place(const struct sequence_queue *queue, uint32_t index) {
    uint64_t at = (uint64_t)queue->head + index;
    return &queue->items[at % queue->capacity];
}

void queue_push_back(struct sequence_queue *queue, struct sequence *sequence) {
    CHECK(queue->count < queue->capacity);
    *queue_place(queue, queue->count++) = sequence;
    queue->version++;
}

void queue_push_front(struct sequence_queue *queue, struct sequence *sequence) {
    CHECK(queue->count < queue->capacity);
    queue->head = queue->head == 0 ? queue->capacity - 1 : queue->head - 1;
    queue->count++;
    queue->version++;
    *queue_place(queue, 0) = sequence;
}

struct sequence *queue_pop_front(struct sequence_queue *queue) {
    CHECK(queue->count > 0);
    struct sequence *sequence = *queue_place(queue, 0);
    queue->head = queue->head + 1 == queue->capacity ? 0 : queue->head + 1;
    queue->count--;
    queue->version++;
    return sequence;
}

struct sequence *queue_at(const struct sequence_queue *queue, uint32_t index) {
    CHECK(index < queue->count);
    return *queue_place(queue, index);
}

void queue_insert_at(struct sequence_queue *queue, uint32_t index, struct sequence *sequence) {
    CHECK(queue->count < queue->capacity && index <= queue->count);
    for (uint32_t i = queue->count++; i > index; i--) {
        *queue_place(queue, i) = *queue_place(queue, i - 1);
    }
    *queue_place(queue, index) = sequence;
    queue->version++;
}

void queue_remove_at(struct sequence_queue *queue, uint32_t index) {
    CHECK(index < queue->count);
    for (uint32_t i = index; i + 1 < queue->count; i++) {
        *queue_place(queue, i) = *queue_place(queue, i + 1);
    }
    queue->count--;
    queue->version++;
}

static struct status check_request(const struct engine *engine, const struct request *request) {
    uint32_t context = engine->config.context;
    if (request->prompt_count == 0) {
        return status_error(STATUS_INVALID, "the prompt is empty; it needs at least one token");
    }
    if (request->prompt_count > context || (request->prompt_count == context && request->sampling.max_tokens > 0)) {
        return status_error(STATUS_INVALID,
                            "the prompt has %u tokens and the context holds %u, the completion included; shorten the "
                            "prompt or raise the server's context",
                            request->prompt_count, context);
    }
    for (uint32_t i = 0; i < request->prompt_count; i++) {
        if (request->prompt[i] >= engine->vocabulary) {
            return status_error(STATUS_INVALID, "prompt token %u at index %u is not below the vocabulary's %u",
                                request->prompt[i], i, engine->vocabulary);
        }
    }
    for (uint32_t i = 0; i < request->sampling.bias_count; i++) {
        if (request->sampling.bias[i].token >= engine->vocabulary) {
            return status_error(STATUS_INVALID, "logit_bias token %u is not below the vocabulary's %u",
                                request->sampling.bias[i].token, engine->vocabulary);
        }
    }
    if (request->sampling.stop_token_count > SAMPLING_MAX_STOP_TOKENS) {
        return status_error(STATUS_INVALID, "%u stop tokens are more than the %u allowed",
                            request->sampling.stop_token_count, SAMPLING_MAX_STOP_TOKENS);
    }
    for (uint32_t i = 0; i < request->sampling.stop_token_count; i++) {
        if (request->sampling.stop_tokens[i] >= engine->vocabulary) {
            return status_error(STATUS_INVALID, "stop token %u is not below the vocabulary's %u",
                                request->sampling.stop_tokens[i], engine->vocabulary);
        }
    }
    if (request->has_promise && request->promise.tpot_ns > 0 && request->promise.tpot_ns < engine->least_token_ns) {
        return status_error(STATUS_INVALID,
                            "slo.tpot_ms is %.3f, and one token takes %.3f ms here with nothing beside it; raise it",
                            (double)request->promise.tpot_ns / 1e6, (double)engine->least_token_ns / 1e6);
    }
    return STATUS_SUCCESS;
}

/* Under the lock: may one more come in? */
static struct status check_room(const struct engine *engine) {
    if (engine->draining || engine->stopping || engine->ended) {
        return status_error(STATUS_UNAVAILABLE, "the server is shutting down");
    }
    if (engine->pending >= engine->config.max_queue) {
        return status_error(STATUS_BUSY, "the queue is full: %u requests wait, max_queue is %u", engine->pending,
                            engine->config.max_queue);
    }
    return STATUS_SUCCESS;
}

struct status engine_submit(struct engine *engine, struct request *request) {
    TRY(check_request(engine, request));
    admission_decide(engine, request);
    pthread_mutex_lock(&engine->lock);
    struct status status = check_room(engine);
    request->id = engine->next_id;
    engine->next_id += status.code == STATUS_OK;
    pthread_mutex_unlock(&engine->lock);
    TRY(status);
    if (request->admission.outcome == ADMISSION_REFUSED) {
        status = admission_refusal(request);
        admission_count(engine, request);
        return status;
    }

    uint64_t seed = request->sampling.seeded ? request->sampling.seed : random_hash(engine->config.seed, request->id);
    struct sequence *sequence = NULL;
    TRY(sequence_create(request, engine->tokenizer, engine->vocabulary, engine->config.context, seed, &sequence));
    status = admission_note(engine, sequence);
    if (status_failed(&status)) {
        sequence_destroy(sequence);
        return status;
    }
    request->engine_private = sequence;
    __atomic_store_n(&request->cancelled, 0, __ATOMIC_RELAXED);

    pthread_mutex_lock(&engine->lock);
    status = check_room(engine); /* the engine may have failed or been stopped meanwhile */
    if (status.code == STATUS_OK) {
        admission_submitted(engine, sequence);
        queue_push_back(&engine->submitted, sequence);
        engine->pending++;
        pthread_cond_signal(&engine->work);
    }
    pthread_mutex_unlock(&engine->lock);
    if (status.code != STATUS_OK) {
        sequence_destroy(sequence);
        request->engine_private = NULL;
        return status;
    }
    admission_count(engine, request);
    return STATUS_SUCCESS;
}

void engine_cancel(struct engine *engine, struct request *request) {
    __atomic_store_n(&request->cancelled, 1, __ATOMIC_RELEASE);
    pthread_mutex_lock(&engine->lock);
    engine->cancelling = true;
    pthread_cond_signal(&engine->work);
    pthread_mutex_unlock(&engine->lock);
}

/* The earliest due first, and of those due at once the first to come; preempted ones stay before all. First come, first
 * served has one line. */
static void line_up(struct engine *engine, struct sequence *sequence) {
    if (engine->config.order == ORDER_FCFS) {
        queue_push_back(&engine->waiting, sequence);
        return;
    }
    uint64_t due = deadlines_first_token(sequence);
    if (due == UINT64_MAX) {
        queue_push_back(&engine->behind, sequence);
        return;
    }
    uint32_t at = engine->waiting.count;
    while (at > 0) {
        const struct sequence *before = queue_at(&engine->waiting, at - 1);
        if (before->preempted || deadlines_first_token(before) <= due) {
            break;
        }
        at--;
    }
    queue_insert_at(&engine->waiting, at, sequence);
}

bool engine_take_submitted(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->taken = engine->submitted.count;
    while (engine->submitted.count > 0) {
        line_up(engine, queue_pop_front(&engine->submitted));
    }
    bool cancelling = engine->cancelling;
    engine->cancelling = false;
    pthread_mutex_unlock(&engine->lock);
    return cancelling;
}

/* Copies what there is of an event: most of one is room for text, alternatives and messages that few have. */
static void copy_event(struct engine_event *to, const struct engine_event *from) {
    memcpy(to, from, offsetof(struct engine_event, status));
    to->status.code = from->status.code;
    memcpy(to->status.message, from->status.message, from->status.code == STATUS_OK ? 1 : sizeof to->status.message);
    memcpy(to->text, from->text, from->text_bytes);
    memcpy(to->top, from->top, from->top_count * sizeof *to->top);
}

void engine_flush_events(struct engine *engine) {
    if (engine->events_staged == 0) {
        return;
    }
    const uint32_t bound = engine->event_capacity - engine->event_reserve;
    pthread_mutex_lock(&engine->lock);
    bool first = engine->event_count == 0;
    engine->event_count += engine->events_staged;
    CHECK(engine->event_count <= engine->event_capacity);
    engine->event_room = engine->event_count < bound ? bound - engine->event_count : 0;
    pthread_mutex_unlock(&engine->lock);
    engine->events_staged = 0;
    if (first) {
        uint64_t one = 1;
        while (write(engine->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
}

/* Waits for room for a token's event; false if there will be none. */
static bool wait_for_room(struct engine *engine) {
    const uint32_t bound = engine->event_capacity - engine->event_reserve;
    engine_flush_events(engine);
    pthread_mutex_lock(&engine->lock);
    if (engine->event_count >= bound && engine->started && !engine->stopping) {
        uint64_t begin = device_now_ns(engine->device);
        while (engine->event_count >= bound && !engine->stopping) {
            pthread_cond_wait(&engine->room, &engine->lock);
        }
        engine->blocked_ns += device_now_ns(engine->device) - begin;
    }
    CHECK(engine->event_count < bound || engine->stopping); /* who steps the engine by hand polls between steps */
    engine->event_room = engine->event_count < bound ? bound - engine->event_count : 0;
    pthread_mutex_unlock(&engine->lock);
    return engine->event_room > 0;
}

/* What is staged is the engine thread's own: the lock is taken once for many events. */
void engine_push_event(struct engine *engine, const struct engine_event *event) {
    if (event->finish == FINISH_NONE && engine->event_room == 0 && !wait_for_room(engine)) {
        return;
    }
    engine->event_room -= engine->event_room > 0;
    copy_event(&engine->events[engine->event_tail], event);
    engine->event_tail = engine->event_tail + 1 == engine->event_capacity ? 0 : engine->event_tail + 1;
    if (++engine->events_staged == STAGED_EVENTS) {
        engine_flush_events(engine);
    }
}

uint32_t engine_poll(struct engine *engine, struct engine_event *events, uint32_t capacity) {
    uint64_t ignored;
    while (read(engine->wake_fd, &ignored, sizeof ignored) < 0 && errno == EINTR) {
    }
    pthread_mutex_lock(&engine->lock);
    uint32_t taken = engine->event_count < capacity ? engine->event_count : capacity;
    for (uint32_t i = 0; i < taken; i++) {
        copy_event(&events[i], &engine->events[engine->event_head]);
        engine->event_head = (engine->event_head + 1) % engine->event_capacity;
    }
    engine->event_count -= taken;
    bool more = engine->event_count > 0;
    pthread_cond_signal(&engine->room);
    pthread_mutex_unlock(&engine->lock);
    if (more) { /* keep the descriptor readable: the poller may come back from its event loop */
        uint64_t one = 1;
        while (write(engine->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
    return taken;
}

int engine_wake_fd(const struct engine *engine) {
    return engine->wake_fd;
}
