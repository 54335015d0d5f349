/* What the files of a model share: the family's row, the tensors found in the file, and where each lies once packed.
 *
 * Reading order: families.c (what a family is), shape.c (rotary frequencies, windows) with shape_gguf.c and hf_config.c
 * (where hyperparameters come from), layout_find.c (tensors: found and checked) and layout.c (placed and packed),
 * shard.c (split over ranks), model.c (open and load), forward.c (the pass).
 * Threads: as models/model.h says. */
#ifndef METRONOME_MODELS_MODEL_INTERNAL_H
#define METRONOME_MODELS_MODEL_INTERNAL_H

#include "models/gguf.h"
#include "models/model.h"
#include "models/safetensors.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nothing near these is built anywhere; beyond them a product of two could pass 64 bits of bytes. */
enum {
    MOST_LAYERS = 4096,
    MOST_WIDTH = 1 << 20,
    MOST_HEADS = 1 << 14,
    MOST_HEAD_DIM = 1 << 12,
    MOST_VOCABULARY = 1 << 24,
    MOST_CONTEXT = 1 << 28,
};

/* ---- the tensors of a model ---- */

enum global_tensor {
    GLOBAL_EMBEDDING,
    GLOBAL_POSITIONS, /* learned positions */
    GLOBAL_NORM,
    GLOBAL_NORM_BIAS,
    GLOBAL_HEAD,         /* absent: tied to the embedding */
    GLOBAL_ROPE_FACTORS, /* used to make the frequencies; not packed itself */
    GLOBAL_TENSORS,
};

enum layer_tensor {
    LAYER_ATTENTION_NORM,
    LAYER_ATTENTION_NORM_BIAS,
    LAYER_QUERY,
    LAYER_QUERY_BIAS,
    LAYER_QUERY_NORM, /* of each head */
    LAYER_KEY,
    LAYER_KEY_BIAS,
    LAYER_KEY_NORM,
    LAYER_VALUE,
    LAYER_VALUE_BIAS,
    LAYER_ATTENTION_OUTPUT,
    LAYER_ATTENTION_OUTPUT_BIAS,
    LAYER_POST_ATTENTION_NORM, /* of what attention adds to the residual */
    LAYER_FEED_FORWARD_NORM,
    LAYER_FEED_FORWARD_NORM_BIAS,
    LAYER_GATE,
    LAYER_GATE_BIAS,
    LAYER_UP,
    LAYER_UP_BIAS,
    LAYER_DOWN,
    LAYER_DOWN_BIAS,
    LAYER_POST_FEED_FORWARD_NORM, /* of what the feed-forward half adds to the residual */
    LAYER_TENSORS,
};

/* A set of layer tensors. */
#define TENSOR_BIT(i) (UINT32_C(1) << (i))

/* ---- a family (families.c) ---- */

/* What Hugging Face directories call the tensors; NULL: these names have no such tensor. */
struct tensor_names {
    const char *prefixes[3]; /* of all but the head: the first with which the embedding is found */
    const char *layer;       /* "layers.", then the layer's number and a dot */
    const char *global[GLOBAL_TENSORS];
    const char *tensor[LAYER_TENSORS];
};

/* Names of GGUF files, the same in every family: of what is outside layers, and after "blk.N.". */
extern const struct tensor_names gguf_names;

enum norm { NORM_RMS, NORM_LAYER };

/* Where config.json has what. */
struct config_names {
    const char *layers, *width, *heads, *feed_forward, *context;
    const char *epsilon;                 /* NULL: it is 1e-5 */
    const char *activation, *must_be[2]; /* a field, and what it may say; must_be[1] may be NULL */
    bool tied;                           /* if tie_word_embeddings is not there */
};

/* The switches of the one forward pass, and how the family's files differ from the rest. */
struct family {
    const char *name;       /* for people; general.architecture of GGUF files and the prefix of their keys */
    const char *model_type; /* of config.json */
    const struct tensor_names *names;
    const struct config_names *config;

