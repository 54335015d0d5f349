/* parking-bench: what it takes to serve more than the KV cache holds, by whether the KV blocks of preempted sequences
 * park in host memory or are computed again.
 *
 *   build/release/parking-bench MODEL.gguf [HARDWARE.json]
 *
 * The same requests, all at once: time to the last token, preemptions, sequences that went on with nothing lost, tokens
 * computed again, what crossed the link, and how long compute waited for it. On the cpu device, wall time of one run
 * each; or on `sim` with the hardware that the file describes, in its own time, which is the same every time. Beside it
 * the processor's time, which says more on a machine that has other things to do. */
#include "base/log.h"
#include "scheduler/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { REQUESTS = 32, PROMPT = 64, TOKENS = 320, CONTEXT = 512, CACHE = 2048, AT_ONCE = 16, BATCH = 256 };

static void check(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "parking-bench: %s\n", status.message);
        exit(1);
    }
}

static uint32_t count_ended(struct engine *engine) {
    static struct engine_event events[64];
    uint32_t ended = 0, count;
    while ((count = engine_poll(engine, events, 64)) > 0) {
        for (uint32_t i = 0; i < count; i++) {
            ended += events[i].finish != FINISH_NONE;
        }
    }
    return ended;
}

struct work {
    uint32_t prompt[REQUESTS][PROMPT];
    struct request requests[REQUESTS];
};

/* Serves every request and returns the seconds that it took. */
static double serve(struct engine *engine, struct device *device) {
    static struct work work;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        for (uint32_t j = 0; j < PROMPT; j++) {
            work.prompt[i][j] = 100 + (i * 7919 + j * 104729) % 40000;
        }
        work.requests[i] = (struct request){
            .prompt = work.prompt[i],
            .prompt_count = PROMPT,
            .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = TOKENS, .ignore_eos = true}};
        check(engine_submit(engine, &work.requests[i]));
    }
    uint64_t begin = device_now_ns(device);
    bool idle = false;
    for (uint32_t ended = 0; ended < REQUESTS; ended += count_ended(engine)) {
        check(engine_step(engine, &idle));
    }
    return (double)(device_now_ns(device) - begin) / 1e9;
}

static void run(const char *path, const char *hardware, double link_gbps, uint64_t kv_tokens, uint64_t kv_host_memory) {
    struct device_config device_config = {
        .name = hardware ? "sim" : "cpu", .hardware = hardware, .link_bytes_per_s = link_gbps * 1e9};
    struct engine_config config = {.context = CONTEXT,
                                   .max_sequences = AT_ONCE,
                                   .max_queue = REQUESTS,
                                   .max_batch_tokens = BATCH,
                                   .kv_tokens = kv_tokens,
                                   .kv_host_memory = kv_host_memory,
                                   .link_bytes_per_s = (uint64_t)(link_gbps * 1e9),
                                   .offload_policy = "none"};
    struct device *device;
    struct model *model;
    struct engine *engine;
    check(device_open(&device_config, &device));
    check(model_open(path, &model));
    check(engine_create(&config, model, device, &engine));
    clock_t begin = clock();
    double seconds = serve(engine, device), busy = (double)(clock() - begin) / CLOCKS_PER_SEC;
    struct engine_stats stats;
    engine_stats(engine, &stats);
    printf("%6llu tokens %9.2f GB/s   %-9s %8.2f s %8.2f s %8llu %8llu %10llu %9.1f %9.1f %8.1f ms\n",
           (unsigned long long)kv_tokens, link_gbps, kv_host_memory ? "park" : "recompute", seconds, busy,
           (unsigned long long)stats.preemptions, (unsigned long long)stats.resumed,
           (unsigned long long)stats.recomputed_tokens, (double)stats.offload.kv_bytes_out / (1 << 20),
           (double)stats.offload.kv_bytes_in / (1 << 20), (double)stats.offload.total_kv_stall_ns / 1e6);
    fflush(stdout);
    engine_destroy(engine);
    model_close(model);
    device_close(device);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [HARDWARE.json]\n", argv[0]);
        return 2;
    }
    log_set_level(LOG_WARN);
    const char *hardware = argc > 2 ? argv[2] : NULL;
    printf("%d requests of %d + %d tokens, %d at once; 0 GB/s: %s\n", REQUESTS, PROMPT, TOKENS, AT_ONCE,
           hardware ? "as the hardware has it" : "not paced");
    printf("     cache          link   preempted     time  processor  preempted resumed recomputed   out MiB    in MiB "
           "  waited\n");
    run(argv[1], hardware, 0, (uint64_t)AT_ONCE * CONTEXT, 0);
    static const double links[] = {0, 4, 1, 0.25};
    for (uint32_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        run(argv[1], hardware, links[i], CACHE, 0);
        run(argv[1], hardware, links[i], CACHE, (uint64_t)256 << 20);
    }
    return 0;
}
