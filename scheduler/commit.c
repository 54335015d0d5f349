/* What came out of an iteration: tokens, text made showable, ends found, numbers counted. */
#include "base/clock.h"
#include "scheduler/engine_internal.h"

#include <string.h>

/* Sends `text` in as many events as it needs; `event` carries the token, if there is one, and goes first. */
static void push_text(struct engine *engine, struct engine_event *event, const char *text, size_t bytes) {
    do {
        size_t piece = bytes < EVENT_TEXT_BYTES ? bytes : EVENT_TEXT_BYTES;
        while (piece < bytes && ((unsigned char)text[piece] & 0xc0) == 0x80) {
            piece--; /* not inside a character */
        }
        memcpy(event->text, text, piece);
        event->text_bytes = (uint32_t)piece;
        engine_push_event(engine, event);
        event->has_token = event->has_logprob = false;
        event->top_count = 0;
        text += piece;
        bytes -= piece;
    } while (bytes > 0);
}

/* Detokenizes `token` and runs its text through the stop strings; true if one is complete. The text to show is then
 * in the sequence's matcher. */
static bool push_token_text(struct engine *engine, struct sequence *sequence, uint32_t token, bool armed) {
    size_t bytes = detokenizer_push(&sequence->detokenizer, token, engine->piece, engine->piece_capacity);
    return stop_matcher_push(&sequence->stop, engine->piece, bytes, armed);
}

static void attach_logprobs(struct engine *engine, uint32_t logit_index, struct engine_event *event) {
    const struct sample_score *score = forward_score(engine->forward, logit_index);
    event->has_logprob = true;
    event->logprob = sample_logprob(score, score->logit);
    event->top_count = score->top_count;
    for (uint32_t i = 0; i < score->top_count; i++) {
        const struct sample_top *top = &score->top[i];
        event->top[i] = (struct token_logprob){.token = top->token, .logprob = sample_logprob(score, top->logit)};
    }
}

/* Room for text and alternatives is not cleared: that took longer than all else that a token takes. */
static void token_event(const struct sequence *sequence, uint32_t token, struct engine_event *out) {
    memset(out, 0, offsetof(struct engine_event, status));
    out->request = sequence->request;
    out->has_token = true;
    out->token = token;
    out->status.code = STATUS_OK;
    out->status.message[0] = '\0';
}

static bool emit_token(struct engine *engine, struct sequence *sequence, struct engine_event *event, bool armed) {
    bool stopped = false;
    size_t bytes = 0;
    const char *text = "";
    if (engine->tokenizer) {
        stopped = push_token_text(engine, sequence, event->token, armed);
        text = stop_matcher_text(&sequence->stop, &bytes);
    }
    push_text(engine, event, text, bytes);
    return stopped;
}

/* With echo: the prompt's tokens that can be reported once rows up to `computed` are done. Logit rows of an
 * iteration begin with those of prompt tokens; `row` is the position of the first of them. */
static void report_prompt(struct engine *engine, struct sequence *sequence, uint32_t first_computed) {
    const struct request *request = sequence->request;
    bool scores = sequence_scores_prompt(sequence);
    uint32_t logit_row = sequence->scored > 0 ? sequence->scored - 1 : 0;
    logit_row = logit_row > first_computed ? logit_row : first_computed;
    while (sequence->scored < request->prompt_count && sequence->scored <= sequence->computed) {
        uint32_t index = sequence->scored++;
        struct engine_event event;
        token_event(sequence, request->prompt[index], &event);
        event.is_prompt = true;
        if (scores && index > 0) {
            attach_logprobs(engine, sequence->logit_begin + index - 1 - logit_row, &event);
        }
        emit_token(engine, sequence, &event, false);
    }
}

static bool is_end_token(const struct engine *engine, const struct sampling *sampling, uint32_t token) {
    for (uint32_t i = 0; i < sampling->stop_token_count; i++) {
        if (sampling->stop_tokens[i] == token) {
            return true;
        }
    }
    return !sampling->ignore_eos && engine->tokenizer && tokenizer_is_end(engine->tokenizer, token);
}

