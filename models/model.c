/* A model's life: opened from its files, loaded onto a device, closed.
 *
 * Owns: struct model. What the keys mean is in shape_gguf.c and hf_config.c, which tensors there are in layout_find.c,
 * the pass in forward.c. Threads: as models/model.h says. */
#include "models/model_internal.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening ---- */

static struct status make_frequencies(struct model *model) {
    const uint32_t pairs = model->shape.rope_pairs;
    const struct model_tensor *tensor = &model->global[GLOBAL_ROPE_FACTORS];
    if (pairs == 0) {
        return STATUS_SUCCESS;
    }
    float factors[MOST_HEAD_DIM / 2], local_magnitude;
    if (tensor->rows > 0) {
        layout_read_plain(tensor, factors);
    }
    for (int kind = 0; kind < ROPE_KINDS; kind++) {
        model->rope_frequency[kind] = malloc(pairs * sizeof(float));
        if (model->rope_frequency[kind] == NULL) {
            return status_error(STATUS_NO_MEMORY, "no memory for %u rope frequencies", pairs);
        }
    }
    if (model->pass.local_rope) {
        TRY(shape_rope(&model->pass.rope[ROPE_LOCAL], NULL, pairs, model->rope_frequency[ROPE_LOCAL],
                       &local_magnitude));
    }
    return shape_rope(&model->pass.rope[ROPE_GLOBAL], tensor->rows > 0 ? factors : NULL, pairs,
                      model->rope_frequency[ROPE_GLOBAL], &model->shape.rope_magnitude);
}

static struct status read_weights(struct model *model) {
    TRY(layout_find(model));
    return make_frequencies(model);
}

static struct status check_vocabulary(const struct model *model) {
    uint32_t tokens = tokenizer_vocabulary(model->tokenizer);
    if (tokens > model->shape.vocabulary) {
        return status_error(STATUS_INVALID, "%s: has %u tokens, and the embedding %u rows",
                            model->gguf ? "key 'tokenizer.ggml.tokens'" : "tokenizer.json", tokens,
                            model->shape.vocabulary);
    }
    return STATUS_SUCCESS;
}

static struct status open_gguf(const char *path, struct model *model) {
    struct gguf_string architecture;
    TRY(gguf_open(path, &model->gguf)); /* its errors name the file */
    struct status status = gguf_get_string(model->gguf, "general.architecture", &architecture);
    if (status_failed(&status)) {
        status.code = STATUS_INVALID; /* what is not found is the key, not the file */
        return status;
    }
    TRY(family_of_gguf(architecture, &model->family));
    TRY(shape_from_gguf(model->gguf, model->family, &model->shape, &model->pass));
    return read_weights(model);
}

static struct status open_directory(const char *path, struct model *model) {
    enum { MOST_CONFIG = 1 << 20 };
    char *text = NULL;
    size_t bytes = 0;
    TRY(safetensors_read_text(path, "config.json", MOST_CONFIG, &text, &bytes));
    struct status status = shape_from_config(text, bytes, &model->family, &model->shape, &model->pass);
    free(text);
    TRY(status);
    TRY(safetensors_open(path, &model->safetensors));
    return read_weights(model);
}

static struct status read_tokenizer(const char *path, struct model *model) {
    if (model->gguf != NULL) {
        TRY(tokenizer_from_gguf(model->gguf, &model->tokenizer));
    } else {
        TRY(tokenizer_from_directory(path, &model->tokenizer));
    }
    return check_vocabulary(model);
}

/* The last part of a path, which may end in a slash. */
static const char *last_name(const char *path, int *length) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') {
        begin--;
    }
    *length = end - begin < 80 ? (int)(end - begin) : 80;
    return path + begin;
}

static struct status open_path(const char *path, bool tokenizer, struct model *model) {
    struct stat about;
    const bool directory = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    struct status status = directory ? open_directory(path, model) : open_gguf(path, model);
    if (!status_failed(&status) && tokenizer) {
        status = read_tokenizer(path, model);
    }
    int length;
    const char *name = last_name(path, &length);
    if (directory && *model->shape.name == 0) {
        snprintf(model->shape.name, sizeof model->shape.name, "%.*s", length, name);
    }
    model->share = model->shape;
    bool opened = directory || model->gguf != NULL;
    return opened ? status_context(status, "%.*s", length, name) : status;
}

struct status model_open_with(const char *path, const struct model_options *options, struct model **out) {
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a model");
    }
    model->quantize = options->quantize;
    model->ranks = 1;
    struct status status = open_path(path, !options->weights_only, model);
    if (status_failed(&status)) {
        model_close(model);
        return status;
    }
    *out = model;
    return STATUS_SUCCESS;
}

struct status model_open(const char *path, struct model **out) {
    const struct model_options options = {0};
    return model_open_with(path, &options, out);
}

struct status model_open_weights(const char *path, struct model **out) {
    const struct model_options options = {.weights_only = true};
    return model_open_with(path, &options, out);
}

