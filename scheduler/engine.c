/* The engine's life and its loop. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "scheduler/engine_internal.h"
#include "scheduler/profile.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DEFAULT_KV_BYTES ((uint64_t)1 << 29) /* without device_memory or kv_tokens; one context at least */
#define EVENT_ROOM 1024

/* Blocks that nobody holds park in a pool of at least one part in so many of the KV cache: in a smaller one they would
 * give way again before anybody asked for them, who did not ask in all the time that they were on the device. */
#define POOL_SHARE 8

const char *finish_reason_name(enum finish_reason reason) {
    switch (reason) {
    case FINISH_NONE:
        return "none";
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_CANCELLED:
        return "abort";
    case FINISH_ERROR:
        return "error";
    }
    return "unknown";
}

/* ---- set-up ---- */

static struct status resolve_config(struct engine *engine) {
    struct engine_config *config = &engine->config;
    const struct model_shape *shape = model_shape(engine->model);
    if (config->context == 0) {
        config->context = shape->context;
    }
    if (config->context > shape->context) {
        return status_error(STATUS_INVALID, "context %u is more than the %u tokens that the model was trained for",
                            config->context, shape->context);
    }
    CHECK(config->max_sequences > 0 && config->max_queue > 0 && config->max_batch_tokens > 0);
    if (config->max_batch_tokens < config->max_sequences) {
        return status_error(STATUS_INVALID,
                            "max_batch_tokens %u is less than max_sequences %u: a decoding sequence "
                            "takes a row each; raise the one or lower the other",
                            config->max_batch_tokens, config->max_sequences);
    }
    if (config->prefill_chunk == 0 || config->prefill_chunk > config->max_batch_tokens) {
        config->prefill_chunk = config->max_batch_tokens;
    }
    engine->vocabulary = shape->vocabulary;
    engine->limits = (struct forward_limits){.rows = config->max_batch_tokens,
                                             .logit_rows = config->max_sequences,
                                             .sequences = config->max_sequences,
                                             .context = config->context};
    return STATUS_SUCCESS;
}

