// models/model: what is read from a good file, and what a bad one is told.
#include "tests/unit/models/tiny_model.h"

extern "C" {
#include "base/log.h"
#include "models/model.h"
}
#include <functional>
#include <gtest/gtest.h>

namespace {

struct status open_tiny(TinyModel &tiny, struct model **model) {
    log_set_level(LOG_ERROR);
    return model_open_weights(tiny.write().c_str(), model);
}

bool says(const struct status &status, const std::string &words) {
    return strstr(status.message, words.c_str()) != nullptr;
}

TEST(Model, ShapeOfAGoodFile) {
    TinyModel tiny;
    tiny.make();
    struct model *model = nullptr;
    struct status status = open_tiny(tiny, &model);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    const struct model_shape *shape = model_shape(model);
    EXPECT_STREQ(shape->architecture, "llama");
    EXPECT_STREQ(shape->name, "tiny");
    EXPECT_EQ(shape->layers, 2u);
    EXPECT_EQ(shape->width, 64u);
    EXPECT_EQ(shape->feed_forward, 96u);
    EXPECT_EQ(shape->query_heads, 4u);
    EXPECT_EQ(shape->kv_heads, 2u);
    EXPECT_EQ(shape->head_dim, 16u);
    EXPECT_EQ(shape->vocabulary, 80u);
    EXPECT_EQ(shape->context, 128u);
    EXPECT_EQ(shape->rope_pairs, 8u);
    EXPECT_EQ(shape->rope_style, ROPE_INTERLEAVED);
    EXPECT_EQ(shape->rope_magnitude, 1.0f);
    EXPECT_FLOAT_EQ(shape->norm_epsilon, 1e-5f);
    EXPECT_TRUE(shape->tied_head);
    uint64_t layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 2 * 64;
    EXPECT_EQ(shape->parameters, 80 * 64 + 64 + 2 * layer);
    EXPECT_EQ(model_tokenizer(model), nullptr);
    EXPECT_EQ(model_chat_template(model).bytes, 0u);
    struct kv_shape kv = model_kv_shape(model, KV_BF16);
    EXPECT_EQ(kv.layers, 2u);
    EXPECT_EQ(kv.kv_heads, 2u);
    EXPECT_EQ(kv.head_dim, 16u);
    EXPECT_EQ(kv.type, KV_BF16);
    model_close(model);
}

TEST(Model, DefaultsAndOverrides) {
    TinyModel tiny;
    tiny.head_dim = 24; // 4 * 24 is not the width
    tiny.rope_dimensions = 8;
    tiny.tied = false;
    tiny.scaling = "yarn";
    tiny.factor = 4;
    tiny.original = 32;
    tiny.make();
    tiny.file.remove("llama.attention.head_count_kv");
    tiny.file.u32("llama.vocab_size", 80);
    tiny.file.string("tokenizer.chat_template", "{{ messages }}");
    struct model *model = nullptr;
    // Without its key there are as many key heads as query heads, and the file's tensors do not fit that.
    struct status status = open_tiny(tiny, &model);
    EXPECT_TRUE(says(status, "tensor 'blk.0.attn_k.weight'")) << status.message;
    tiny.file.u32("llama.attention.head_count_kv", 2);
    status = open_tiny(tiny, &model);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    EXPECT_EQ(model_shape(model)->head_dim, 24u);
    EXPECT_EQ(model_shape(model)->rope_pairs, 4u);
    EXPECT_FALSE(model_shape(model)->tied_head);
    EXPECT_NEAR(model_shape(model)->rope_magnitude, 0.1 * std::log(4.0) + 1, 1e-6);
    EXPECT_EQ(std::string(model_chat_template(model).data, model_chat_template(model).bytes), "{{ messages }}");
    model_close(model);
}

TEST(Model, ASlidingWindowLeavesTheContext) {
    TinyModel tiny;
    tiny.make();
    tiny.file.u32("llama.attention.sliding_window", 40);
    struct model *model = nullptr;
    ASSERT_EQ(open_tiny(tiny, &model).code, STATUS_OK);
    EXPECT_EQ(model_shape(model)->context, 128u);
    model_close(model);
}

TEST(Model, ATokenizerIsNeededUnlessOneAsksForWeightsAlone) {
    TinyModel tiny;
    tiny.make();
    struct model *model = nullptr;
    struct status status = model_open(tiny.write().c_str(), &model);
    EXPECT_NE(status.code, STATUS_OK);
    EXPECT_TRUE(says(status, "tokenizer")) << status.message;
}

TEST(Model, MissingFileIsNamed) {
    struct model *model = nullptr;
    struct status status = model_open("/nonexistent/a.gguf", &model);
    EXPECT_EQ(status.code, STATUS_NOT_FOUND);
    EXPECT_TRUE(says(status, "/nonexistent/a.gguf")) << status.message;
}

// A good file with one thing changed, and what the refusal must say.
struct Fault {
    const char *name;
    std::function<void(TinyModel &)> damage; // after make()
    enum status_code code;
    const char *says;
};

void set(TinyModel &tiny, const char *key, uint32_t value) {
    tiny.file.remove(key);
    tiny.file.u32(key, value);
}

void set_number(TinyModel &tiny, const char *key, float value) {
    tiny.file.remove(key);
    tiny.file.f32(key, value);
}

void set_tensor(TinyModel &tiny, const char *name, const std::vector<uint64_t> &extent) {
    tiny.file.remove(name);
    uint64_t elements = 1;
    for (uint64_t n : extent) {
        elements *= n;
    }
    tiny.file.tensor(name, gguf_type_id(TENSOR_F32), extent, std::vector<uint8_t>(elements * 4));
}

void PrintTo(const Fault &fault, std::ostream *out) {
    *out << fault.name;
}

class Faults : public ::testing::TestWithParam<Fault> {};

TEST_P(Faults, AreRefusedByName) {
    TinyModel tiny;
    tiny.make();
    GetParam().damage(tiny);
    struct model *model = nullptr;
    struct status status = open_tiny(tiny, &model);
    EXPECT_EQ(status.code, GetParam().code) << status.message;
    EXPECT_TRUE(says(status, GetParam().says)) << status.message;
    if (status.code == STATUS_OK) {
        model_close(model);
    }
}

#define DAMAGE(...) [](TinyModel &t) { __VA_ARGS__; }

INSTANTIATE_TEST_SUITE_P(
    Model, Faults,
    ::testing::Values(
        Fault {
            "architecture",
                DAMAGE(t.file.remove("general.architecture"); t.file.string("general.architecture", "rwkv")),
                STATUS_UNSUPPORTED, "'rwkv' is not built; built are: llama"
        },
        Fault{"no_architecture", DAMAGE(t.file.remove("general.architecture")), STATUS_INVALID, "general.architecture"},
        Fault{"no_layers", DAMAGE(t.file.remove("llama.block_count")), STATUS_INVALID, "llama.block_count"},
        Fault{"zero_layers", DAMAGE(set(t, "llama.block_count", 0)), STATUS_INVALID, "llama.block_count"},
        Fault{"more_layers", DAMAGE(set(t, "llama.block_count", 3)), STATUS_INVALID, "blk.2.attn_norm.weight"},
        Fault{"fewer_layers", DAMAGE(set(t, "llama.block_count", 1)), STATUS_UNSUPPORTED, "blk.1."},
        Fault{"many_layers", DAMAGE(set(t, "llama.block_count", 4000)), STATUS_INVALID, "llama.block_count"},
        Fault{"absurd_layers", DAMAGE(set(t, "llama.block_count", UINT32_MAX)), STATUS_INVALID, "llama.block_count"},
        Fault{"layers_type", DAMAGE(set_number(t, "llama.block_count", 2)), STATUS_INVALID, "llama.block_count"},
        Fault{"zero_width", DAMAGE(set(t, "llama.embedding_length", 0)), STATUS_INVALID, "llama.embedding_length"},
        Fault{"wrong_width", DAMAGE(set(t, "llama.embedding_length", 128)), STATUS_INVALID,
              "tensor 'token_embd.weight': is 64 x 80, must be 128 (embedding_length)"},
        Fault{"absurd_width", DAMAGE(set(t, "llama.embedding_length", 1u << 31)), STATUS_INVALID, "embedding_length"},
        Fault{"feed_forward", DAMAGE(set(t, "llama.feed_forward_length", 95)), STATUS_INVALID, "feed_forward_length"},
        Fault{"zero_heads", DAMAGE(set(t, "llama.attention.head_count", 0)), STATUS_INVALID,
              "llama.attention.head_count'"},
        Fault{"heads_divide_width", DAMAGE(set(t, "llama.attention.head_count", 6)), STATUS_INVALID,
              "llama.attention.head_count'"},
        Fault{"zero_kv_heads", DAMAGE(set(t, "llama.attention.head_count_kv", 0)), STATUS_INVALID, "head_count_kv"},
        Fault{"kv_heads_divide", DAMAGE(set(t, "llama.attention.head_count_kv", 3)), STATUS_INVALID, "head_count_kv"},
        Fault{"key_length", DAMAGE(set(t, "llama.attention.key_length", 32)), STATUS_INVALID, "attn_q.weight"},
        Fault{"head_size", DAMAGE(set(t, "llama.attention.key_length", 12)), STATUS_UNSUPPORTED, "head size is 12"},
        Fault{"value_length", DAMAGE(set(t, "llama.attention.value_length", 32)), STATUS_UNSUPPORTED, "value_length"},
        Fault{"no_context", DAMAGE(set(t, "llama.context_length", 0)), STATUS_INVALID, "llama.context_length"},
        Fault{"odd_rotation", DAMAGE(set(t, "llama.rope.dimension_count", 7)), STATUS_INVALID, "dimension_count"},
        Fault{"wide_rotation", DAMAGE(set(t, "llama.rope.dimension_count", 32)), STATUS_INVALID, "dimension_count"},
        Fault{"vocabulary", DAMAGE(set(t, "llama.vocab_size", 81)), STATUS_INVALID, "81 (vocab_size)"},
        Fault{"no_epsilon", DAMAGE(t.file.remove("llama.attention.layer_norm_rms_epsilon")), STATUS_INVALID,
              "layer_norm_rms_epsilon"},
        Fault{"nan_epsilon", DAMAGE(set_number(t, "llama.attention.layer_norm_rms_epsilon", NAN)), STATUS_INVALID,
              "layer_norm_rms_epsilon"},
        Fault{"base", DAMAGE(set_number(t, "llama.rope.freq_base", -1)), STATUS_INVALID, "llama.rope.freq_base"},
        Fault{"factor", DAMAGE(set_number(t, "llama.rope.scaling.factor", 0)), STATUS_INVALID, "rope.scaling.factor"},
        Fault{"scaling", DAMAGE(t.file.string("llama.rope.scaling.type", "longrope")), STATUS_UNSUPPORTED,
              "'longrope'"},
        Fault{"scaling_type", DAMAGE(set(t, "llama.rope.scaling.type", 1)), STATUS_INVALID, "rope.scaling.type"},
        Fault{"experts", DAMAGE(set(t, "llama.expert_count", 8)), STATUS_UNSUPPORTED, "llama.expert_count"},
        Fault{"no_embedding", DAMAGE(t.file.remove("token_embd.weight")), STATUS_INVALID, "vocab_size"},
        Fault{"no_norm", DAMAGE(t.file.remove("output_norm.weight")), STATUS_INVALID,
              "'output_norm.weight': is missing"},
        Fault{"no_down", DAMAGE(t.file.remove("blk.1.ffn_down.weight")), STATUS_INVALID,
              "'blk.1.ffn_down.weight': is missing"},
        Fault{"norm_extent", DAMAGE(set_tensor(t, "output_norm.weight", {63})), STATUS_INVALID, "output_norm.weight"},
        Fault{"third_extent", DAMAGE(set_tensor(t, "blk.0.attn_q.weight", {64, 64, 2})), STATUS_INVALID,
              "attn_q.weight"},
        Fault{"transposed", DAMAGE(set_tensor(t, "blk.0.ffn_up.weight", {96, 64})), STATUS_INVALID, "ffn_up.weight"},
        Fault{"head_norm", DAMAGE(set_tensor(t, "blk.0.attn_q_norm.weight", {16})), STATUS_UNSUPPORTED,
              "'blk.0.attn_q_norm.weight': is not part of the family 'llama'"},
        Fault{"factors_extent", DAMAGE(set_tensor(t, "rope_freqs.weight", {4})), STATUS_INVALID, "rope_freqs.weight"},
        Fault{"zero_factors", DAMAGE(set_tensor(t, "rope_freqs.weight", {8})), STATUS_INVALID,
              "'rope_freqs.weight': value 0"},
        Fault {
            "quantized_norm",
                DAMAGE(t.file.remove("output_norm.weight");
                       t.file.tensor("output_norm.weight", 8, {64}, std::vector<uint8_t>(68))),
                STATUS_UNSUPPORTED, "'output_norm.weight': type: is Q8_0"
        }),
    [](const ::testing::TestParamInfo<Fault> &fault) { return std::string(fault.param.name); });

} // namespace