    double local_base; /* rotary base of the layers with a window; 0: that of the others */
    enum norm norm;
    enum activation activation;
    uint32_t required;   /* TENSOR_BIT()s that a layer must have */
    uint32_t optional;   /* and that are used where a file has them; the others are refused */
    uint32_t full_every; /* the last of every so many layers sees everything, the others their window; 0: all alike */
    bool learned_positions; /* a table of positions, and no rotary embedding */
    bool scaled_embedding;  /* embeddings times sqrt(width) */

    bool gguf;                  /* there are GGUF files of the family */
    bool fused_qkv;             /* queries, keys and values lie in one tensor, one after another */
    bool transposed;            /* Hugging Face's matrices are (inputs, outputs) */
    bool offset_gain;           /* Hugging Face's gains are what is added to 1 */
    enum rope_style rope_style; /* in GGUF files; Hugging Face's are ROPE_HALVES in every family */
    uint32_t skipped_positions; /* rows at the start of Hugging Face's table that no position has */
};

/* By general.architecture or by config.json's model_type; STATUS_UNSUPPORTED with the list of those built if there is
 * no such row. */
struct status family_of_gguf(struct gguf_string architecture, const struct family **out);
struct status family_of_config(const char *model_type, const struct family **out);

/* ---- hyperparameters (shape.c, shape_gguf.c, hf_config.c) ---- */

enum rope_scaling { ROPE_UNSCALED, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

struct rope_parameters {
    double base;
    enum rope_scaling scaling;
    double factor, original_context;
    double magnitude;                     /* YaRN; 0: the paper's, 1 + 0.1 log(factor) */
    double magnitude_factor;              /* YaRN: and this times as much */
    double beta_fast, beta_slow;          /* YaRN */
    double low_frequency, high_frequency; /* Llama 3 */
};

enum rope_kind { ROPE_GLOBAL, ROPE_LOCAL, ROPE_KINDS };

/* What the pass has to know beside the shape. */
struct pass {
    struct rope_parameters rope[ROPE_KINDS];
    bool local_rope;  /* layers with a window rotate by ROPE_LOCAL */
    uint32_t *window; /* (layers) positions that a row sees, 0: all; owned by the model */
    float attention_scale, embedding_scale;
    enum { HEAD_IF_THERE, HEAD_TIED, HEAD_OWN } head; /* tied to the embedding where the file has none; always; never */
};

/* Reads and checks every key but the tensors' own extents. */
struct status shape_from_gguf(const struct gguf *gguf, const struct family *family, struct model_shape *shape,
                              struct pass *pass);

/* The same from the text of a config.json, which names the family, too. */
struct status shape_from_config(const char *text, size_t bytes, const struct family **family, struct model_shape *shape,
                                struct pass *pass);

/* Makes pass->window: all layers get `window`, 0 for none, but the last of every `full_every` (0: there are none). */
struct status shape_windows(uint32_t layers, uint32_t window, uint32_t full_every, struct pass *pass);

/* frequency (pairs): the angle of each pair at position 1 after scaling, and the magnitude of a rotation. `factors`
 * (pairs) are further divisors (rope_freqs.weight), NULL if there are none. */
struct status shape_rope(const struct rope_parameters *rope, const float *factors, uint32_t pairs, float *frequency,
                         float *magnitude);

/* ---- tensors (layout_find.c, layout.c, shard.c) ---- */

/* A tensor of the model, as the file has it and as it is packed. rows is 0 if the model has none. */
struct model_tensor {
    uint32_t rows, columns;
    enum tensor_type type; /* as a device gets it */
    enum tensor_type file_type;
    const uint8_t *data; /* of the first row, in the file */
    size_t row_step;     /* bytes from one row to the next in the file */
    size_t column_step;  /* bytes from one value to the next where columns do not lie side by side; 0: they do */
    float offset;        /* added to every value */
    uint32_t lacking_rows, lacking_columns; /* of `rows` and `columns`, the last, which no file has: zeros */
    const void *file_data;                  /* the whole of the file's tensor, which may hold several of ours */
    size_t file_bytes;
};

/* What a slab holds of a tensor: `count` rows from `first` on, at `offset` in the packed slab, a multiple of 64. */
struct slab_piece {
    size_t offset;
    uint32_t first, count;
};

struct layer_layout {
    struct model_tensor tensor[LAYER_TENSORS]; /* with a rank's extents, and where rank 0's lie in the file */
    struct slab_piece *piece;                  /* (slabs, LAYER_TENSORS); set by model_load() */
};

struct model {
    struct gguf *gguf; /* one of the two */
    struct safetensors *safetensors;
    const struct family *family;
    struct model_shape shape;
    struct model_shape share; /* of one rank: fewer heads and less feed-forward, or the shape itself */
    uint32_t ranks;           /* 1 until model_split() */
    uint64_t whole_bytes;     /* of the weights of all ranks, once split */
    struct pass pass;
    enum model_quantize quantize;
    struct tokenizer *tokenizer; /* NULL: opened for its weights alone */
    struct model_tensor global[GLOBAL_TENSORS];
    struct layer_layout *layers;       /* (shape.layers) */
    float *rope_frequency[ROPE_KINDS]; /* (shape.rope_pairs) */