static uint64_t context_blocks(const struct engine *engine) {
    return ((uint64_t)engine->config.context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

/* How many KV blocks sequences can hold together: running and preempted ones are no more than may run, for a new one is
 * admitted after all that were preempted. */
static uint32_t most_blocks(const struct engine *engine) {
    uint64_t most = context_blocks(engine) * engine->config.max_sequences;
    return most < UINT32_MAX / 2 ? (uint32_t)most : UINT32_MAX / 2;
}

/* How many KV blocks to ask of the arena: at least one whole context, so that a sequence alone can always end. */
static struct status wanted_blocks(const struct engine *engine, size_t block_bytes, uint32_t *blocks) {
    const struct engine_config *config = &engine->config;
    uint64_t least = context_blocks(engine), wanted = least;
    if (config->kv_tokens > 0) {
        wanted = (config->kv_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
        if (wanted < least) {
            return status_error(STATUS_INVALID,
                                "kv_tokens %llu cannot hold one context of %u tokens; raise it or lower context",
                                (unsigned long long)config->kv_tokens, config->context);
        }
    } else if (config->device_memory == 0) {
        uint64_t most = most_blocks(engine), fits = DEFAULT_KV_BYTES / block_bytes;
        wanted = fits < most ? fits : most;
        wanted = wanted < least ? least : wanted;
    }
    if (wanted > UINT32_MAX / 2) {
        return status_error(STATUS_INVALID, "%llu KV blocks are more than can be counted; lower kv_tokens",
                            (unsigned long long)wanted);
    }
    *blocks = (uint32_t)wanted;
    return STATUS_SUCCESS;
}

/* Blocks that one sequence writes in an iteration, and those that measuring takes. */
static uint32_t hot_blocks(const struct engine *engine) {
    return (PROFILE_SHORTEST + engine->config.max_batch_tokens) / KV_BLOCK_TOKENS + 2;
}

/* A copy of less takes as long to start and to wait for as to make, on links of today: some 10 us at 25 to 60 GB/s. */
#define LEAST_SLAB_BYTES (UINT64_C(512) << 10)

/* How many slabs to cut a layer into: as fine as makes weights no more than 2 % larger and slabs no smaller than is
 * worth a copy, and none where whole layers are what a policy moves. A matmul takes at most MATMUL_MAX_PARTS pieces of
 * three matrices. */
static uint32_t choose_slabs(const struct engine *engine) {
    const struct engine_config *config = &engine->config;
    if (config->offload_slabs > 0) {
        return config->offload_slabs;
    }
    const struct policy *policy;
    struct status found = policy_find(config->offload_policy, &policy);
    if (status_failed(&found) || !policy->moves_parts) { /* whom nobody knows offload_create() refuses */
        return 1;
    }
    size_t whole = model_slab_bytes(engine->model, engine->device, 1);
    uint32_t slabs = MATMUL_MAX_PARTS / 3;
    for (; slabs > 1; slabs /= 2) {
        const size_t bytes = model_slab_bytes(engine->model, engine->device, slabs);
        if (bytes >= LEAST_SLAB_BYTES && slabs * bytes <= whole + whole / 50) {
            break;
        }
    }
    return slabs;
}

static struct status create_offload(struct engine *engine) {
    struct kv_shape kv = model_kv_shape(engine->model, engine->config.kv_type);
    uint32_t slabs = choose_slabs(engine);
    struct offload_config config = {.policy = engine->config.offload_policy,
                                    .options = engine->config.offload_options,
                                    .layers = model_shape(engine->model)->layers,
                                    .slabs = slabs,
                                    .slab_bytes = model_slab_bytes(engine->model, engine->device, slabs),
                                    .kv_block_bytes = kv_block_bytes(&kv),
                                    .host_memory = engine->config.host_memory,
                                    .kv_host_memory = engine->config.kv_host_memory,
                                    .kv_stream_memory = engine->config.kv_stream_memory,
                                    .bus = engine->config.offload_bus,
                                    .link_bytes_per_s = engine->config.link_bytes_per_s,
                                    .tpot_ns = engine->config.promise.tpot_ns};
    TRY(wanted_blocks(engine, config.kv_block_bytes, &config.kv_blocks_wanted));
    config.kv_blocks_hot = hot_blocks(engine);
    config.kv_blocks_most = most_blocks(engine);
    if (engine->config.device_memory > 0) {
        uint64_t globals = model_global_bytes(engine->model, engine->device);
        uint64_t workspace = forward_device_bytes(engine->model, &engine->limits);
        char has[16], needs[16], weights[16];
        if (globals + workspace >= engine->config.device_memory) {
            return status_error(STATUS_NO_MEMORY,
                                "device_memory is %s; the embedding and head take %s and the workspace %s before the "
                                "first layer. Raise device_memory, or lower max_batch_tokens or max_sequences",
                                bytes_format(engine->config.device_memory, has, sizeof has),
                                bytes_format(globals, weights, sizeof weights),
                                bytes_format(workspace, needs, sizeof needs));
        }
        config.device_memory = engine->config.device_memory - globals - workspace;
    }
    TRY(offload_create(engine->device, &config, &engine->offload));
    const struct offload_report report = offload_report(engine->offload);
    engine->kv_blocks = report.kv_blocks;
    engine->kv_streams = report.kv_stream_blocks > 0;
    engine->parks_idle = (uint64_t)report.kv_host_blocks * POOL_SHARE >= report.kv_blocks;
    return STATUS_SUCCESS;
}

static struct status create_piece(struct engine *engine) {
    engine->piece_capacity = engine->tokenizer ? detokenizer_bound(engine->tokenizer) : 1;
    engine->piece = malloc(engine->piece_capacity);
    return engine->piece ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for the text of a token");
}

static struct status create_queues(struct engine *engine) {
    const struct engine_config *config = &engine->config;
    uint32_t requests = config->max_queue + config->max_sequences; /* there can be at once, preempted ones included */
    engine->event_reserve = requests;
    engine->event_capacity = EVENT_ROOM + requests;
    engine->events = calloc(engine->event_capacity, sizeof *engine->events);
    engine->running = calloc(config->max_sequences, sizeof(struct sequence *));
    engine->table_owner = calloc(config->max_sequences, sizeof *engine->table_owner);
    engine->table_kept = calloc(config->max_sequences, sizeof *engine->table_kept);
    if (!engine->events || !engine->running || !engine->table_owner || !engine->table_kept) {
        return status_error(STATUS_NO_MEMORY, "no memory for the engine's queues");
    }
    TRY(timeline_create(config->timeline_spans, &engine->timeline));
    TRY(admission_create(engine));
    TRY(queue_create(&engine->submitted, config->max_queue));
    TRY(queue_create(&engine->waiting, requests));
    return queue_create(&engine->behind, requests);
}

static void init_stats(struct engine *engine) {
    static const double ttft[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                                  0.75,  1,     2.5,  5,    7.5,  10,   20,   40,  80,   160};
    static const double tpot[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
                                  0.2,   0.3,    0.4,   0.5,  0.75,  1,    2.5,   5,   10};
    static const double whole[] = {0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480};
    static const double ratio[] = {0.25, 0.5, 0.75, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 4, 8};
    static const double tokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    histogram_init(&engine->stats.ttft_s, ttft, sizeof ttft / sizeof ttft[0]);
    histogram_init(&engine->stats.queue_s, ttft, sizeof ttft / sizeof ttft[0]);
    histogram_init(&engine->stats.tpot_s, tpot, sizeof tpot / sizeof tpot[0]);
    histogram_init(&engine->stats.e2e_s, whole, sizeof whole / sizeof whole[0]);
    for (uint32_t i = 0; i < SLO_MAX_CLASSES; i++) {
        struct class_stats *own = &engine->class_stats[i];
        histogram_init(&own->ttft_s, ttft, sizeof ttft / sizeof ttft[0]);
        histogram_init(&own->queue_s, ttft, sizeof ttft / sizeof ttft[0]);
        histogram_init(&own->refused_ttft_s, ttft, sizeof ttft / sizeof ttft[0]);
        histogram_init(&own->ttft_ratio, ratio, sizeof ratio / sizeof ratio[0]);
        histogram_init(&own->tpot_s, tpot, sizeof tpot / sizeof tpot[0]);
    }
    histogram_init(&engine->stats.iteration_tokens, tokens, sizeof tokens / sizeof tokens[0]);
    engine->stats.context = engine->config.context;
    engine->stats.max_sequences = engine->config.max_sequences;
}

/* What came of an iteration: the numbers, and its last events after them, so that who has the last token finds both. */
static void publish(struct engine *engine, uint64_t iteration_ns) {
    struct offload_report report = offload_report(engine->offload);
    pthread_mutex_lock(&engine->stats_lock);
    engine->stats.running = engine->running_count;
    engine->stats.waiting = engine->waiting.count + engine->behind.count;
    engine->stats.offload = report;
    engine->stats.kv_blocks = report.kv_blocks;
    engine->stats.prefix_idle = prefix_idle(engine->prefix, PREFIX_DEVICE);
    engine->stats.prefix_parked = prefix_idle(engine->prefix, PREFIX_HOST);
    engine->stats.kv_blocks_free = report.kv_blocks_free + engine->stats.prefix_idle;
    engine->stats.iteration_ns = iteration_ns;
    engine->stats.sampling_rounds = forward_sampling_rounds(engine->forward);
    pthread_mutex_unlock(&engine->stats_lock);
    engine_flush_events(engine);
    admission_publish(engine);
}

/* Can the promise be kept at all: one sequence decoding, with what has to leave the device streamed? Baselines that
 * know no deadlines are not held to it, but it is said. */
static struct status check_promise(const struct engine *engine, const struct slo_classes *classes) {
    struct plan_prediction prediction = offload_predict(engine->offload, 1, 64);
    for (uint32_t i = 0; i < classes->count; i++) {
        const struct slo_class *each = &classes->items[i];
        const uint64_t tpot_ns = each->promise.tpot_ns;
        if (!each->offered || tpot_ns == 0 || prediction.iteration_ns <= tpot_ns) {
            continue;
        }
        bool named = i > 0;
        return status_error(
            STATUS_INVALID,
            "slo.%s%s%stpot_ms is %.2f and one token takes %.2f ms here, %.2f of them waiting for weights from "
            "host memory: %.2f ms short. Raise it, device_memory or link_gbps",
            named ? "classes." : "", named ? each->name : "", named ? "." : "", (double)tpot_ns / 1e6,
            (double)prediction.iteration_ns / 1e6, (double)prediction.stall_ns / 1e6,
            (double)(prediction.iteration_ns - tpot_ns) / 1e6);
    }
    return STATUS_SUCCESS;
}

/* Does anything depend on what iterations take? What may be offloaded, and what is promised. */
static bool wants_record(const struct engine *engine) {
    bool promised = false;
    for (uint32_t i = 0; i < engine->classes.count; i++) {
        const struct promise *promise = &engine->classes.items[i].promise;
        promised = promised || promise->ttft_ns > 0 || promise->tpot_ns > 0;
    }
    return promised || offload_wants_record(engine->offload);
}

static struct status prepare(struct engine *engine) {
    TRY(resolve_config(engine));
    TRY(model_split(engine->model, device_info(engine->device).ranks));
    TRY(create_offload(engine));
    TRY(prefix_create(offload_kv_handles(engine->offload), &engine->prefix));
    TRY(model_load(engine->model, engine->device, engine->offload));
    TRY(forward_create(engine->model, engine->device, engine->offload, &engine->limits, engine->config.kv_type,
                       &engine->forward));
    engine->inputs = forward_inputs(engine->forward);
    if (wants_record(engine)) {
        if (engine->config.record) {
            engine->record = *engine->config.record;
        } else {
            TRY(profile_measure(engine->forward, engine->offload, &engine->limits, &engine->record));
        }
        engine->recorded = true;
        uint64_t deadline_ns = engine->config.promise.tpot_ns > 0 ? engine->config.promise.tpot_ns : UINT64_MAX;
        TRY(offload_set_record(engine->offload, &engine->record, deadline_ns));
        engine->least_token_ns = offload_least_ns(engine->offload, 1, 64);
        TRY(check_promise(engine, &engine->classes));
    }
    TRY(create_piece(engine));
    TRY(create_queues(engine));
    init_stats(engine);
    engine->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return engine->wake_fd < 0 ? status_error(STATUS_IO, "eventfd for the engine's events: %m") : STATUS_SUCCESS;
}

struct status engine_create(const struct engine_config *config, struct model *model, struct device *device,
                            struct engine **out) {
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) {
        return status_error(STATUS_NO_MEMORY, "no memory for the engine");
    }
    engine->config = *config;
    engine->classes = config->classes ? *config->classes : slo_classes_of(config->promise);
    engine->config.promise = engine->classes.items[engine->classes.fallback].promise;
    engine->model = model;
    engine->tokenizer = model_tokenizer(model);
    engine->device = device;
    engine->wake_fd = -1;
    engine->next_id = 1;
    engine->mixed_ratio = engine->joined_ratio = 1;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_mutex_init(&engine->stats_lock, NULL);
    pthread_cond_init(&engine->work, NULL);
    pthread_cond_init(&engine->room, NULL);
    struct status status = prepare(engine);
    if (status_failed(&status)) {
        engine_destroy(engine);
        return status;
    }
    publish(engine, 0);
    *out = engine;
    return STATUS_SUCCESS;
}

const struct record *engine_record(const struct engine *engine) {
    return engine->recorded && offload_wants_record(engine->offload) ? &engine->record : NULL;
}

/* ---- the loop ---- */

static void fail_everything(struct engine *engine, enum finish_reason reason, const struct status *status) {
    engine_take_submitted(engine);
    while (engine->running_count > 0) {
        finish_sequence(engine, engine->running[--engine->running_count], reason, status);
    }
    uint32_t waited = engine->waiting.count + engine->behind.count;
    while (engine->waiting.count > 0) {
        finish_sequence(engine, queue_pop_front(&engine->waiting), reason, status);
    }
    while (engine->behind.count > 0) {
        finish_sequence(engine, queue_pop_front(&engine->behind), reason, status);
    }
    pthread_mutex_lock(&engine->lock);
    engine->pending -= waited;
    pthread_mutex_unlock(&engine->lock);
}

static bool is_cancelled(const struct sequence *sequence) {
    return __atomic_load_n(&sequence->request->cancelled, __ATOMIC_ACQUIRE) != 0;
}

/* Ends those in a queue that were cancelled; returns how many. */
static uint32_t end_cancelled_in(struct engine *engine, struct sequence_queue *queue) {
    uint32_t removed = 0;
    for (uint32_t i = 0; i < queue->count;) {
        struct sequence *sequence = queue_at(queue, i);
        if (is_cancelled(sequence)) {
            queue_remove_at(queue, i);
            finish_sequence(engine, sequence, FINISH_CANCELLED, NULL);
            removed++;
        } else {
            i++;
        }
    }
    return removed;
}

static void end_cancelled(struct engine *engine) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < engine->running_count; i++) {
        if (is_cancelled(engine->running[i])) {
            finish_sequence(engine, engine->running[i], FINISH_CANCELLED, NULL);
        } else {
            engine->running[kept++] = engine->running[i];
        }
    }
    engine->running_count = kept;
    uint32_t removed = end_cancelled_in(engine, &engine->waiting) + end_cancelled_in(engine, &engine->behind);
    pthread_mutex_lock(&engine->lock);
    engine->pending -= removed;
    pthread_mutex_unlock(&engine->lock);
}

