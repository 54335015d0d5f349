/* forward-bench: how fast a model loads and how fast its forward pass runs on the cpu device, with nothing above it.
 *
 * Prints the time from opening the file to a loaded model, then tokens a second of a 512-token prefill, of decoding
 * alone and of decoding 16 sequences together, each after a context of 128 tokens: wall time, best of a few passes.
 *
 *   build/release/forward-bench MODEL.gguf [threads [isa [int8|f32]]] */
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "models/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFILL = 512, CONTEXT = 1024, SEQUENCES = 16, PROMPT = 128, STEPS = 64, PASSES = 3 };
enum { BLOCKS_EACH = CONTEXT / KV_BLOCK_TOKENS };

struct bench {
    struct model *model;
    struct device *device;
    struct offload *offload;
    struct forward *forward;
    uint32_t blocks[SEQUENCES][BLOCKS_EACH];
    uint32_t lengths[SEQUENCES];
};

static void check(struct status status) {
    if (status_failed(&status)) {
        fprintf(stderr, "forward-bench: %s\n", status.message);
        exit(1);
    }
}

static void load(struct bench *bench, const char *path, const struct device_config *config) {
    check(device_open(config, &bench->device));
    check(model_open_weights(path, &bench->model));
    const struct kv_shape kv = model_kv_shape(bench->model, KV_F16);
    const struct offload_config offload = {.policy = "none",
                                           .layers = model_shape(bench->model)->layers,
                                           .slabs = 1,
                                           .slab_bytes = model_slab_bytes(bench->model, bench->device, 1),
                                           .kv_block_bytes = kv_block_bytes(&kv),
                                           .kv_blocks_wanted = SEQUENCES * BLOCKS_EACH};
    check(offload_create(bench->device, &offload, &bench->offload));
    check(model_load(bench->model, bench->device, bench->offload));
    const struct forward_limits limits = {
        .rows = PREFILL, .logit_rows = SEQUENCES, .sequences = SEQUENCES, .context = CONTEXT};
    check(forward_create(bench->model, bench->device, bench->offload, &limits, KV_F16, &bench->forward));
    for (uint32_t i = 0; i < SEQUENCES * BLOCKS_EACH; i++) {
        if (!offload_kv_take(bench->offload, &bench->blocks[i / BLOCKS_EACH][i % BLOCKS_EACH])) {
            check(status_error(STATUS_NO_MEMORY, "the KV blocks that were asked for are not there"));
        }
    }
}

/* One iteration: `rows` tokens of each of the first `sequences`, logits of the last of each; returns its seconds. */
static double step(struct bench *bench, uint32_t sequences, uint32_t rows) {
    struct forward_inputs *in = forward_inputs(bench->forward);
    in->rows = in->segment_count = in->logit_count = 0;
    for (uint32_t i = 0; i < sequences; i++) {
        in->segments[i] = (struct kv_segment){
            .sequence = i, .first_row = in->rows, .rows = rows, .first_position = bench->lengths[i], .table = i};
        offload_kv_addresses(bench->offload, bench->blocks[i], BLOCKS_EACH,
                             in->block_table + (size_t)i * in->table_stride);
        for (uint32_t row = 0; row < rows; row++) {
            in->tokens[in->rows] =
                (uint32_t)(random_hash(i, bench->lengths[i]) % model_shape(bench->model)->vocabulary);
            in->positions[in->rows++] = bench->lengths[i]++;
        }
        in->logit_rows[in->logit_count++] = in->rows - 1;
    }
    in->segment_count = sequences;
    const uint64_t begun = clock_now_ns();
    forward_run(bench->forward, NULL);
    check(forward_wait(bench->forward));
    return (double)(clock_now_ns() - begun) / (double)NS_PER_S;
}

/* Tokens a second of decoding `sequences` together. */
static double decode(struct bench *bench, uint32_t sequences) {
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        memset(bench->lengths, 0, sizeof bench->lengths);
        for (uint32_t done = 0; done < PROMPT; done += PREFILL / SEQUENCES) {
            step(bench, sequences, PREFILL / SEQUENCES);
        }
        double seconds = 0;
        for (int i = 0; i < STEPS; i++) {
            seconds += step(bench, sequences, 1);
        }
        const double rate = sequences * STEPS / seconds;
        best = rate > best ? rate : best;
    }
    return best;
}

static double prefill(struct bench *bench) {
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        memset(bench->lengths, 0, sizeof bench->lengths);
        const double rate = PREFILL / step(bench, 1, PREFILL);
        best = rate > best ? rate : best;
    }
    return best;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: forward-bench MODEL.gguf [threads [isa [int8|f32]]]\n");
        return 2;
    }
    const struct device_config config = {.name = "cpu",
                                         .threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 0,
                                         .isa = argc > 3 ? argv[3] : "auto",
                                         .compute =
                                             argc > 4 && strcmp(argv[4], "f32") == 0 ? COMPUTE_F32 : COMPUTE_INT8};
    log_set_level(LOG_WARN);
    static struct bench bench;
    const uint64_t begun = clock_now_ns();
    load(&bench, argv[1], &config);
    printf("%s\n", device_info(bench.device).description);
    printf("open to ready        %8.3f s\n", (double)(clock_now_ns() - begun) / (double)NS_PER_S);
    printf("prefill %4d tokens  %8.1f tokens/s\n", PREFILL, prefill(&bench));
    printf("decode alone         %8.1f tokens/s\n", decode(&bench, 1));
    printf("decode %2d sequences  %8.1f tokens/s\n", SEQUENCES, decode(&bench, SEQUENCES));
    forward_destroy(bench.forward);
    model_unload(bench.model);
    offload_destroy(bench.offload);
    device_close(bench.device);
    model_close(bench.model);
    return 0;
}