/* The numbers of tokens but first ones: those of an iteration came as long after the ones before, most of them. */
static void count_alike(struct engine *engine) {
    const uint32_t tokens = engine->alike.tokens;
    if (tokens > 0) {
        const double tpot_s = (double)engine->alike.tpot_ns / (double)NS_PER_S;
        pthread_mutex_lock(&engine->stats_lock);
        histogram_observe_many(&engine->stats.tpot_s, tpot_s, tokens);
        histogram_observe_many(&engine->class_stats[engine->alike.class_index].tpot_s, tpot_s, tokens);
        engine->stats.generation_tokens += tokens;
        pthread_mutex_unlock(&engine->stats_lock);
        engine->alike.tokens = 0;
    }
}

static void count_later_token(struct engine *engine, uint64_t tpot_ns, uint32_t class_index) {
    if (engine->alike.tpot_ns != tpot_ns || engine->alike.class_index != class_index) {
        count_alike(engine);
        engine->alike.tpot_ns = tpot_ns;
        engine->alike.class_index = class_index;
    }
    engine->alike.tokens++;
}

static void count_first_token(struct engine *engine, const struct sequence *sequence, uint64_t now) {
    struct class_stats *own = &engine->class_stats[sequence->request->class_index];
    double ttft_s = (double)(now - sequence->request->arrival_ns) / (double)NS_PER_S;
    double queue_s = (double)(sequence->admitted_ns - sequence->request->arrival_ns) / (double)NS_PER_S;
    pthread_mutex_lock(&engine->stats_lock);
    histogram_observe(&engine->stats.ttft_s, ttft_s);
    histogram_observe(&engine->stats.queue_s, queue_s);
    histogram_observe(&own->ttft_s, ttft_s);
    histogram_observe(&own->queue_s, queue_s);
    engine->stats.generation_tokens++;
    pthread_mutex_unlock(&engine->stats_lock);
}

static void note_token_time(struct engine *engine, struct sequence *sequence, uint64_t now) {
    account_token(engine, sequence, deadlines_judge(sequence, now));
    if (sequence->first_token_ns == 0) {
        sequence->first_token_ns = now;
        count_first_token(engine, sequence, now);
    } else {
        count_later_token(engine, now - sequence->last_token_ns, sequence->request->class_index);
    }
    if (sequence_generated(sequence) == 1) {
        admission_computed(engine, sequence);
        admission_first_token(engine, sequence, now);
    }
    sequence->last_token_ns = now;
}

/* Takes a sequence's next token and says whether, and why, it ends there. */
static enum finish_reason advance(struct engine *engine, struct sequence *sequence, uint64_t now) {
    const struct sampling *sampling = &sequence->request->sampling;
    uint32_t logit_index = sequence->logit_begin + sequence->logit_count - 1;
    uint32_t token = forward_token(engine->forward, logit_index);
    sequence->tokens[sequence->count++] = token;
    sampler_note(&sequence->sampler, token);
    note_token_time(engine, sequence, now);
    bool armed = sequence_generated(sequence) >= sampling->min_tokens;
    if (armed && is_end_token(engine, sampling, token)) {
        return FINISH_STOP;
    }
    struct engine_event event;
    token_event(sequence, token, &event);
    if (sampling->logprobs) {
        attach_logprobs(engine, logit_index, &event);
    }
    if (emit_token(engine, sequence, &event, armed)) {
        return FINISH_STOP;
    }
    return sequence->count == sequence->capacity ? FINISH_LENGTH : FINISH_NONE;
}

