/* A model: what its file says, its weights packed for a device, and the one forward pass of every family.
 *
 * Owns: the open files, the tokenizer, the chat template, the layout of a packed layer, the activations' workspace.
 * A family is a row in models/families.c: the names of its tensors and the few switches of the pass.
 * Threads: model_open() and the read-only accessors from any; everything that takes a device from the engine's. */
#ifndef METRONOME_MODELS_MODEL_H
#define METRONOME_MODELS_MODEL_H

#include "base/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "models/chat.h"
#include "models/tokenizer.h"
#include "offload/offload.h"

struct model;

/* The hyperparameters, as the file has them. rope_pairs is 0 with learned positions. */
struct model_shape {
    char architecture[32];
    char name[96];
    uint32_t layers;
    uint32_t width; /* of the residual stream */
    uint32_t feed_forward;
    uint32_t query_heads, kv_heads, head_dim;
    uint32_t vocabulary;
    uint32_t context; /* trained context, tokens */
    uint32_t rope_pairs;
    enum rope_style rope_style;
    float rope_magnitude; /* YaRN's attention factor; 1 otherwise */
    float norm_epsilon;
    bool tied_head; /* the head is the embedding table */
    uint64_t parameters;
};

/* What becomes of matrices that a file has as floats. Embedding and head get no less than 8 bits a weight; a matrix
 * whose columns are no multiple of 32 stays as it is. */
enum model_quantize { QUANTIZE_NONE, QUANTIZE_Q8_0, QUANTIZE_Q4_1 };

struct model_options {
    enum model_quantize quantize;
    bool weights_only; /* no tokenizer: for callers with token ids of their own */
};

/* Opens a GGUF file, or a Hugging Face directory (config.json, safetensors, tokenizer.json), checks that its family,
 * tensor types and shapes are built, and reads the tokenizer. No device is needed. STATUS_UNSUPPORTED names the
 * architecture, tensor type or rope variant; STATUS_INVALID the field. */
struct status model_open_with(const char *path, const struct model_options *options, struct model **out);
struct status model_open(const char *path, struct model **out); /* with no options */

/* Without the tokenizer: model_tokenizer() is then NULL. */
struct status model_open_weights(const char *path, struct model **out);
void model_close(struct model *model);

const struct model_shape *model_shape(const struct model *model);
const struct tokenizer *model_tokenizer(const struct model *model);

/* The text of the model's own chat template, 0 bytes if it has none. */
struct gguf_string model_chat_template(const struct model *model);

/* Splits the layers over `ranks` devices that share them, before anything below is asked and the model is loaded; from
 * then on sizes are those of one rank's share. Once. STATUS_INVALID where heads or blocks of weights do not go to so
 * many ranks alike, with what does. */
struct status model_split(struct model *model, uint32_t ranks);

/* Bytes of all weights in the types that devices get, before packing and however split. */
uint64_t model_weight_bytes(const struct model *model);

/* Bytes of one slab (the largest of all layers' slabs, a multiple of 64) when each layer's packed weights are cut into
 * `slabs` pieces of nearly equal size, and of everything outside layers. */
size_t model_slab_bytes(const struct model *model, const struct device *device, uint32_t slabs);
size_t model_global_bytes(const struct model *model, const struct device *device);
struct kv_shape model_kv_shape(const struct model *model, enum kv_type type);

/* Packs every layer, each rank's share of it, into `offload` and the rest into device memory, with a progress bar. The
 * model is split over as many ranks as the device has. Peak extra memory: one layer, or the embedding table, packed. */
struct status model_load(struct model *model, struct device *device, struct offload *offload);

/* Frees what model_load() allocated on the device. */
void model_unload(struct model *model);

/* ---- the forward pass ---- */

struct forward_limits {
    uint32_t rows; /* tokens in one iteration */
    uint32_t logit_rows;
    uint32_t sequences;
    uint32_t context; /* longest sequence in tokens */
    bool logits;      /* whole rows of them may be asked for: by tests and tools */
    uint32_t changes; /* of logits, that one round of sampling takes, at least the vocabulary's; 0: a default */
};

struct forward;

/* Prepares the device for these shapes and allocates the workspace: device activations and one pinned staging area
 * for each iteration's inputs and results. The model is loaded and outlives it. */
struct status forward_create(struct model *model, struct device *device, struct offload *offload,
                             const struct forward_limits *limits, enum kv_type kv_type, struct forward **out);
void forward_destroy(struct forward *forward);

/* Bytes of device memory and pinned host memory that forward_create() will take for these limits. */
size_t forward_device_bytes(const struct model *model, const struct forward_limits *limits);
size_t forward_host_bytes(const struct model *model, const struct forward_limits *limits);

/* One iteration, written by the scheduler into the forward's own pinned staging memory (forward_inputs()). */
struct forward_inputs {
    uint32_t *tokens;                          /* (rows) */
    uint32_t *positions;                       /* (rows) */
    struct kv_segment *segments;               /* (segments); they share out the first rows of block_table */
    uint64_t *block_table;                     /* (sequences, table_stride) device addresses */
    uint32_t table_stride;                     /* blocks of the longest sequence */
    uint32_t *logit_rows;                      /* (logit_count) indices of rows whose logits are wanted, ascending */
    uint32_t rows, segment_count, logit_count; /* set by the scheduler before forward_run() */

    /* How tokens are drawn (kernels/sample.h): read if `sampled`, else every logit row is plain. */
    bool sampled;
    struct sample_row *samples; /* (logit_count); `change_first` is written here, and `score` counts those that are not
                                   SAMPLE_NO_SCORE */
    const struct sample_change **changes; /* (logit_count) the row's own; until forward_wait() has returned */
};
struct forward_inputs *forward_inputs(struct forward *forward);

/* The compute stream, for offload_begin(); owned by the forward. */
struct stream *forward_stream(const struct forward *forward);

/* Enqueues the iteration on the compute stream: embed, layers (acquired from and released to the offload engine),
 * final norm, logits, a token for each, and the copies of results back: tokens, and the scores that are asked for.
 * `logits_wanted` (logit_count) says for which of the logit rows the whole row must come to the host (NULL: for none).
 */
void forward_run(struct forward *forward, const bool *logits_wanted);

/* Blocks until the iteration's results are on the host. Where penalties change more logits than there is room for on
 * their way, further rows are sampled in rounds here, which forward_sampling_rounds() counts. */
struct status forward_wait(struct forward *forward);
uint64_t forward_sampling_rounds(const struct forward *forward);

uint32_t forward_token(const struct forward *forward, uint32_t logit_index);
const struct sample_score *forward_score(const struct forward *forward, uint32_t logit_index); /* if asked for */
const float *forward_logits(const struct forward *forward, uint32_t logit_index); /* (vocabulary), if wanted */

/* Device times of the last iteration, begin of the first op to end of the last. */
uint64_t forward_elapsed_ns(const struct forward *forward);

#endif
