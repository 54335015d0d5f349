/* prefix-bench: what the prefix cache costs and what it saves.
 *
 *   build/release/prefix-bench MODEL.gguf
 *
 * First the index alone: a block entered, found, held and let go of, and forgotten, in chains of 512 with room for
 * 65536. Then the whole engine on the cpu device, request after request: the time to the first token and the
 * processor's time for a request without the cache, with nothing to find in it, with a beginning that is on the device,
 * and with one that is parked in host memory. Medians of rounds in turn. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "kernels/ops.h"
#include "scheduler/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HANDLES = 65536, CHAIN = 512, CHAINS = HANDLES / CHAIN };
enum { SHARED = 1024, OWN = 32, TOKENS = 16, CONTEXT = 2048, CHATS = 4, ROUNDS = 12 };

static void check(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "prefix-bench: %s\n", status.message);
        exit(1);
    }
}

/* ---- the index ---- */

static uint32_t chains[CHAINS][CHAIN * KV_BLOCK_TOKENS], handles[CHAINS][CHAIN];

/* Looks for a chain and returns how many of its blocks there are. */
static uint32_t look(struct prefix *prefix, uint32_t chain) {
    static const struct cache_salt none = {0};
    uint32_t parent = PREFIX_NOBODY, found = 0;
    while (found < CHAIN) {
        parent = prefix_find(prefix, parent, &none, chains[chain] + (size_t)found * KV_BLOCK_TOKENS);
        if (parent == PREFIX_NOBODY) {
            break;
        }
        handles[chain][found++] = parent;
    }
    return found;
}

static void say(const char *what, uint64_t begin_ns) {
    printf("%-34s %7.1f ns a block\n", what, (double)(clock_now_ns() - begin_ns) / HANDLES);
}

static void time_index(void) {
    static const struct cache_salt none = {0};
    struct prefix *prefix;
    check(prefix_create(HANDLES, &prefix));
    for (uint32_t i = 0; i < CHAINS; i++) {
        for (uint32_t j = 0; j < CHAIN * KV_BLOCK_TOKENS; j++) {
            chains[i][j] = (uint32_t)(random_hash(i, j) % 50000);
        }
    }
    uint64_t begin_ns = clock_now_ns();
    for (uint32_t i = 0; i < CHAINS; i++) {
        for (uint32_t j = 0, parent = PREFIX_NOBODY; j < CHAIN; j++) {
            uint32_t handle = i * CHAIN + j;
            prefix_hold(prefix, handle);
            prefix_enter(prefix, handle, parent, &none, chains[i] + (size_t)j * KV_BLOCK_TOKENS);
            parent = handle;
        }
    }
    say("taken and entered", begin_ns);
    begin_ns = clock_now_ns();
    uint32_t found = 0;
    for (uint32_t i = 0; i < CHAINS; i++) {
        found += look(prefix, i);
    }
    CHECK(found == HANDLES);
    say("found", begin_ns);
    begin_ns = clock_now_ns();
    for (uint32_t i = 0; i < CHAINS; i++) {
        for (uint32_t j = CHAIN; j > 0; j--) {
            prefix_let_go(prefix, handles[i][j - 1]);
        }
    }
    say("let go of", begin_ns);
    begin_ns = clock_now_ns();
    for (uint32_t i = 0; i < CHAINS; i++) {
        for (uint32_t j = 0, count = look(prefix, i); j < count; j++) {
            prefix_hold(prefix, handles[i][j]);
        }
    }
    say("found and held again", begin_ns);
    for (uint32_t i = 0; i < HANDLES; i++) {
        prefix_let_go(prefix, HANDLES - 1 - i);
    }
    begin_ns = clock_now_ns();
    for (uint32_t i = 0; i < HANDLES; i++) {
        prefix_forget(prefix, prefix_oldest(prefix, PREFIX_DEVICE));
    }
    say("forgotten", begin_ns);
    prefix_destroy(prefix);
}

/* ---- the engine ---- */

struct served {
    double ttft_ms, busy_ms;
    uint32_t cached;
};

