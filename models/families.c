/* The families of models that the one forward pass serves: a family is a row.
 *
 * Owns: the tables of families and of the names of their tensors. A new family adds a row, and to forward.c only what
 * no row yet says. Threads: any; constants. */
#include "models/model_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- names ---- */

const struct tensor_names gguf_names = {
    .prefixes = {""},
    .layer = "blk.",
    .global = {[GLOBAL_EMBEDDING] = "token_embd.weight",
               [GLOBAL_POSITIONS] = "position_embd.weight",
               [GLOBAL_NORM] = "output_norm.weight",
               [GLOBAL_NORM_BIAS] = "output_norm.bias",
               [GLOBAL_HEAD] = "output.weight",
               [GLOBAL_ROPE_FACTORS] = "rope_freqs.weight"},
    .tensor = {[LAYER_ATTENTION_NORM] = "attn_norm.weight",
               [LAYER_ATTENTION_NORM_BIAS] = "attn_norm.bias",
               [LAYER_QUERY] = "attn_q.weight",
               [LAYER_QUERY_BIAS] = "attn_q.bias",
               [LAYER_QUERY_NORM] = "attn_q_norm.weight",
               [LAYER_KEY] = "attn_k.weight",
               [LAYER_KEY_BIAS] = "attn_k.bias",
               [LAYER_KEY_NORM] = "attn_k_norm.weight",
               [LAYER_VALUE] = "attn_v.weight",
               [LAYER_VALUE_BIAS] = "attn_v.bias",
               [LAYER_ATTENTION_OUTPUT] = "attn_output.weight",
               [LAYER_ATTENTION_OUTPUT_BIAS] = "attn_output.bias",
               [LAYER_POST_ATTENTION_NORM] = "post_attention_norm.weight",
               [LAYER_FEED_FORWARD_NORM] = "ffn_norm.weight",
               [LAYER_FEED_FORWARD_NORM_BIAS] = "ffn_norm.bias",
               [LAYER_GATE] = "ffn_gate.weight",
               [LAYER_GATE_BIAS] = "ffn_gate.bias",
               [LAYER_UP] = "ffn_up.weight",
               [LAYER_UP_BIAS] = "ffn_up.bias",
               [LAYER_DOWN] = "ffn_down.weight",
               [LAYER_DOWN_BIAS] = "ffn_down.bias",
               [LAYER_POST_FEED_FORWARD_NORM] = "post_ffw_norm.weight"},
};

#define LLAMA_GLOBAL \
    { [GLOBAL_EMBEDDING] = "embed_tokens.weight", [GLOBAL_NORM] = "norm.weight", [GLOBAL_HEAD] = "lm_head.weight", }
#define LLAMA_TENSORS                                                                                                  \
    [LAYER_ATTENTION_NORM] = "input_layernorm.weight", [LAYER_QUERY] = "self_attn.q_proj.weight",                      \
    [LAYER_QUERY_BIAS] = "self_attn.q_proj.bias", [LAYER_QUERY_NORM] = "self_attn.q_norm.weight",                      \
    [LAYER_KEY] = "self_attn.k_proj.weight", [LAYER_KEY_BIAS] = "self_attn.k_proj.bias",                               \
    [LAYER_KEY_NORM] = "self_attn.k_norm.weight", [LAYER_VALUE] = "self_attn.v_proj.weight",                           \
    [LAYER_VALUE_BIAS] = "self_attn.v_proj.bias", [LAYER_ATTENTION_OUTPUT] = "self_attn.o_proj.weight",                \
    [LAYER_ATTENTION_OUTPUT_BIAS] = "self_attn.o_proj.bias", [LAYER_GATE] = "mlp.gate_proj.weight",                    \
    [LAYER_GATE_BIAS] = "mlp.gate_proj.bias", [LAYER_UP] = "mlp.up_proj.weight", [LAYER_UP_BIAS] = "mlp.up_proj.bias", \
    [LAYER_DOWN] = "mlp.down_proj.weight", [LAYER_DOWN_BIAS] = "mlp.down_proj.bias"

