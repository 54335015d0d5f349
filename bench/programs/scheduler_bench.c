/* scheduler-bench: the processor's time that an iteration takes on the host, beside the device's work.
 *
 *   build/release/scheduler-bench [SEQUENCES [LOAD]]
 *
 * A described model on a described device (`sim`), so that there is nothing to compute; what `sim` itself takes to
 * enqueue and to wait (forward_run(), forward_wait()) is left out, and what the placement of weights takes
 * (offload_begin(), offload_end()) stands beside the rest: composing, deadlines, KV blocks, drawing, events, numbers.
 * What a submission takes, on the submitter's thread, stands beside that. Time of this thread alone, so that a machine
 * with other things to do tells nearly the same. */
#include "base/log.h"
#include "models/description.h"
#include "scheduler/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PROMPT = 512,
    STEPS = 400,
    SETTLED = 200,
    TURNED_OVER = 1500,
    MOST_SEQUENCES = 1024,
    MOST_WAITING = 1024,
    CONTEXT = 8192,
    VOCABULARY = 128000
};

static uint64_t own_time_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* ---- what is left out, by the linker's --wrap ---- */

static uint64_t device_ns, placement_ns;

struct forward;
struct offload;
struct stream;
struct offload_demand;
struct kv_batch;
void __real_forward_run(struct forward *forward, const bool *logits_wanted);
struct status __real_forward_wait(struct forward *forward);
void __real_offload_begin(struct offload *offload, struct stream *compute, const struct offload_demand *demand);
void __real_offload_end(struct offload *offload, uint64_t iteration_ns);
void __wrap_forward_run(struct forward *forward, const bool *logits_wanted);
struct status __wrap_forward_wait(struct forward *forward);
void __wrap_offload_begin(struct offload *offload, struct stream *compute, const struct offload_demand *demand);
void __wrap_offload_end(struct offload *offload, uint64_t iteration_ns);

void __wrap_forward_run(struct forward *forward, const bool *logits_wanted) {
    uint64_t begin = own_time_ns();
    __real_forward_run(forward, logits_wanted);
    device_ns += own_time_ns() - begin;
}

struct status __wrap_forward_wait(struct forward *forward) {
    uint64_t begin = own_time_ns();
    struct status status = __real_forward_wait(forward);
    device_ns += own_time_ns() - begin;
    return status;
}

void __wrap_offload_begin(struct offload *offload, struct stream *compute, const struct offload_demand *demand) {
    uint64_t begin = own_time_ns();
    __real_offload_begin(offload, compute, demand);
    placement_ns += own_time_ns() - begin;
}

void __wrap_offload_end(struct offload *offload, uint64_t iteration_ns) {
    uint64_t begin = own_time_ns();
    __real_offload_end(offload, iteration_ns);
    placement_ns += own_time_ns() - begin;
}

/* ---- the runs ---- */

static void check(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "scheduler-bench: %s\n", status.message);
        exit(1);
    }
}

struct load {
    const char *name, *policy;
    uint32_t waiting; /* beside those that run */
    uint32_t output;  /* tokens of each: few, and sequences come and go */
};

static struct request requests[MOST_SEQUENCES + MOST_WAITING];
static uint32_t prompts[MOST_SEQUENCES + MOST_WAITING][PROMPT];

static double submit_us[STEPS]; /* of the last submissions: admission's look ahead is in it */
static uint32_t submits;

/* With a prompt like no other, so that all of it is computed. */
static void submit(struct engine *engine, struct device *device, struct request *request, uint32_t output) {
    static uint32_t serial;
    const uint64_t begin = own_time_ns();
    uint32_t *prompt = prompts[request - requests];
    prompt[0] = serial++ % VOCABULARY;
    *request = (struct request){.prompt = prompt,
                                .prompt_count = PROMPT,
                                .sampling = {.top_p = 1, .repetition_penalty = 1, .max_tokens = output},
                                .arrival_ns = device_now_ns(device)};
    request->sampling.ignore_eos = true;
    check(engine_submit(engine, request));
    submit_us[submits++ % STEPS] = (double)(own_time_ns() - begin) / 1e3;
}

/* Takes what came, and submits anew what ended. */
static void take_events(struct engine *engine, struct device *device, uint32_t output) {
    static struct engine_event events[64];
    for (uint32_t count; (count = engine_poll(engine, events, 64)) > 0;) {
        for (uint32_t i = 0; i < count; i++) {
            if (events[i].finish != FINISH_NONE) {
                submit(engine, device, events[i].request, output);
            }
        }
    }
}