void model_close(struct model *model) {
    if (model == NULL) {
        return;
    }
    CHECK(model->device == NULL);
    if (model->tokenizer != NULL) {
        tokenizer_destroy(model->tokenizer);
    }
    for (int kind = 0; kind < ROPE_KINDS; kind++) {
        free(model->rope_frequency[kind]);
    }
    free(model->pass.window);
    free(model->layers);
    gguf_close(model->gguf);
    safetensors_close(model->safetensors);
    free(model);
}

const struct model_shape *model_shape(const struct model *model) {
    return &model->shape;
}

const struct tokenizer *model_tokenizer(const struct model *model) {
    return model->tokenizer;
}

struct gguf_string model_chat_template(const struct model *model) {
    struct gguf_string text = {"", 0};
    if (model->gguf == NULL) {
        return model->tokenizer ? tokenizer_chat_template(model->tokenizer) : text;
    }
    struct status status = gguf_get_string(model->gguf, "tokenizer.chat_template", &text);
    return status_failed(&status) ? (struct gguf_string){"", 0} : text;
}

/* ---- loading ---- */

static uint64_t weight_bytes(const struct model_tensor *tensor) {
    return tensor->rows > 0 ? tensor->rows * tensor_row_bytes(tensor->type, tensor->columns) : 0;
}

uint64_t model_weight_bytes(const struct model *model) {
    uint64_t bytes = 0;
    if (model->ranks > 1) {
        return model->whole_bytes;
    }
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        bytes += weight_bytes(&model->global[i]);
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            bytes += weight_bytes(&model->layers[layer].tensor[i]);
        }
    }
    return bytes;
}

size_t model_slab_bytes(const struct model *model, const struct device *device, uint32_t slabs) {
    size_t largest = 64;
    struct slab_piece piece[LAYER_TENSORS];
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (uint32_t slab = 0; slab < slabs; slab++) {
            size_t bytes = layout_place_slab(device, model->layers[layer].tensor, slabs, slab, piece);
            largest = bytes > largest ? bytes : largest;
        }
    }
    return largest;
}

size_t model_global_bytes(const struct model *model, const struct device *device) {
    size_t offset[GLOBAL_TENSORS], rope_offset[ROPE_KINDS];
    return layout_place_globals(model, device, offset, rope_offset);
}

struct kv_shape model_kv_shape(const struct model *model, enum kv_type type) {
    return (struct kv_shape){.layers = model->shape.layers,
                             .kv_heads = model->share.kv_heads,
                             .head_dim = model->shape.head_dim,
                             .type = type};
}

/* What a load in progress holds. */
struct loading {
    struct model *model;
    struct device *device;
    struct offload *offload;
    struct stream *stream;
    void *packed;  /* host memory for one layer or one global tensor */
    void *scratch; /* layout_scratch_bytes() */
    size_t slab_bytes, layer_bytes;
    struct progress bar;
    uint64_t done; /* bytes of the file */
};

/* Bytes of the file that a tensor of ours is. */
static uint64_t share_of_file(const struct model_tensor *tensor) {
    return tensor->rows > 0 ? tensor->rows * tensor_row_bytes(tensor->file_type, tensor->columns) : 0;
}

/* Tells the system that a tensor's file pages are not needed any more (they can be read again at any time): whole
 * pages, those shared with neighbours too. */
static void finish_tensor(struct loading *loading, const struct model_tensor *tensor) {
    if (tensor->rows > 0) {
        const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), data = (uintptr_t)tensor->file_data;
        const uintptr_t begin = data & ~(page - 1);
        madvise((void *)begin, data + tensor->file_bytes - begin, MADV_DONTNEED);
        loading->done += share_of_file(tensor);
        progress_update(&loading->bar, loading->done);
    }
}

static struct status send_global(struct loading *loading, size_t offset, const void *data, size_t bytes) {
    stream_copy(loading->stream, loading->model->globals + offset, data, bytes, COPY_HOST_TO_DEVICE);
    return stream_sync(loading->stream);
}

static struct status load_globals(struct loading *loading) {
    struct model *model = loading->model;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        size_t bytes = layout_global_bytes(model, loading->device, (enum global_tensor)i);
        if (bytes > 0) {
            layout_pack_global(model, loading->device, (enum global_tensor)i, loading->packed, loading->scratch);
            TRY(send_global(loading, model->global_offset[i], loading->packed, bytes));
        }
        finish_tensor(loading, &model->global[i]);
    }
    const size_t rope_bytes = model->shape.rope_pairs * sizeof(float);
    if (rope_bytes > 0) {
        TRY(send_global(loading, model->rope_offset[ROPE_GLOBAL], model->rope_frequency[ROPE_GLOBAL], rope_bytes));
    }
    return model->pass.local_rope
               ? send_global(loading, model->rope_offset[ROPE_LOCAL], model->rope_frequency[ROPE_LOCAL], rope_bytes)
               : STATUS_SUCCESS;
}