static const struct tensor_names llama_names = {
    .prefixes = {"model.", ""},
    .layer = "layers.",
    .global = LLAMA_GLOBAL,
    .tensor = {LLAMA_TENSORS, [LAYER_FEED_FORWARD_NORM] = "post_attention_layernorm.weight"},
};

static const struct tensor_names gemma_names = {
    .prefixes = {"model.", ""},
    .layer = "layers.",
    .global = LLAMA_GLOBAL,
    .tensor = {LLAMA_TENSORS, [LAYER_POST_ATTENTION_NORM] = "post_attention_layernorm.weight",
               [LAYER_FEED_FORWARD_NORM] = "pre_feedforward_layernorm.weight",
               [LAYER_POST_FEED_FORWARD_NORM] = "post_feedforward_layernorm.weight"},
};

static const struct tensor_names opt_names = {
    .prefixes = {"model.decoder.", "decoder.", ""},
    .layer = "layers.",
    .global = {[GLOBAL_EMBEDDING] = "embed_tokens.weight",
               [GLOBAL_POSITIONS] = "embed_positions.weight",
               [GLOBAL_NORM] = "final_layer_norm.weight",
               [GLOBAL_NORM_BIAS] = "final_layer_norm.bias",
               [GLOBAL_HEAD] = "lm_head.weight"},
    .tensor = {[LAYER_ATTENTION_NORM] = "self_attn_layer_norm.weight",
               [LAYER_ATTENTION_NORM_BIAS] = "self_attn_layer_norm.bias",
               [LAYER_QUERY] = "self_attn.q_proj.weight",
               [LAYER_QUERY_BIAS] = "self_attn.q_proj.bias",
               [LAYER_KEY] = "self_attn.k_proj.weight",
               [LAYER_KEY_BIAS] = "self_attn.k_proj.bias",
               [LAYER_VALUE] = "self_attn.v_proj.weight",
               [LAYER_VALUE_BIAS] = "self_attn.v_proj.bias",
               [LAYER_ATTENTION_OUTPUT] = "self_attn.out_proj.weight",
               [LAYER_ATTENTION_OUTPUT_BIAS] = "self_attn.out_proj.bias",
               [LAYER_FEED_FORWARD_NORM] = "final_layer_norm.weight",
               [LAYER_FEED_FORWARD_NORM_BIAS] = "final_layer_norm.bias",
               [LAYER_UP] = "fc1.weight",
               [LAYER_UP_BIAS] = "fc1.bias",
               [LAYER_DOWN] = "fc2.weight",
               [LAYER_DOWN_BIAS] = "fc2.bias"},
};

static const struct tensor_names gpt2_names = {
    .prefixes = {"transformer.", ""},
    .layer = "h.",
    .global = {[GLOBAL_EMBEDDING] = "wte.weight",
               [GLOBAL_POSITIONS] = "wpe.weight",
               [GLOBAL_NORM] = "ln_f.weight",
               [GLOBAL_NORM_BIAS] = "ln_f.bias",
               [GLOBAL_HEAD] = "lm_head.weight"},
    .tensor = {[LAYER_ATTENTION_NORM] = "ln_1.weight",
               [LAYER_ATTENTION_NORM_BIAS] = "ln_1.bias",
               [LAYER_QUERY] = "attn.c_attn.weight", /* and the keys' and values': fused */
               [LAYER_QUERY_BIAS] = "attn.c_attn.bias",
               [LAYER_ATTENTION_OUTPUT] = "attn.c_proj.weight",
               [LAYER_ATTENTION_OUTPUT_BIAS] = "attn.c_proj.bias",
               [LAYER_FEED_FORWARD_NORM] = "ln_2.weight",
               [LAYER_FEED_FORWARD_NORM_BIAS] = "ln_2.bias",
               [LAYER_UP] = "mlp.c_fc.weight",
               [LAYER_UP_BIAS] = "mlp.c_fc.bias",
               [LAYER_DOWN] = "mlp.c_proj.weight",
               [LAYER_DOWN_BIAS] = "mlp.c_proj.bias"},
};