static int compare(const void *a, const void *b) {
    const double *one = a, *other = b;
    return *one < *other ? -1 : *one > *other;
}

static void measure(struct engine *engine, struct device *device, const struct load *load, uint32_t sequences) {
    static double own_us[STEPS], placing_us[STEPS];
    for (uint32_t i = 0; i < sequences + load->waiting; i++) {
        submit(engine, device, &requests[i], load->output > 1000 ? load->output : 1 + (i * 37) % load->output);
    }
    struct engine_stats stats = {0};
    bool idle = false;
    int settled = load->output > 1000 ? SETTLED : TURNED_OVER; /* until new blocks take the places of old prompts' */
    for (int step = 0; step < 20000 && (stats.running < sequences || step < settled); step++) {
        check(engine_step(engine, &idle));
        take_events(engine, device, load->output);
        engine_stats(engine, &stats);
    }
    for (uint32_t i = 0; i < STEPS; i++) {
        device_ns = placement_ns = 0;
        uint64_t begin = own_time_ns();
        check(engine_step(engine, &idle));
        uint64_t step_ns = own_time_ns() - begin;
        own_us[i] = (double)(step_ns - device_ns - placement_ns) / 1e3;
        placing_us[i] = (double)placement_ns / 1e3;
        take_events(engine, device, load->output);
    }
    engine_stats(engine, &stats);
    qsort(own_us, STEPS, sizeof *own_us, compare);
    qsort(placing_us, STEPS, sizeof *placing_us, compare);
    const uint32_t last = submits < STEPS ? submits : STEPS;
    qsort(submit_us, last, sizeof *submit_us, compare);
    printf("%-34s %-10s %7u %7u %10.1f %8.1f %10.1f %8.1f %10.1f %8.1f\n", load->name, load->policy, stats.running,
           stats.waiting, own_us[STEPS / 2], own_us[STEPS * 99 / 100], placing_us[STEPS / 2],
           placing_us[STEPS * 99 / 100], submit_us[last / 2], submit_us[last * 99 / 100]);
    submits = 0;
    fflush(stdout);
}

static void run(const struct load *load, uint32_t sequences) {
    struct device_config device_config = {.name = "sim", .hardware = "configs/hardware/h100.json"};
    struct engine_config config = {.context = CONTEXT,
                                   .max_sequences = sequences,
                                   .max_queue = MOST_SEQUENCES + MOST_WAITING,
                                   .max_batch_tokens = 2 * sequences > 2048 ? 2 * sequences : 2048,
                                   .kv_host_memory = (uint64_t)1 << 30,
                                   .prefix_cache = true,
                                   .device_memory = (uint64_t)80 << 30,
                                   .promise = {.ttft_ns = UINT64_C(100000000000), .tpot_ns = 200000000},
                                   .link_bytes_per_s = UINT64_C(50000000000),
                                   .offload_policy = load->policy};
    struct model_description description;
    struct device *device;
    struct model *model;
    struct engine *engine;
    check(device_open(&device_config, &device));
    check(description_load("configs/models/llama-3-8b.json", &description));
    check(model_open_described(&description, &model));
    check(engine_create(&config, model, device, &engine));
    measure(engine, device, load, sequences);
    engine_destroy(engine);
    model_close(model);
    device_close(device);
}

int main(int argc, char **argv) {
    long sequences = argc > 1 ? strtol(argv[1], NULL, 10) : 256;
    long only = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    if (sequences < 1 || sequences > MOST_SEQUENCES || only < 0) {
        fprintf(stderr, "usage: %s [SEQUENCES [LOAD]], 1 to %d, and a row of the table below, from 1\n", argv[0],
                MOST_SEQUENCES);
        return 2;
    }
    log_set_level(LOG_WARN);
    printf("Llama 3 8B on an H100, simulated; %d prompt tokens; us of the processor an iteration\n\n", PROMPT);
    printf("                                                                scheduler           placement          a "
           "submission\n"
           "load                               policy     running waiting     median     99 %%     median     99 %%    "
           " median     "
           "99 %%\n");
    static const struct load loads[] = {
        {"all decode", "none", 0, 4000},
        {"all decode", "metronome", 0, 4000},
        {"all decode, others wait", "metronome", 1000, 4000},
        {"sequences come and go", "none", 100, 400},
        {"sequences come and go", "metronome", 100, 400},
    };
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++) {
        if (only == 0 || only == (long)i + 1) {
            run(&loads[i], (uint32_t)sequences);
        }
    }
    return 0;
}