/* Where everything lies once it is on the device. */
static struct status place_everything(struct loading *loading) {
    struct model *model = loading->model;
    for (uint32_t i = 0; i < model->shape.layers; i++) {
        struct layer_layout *layer = &model->layers[i];
        layer->piece = model->pieces + (size_t)i * model->slabs * LAYER_TENSORS;
        for (uint32_t slab = 0; slab < model->slabs; slab++) {
            layout_place_slab(loading->device, layer->tensor, model->slabs, slab,
                              layer->piece + (size_t)slab * LAYER_TENSORS);
        }
    }
    void *globals = NULL;
    size_t bytes = layout_place_globals(model, loading->device, model->global_offset, model->rope_offset);
    TRY(device_alloc(loading->device, bytes, "weights outside layers (embedding, norm, head)", &globals));
    model->globals = globals;
    return STATUS_SUCCESS;
}

static struct status load_share(struct loading *loading, uint32_t i, uint32_t rank) {
    const struct model *model = loading->model;
    struct model_tensor tensors[LAYER_TENSORS];
    for (int j = 0; j < LAYER_TENSORS; j++) {
        tensors[j] = shard_tensor(model, i, (enum layer_tensor)j, rank);
    }
    for (uint32_t slab = 0; slab < model->slabs; slab++) {
        layout_pack_slab(loading->device, tensors, model->layers[i].piece + (size_t)slab * LAYER_TENSORS,
                         (uint8_t *)loading->packed + slab * loading->slab_bytes, loading->scratch);
    }
    return offload_store_layer(loading->offload, i, rank, loading->packed);
}

static struct status load_layers(struct loading *loading) {
    struct model *model = loading->model;
    for (uint32_t i = 0; i < model->shape.layers; i++) {
        for (uint32_t rank = 0; rank < model->ranks; rank++) {
            struct status status = load_share(loading, i, rank);
            if (status_failed(&status)) {
                return status_context(status, "layer %u", i);
            }
        }
        for (int j = 0; j < LAYER_TENSORS; j++) {
            finish_tensor(loading, &model->layers[i].tensor[j]);
        }
    }
    return STATUS_SUCCESS;
}

static size_t largest_piece(const struct loading *loading) {
    size_t largest = loading->layer_bytes;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        size_t bytes = layout_global_bytes(loading->model, loading->device, (enum global_tensor)i);
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static struct status load_everything(struct loading *loading) {
    struct model *model = loading->model;
    size_t piece = largest_piece(loading);
    TRY(stream_create(loading->device, STREAM_COPY, &loading->stream));
    loading->packed = aligned_alloc(64, piece);
    if (loading->packed == NULL) {
        return status_error(STATUS_NO_MEMORY, "no host memory to pack %zu bytes of weights", piece);
    }
    const size_t scratch = layout_scratch_bytes(model);
    loading->scratch = aligned_alloc(64, bytes_align(scratch ? scratch : 1, 64));
    if (loading->scratch == NULL) {
        return status_error(STATUS_NO_MEMORY, "no host memory to convert %zu bytes of weights", scratch);
    }
    memset(loading->packed, 0, loading->layer_bytes); /* a smaller slab leaves the end of its place as it is */
    uint64_t total = 0;
    for (int i = 0; i < GLOBAL_TENSORS; i++) {
        total += share_of_file(&model->global[i]);
    }
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        for (int i = 0; i < LAYER_TENSORS; i++) {
            total += share_of_file(&model->layers[layer].tensor[i]);
        }
    }
    progress_begin(&loading->bar, "loading weights", total);
    TRY(load_globals(loading));
    TRY(load_layers(loading));
    progress_end(&loading->bar);
    return STATUS_SUCCESS;
}

/* A described model has no weights to load: nothing reads any on sim. */
static struct status load(struct loading *loading) {
    const struct model *model = loading->model;
    TRY(place_everything(loading));
    if (model->gguf != NULL || model->safetensors != NULL) {
        return load_everything(loading);
    }
    const char *device = device_info(loading->device).name;
    return strcmp(device, "sim") == 0
               ? STATUS_SUCCESS
               : status_error(STATUS_UNSUPPORTED,
                              "model %s is a description without weights: it runs on sim, not on %s", model->shape.name,
                              device);
}

struct status model_load(struct model *model, struct device *device, struct offload *offload) {
    CHECK(model->device == NULL && device_info(device).ranks == model->ranks);
    model->device = device;
    model->slabs = offload_slabs(offload);
    struct loading loading = {.model = model,
                              .device = device,
                              .offload = offload,
                              .slab_bytes = model_slab_bytes(model, device, model->slabs)};
    loading.layer_bytes = model->slabs * loading.slab_bytes;
    model->pieces = calloc((size_t)model->shape.layers * model->slabs * LAYER_TENSORS, sizeof *model->pieces);
    struct status status =
        model->pieces == NULL
            ? status_error(STATUS_NO_MEMORY, "no memory for the layout of %u slabs a layer", model->slabs)
            : load(&loading);
    stream_destroy(loading.stream);
    free(loading.packed);
    free(loading.scratch);
    if (status_failed(&status)) {
        model_unload(model);
    }
    return status;
}

void model_unload(struct model *model) {
    if (model->device == NULL) {
        return;
    }
    if (model->globals != NULL) {
        device_free(model->device, model->globals);
    }
    free(model->pieces);
    model->pieces = NULL;
    model->globals = NULL;
    model->device = NULL;
}