static struct served serve(struct engine *engine, uint32_t chat, uint32_t round) {
    static uint32_t prompt[SHARED + OWN];
    for (uint32_t i = 0; i < SHARED + OWN; i++) {
        prompt[i] = (uint32_t)(random_hash(i < SHARED ? chat : (UINT64_C(1) << 32) + round, i) % 40000);
    }
    struct request request = {
        .prompt = prompt,
        .prompt_count = SHARED + OWN,
        .arrival_ns = clock_now_ns(),
        .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = TOKENS, .ignore_eos = true}};
    struct served served = {0};
    clock_t busy = clock();
    check(engine_submit(engine, &request));
    for (bool ended = false, idle; !ended;) {
        static struct engine_event events[64];
        check(engine_step(engine, &idle));
        for (uint32_t i = 0, count = engine_poll(engine, events, 64); i < count; i++) {
            if (events[i].has_token && served.ttft_ms == 0) {
                served.ttft_ms = (double)(clock_now_ns() - request.arrival_ns) / 1e6;
            }
            ended = events[i].finish != FINISH_NONE;
            served.cached = events[i].cached_tokens;
        }
    }
    served.busy_ms = (double)(clock() - busy) * 1e3 / CLOCKS_PER_SEC;
    return served;
}

struct rig {
    const char *what;
    bool cache, new_chats;
    uint64_t kv_tokens; /* 0: all chats have room */
    struct device *device;
    struct model *model;
    struct engine *engine;
    struct served served[ROUNDS];
};

static int by_ttft(const void *a, const void *b) {
    const struct served *one = a, *other = b;
    return one->ttft_ms < other->ttft_ms ? -1 : one->ttft_ms > other->ttft_ms;
}

static int by_busy(const void *a, const void *b) {
    const struct served *one = a, *other = b;
    return one->busy_ms < other->busy_ms ? -1 : one->busy_ms > other->busy_ms;
}

static void time_engine(const char *path) {
    const uint64_t all = CHATS * (SHARED + OWN + TOKENS + KV_BLOCK_TOKENS) + CONTEXT;
    static struct rig rigs[] = {{.what = "no cache"},
                                {.what = "nothing to find", .cache = true, .new_chats = true},
                                {.what = "on the device", .cache = true},
                                {.what = "parked", .cache = true, .kv_tokens = CONTEXT}};
    enum { RIGS = sizeof rigs / sizeof rigs[0] };
    for (uint32_t i = 0; i < RIGS; i++) {
        struct rig *rig = &rigs[i];
        struct device_config device_config = {.name = "cpu"};
        struct engine_config config = {.context = CONTEXT,
                                       .max_sequences = 4,
                                       .max_queue = 4,
                                       .max_batch_tokens = 256,
                                       .kv_tokens = rig->kv_tokens ? rig->kv_tokens : all,
                                       .kv_host_memory = rig->kv_tokens ? (uint64_t)256 << 20 : 0,
                                       .prefix_cache = rig->cache,
                                       .offload_policy = "none"};
        check(device_open(&device_config, &rig->device));
        check(model_open(path, &rig->model));
        check(engine_create(&config, rig->model, rig->device, &rig->engine));
        for (uint32_t chat = 0; chat < CHATS; chat++) {
            serve(rig->engine, chat, 1000 + chat);
        }
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < RIGS; i++) {
            rigs[i].served[round] = serve(rigs[i].engine, rigs[i].new_chats ? 100 + round : round % CHATS, round);
        }
    }
    printf("\nprompts of %d tokens, %d of them known, %d generated; medians of %d\n", SHARED + OWN, SHARED, TOKENS,
           ROUNDS);
    printf("%-18s %10s %14s %8s %10s\n", "", "TTFT", "processor", "cached", "from host");
    for (uint32_t i = 0; i < RIGS; i++) {
        struct rig *rig = &rigs[i];
        struct engine_stats stats;
        engine_stats(rig->engine, &stats);
        uint64_t cached = 0;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            cached += rig->served[round].cached;
        }
        qsort(rig->served, ROUNDS, sizeof rig->served[0], by_ttft);
        double ttft_ms = rig->served[ROUNDS / 2].ttft_ms;
        qsort(rig->served, ROUNDS, sizeof rig->served[0], by_busy);
        printf("%-18s %7.1f ms %11.1f ms %6.1f %% %6.1f MiB\n", rig->what, ttft_ms, rig->served[ROUNDS / 2].busy_ms,
               100.0 * (double)cached / ROUNDS / (SHARED + OWN), (double)stats.offload.kv_bytes_in / (1 << 20));
        engine_destroy(rig->engine);
        model_close(rig->model);
        device_close(rig->device);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 2;
    }
    log_set_level(LOG_WARN);
    time_index();
    time_engine(argv[1]);
    return 0;
}
