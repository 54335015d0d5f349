/* The engine: requests in, iterations through the device, tokens out.
 *
 * Owns: one thread that owns the device and all KV state; the bounded queue of submitted requests and the bounded
 * ring of events back. Continuous batching, chunked prefill mixed with decode, preemption (KV blocks park in host
 * memory or are computed again), sampling, detokenization and stop strings. Knows nothing of sockets or JSON. Threads:
 * engine_submit(), engine_cancel(), engine_poll(), engine_stats() from one other thread (the server's); engine_step()
 * from the one that owns the device when engine_start() was not called (tests, tools). */
#ifndef METRONOME_SCHEDULER_ENGINE_H
#define METRONOME_SCHEDULER_ENGINE_H

#include "base/histogram.h"
#include "base/status.h"
#include "kernels/device.h"
#include "models/model.h"
#include "scheduler/admission.h"
#include "scheduler/causes.h"
#include "scheduler/classes.h"
#include "scheduler/prefix.h"
#include "scheduler/timeline.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;

/* Who is next, and how long a prompt's chunk is. */
enum scheduling_order {
    ORDER_DEADLINES, /* the earliest due first, chunks as long as the tokens beside them have time */
    ORDER_FCFS,      /* first come, first served, chunks of prefill_chunk: to compare with */
};

struct engine_config {
    uint32_t context;          /* longest prompt + completion, tokens; 0: the model's own */
    uint32_t max_sequences;    /* in one iteration */
    uint32_t max_queue;        /* submitted and not yet admitted */
    uint32_t max_batch_tokens; /* rows of one iteration */
    enum scheduling_order order;
    uint32_t prefill_chunk; /* most prompt tokens of one sequence in one iteration; 0: max_batch_tokens */
    enum kv_type kv_type;
    uint64_t kv_tokens;        /* KV capacity wanted, tokens; 0: derived from device_memory, or a default */
    uint64_t device_memory;    /* bytes for weights, KV and workspace together; 0: as needed */
    uint64_t host_memory;      /* bytes for offloaded weights and parked KV blocks; 0: no bound */
    uint64_t kv_host_memory;   /* bytes of it for KV blocks; 0: those of preempted sequences are computed again */
    uint64_t kv_stream_memory; /* bytes of those for KV blocks in use, streamed as time allows; 0: no more than one
                                  context needs that is longer than the device has room for */
    bool prefix_cache;         /* KV blocks are shared by prompts that begin alike, and kept while there is room */
    const char *offload_policy;
    struct policy_options offload_options;
    const char *offload_bus;           /* a link that other engines use too; NULL or "": none */
    uint32_t offload_slabs;            /* pieces of a layer that may be offloaded one by one; 0: chosen */
    uint64_t link_bytes_per_s;         /* nominal; 0: measured */
    struct promise promise;            /* to requests that bring none, ... */
    const struct slo_classes *classes; /* ... unless there are classes, copied; NULL: one, of `promise` */
    uint64_t seed;                     /* for requests that bring none */
    uint32_t timeline_spans;           /* that are kept until engine_timeline() takes them; 0: none */
    const struct record *record;       /* measured before, in the same circumstances; NULL: measured at the start */
};

/* ---- requests ---- */

#define SAMPLING_MAX_STOPS 16 /* stop strings */
#define SAMPLING_MAX_STOP_BYTES 256
#define SAMPLING_MAX_LOGPROBS 20 /* top_logprobs */
#define SAMPLING_MAX_STOP_TOKENS 64

struct logit_bias {
    uint32_t token;
    float bias;
};

struct stop_string {
    uint16_t bytes;
    char text[SAMPLING_MAX_STOP_BYTES];
};

struct sampling {
    float temperature;                         /* below 1e-5: greedy */
    float top_p;                               /* 1: off */
    float min_p;                               /* 0: off */
    uint32_t top_k;                            /* 0: off */
    float presence_penalty, frequency_penalty; /* 0: off; over generated tokens, as OpenAI defines them */
    float repetition_penalty;                  /* 1: off; over prompt and generated tokens, as vLLM and llama.cpp do */
    bool seeded;
    uint64_t seed;
    uint32_t max_tokens, min_tokens;
    bool ignore_eos;
    bool echo;               /* report the prompt's tokens (with logprobs, if asked) before the completion's */
    bool logprobs;           /* report the chosen token's logprob ... */
    uint32_t top_logprobs;   /* ... and this many alternatives */
    struct logit_bias *bias; /* (bias_count), owned by the request's owner */
    uint32_t bias_count;
    struct stop_string *stops; /* (stop_count) */
    uint32_t stop_count;
    uint32_t *stop_tokens; /* (stop_token_count) further ids that end it */
    uint32_t stop_token_count;
};

