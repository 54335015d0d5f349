/* What the files of a model share: the family's row, the tensors found in the file, and where each lies once packed.
 *
 * Reading order: families.c (what a family is), shape.c (hyperparameters and rotary frequencies), layout.c (tensors:
 * found, checked, packed), model.c (open and load), forward.c (the pass).
 * Threads: as models/model.h says. */
#ifndef METRONOME_MODELS_MODEL_INTERNAL_H
#define METRONOME_MODELS_MODEL_INTERNAL_H

#include "models/gguf.h"
#include "models/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- a family (families.c) ---- */

enum presence {
    PRESENCE_REQUIRED,
    PRESENCE_OPTIONAL, /* used if the file has it */
    PRESENCE_NONE,     /* refused if the file has it: the pass would not use it */
};

/* The switches of the one forward pass. */
struct family {
    const char *architecture; /* general.architecture, and the prefix of the family's keys */
    enum rope_style rope_style;
    enum presence qkv_bias; /* blk.N.attn_{q,k,v}.bias */
};

/* STATUS_UNSUPPORTED with the list of those built if there is no such row. */
struct status family_find(struct gguf_string architecture, const struct family **out);

/* ---- hyperparameters (shape.c) ---- */

/* Reads and checks every key but the tensors' own extents. */
struct status shape_read(const struct gguf *gguf, const struct family *family, struct model_shape *shape);

/* frequency (shape.rope_pairs): the angle of each pair at position 1, after the model's rope scaling, and the
 * magnitude into `shape`. `factors` are the divisors of rope_freqs.weight (Llama 3), NULL if there are none. */
struct status shape_rope(const struct gguf *gguf, const struct family *family, const float *factors,
                         struct model_shape *shape, float *frequency);

/* ---- tensors (layout.c) ---- */

enum global_tensor {
    GLOBAL_EMBEDDING,
    GLOBAL_NORM,
    GLOBAL_HEAD,         /* absent: tied to the embedding */
    GLOBAL_ROPE_FACTORS, /* used to make the frequencies; not packed itself */
    GLOBAL_TENSORS,
};

enum layer_tensor {
    LAYER_ATTENTION_NORM,
    LAYER_QUERY,
    LAYER_QUERY_BIAS,
    LAYER_KEY,
    LAYER_KEY_BIAS,
    LAYER_VALUE,
    LAYER_VALUE_BIAS,
    LAYER_ATTENTION_OUTPUT,
    LAYER_FEED_FORWARD_NORM,
    LAYER_GATE,
    LAYER_UP,
    LAYER_DOWN,
    LAYER_TENSORS,
};

struct layer_layout {
    const struct gguf_tensor *tensor[LAYER_TENSORS]; /* NULL: absent */
    size_t *offset; /* (slabs, LAYER_TENSORS) in the packed slab, multiples of 64; set by model_load() */
};

struct model {
    struct gguf *gguf;
    const struct family *family;
    struct model_shape shape;
    struct tokenizer *tokenizer; /* NULL: opened for its weights alone */
    const struct gguf_tensor *global[GLOBAL_TENSORS];
    struct layer_layout *layers; /* (shape.layers) */
    float *rope_frequency;       /* (shape.rope_pairs) */

    /* once loaded */
    struct device *device;
    uint32_t slabs;   /* of a layer */
    size_t *offsets;  /* (layers, slabs, LAYER_TENSORS) */
    uint8_t *globals; /* device memory: the packed global tensors, then the rope frequencies */
    size_t global_offset[GLOBAL_TENSORS];
    size_t rope_offset;
};

/* Finds every tensor of the family by name and checks its extents and type against the shape. A tensor that the
 * pass would not use is refused: a result without it would be wrong in silence. */
struct status layout_find(struct model *model);

/* A layer is packed as `slabs` pieces of nearly equal size: slab j holds the j-th share of the output rows of every
 * matrix, cut at multiples of WEIGHT_ROW_GROUP, and slab 0 the vectors too. The rows of a matrix that a slab holds: */
struct row_range {
    uint32_t first, count;
};
struct row_range layout_slab_rows(uint32_t rows, uint32_t slabs, uint32_t slab);

/* Where the tensors of a layer's slab lie once packed for `device`; returns the slab's bytes, a multiple of 64. */
size_t layout_place_slab(const struct device *device, const struct layer_layout *layer, uint32_t slabs, uint32_t slab,
                         size_t offset[LAYER_TENSORS]);

/* Packs a slab's tensors at `offset`, matrices as the device wants them and vectors as f32. */
void layout_pack_slab(const struct device *device, const struct layer_layout *layer, uint32_t slabs, uint32_t slab,
                      const size_t offset[LAYER_TENSORS], void *packed);

/* The same for what lies outside layers; the rope frequencies come last. The factors of the frequencies take no
 * bytes, nor does an absent tensor. */
size_t layout_place_globals(const struct model *model, const struct device *device, size_t offset[GLOBAL_TENSORS],
                            size_t *rope_offset);
size_t layout_global_bytes(const struct model *model, const struct device *device, enum global_tensor i);
void layout_pack_global(const struct model *model, const struct device *device, enum global_tensor i, void *packed);

/* A packed matrix, or some of its rows, at `data`. */
struct weight layout_weight(const struct gguf_tensor *tensor, uint32_t rows, const void *data);

#endif