void engine_set_link(struct engine *engine, double link_bytes_per_s) {
    pthread_mutex_lock(&engine->lock);
    engine->link_bytes_per_s = link_bytes_per_s;
    engine->link_changes = true;
    pthread_mutex_unlock(&engine->lock);
}

static void follow_link(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool changes = engine->link_changes;
    double link_bytes_per_s = engine->link_bytes_per_s;
    engine->link_changes = false;
    pthread_mutex_unlock(&engine->lock);
    if (changes) {
        device_set_link(engine->device, link_bytes_per_s);
    }
}

struct status engine_step(struct engine *engine, bool *idle) {
    if (engine->fault.code != STATUS_OK) {
        *idle = true;
        return engine->fault;
    }
    follow_link(engine);
    uint64_t begin = device_now_ns(engine->device);
    if (engine_take_submitted(engine)) {
        end_cancelled(engine);
    }
    *idle = engine->running_count == 0 && engine->waiting.count == 0 && engine->behind.count == 0;
    if (*idle) {
        publish(engine, 0);
        return STATUS_SUCCESS;
    }
    if (compose_iteration(engine) > 0) {
        if (engine->taken > 0) { /* nobody else knows of them, and the iteration may be long */
            admission_publish(engine);
        }
        struct offload_demand demand = deadlines_demand(engine, begin);
        offload_begin(engine->offload, forward_stream(engine->forward), &demand);
        compose_block_table(engine);
        account_begin(engine, &demand);
        deadlines_expect(engine, &demand);
        forward_run(engine->forward, NULL);
        engine->fault = forward_wait(engine->forward);
        if (engine->fault.code != STATUS_OK) {
            log_error("the device failed, every request in flight ends with it: %s", engine->fault.message);
            fail_everything(engine, FINISH_ERROR, &engine->fault);
            publish(engine, 0);
            return engine->fault;
        }
        account_end(engine);
        commit_iteration(engine);
        offload_end(engine->offload, device_now_ns(engine->device) - begin);
        account_iteration(engine, begin);
        deadlines_learn(engine);
    }
    publish(engine, device_now_ns(engine->device) - begin);
    return STATUS_SUCCESS;
}

