/* engine-bench: what a user of the engine gets on a device, cpu if none is named: start to ready, prefill, decoding
 * alone, decoding sixteen sequences, resident memory, and heap allocations in the loop. Wall time, best of a few
 * passes.
 *
 *   build/release/engine-bench MODEL.gguf [THREADS [JSON [DEVICE]]]
 *
 * With a third argument the figures are also written to that file as one JSON object. */
#include "base/clock.h"
#include "base/log.h"
#include "scheduler/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFILL = 512, PROMPT = 32, SEQUENCES = 16, TOKENS = 64, PASSES = 3, CONTEXT = 1024 };

/* Counted by the linker's --wrap, so that nothing but this program pays for it. */
static uint64_t allocations;
void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_malloc(size_t bytes) {
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __real_malloc(bytes);
}
void *__wrap_calloc(size_t count, size_t bytes) {
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __real_calloc(count, bytes);
}

static void check(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "engine-bench: %s\n", status.message);
        exit(1);
    }
}

struct bench {
    struct device *device;
    struct model *model;
    struct engine *engine;
    uint32_t prompt[SEQUENCES][PREFILL];
    struct request requests[SEQUENCES];
};

struct pass {
    double seconds;       /* from the first step to the last token */
    double decode_s;      /* of the steps after the last first token */
    uint32_t decoded;     /* tokens in them */
    uint64_t allocations; /* in the steps after the first */
};

static uint32_t drain(struct engine *engine, uint32_t *ended) {
    static struct engine_event events[64];
    uint32_t tokens = 0, count;
    while ((count = engine_poll(engine, events, 64)) > 0) {
        for (uint32_t i = 0; i < count; i++) {
            tokens += events[i].has_token;
            *ended += events[i].finish != FINISH_NONE;
        }
    }
    return tokens;
}

/* `sequences` requests of `prompt` tokens, `tokens` generated for each. */
static struct pass run(struct bench *bench, uint32_t sequences, uint32_t prompt, uint32_t tokens) {
    for (uint32_t i = 0; i < sequences; i++) {
        bench->requests[i] = (struct request){
            .prompt = bench->prompt[i],
            .prompt_count = prompt,
            .arrival_ns = clock_now_ns(),
            .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = tokens, .ignore_eos = true}};
        check(engine_submit(bench->engine, &bench->requests[i]));
    }
    struct pass pass = {0};
    uint64_t begin = clock_now_ns(), decode_begin = 0, before = 0;
    uint32_t seen = 0, ended = 0;
    for (bool idle = false; ended < sequences;) {
        check(engine_step(bench->engine, &idle));
        uint32_t now = drain(bench->engine, &ended);
        seen += now;
        if (decode_begin != 0) {
            pass.decoded += now;
        } else if (seen >= sequences) {
            decode_begin = clock_now_ns();
            before = __atomic_load_n(&allocations, __ATOMIC_RELAXED);
        }
    }
    uint64_t end = clock_now_ns();
    pass.seconds = (double)(end - begin) / 1e9;
    pass.decode_s = (double)(end - decode_begin) / 1e9;
    pass.allocations = __atomic_load_n(&allocations, __ATOMIC_RELAXED) - before;
    return pass;
}

static double resident_mib(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmRSS: %lf", &kib) == 1) {
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return kib / 1024;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [THREADS [JSON [DEVICE]]]\n", argv[0]);
        return 2;
    }
    log_set_level(LOG_WARN);
    static struct bench bench;
    uint64_t begin = clock_now_ns();
    struct device_config device = {.name = argc > 4 ? argv[4] : "cpu",
                                   .threads = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0};
    check(device_open(&device, &bench.device));
    check(model_open(argv[1], &bench.model));
    struct engine_config config = {.context = CONTEXT,
                                   .max_sequences = SEQUENCES,
                                   .max_queue = SEQUENCES,
                                   .max_batch_tokens = PREFILL,
                                   .kv_tokens = (uint64_t)SEQUENCES * CONTEXT,
                                   .offload_policy = "none"};
    check(engine_create(&config, bench.model, bench.device, &bench.engine));
    double ready_s = (double)(clock_now_ns() - begin) / 1e9;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        for (uint32_t j = 0; j < PREFILL; j++) {
            bench.prompt[i][j] = 100 + (i * 7919 + j * 104729) % 40000;
        }
    }
    double prefill = 0, alone = 0, together = 0;
    uint64_t counted = 0;
    for (int i = 0; i < PASSES; i++) {
        double rate = PREFILL / run(&bench, 1, PREFILL, 1).seconds;
        prefill = rate > prefill ? rate : prefill;
        struct pass pass = run(&bench, 1, PROMPT, TOKENS);
        rate = pass.decoded / pass.decode_s;
        alone = rate > alone ? rate : alone;
        counted = pass.allocations;
        pass = run(&bench, SEQUENCES, PROMPT, TOKENS);
        rate = pass.decoded / pass.decode_s;
        together = rate > together ? rate : together;
        counted += pass.allocations;
    }
    double rss = resident_mib();
    printf("start to ready         %8.3f s\n", ready_s);
    printf("prefill, %d tokens    %8.1f tok/s\n", PREFILL, prefill);
    printf("decode, alone          %8.1f tok/s\n", alone);
    printf("decode, %d sequences   %8.1f tok/s\n", SEQUENCES, together);
    printf("resident memory        %8.1f MiB\n", rss);
    printf("allocations in decode  %8llu\n", (unsigned long long)counted);
    if (argc > 3) {
        FILE *file = fopen(argv[3], "w");
        if (!file) {
            fprintf(stderr, "engine-bench: cannot write %s: %m\n", argv[3]);
            return 1;
        }
        fprintf(file,
                "{\"ready_s\": %.4f, \"prefill_tok_s\": %.1f, \"alone_tok_s\": %.1f, \"together_tok_s\": %.1f, "
                "\"resident_mib\": %.1f, \"allocations\": %llu}\n",
                ready_s, prefill, alone, together, rss, (unsigned long long)counted);
        fclose(file);
    }
    engine_destroy(bench.engine);
    model_close(bench.model);
    device_close(bench.device);
    return 0;
}
