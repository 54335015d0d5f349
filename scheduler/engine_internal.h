/* The engine's own parts, shared by its files: engine.c (life and the loop), queues.c (the two bounded queues),
 * compose.c (what runs in an iteration), deadlines.c (what is due when), blocks.c (who holds which KV block), cache.c
 * (which ones they share), stream.c (which of them live in host memory), commit.c (what came out of it). Nobody else
 * includes this. Threads: fields are the engine thread's unless said. */
#ifndef METRONOME_SCHEDULER_ENGINE_INTERNAL_H
#define METRONOME_SCHEDULER_ENGINE_INTERNAL_H

#include "base/check.h"
#include "scheduler/engine.h"
#include "scheduler/foresee.h"
#include "scheduler/iteration_times.h"
#include "scheduler/reserve.h"
#include "scheduler/sequence.h"

#include <pthread.h>

/* Sequences in order; a ring, so that both ends are cheap. */
struct sequence_queue {
    struct sequence **items; /* (capacity) */
    uint32_t capacity, head, count;
    uint64_t version; /* another when others are in it, or in another order */
};

/* What admission knows of the engine (admission.c), from the end of its last iteration. */
struct admission_view {
    uint64_t now_ns;
    struct foreseen *running, *waiting; /* `to_come`: what they may generate at the most */
    uint64_t waiting_version;           /* of the line, when `waiting` was written whole */
    uint32_t running_count, waiting_count, behind_count, behind_left, admissions;
    uint32_t blocks_free, blocks_lent;
    double typical; /* tokens of an answer, in the mean */
    struct offload_placement placement;
    double pace, mixed; /* deadlines_pace(), and what mixed iterations take beyond it */
};

struct admission_state {
    double typical;                              /* the engine thread's */
    double margin[SLO_MAX_CLASSES];              /* under the engine's lock: of the promised time, to be left */
    uint64_t admitted_ns[SLO_MAX_CLASSES];       /* so are this: when one was last, or the margin last relieved */
    struct admission_view view;                  /* and this */
    struct offload_placement placement;          /* the submitter's: what it has copied, */
    struct iteration_times times;                /* and what iterations take with it */
    struct foreseen *running, *waiting, *played; /* the submitter's, too */
    uint64_t *keys;                              /* and this: of the prompt in hand */
    uint32_t key_count;
    struct sequence **pending; /* (pending_count) submitted, and their first tokens have not come; under the lock */
    uint32_t pending_count;
    uint32_t renewed; /* the engine's: place in line whose `expected` is looked at next */
};

/* One admission in so many is of a sequence that waits behind, if there is one. */
#define BEHIND_SHARE 8

struct engine {
    struct engine_config config;
    struct model *model;
    const struct tokenizer *tokenizer; /* NULL for a model without one */
    struct device *device;
    struct offload *offload;
    struct forward *forward;
    struct forward_inputs *inputs;
    struct prefix *prefix;
    struct record record; /* if `recorded` */
    struct forward_limits limits;
    uint32_t vocabulary;
    uint32_t kv_blocks; /* in all */
    bool kv_streams;    /* some may be streamed */
    bool recorded;
    uint64_t least_token_ns; /* what an iteration of one token takes at the least, nothing streamed; 0: not known */
    char *piece;             /* (piece_capacity) text of one token */
    size_t piece_capacity;