/* ---- fields of config.json ---- */

#define USUAL_CONFIG                                                                       \
    .layers = "num_hidden_layers", .width = "hidden_size", .heads = "num_attention_heads", \
    .feed_forward = "intermediate_size", .context = "max_position_embeddings", .epsilon = "rms_norm_eps"

static const struct config_names llama_config = {USUAL_CONFIG, .activation = "hidden_act", .must_be = {"silu"}};

static const struct config_names gemma_config = {
    USUAL_CONFIG,
    .activation = "hidden_activation",
    .must_be = {"gelu_pytorch_tanh"},
    .tied = true,
};

static const struct config_names opt_config = {
    .layers = "num_hidden_layers",
    .width = "hidden_size",
    .heads = "num_attention_heads",
    .feed_forward = "ffn_dim",
    .context = "max_position_embeddings",
    .activation = "activation_function",
    .must_be = {"relu"},
    .tied = true,
};

static const struct config_names gpt2_config = {
    .layers = "n_layer",
    .width = "n_embd",
    .heads = "n_head",
    .feed_forward = "n_inner",
    .context = "n_positions",
    .epsilon = "layer_norm_epsilon",
    .activation = "activation_function",
    .must_be = {"gelu_new", "gelu_pytorch_tanh"},
    .tied = true,
};

/* ---- families ---- */

enum {
    QKV_BIASES = TENSOR_BIT(LAYER_QUERY_BIAS) | TENSOR_BIT(LAYER_KEY_BIAS) | TENSOR_BIT(LAYER_VALUE_BIAS),
    HEAD_NORMS = TENSOR_BIT(LAYER_QUERY_NORM) | TENSOR_BIT(LAYER_KEY_NORM),
    POST_NORMS = TENSOR_BIT(LAYER_POST_ATTENTION_NORM) | TENSOR_BIT(LAYER_POST_FEED_FORWARD_NORM),
    OTHER_BIASES = TENSOR_BIT(LAYER_ATTENTION_OUTPUT_BIAS) | TENSOR_BIT(LAYER_UP_BIAS) | TENSOR_BIT(LAYER_DOWN_BIAS),
    EVERY_LAYER = TENSOR_BIT(LAYER_ATTENTION_NORM) | TENSOR_BIT(LAYER_QUERY) | TENSOR_BIT(LAYER_KEY) |
                  TENSOR_BIT(LAYER_VALUE) | TENSOR_BIT(LAYER_ATTENTION_OUTPUT) | TENSOR_BIT(LAYER_FEED_FORWARD_NORM) |
                  TENSOR_BIT(LAYER_UP) | TENSOR_BIT(LAYER_DOWN),
    GATED = EVERY_LAYER | TENSOR_BIT(LAYER_GATE),
    BIASED = EVERY_LAYER | QKV_BIASES | OTHER_BIASES | TENSOR_BIT(LAYER_ATTENTION_NORM_BIAS) |
             TENSOR_BIT(LAYER_FEED_FORWARD_NORM_BIAS),
};

