#include "bench/rig.h"

#include "base/check.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>

void rig_check(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "%s\n", status.message);
        exit(1);
    }
}

void rig_open(const struct rig_config *config, struct rig *rig) {
    CHECK(config->sequences > 0 && config->sequences <= RIG_MOST_SEQUENCES);
    *rig = (struct rig){.config = *config};
    struct device_config device = {.name = config->hardware ? "sim" : "cpu",
                                   .hardware = config->hardware,
                                   .link_bytes_per_s = config->link_bytes_per_s};
    struct engine_config engine = {.context = RIG_CONTEXT,
                                   .max_sequences = 4 * RIG_MOST_SEQUENCES, /* never crowded */
                                   .max_queue = RIG_MOST_SEQUENCES,
                                   .max_batch_tokens = 4 * RIG_MOST_SEQUENCES,
                                   .kv_tokens = (uint64_t)2 * RIG_MOST_SEQUENCES * RIG_CONTEXT,
                                   .device_memory = config->device_memory,
                                   .offload_policy = config->policy,
                                   .offload_options = config->options,
                                   .offload_slabs = config->slabs,
                                   .link_bytes_per_s = (uint64_t)config->link_bytes_per_s,
                                   .promise = {.tpot_ns = config->tpot_ns},
                                   .record = config->record};
    rig_check(device_open(&device, &rig->device));
    rig_check(model_open_weights(config->model, &rig->model));
    rig_check(engine_create(&engine, rig->model, rig->device, &rig->engine));
    for (uint32_t i = 0; i < RIG_MOST_SEQUENCES; i++) {
        for (uint32_t j = 0; j < RIG_PROMPT; j++) {
            rig->prompt[i][j] = 100 + (i * 7919 + j * 104729) % 40000;
        }
    }
}

void rig_close(struct rig *rig) {
    engine_destroy(rig->engine);
    model_close(rig->model);
    device_close(rig->device);
}

uint64_t rig_budget(const struct rig_config *config, double share) {
    struct rig_config whole = *config;
    whole.policy = "none";
    whole.device_memory = whole.tpot_ns = 0;
    struct rig rig;
    rig_open(&whole, &rig);
    struct engine_stats stats;
    engine_stats(rig.engine, &stats);
    uint64_t weights = stats.offload.weight_bytes_device, rest = device_info(rig.device).device_used - weights;
    rig_close(&rig);
    return rest + (uint64_t)(share * (double)weights);
}

static void submit_all(struct rig *rig) {
    for (uint32_t i = 0; i < rig->config.sequences; i++) {
        rig->requests[i] = (struct request){
            .prompt = rig->prompt[i],
            .prompt_count = RIG_PROMPT,
            .arrival_ns = device_now_ns(rig->device),
            .sampling = {
                .top_p = 1, .repetition_penalty = 1, .max_tokens = RIG_CONTEXT - RIG_PROMPT - 1, .ignore_eos = true}};
        rig_check(engine_submit(rig->engine, &rig->requests[i]));
    }
    rig->in_flight = rig->config.sequences;
    rig->decoding = 0;
    rig->rounds++;
}

static void step(struct rig *rig) {
    struct engine_event events[2 * RIG_MOST_SEQUENCES];
    bool idle;
    rig->begin_ns = device_now_ns(rig->device);
    rig_check(engine_step(rig->engine, &idle));
    CHECK(!idle);
    for (uint32_t count; (count = engine_poll(rig->engine, events, 2 * RIG_MOST_SEQUENCES)) > 0;) {
        for (uint32_t i = 0; i < count; i++) {
            if (events[i].finish == FINISH_ERROR) {
                rig_check(events[i].status);
            }
            bool first = events[i].has_token && !events[i].request->owner;
            events[i].request->owner = rig; /* it has had its first token */
            rig->decoding += first;
            rig->in_flight -= events[i].finish != FINISH_NONE;
        }
    }
}

struct offload_report rig_decode(struct rig *rig) {
    while (rig->in_flight < rig->config.sequences || rig->decoding < rig->config.sequences) {
        if (rig->in_flight == 0) {
            submit_all(rig);
        }
        step(rig);
    }
    step(rig);
    struct engine_stats stats;
    engine_stats(rig->engine, &stats);
    return stats.offload;
}