    struct sequence **running; /* (running_count), in order of admission, those on sufferance last; max_sequences */
    uint32_t running_count;
    uint32_t taken;                      /* out of the queue of those submitted, for the iteration in hand */
    const struct sequence **table_owner; /* (max_sequences) whose addresses the rows of the block table are */
    bool *table_kept;                    /* (max_sequences) by those of this iteration */
    uint32_t lined_up;                   /* iterations after which somebody was in line, by now */
    bool crowded;                        /* KV blocks or places for sequences are short, or soon will be */
    bool stumbled;                       /* tokens of this iteration were late, the first of their sequences to be so */
    bool parks_idle;                     /* blocks that nobody holds do park, ... */
    uint32_t parks;                      /* ... and so many more before the next iteration */
    struct sequence_queue waiting;       /* preempted ones at the front, then by when their first token is due */
    struct sequence_queue behind;        /* whose first token is not promised, or cannot come in time any more */
    uint32_t admissions;                 /* so far, modulo BEHIND_SHARE */
    uint32_t next_blocks;                /* KV blocks that sequences hold, with those that running ones take next */
    uint32_t soon_blocks;     /* KV blocks that sequences hold, or that they and the next in line may soon take */
    uint32_t room_blocks;     /* the same, if every place were taken */
    struct reserve reserve;   /* that tokens are to be ahead */
    double mixed_ratio;       /* iterations of tokens and prompts: measured over recorded, lately */
    uint64_t mixed_ns;        /* the record's for the iteration in hand, if it is one; else 0 */
    double joined_ratio;      /* the same of what deadlines.c makes of the record, */
    double joined_ns;         /* for the iteration in hand, where mixed_ns is not 0 */
    double paced_measured_ns; /* iterations lately, copies not waited for; and what the record says of them */
    double paced_recorded_ns;
    struct iteration_cost cost; /* of the iteration in hand */
    uint64_t forward_ns;        /* when its work was given to the device, */
    uint64_t ended_ns;          /* and when that was done */
    uint64_t blocked_ns;        /* since the last one: waiting for room in the ring of events */
    struct {
        uint64_t tpot_ns;
        uint32_t class_index, tokens;
    } alike;                /* tokens that came as long after the ones before, of one class, not yet counted */
    uint64_t normal_ns[32]; /* what iterations without prompts take, by powers of two of their rows */
    uint32_t prompt_steps;  /* what deadlines_prompt_rows() found last */
    uint32_t prompt_held;   /* iterations for which the prompt that is next has been held back */
    uint32_t since_prompt;  /* iterations without prompts, by now */
    uint32_t event_tail;    /* of the ring: where the next event goes, */
    uint32_t events_staged; /* the last ones before it cannot be polled yet, */
    uint32_t event_room;    /* and so many more may come for tokens, as far as is known */
    struct status fault;    /* of the device: everything fails after it */

    /* ---- under `lock`: the queues between the threads ---- */
    pthread_mutex_t lock;
    pthread_cond_t work; /* something was submitted or cancelled, or the state changed */
    pthread_cond_t room; /* events were polled */
    struct sequence_queue submitted;
    struct slo_classes classes;
    struct admission_state admission; /* but for what it says */
    uint32_t pending;                 /* submitted or waiting: what max_queue bounds */
    struct engine_event *events;      /* (event_capacity) a ring */
    uint32_t event_capacity;          /* last events always find room: one for each request there can be is kept free */
    uint32_t event_reserve;
    uint32_t event_head, event_count; /* those that can be polled */
    uint64_t next_id;
    bool cancelling; /* some request was cancelled since the engine last looked */
    bool draining, stopping, started, ended;
    bool link_changes;       /* before the next iteration, ... */
    double link_bytes_per_s; /* ... to this pace */
    pthread_t thread;
    int wake_fd; /* eventfd: readable when there are events */

    /* ---- under `stats_lock` ---- */
    pthread_mutex_t stats_lock;
    struct engine_stats stats;
    struct late_ring late;
    struct timeline timeline;
    struct class_stats class_stats[SLO_MAX_CLASSES];
};

/* queues.c */
struct status queue_create(struct sequence_queue *queue, uint32_t capacity);
void queue_destroy(struct sequence_queue *queue);
void queue_push_back(struct sequence_queue *queue, struct sequence *sequence);
void queue_push_front(struct sequence_queue *queue, struct sequence *sequence);
struct sequence *queue_pop_front(struct sequence_queue *queue);
struct sequence *queue_at(const struct sequence_queue *queue, uint32_t index);
void queue_insert_at(struct sequence_queue *queue, uint32_t index, struct sequence *sequence);
void queue_remove_at(struct sequence_queue *queue, uint32_t index);

/* Moves what was submitted into line; returns whether a cancellation is to be looked for. */
bool engine_take_submitted(struct engine *engine);
/* Blocks until there is room, or drops a token's event when the engine is stopping; last events never wait. They can be
 * polled by the next engine_flush_events(), or earlier. */