void finish_sequence(struct engine *engine, struct sequence *sequence, enum finish_reason reason,
                     const struct status *status) {
    struct request *request = sequence->request;
    if (reason == FINISH_STOP || reason == FINISH_LENGTH) {
        char rest[16];
        size_t bytes = engine->tokenizer && !sequence->stop.matched
                           ? detokenizer_flush(&sequence->detokenizer, rest, sizeof rest)
                           : 0;
        if (bytes > 0) {
            struct engine_event event = {.request = request};
            stop_matcher_push(&sequence->stop, rest, bytes, true);
            const char *text = stop_matcher_text(&sequence->stop, &bytes);
            push_text(engine, &event, text, bytes);
        }
        stop_matcher_finish(&sequence->stop);
        const char *text = stop_matcher_text(&sequence->stop, &bytes);
        if (bytes > 0) {
            struct engine_event event = {.request = request};
            push_text(engine, &event, text, bytes);
        }
    }
    release_blocks(engine, sequence, 0);
    admission_computed(engine, sequence);
    uint64_t now = device_now_ns(engine->device);
    account_finish(engine, sequence);
    if (reason == FINISH_STOP || reason == FINISH_LENGTH) {
        admission_ended(engine, sequence);
    }
    struct class_stats *own = &engine->class_stats[request->class_index];
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.finished[reason]++;
    bool whole = reason == FINISH_STOP || reason == FINISH_LENGTH;
    if (whole && (request->promise.ttft_ns > 0 || request->promise.tpot_ns > 0)) {
        bool kept = !sequence->late_first && sequence->late_later == 0;
        own->promised++;
        own->kept += kept;
        own->late_first += sequence->late_first;
        own->late_later += sequence->late_later > 0;
        own->kept_tokens += kept ? sequence_generated(sequence) : 0;
    }
    own->tokens += sequence_generated(sequence);
    histogram_observe(&engine->stats.e2e_s, (double)(now - request->arrival_ns) / (double)NS_PER_S);
    pthread_mutex_unlock(&engine->stats_lock);
    struct engine_event last = {.request = request,
                                .finish = reason,
                                .completion_tokens = sequence_generated(sequence),
                                .cached_tokens = sequence->cached_tokens};
    if (status) {
        last.status = *status;
    }
    request->engine_private = NULL;
    sequence_destroy(sequence);
    engine_push_event(engine, &last); /* from here on the request is the submitter's again */
}

/* One sequence's part of the iteration. */
static enum finish_reason commit_sequence(struct engine *engine, struct sequence *sequence, uint64_t now) {
    uint32_t first = sequence->computed;
    sequence->computed += sequence->scheduled;
    cache_enter(engine, sequence);
    if (sequence->request->sampling.echo && sequence->scored < sequence->request->prompt_count) {
        report_prompt(engine, sequence, first);
    }
    if (sequence->computed < sequence->count) {
        return FINISH_NONE;
    }
    return sequence->count == sequence->capacity ? FINISH_LENGTH : advance(engine, sequence, now);
}

/* Tokens of this iteration that had been computed before, and their KV was given up. */
static uint32_t count_again(struct sequence *sequence) {
    uint32_t first = sequence->computed - sequence->scheduled;
    uint32_t again = sequence->computed < sequence->reached ? sequence->scheduled
                     : first < sequence->reached            ? sequence->reached - first
                                                            : 0;
    sequence->reached = sequence->computed > sequence->reached ? sequence->computed : sequence->reached;
    return again;
}

/* Prompt tokens computed for the first time, and not again after a preemption. */
static uint32_t count_prompt(struct sequence *sequence) {
    uint32_t prompt = sequence->request->prompt_count;
    uint32_t done = sequence->computed < prompt ? sequence->computed : prompt;
    uint32_t fresh = done > sequence->prompt_counted ? done - sequence->prompt_counted : 0;
    sequence->prompt_counted += fresh;
    return fresh;
}

void commit_iteration(struct engine *engine) {
    uint64_t now = device_now_ns(engine->device);
    uint64_t prompt_tokens = 0, again = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        struct sequence *sequence = engine->running[i];
        enum finish_reason reason = FINISH_NONE;
        if (sequence->scheduled > 0) {
            reason = commit_sequence(engine, sequence, now);
            prompt_tokens += count_prompt(sequence);
            again += count_again(sequence);
        }
        if (reason == FINISH_NONE) {
            engine->running[kept++] = sequence;
        } else {
            finish_sequence(engine, sequence, reason, NULL);
        }
    }
    engine->running_count = kept;
    count_alike(engine);
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.prompt_tokens += prompt_tokens;
    engine->stats.recomputed_tokens += again;
    engine->stats.iterations++;
    histogram_observe(&engine->stats.iteration_tokens, engine->inputs->rows);
    pthread_mutex_unlock(&engine->stats_lock);
}