/* Waits for something to do; false when the thread has to end. */
static bool wait_for_work(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    while (engine->submitted.count == 0 && !engine->cancelling && !engine->stopping && !engine->draining) {
        pthread_cond_wait(&engine->work, &engine->lock);
    }
    bool goes_on = !engine->stopping && (engine->submitted.count > 0 || !engine->draining);
    pthread_mutex_unlock(&engine->lock);
    return goes_on;
}

static bool is_stopping(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    bool stopping = engine->stopping;
    pthread_mutex_unlock(&engine->lock);
    return stopping;
}

static void *engine_main(void *argument) {
    struct engine *engine = argument;
    bool goes_on = true;
    while (goes_on && !is_stopping(engine)) {
        bool idle = false;
        struct status status = engine_step(engine, &idle);
        if (status_failed(&status)) {
            break;
        }
        if (idle) {
            goes_on = wait_for_work(engine);
        }
    }
    pthread_mutex_lock(&engine->lock);
    engine->ended = true; /* no submission after this: what came before it is ended below */
    pthread_mutex_unlock(&engine->lock);
    if (engine->fault.code != STATUS_OK) {
        fail_everything(engine, FINISH_ERROR, &engine->fault);
    } else {
        fail_everything(engine, FINISH_CANCELLED, NULL);
    }
    publish(engine, 0);
    return NULL;
}