void engine_push_event(struct engine *engine, const struct engine_event *event);
void engine_flush_events(struct engine *engine);

/* compose.c: fills engine->inputs and each running sequence's `scheduled`; returns the number of rows. */
uint32_t compose_iteration(struct engine *engine);
/* Then, once offload_begin() has moved what it moves: where the KV blocks of those sequences are. */
void compose_block_table(struct engine *engine);

/* deadlines.c */
/* When the first token of a waiting sequence is due; UINT64_MAX: no time is promised. */
uint64_t deadlines_first_token(const struct sequence *sequence);
/* Judges the token that was generated last, at `now`: how late it is, 0 if it is in time or no time was promised. */
uint64_t deadlines_judge(struct sequence *sequence, uint64_t now);
/* Can the first token of a waiting sequence not come in time any more, were it alone? */
bool deadlines_lost(const struct engine *engine, const struct sequence *sequence, uint64_t now);
/* How many of `most` prompt tokens may join `decode_rows` scheduled tokens without making one of these late. At least
 * 16, so that prompts move on whatever the load; or none for some iterations, after which 16 make none late. */
uint32_t deadlines_prompt_rows(struct engine *engine, uint32_t decode_rows, uint32_t most, uint64_t now);
/* Before and after an iteration: what those of tokens and prompts take, for deadlines_prompt_rows(). */
void deadlines_expect(struct engine *engine, const struct offload_demand *demand);
void deadlines_learn(struct engine *engine);
/* A token is late whose predecessor was not. */
void deadlines_note_late(struct engine *engine, const struct sequence *sequence, const struct late_run *token);
/* What iterations of all kinds have lately taken of what the record says, for predictions: others may be at work on the
 * device, too, or on the host. */
double deadlines_pace(const struct engine *engine);
/* What the composed iteration asks of the offload engine. */
struct offload_demand deadlines_demand(const struct engine *engine, uint64_t now);

/* admission.c */
struct status admission_create(struct engine *engine);
void admission_destroy(struct engine *engine);
/* The engine's: after an iteration, and in one that has taken submissions once it is composed; when a first token has
 * come, when a sequence has ended. */
void admission_publish(struct engine *engine);
void admission_first_token(struct engine *engine, const struct sequence *sequence, uint64_t now);
void admission_ended(struct engine *engine, const struct sequence *sequence);
/* Nobody waits for what this one computes of its prompt any more: it is computed, or never will be. */
void admission_computed(struct engine *engine, struct sequence *sequence);
/* The submitter's: fills request->admission, class_index and promise; says why it is refused; counts what was decided.
 */
void admission_decide(struct engine *engine, struct request *request);
struct status admission_refusal(struct request *request);
/* What was found out of the prompt, into the sequence that is made of the request that was decided last; and, under
 * the lock, that it is submitted. */
struct status admission_note(struct engine *engine, struct sequence *sequence);
void admission_submitted(struct engine *engine, struct sequence *sequence);
void admission_count(struct engine *engine, const struct request *request);
/* Puts one into line by when it is due; returns where. */
uint32_t admission_insert(struct foreseen *waiting, uint32_t *count, const struct foreseen *each);

/* blocks.c */
/* Takes blocks until `tokens` positions fit; if none is free, from those that nobody holds, then from waiting
 * sequences; false when they have none either (those taken are kept). The sequence is pinned. */
bool grow_blocks(struct engine *engine, struct sequence *sequence, uint32_t tokens);
/* Gives back blocks from `from` on; nothing that is still wanted may be in them. */
void release_blocks(struct engine *engine, struct sequence *sequence, uint32_t from);
/* Brings up to `most` parked blocks of the sequence that is first in line back, as long as there is a place for them.
 */
void fetch_blocks(struct engine *engine, struct sequence *sequence, uint32_t most);
/* Gives up a block for somebody else but `taker`, if need be: as a rule one of the device is then free or held by
 * nobody. False if there is nothing left to give up. */
bool reclaim_block(struct engine *engine, const struct sequence *taker);
/* Parks what the next iteration is likely to take, so that it need not wait for it, and what is in the way of weights
 * without which iterations are late. */