    /* once loaded */
    struct device *device;
    uint32_t slabs;            /* of a layer */
    struct slab_piece *pieces; /* (layers, slabs, LAYER_TENSORS) */
    uint8_t *globals;          /* device memory: the packed global tensors, then the rope frequencies */
    size_t global_offset[GLOBAL_TENSORS];
    size_t rope_offset[ROPE_KINDS];
};

/* Finds every tensor of the family by name and checks its extents and type against the shape. A tensor that the
 * pass would not use is refused: a result without it would be wrong in silence. */
struct status layout_find(struct model *model);

/* Whether a tensor lies on the device as plain f32 and not packed: vectors, and the table of positions. */
bool layout_is_plain_global(enum global_tensor i);
bool layout_is_vector(enum layer_tensor i);

/* A layer is packed as `slabs` pieces of nearly equal size, cut between output rows at multiples of WEIGHT_ROW_GROUP.
 * Slab 0 begins with the vectors. The matrices follow one another through the slabs, so that one is in few pieces and
 * read in long runs; but of the one with the longest rows, whose groups are too coarse to end slabs evenly, every slab
 * has its share. The rows of 1 to LAYER_TENSORS matrices that a slab holds: */
struct cut_matrix {
    uint32_t rows;
    size_t group_bytes; /* of WEIGHT_ROW_GROUP rows */
};
struct row_range {
    uint32_t first, count;
};
void layout_cut(const struct cut_matrix *matrices, uint32_t count, size_t vector_bytes, uint32_t slabs, uint32_t slab,
                struct row_range *out);

/* Where the tensors of a layer's slab lie once packed for `device`; returns the slab's bytes, a multiple of 64. */
size_t layout_place_slab(const struct device *device, const struct model_tensor tensors[LAYER_TENSORS], uint32_t slabs,
                         uint32_t slab, struct slab_piece piece[LAYER_TENSORS]);

/* Bytes of scratch that packing any of the model's tensors takes: 0 unless the file has some of them otherwise than
 * devices want them. */
size_t layout_scratch_bytes(const struct model *model);

/* Packs a slab's pieces, matrices as the device wants them and vectors as f32. */
void layout_pack_slab(const struct device *device, const struct model_tensor tensors[LAYER_TENSORS],
                      const struct slab_piece piece[LAYER_TENSORS], void *packed, void *scratch);

/* The same for what lies outside layers; the rope frequencies come last. The factors of the frequencies take no
 * bytes, nor does an absent tensor. */
size_t layout_place_globals(const struct model *model, const struct device *device, size_t offset[GLOBAL_TENSORS],
                            size_t rope_offset[ROPE_KINDS]);
size_t layout_global_bytes(const struct model *model, const struct device *device, enum global_tensor i);
void layout_pack_global(const struct model *model, const struct device *device, enum global_tensor i, void *packed,
                        void *scratch);

/* A rank's share of a layer's tensor. */
struct model_tensor shard_tensor(const struct model *model, uint32_t layer, enum layer_tensor i, uint32_t rank);

/* The values of a tensor of floats as f32. */
void layout_read_plain(const struct model_tensor *tensor, float *out);

/* A packed matrix, or some of its rows, at `data`. */
struct weight layout_weight(const struct model_tensor *tensor, uint32_t rows, const void *data);

#endif
