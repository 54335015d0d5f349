#include "server/runtime.h"

#include "base/check.h"
#include "base/log.h"
#include "server/described.h"
#include "server/record_file.h"
#include "server/slo_config.h"
#include "server/trace_file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

char *runtime_model_name(const struct config *config) {
    if (*config->model_name) {
        return strdup(config->model_name);
    }
    size_t end = strlen(config->model); /* a directory may end in slashes */
    while (end > 1 && config->model[end - 1] == '/') {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && config->model[begin - 1] != '/') {
        begin--;
    }
    char *name = strndup(config->model + begin, end - begin);
    size_t bytes = name ? strlen(name) : 0;
    if (bytes > 5 && strcmp(name + bytes - 5, ".gguf") == 0) {
        name[bytes - 5] = 0;
    }
    return name;
}

/* A model without a template, or with one that is not known, still serves completions: only a template that was
 * asked for by name must be there. */
static struct status choose_chat_template(const struct config *config, struct runtime *runtime) {
    if (*config->chat_template && strcmp(config->chat_template, "auto") != 0) {
        return status_context(chat_template_named(config->chat_template, &runtime->chat), "chat_template");
    }
    struct gguf_string own = model_chat_template(runtime->model);
    runtime->chat_status = chat_template_recognise(own.data, own.bytes, &runtime->chat);
    if (status_failed(&runtime->chat_status)) {
        runtime->chat = NULL;
        log_warn("no chat: %s", runtime->chat_status.message);
    }
    return STATUS_SUCCESS;
}

static enum model_quantize quantization(const struct config *config) {
    if (strcmp(config->quantize, "q8_0") == 0) {
        return QUANTIZE_Q8_0;
    }
    return strcmp(config->quantize, "q4_1") == 0 ? QUANTIZE_Q4_1 : QUANTIZE_NONE;
}

struct status runtime_open_model(const struct config *config, struct runtime *out) {
    *out = (struct runtime){0};
    if (!*config->model) {
        return status_error(STATUS_INVALID, "model: name a GGUF file, or a Hugging Face directory, with --model PATH");
    }
    const struct model_options options = {.quantize = quantization(config)};
    TRY(status_context(model_open_with(config->model, &options, &out->model), "model %s", config->model));
    out->tokenizer = model_tokenizer(out->model);
    return STATUS_SUCCESS;
}

/* A file of weights, or the name of a description. */
static struct status open_simulated_model(const struct config *config, struct runtime *out) {
    const struct model_options options = {.quantize = quantization(config), .weights_only = true};
    struct stat info;
    size_t bytes = strlen(config->model);
    bool json = bytes > 5 && strcmp(config->model + bytes - 5, ".json") == 0;
    if (!json && stat(config->model, &info) == 0) {
        return status_context(model_open_with(config->model, &options, &out->model), "model %s", config->model);
    }
    struct model_description description;
    TRY(described_model(config->model, &description));
    return model_open_described(&description, &out->model);
}

static struct status open_device(const struct config *config, struct runtime *runtime) {
    char hardware[PATH_MAX] = "";
    if (*config->hardware) {
        TRY(described_hardware_path(config->hardware, hardware));
    }
    struct device_config device = {
        .name = config->device,
        .device_memory = config->device_memory,
        .host_memory = config->host_memory,
        .link_bytes_per_s = config->link_gbps * 1e9,
        .threads = (uint32_t)config->threads,
        .ranks = (uint32_t)config->tensor_parallel_size,
        .isa = config->isa,
        .compute = strcmp(config->compute, "f32") == 0 ? COMPUTE_F32 : COMPUTE_INT8,
        .invariant = strcmp(config->invariant, "on") == 0,
        .seed = config->seed,
        .hardware = *hardware ? hardware : NULL,
        .all_reduce = strcmp(config->all_reduce, "peer") == 0   ? ALL_REDUCE_PEER
                      : strcmp(config->all_reduce, "nccl") == 0 ? ALL_REDUCE_NCCL
                                                                : ALL_REDUCE_AUTO,
        .no_graphs = strcmp(config->cuda_graphs, "off") == 0,
    };
    return device_open(&device, &runtime->device);
}

static struct status create_engine(const struct config *config, struct runtime *runtime) {
    struct slo_classes classes;
    TRY(slo_config_read(config, &classes));
    struct engine_config engine = {
        .context = (uint32_t)config->context,
        .max_sequences = (uint32_t)config->max_sequences,
        .max_queue = (uint32_t)config->max_queue,
        .max_batch_tokens = (uint32_t)config->max_batch_tokens,
        .order = strcmp(config->scheduler_order, "fcfs") == 0 ? ORDER_FCFS : ORDER_DEADLINES,
        .prefill_chunk = (uint32_t)config->prefill_chunk,
        .kv_type = strcmp(config->kv_type, "bf16") == 0 ? KV_BF16 : KV_F16,
        .kv_tokens = config->kv_tokens,
        .device_memory = config->device_memory,
        .host_memory = config->host_memory,
        .kv_host_memory = config->offload_kv_host_memory,
        .kv_stream_memory = config->offload_kv_stream_memory,
        .prefix_cache = strcmp(config->prefix_cache, "on") == 0,
        .offload_policy = config->offload_policy,
        .offload_options = {.interval = config->offload_interval,
                            .percent = config->offload_percent,
                            .group = (uint32_t)config->offload_group,
                            .group_streamed = (uint32_t)config->offload_group_streamed,
                            .prefetch_step = (uint32_t)config->offload_prefetch},
        .offload_bus = config->offload_bus,
        .offload_slabs = (uint32_t)config->offload_slabs,
        .link_bytes_per_s = (uint64_t)(config->link_gbps * 1e9),
        .classes = &classes,
        .seed = config->seed,
        .timeline_spans = *config->trace_file ? TRACE_FILE_SPANS : 0,
    };
    struct record_file file;
    TRY(record_file_open(config, runtime->model, runtime->device, &file));
    engine.record = file.found ? &file.record : NULL;
    TRY(engine_create(&engine, runtime->model, runtime->device, &runtime->engine));
    TRY(record_file_keep(&file, engine_record(runtime->engine)));
    struct engine_stats stats;
    engine_stats(runtime->engine, &stats);
    runtime->context = stats.context;
    runtime->kv_tokens = (uint64_t)stats.kv_blocks * KV_BLOCK_TOKENS;
    return STATUS_SUCCESS;
}

/* What follows once the model is open, or could not be. */
static struct status open_rest(const struct config *config, struct status status, struct runtime *out) {
    if (status.code == STATUS_OK) {
        status = open_device(config, out);
    }
    if (status.code == STATUS_OK) {
        status = create_engine(config, out);
    }
    if (status.code != STATUS_OK) {
        runtime_close(out);
    }
    return status;
}

struct status runtime_open(const struct config *config, struct runtime *out) {
    struct status status = runtime_open_model(config, out);
    if (status.code == STATUS_OK) {
        status = choose_chat_template(config, out);
    }
    return open_rest(config, status, out);
}

struct status runtime_open_simulated(const struct config *config, struct runtime *out) {
    *out = (struct runtime){0};
    return open_rest(config, open_simulated_model(config, out), out);
}

void runtime_close(struct runtime *runtime) {
    if (runtime->engine) {
        engine_destroy(runtime->engine);
    }
    if (runtime->model) {
        model_close(runtime->model);
    }
    device_close(runtime->device);
    *runtime = (struct runtime){0};
}