enum finish_reason {
    FINISH_NONE,
    FINISH_STOP,      /* an end token or a stop string */
    FINISH_LENGTH,    /* max_tokens or the context */
    FINISH_CANCELLED, /* engine_cancel() */
    FINISH_ERROR,     /* the event carries the status */
};
const char *finish_reason_name(enum finish_reason reason); /* OpenAI's words: "stop", "length"; else "abort", "error" */

/* What became of a request's time, on the device's clock; whole once its last event has been polled. */
struct request_outcome {
    uint64_t admitted_ns, first_token_ns, last_token_ns; /* 0: that never came */
    uint32_t tokens, late_tokens, preemptions;
    uint32_t late_by[CAUSES]; /* late tokens, by cause */
    struct late_run worst;    /* the latest of them; its tokens are 0 if there is none */
};

/* One sequence to generate. Made and freed by the submitter; lent to the engine from engine_submit() until the
 * event with a finish reason has been polled. */
struct request {
    uint32_t *prompt; /* (prompt_count) token ids, prompt_count >= 1 */
    uint32_t prompt_count;
    uint32_t class_index; /* of the engine's classes, an offered one */
    struct sampling sampling;
    struct cache_salt salt;         /* only requests with the same one share KV blocks */
    int cancelled;                  /* set by engine_cancel() */
    uint64_t arrival_ns;            /* clock_now_ns() when its bytes were complete; TTFT counts from here */
    bool has_promise;               /* of its own, ... */
    struct promise promise;         /* ... this; else the class's, which engine_submit() writes here */
    void *owner;                    /* the submitter's own; untouched */
    void *engine_private;           /* the engine's own */
    uint64_t id;                    /* given by engine_submit() */
    struct request_outcome outcome; /* the engine's to fill */
    struct admission admission;     /* engine_submit()'s to fill, refused or not */
};

/* Takes the request into the queue. STATUS_INVALID: does not fit the context or the KV cache at all, or promises what
 * one token alone takes longer for (the message says both numbers); STATUS_BUSY: the queue is full, or, with
 * ADMISSION_REFUSED in request->admission, its promise cannot be kept; STATUS_UNAVAILABLE:
 * draining or stopped. */
struct status engine_submit(struct engine *engine, struct request *request);

/* Asks that the request end now, wherever it is: its blocks are free within one iteration, and its last event comes
 * with FINISH_CANCELLED. Harmless if it is ending anyway. */
void engine_cancel(struct engine *engine, struct request *request);

/* ---- events ---- */

#define EVENT_TEXT_BYTES 512

struct token_logprob {
    uint32_t token;
    float logprob;
};

/* What one token of one request made visible, or its end. Events of a request come in order. */
struct engine_event {
    struct request *request;
    enum finish_reason finish; /* FINISH_NONE but in a request's last event, which has no token */
    bool has_token;
    bool is_prompt;   /* echo: a token of the prompt */
    bool has_logprob; /* false for a prompt's first token */
    uint32_t token;
    float logprob;
    uint32_t text_bytes; /* whole UTF-8; 0 while a stop string might be beginning */
    uint32_t top_count;
    /* in the last event */
    uint32_t completion_tokens;
    uint32_t cached_tokens; /* of the prompt, that were found in the prefix cache */
    struct status status;   /* with FINISH_ERROR */
    /* what few events have much of, behind what all have, for a ring of thousands lies in no cache */
    char text[EVENT_TEXT_BYTES]; /* longer text comes in further events without a token */
    struct token_logprob top[SAMPLING_MAX_LOGPROBS];
};

/* Takes up to `capacity` events. `wake` of engine_create is readable (an eventfd) when there are some. */
uint32_t engine_poll(struct engine *engine, struct engine_event *events, uint32_t capacity);
int engine_wake_fd(const struct engine *engine);

/* ---- life ---- */