void park_ahead(struct engine *engine);
/* Blocks of the device that are free, or would be given up: by nobody, or by waiting sequences. */
uint32_t available_blocks(const struct engine *engine);
/* Gives up blocks from `from` on, and with them what has been computed of their tokens. */
void drop_blocks(struct engine *engine, struct sequence *sequence, uint32_t from);
/* A sequence that runs holds a block from now on; or no longer. A streamed one is copied while there is one. */
void pin_block(struct engine *engine, uint32_t handle);
void unpin_block(struct engine *engine, uint32_t handle);
/* A sequence runs from now on: what it holds is not parked. Or no longer. */
void pin_blocks(struct engine *engine, struct sequence *sequence);
void unpin_blocks(struct engine *engine, struct sequence *sequence);

/* stream.c: blocks of running sequences that live in host memory */
/* Streams a block of the running sequence that has most to give, if that leaves the next iteration in time. */
bool stream_in_time(struct engine *engine);
/* Streams a block of a sequence that runs alone, or is about to, whatever the time: it is longer than the device has
 * room for. */
bool stream_forced(struct engine *engine, struct sequence *sequence);
/* Brings blocks back where the device has room for all that run to grow, and nobody waits for it. */
void stream_back(struct engine *engine);
/* Blocks that could be had of the device by streaming others, in time. */
uint32_t streamable_blocks(const struct engine *engine);
/* Of what a waiting sequence holds or has found, what would be streamed if it ran, and is not now. */
uint32_t streamed_blocks(const struct engine *engine, const struct sequence *sequence);

/* cache.c: the blocks that sequences share */
/* Looks for blocks that continue those of a waiting sequence: `found` of them. At least one token of what is known is
 * left to be computed, and every row whose logits are asked for. */
void cache_look(struct engine *engine, struct sequence *sequence);
/* Of these and its own, how many are on the device because a running sequence holds them. */
uint32_t cache_pinned(const struct engine *engine, const struct sequence *sequence);
/* Makes those found its own, with `parked` or up to the first that is. */
void cache_take(struct engine *engine, struct sequence *sequence, bool parked);
/* Are all of these on the device? */
bool cache_is_here(const struct engine *engine, const struct sequence *sequence);
/* Will an iteration that is being composed compute a good deal more of what a waiting sequence begins with, for
 * another? Then it is found in the next. */
bool cache_is_coming(const struct engine *engine, const struct sequence *sequence);
/* Brings up to `most` of them back to it, held by nobody as they are; first they become the last to be given up. */
void cache_fetch(struct engine *engine, struct sequence *sequence, uint32_t most);
/* What an iteration has filled of a running sequence's blocks can be found by others from now on; a block that is known
 * already takes the place of the sequence's own. */
void cache_enter(struct engine *engine, struct sequence *sequence);
/* The block of the device that nobody has held for the longest gives its place: it is parked where that pays, there is
 * room, and the link has time for it beside the weights, or else, if `forced`, forgotten. False if none has become
 * free. */
bool cache_reclaim(struct engine *engine, bool forced);
/* Forgets the oldest one that is parked; false if there is none. */
bool cache_reclaim_host(struct engine *engine);

/* account.c */
/* Before the iteration's work is given to the device, and after it has ended: the time of those that run. */
void account_begin(struct engine *engine, const struct offload_demand *demand);
void account_end(struct engine *engine);
/* The whole iteration, which began at `begin_ns`, is over. */
void account_iteration(struct engine *engine, uint64_t begin_ns);
/* A waiting sequence's turn has come; `preempted` still says whether it waited to go on. */
void account_admit(struct engine *engine, struct sequence *sequence);
/* The sequence ends now. */
void account_finish(struct engine *engine, struct sequence *sequence);
/* The token that was generated last came `late_ns` after it was due. */
void account_token(struct engine *engine, struct sequence *sequence, uint64_t late_ns);

/* commit.c */
void commit_iteration(struct engine *engine);
void finish_sequence(struct engine *engine, struct sequence *sequence, enum finish_reason reason,
                     const struct status *status);

#endif