struct status engine_start(struct engine *engine) {
    CHECK(!engine->started);
    engine->started = true;
    int error = pthread_create(&engine->thread, NULL, engine_main, engine);
    if (error != 0) {
        engine->started = false;
        return status_error(STATUS_IO, "cannot start the engine's thread: error %d", error);
    }
    return STATUS_SUCCESS;
}

void engine_drain(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->draining = true;
    pthread_cond_signal(&engine->work);
    pthread_mutex_unlock(&engine->lock);
}

void engine_stop(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->stopping = true;
    pthread_cond_signal(&engine->work);
    pthread_cond_signal(&engine->room);
    bool started = engine->started;
    pthread_mutex_unlock(&engine->lock);
    if (started) {
        pthread_join(engine->thread, NULL);
        engine->started = false;
    } else if (!engine->ended && engine->events) {
        engine->ended = true;
        fail_everything(engine, FINISH_CANCELLED, NULL);
        publish(engine, 0);
    }
}

void engine_destroy(struct engine *engine) {
    if (!engine) {
        return;
    }
    engine_stop(engine);
    forward_destroy(engine->forward);
    model_unload(engine->model);
    offload_destroy(engine->offload);
    prefix_destroy(engine->prefix);
    timeline_destroy(&engine->timeline);
    admission_destroy(engine);
    queue_destroy(&engine->submitted);
    queue_destroy(&engine->waiting);
    queue_destroy(&engine->behind);
    free(engine->events);
    free(engine->running);
    free(engine->table_owner);
    free(engine->table_kept);
    free(engine->piece);
    if (engine->wake_fd >= 0) {
        close(engine->wake_fd);
    }
    pthread_mutex_destroy(&engine->lock);
    pthread_mutex_destroy(&engine->stats_lock);
    pthread_cond_destroy(&engine->work);
    pthread_cond_destroy(&engine->room);
    free(engine);
}

/* ---- numbers ---- */

void engine_stats(const struct engine *engine, struct engine_stats *out) {
    struct engine *own = (struct engine *)engine; /* the locks are the only thing written */
    pthread_mutex_lock(&own->stats_lock);
    *out = own->stats;
    for (uint32_t i = 0; i < SLO_MAX_CLASSES; i++) {
        out->promised += own->class_stats[i].promised;
        out->kept += own->class_stats[i].kept;
        out->late_first += own->class_stats[i].late_first;
        out->late_later += own->class_stats[i].late_later;
    }
    pthread_mutex_unlock(&own->stats_lock);
    pthread_mutex_lock(&own->lock);
    out->waiting = own->pending;
    pthread_mutex_unlock(&own->lock);
    out->link = device_link_count(own->device);
}

void engine_class_stats(const struct engine *engine, uint32_t class_index, struct class_stats *out) {
    struct engine *own = (struct engine *)engine;
    CHECK(class_index < SLO_MAX_CLASSES);
    pthread_mutex_lock(&own->stats_lock);
    *out = own->class_stats[class_index];
    pthread_mutex_unlock(&own->stats_lock);
}