/* Loads the model onto the device and prepares everything; nothing is allocated on the heap after it by the engine's
 * loop. The model and the device outlive the engine. */
struct status engine_create(const struct engine_config *config, struct model *model, struct device *device,
                            struct engine **out);

/* What iterations cost here and what the link gives, as given or as measured at the start; NULL if nothing may be
 * offloaded, which leaves the link out. */
const struct record *engine_record(const struct engine *engine);

/* The engine's own thread: start it, ask it to finish what is admitted and refuse the rest, wait for its end. */
struct status engine_start(struct engine *engine);
void engine_drain(struct engine *engine); /* new submissions are refused; what is in flight ends normally */
void engine_stop(struct engine *engine);  /* what is in flight ends with FINISH_CANCELLED; joins the thread */
void engine_destroy(struct engine *engine);

/* Changes the pace of the device's link (device_set_link()) before the next iteration. From any thread: for
 * demonstrations and tests of a link that slows. */
void engine_set_link(struct engine *engine, double link_bytes_per_s);

/* From the next submission on these are the classes. STATUS_INVALID, and nothing changed: a promise is shorter than one
 * token takes; or there are promises, and nothing was measured at the start, for there were none. From the submitter's
 * thread. */
struct status engine_set_classes(struct engine *engine, const struct slo_classes *classes);

/* One iteration on the calling thread; *idle says that there was nothing to do. Not after engine_start(). */
struct status engine_step(struct engine *engine, bool *idle);

/* ---- numbers ---- */

/* A snapshot for /metrics and tests; each number is whole, not all of one instant. */
struct engine_stats {
    uint32_t running, waiting;
    uint32_t kv_blocks, kv_blocks_free;
    uint64_t prompt_tokens, generation_tokens; /* processed, recomputed ones not counted */
    uint64_t iterations, preemptions;
    uint64_t resumed;                     /* preempted sequences that went on with nothing lost */
    uint64_t recomputed_tokens;           /* by the others: KV given up, and computed again */
    uint64_t sampling_rounds;             /* beyond an iteration's first: penalties' lists were longer than the room */
    uint64_t prefix_queries, prefix_hits; /* prompt tokens looked for in the prefix cache, and found */
    uint32_t prefix_idle, prefix_parked;  /* blocks that nobody holds, kept to be found: on the device (they count
                                             as free), in host memory */
    uint64_t finished[FINISH_ERROR + 1];
    uint64_t promised, kept, late_first, late_later; /* of all classes together (struct class_stats) */
    uint64_t late_tokens[CAUSES];                    /* tokens that came late, by cause */
    uint64_t iteration_ns;                           /* of the last iteration, wall */
    uint32_t context, max_sequences;
    struct histogram ttft_s, tpot_s, e2e_s, queue_s, iteration_tokens;
    struct offload_report offload;
    struct link_count link;
};
void engine_stats(const struct engine *engine, struct engine_stats *out);

/* The same of one class's requests. */
struct class_stats {
    uint64_t promised, kept, late_first, late_later; /* requests that ended and were promised something; of them, those
                                                        of which no token was late; the first one; another */
    uint64_t late_tokens[CAUSES];                    /* tokens that came late, by cause */
    uint64_t tokens, kept_tokens;         /* generated by those that ended; of them, by those that kept all */
    uint64_t admitted, best_effort;       /* at the door: with a promise; with one that is predicted to be broken */
    uint64_t refused[SHORTAGES];          /* by what was short */
    uint64_t downgraded;                  /* to another class, which counts them, too */
    uint64_t first_tokens, first_in_time; /* of those admitted with a promise for it, for which it was predicted */
    struct histogram ttft_s, tpot_s, queue_s, refused_ttft_s; /* the last one: predicted */
    struct histogram ttft_ratio;                              /* measured / predicted */
};
void engine_class_stats(const struct engine *engine, uint32_t class_index, struct class_stats *out);

/* The last tokens that came late, and why: copies up to `capacity` runs of them, the latest first, and returns how
 * many. */
uint32_t engine_late_runs(const struct engine *engine, struct late_run *out, uint32_t capacity);

/* Takes up to `capacity` spans of what happened since, the oldest first; *dropped, if not NULL, gets how many were lost
 * so far, for they were not taken in time. */
uint32_t engine_timeline(struct engine *engine, struct span *out, uint32_t capacity, uint64_t *dropped);

#endif