static const struct family families[] = {
    /* Llama 2 and 3, SmolLM2 and others of the shape: RMS norm, rotary pairs side by side in GGUF, grouped queries,
     * SwiGLU. Touvron et al. arXiv 2302.13971, Grattafiori et al. arXiv 2407.21783. */
    {.name = "llama",
     .gguf = true,
     .model_type = "llama",
     .names = &llama_names,
     .config = &llama_config,
     .activation = ACTIVATION_SILU,
     .rope_style = ROPE_INTERLEAVED,
     .required = GATED,
     .optional = QKV_BIASES | OTHER_BIASES | TENSOR_BIT(LAYER_GATE_BIAS)},
    /* The same, perhaps with a window; its GGUF files call themselves llama. Jiang et al. arXiv 2310.06825. */
    {.name = "mistral",
     .model_type = "mistral",
     .names = &llama_names,
     .config = &llama_config,
     .activation = ACTIVATION_SILU,
     .required = GATED},
    /* Qwen2 and 2.5: biases of queries, keys and values. Yang et al. arXiv 2407.10671. */
    {.name = "qwen2",
     .gguf = true,
     .model_type = "qwen2",
     .names = &llama_names,
     .config = &llama_config,
     .activation = ACTIVATION_SILU,
     .rope_style = ROPE_HALVES,
     .required = GATED | QKV_BIASES},
    /* Qwen3: norms of each query's and key's head instead. Yang et al. arXiv 2505.09388. */
    {.name = "qwen3",
     .gguf = true,
     .model_type = "qwen3",
     .names = &llama_names,
     .config = &llama_config,
     .activation = ACTIVATION_SILU,
     .rope_style = ROPE_HALVES,
     .required = GATED | HEAD_NORMS,
     .optional = QKV_BIASES | TENSOR_BIT(LAYER_ATTENTION_OUTPUT_BIAS)},
    /* Gemma 3, text: norms before and after each half, GeGLU, five layers with a window to one without, each kind with
     * its rotary base. Gemma Team arXiv 2503.19786. */
    {.name = "gemma3",
     .gguf = true,
     .model_type = "gemma3_text",
     .names = &gemma_names,
     .config = &gemma_config,
     .activation = ACTIVATION_GELU_TANH,
     .scaled_embedding = true,
     .rope_style = ROPE_HALVES,
     .required = GATED | HEAD_NORMS | POST_NORMS,
     .full_every = 6,
     .local_base = 10000,
     .offset_gain = true},
    /* OPT, the variants that normalize before each half. Zhang et al. arXiv 2205.01068. */
    {.name = "opt",
     .model_type = "opt",
     .names = &opt_names,
     .config = &opt_config,
     .norm = NORM_LAYER,
     .activation = ACTIVATION_RELU,
     .learned_positions = true,
     .required = BIASED,
     .skipped_positions = 2},
    /* GPT-2. Radford et al. 2019. */
    {.name = "gpt2",
     .gguf = true,
     .model_type = "gpt2",
     .names = &gpt2_names,
     .config = &gpt2_config,
     .norm = NORM_LAYER,
     .activation = ACTIVATION_GELU_TANH,
     .learned_positions = true,
     .required = BIASED,
     .fused_qkv = true,
     .transposed = true},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

struct status family_of_gguf(struct gguf_string architecture, const struct family **out) {
    char built[128] = "";
    for (size_t i = 0; i < FAMILIES; i++) {
        const char *name = families[i].name;
        if (!families[i].gguf) {
            continue;
        }
        if (architecture.bytes == strlen(name) && memcmp(architecture.data, name, architecture.bytes) == 0) {
            *out = &families[i];
            return STATUS_SUCCESS;
        }
        size_t used = strlen(built);
        snprintf(built + used, sizeof built - used, "%s%s", used > 0 ? ", " : "", name);
    }
    return status_error(STATUS_UNSUPPORTED, "key 'general.architecture': '%.*s' is not built; built are: %s",
                        architecture.bytes < 32 ? (int)architecture.bytes : 32, architecture.data, built);
}

struct status family_of_config(const char *model_type, const struct family **out) {
    char built[128] = "";
    for (size_t i = 0; i < FAMILIES; i++) {
        if (strcmp(model_type, families[i].model_type) == 0) {
            *out = &families[i];
            return STATUS_SUCCESS;
        }
        size_t used = strlen(built);
        snprintf(built + used, sizeof built - used, "%s%s", used > 0 ? ", " : "", families[i].model_type);
    }
    return status_error(STATUS_UNSUPPORTED, "model_type: \"%.32s\" is not built; built are: %s", model_type, built);
}
