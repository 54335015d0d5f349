// models/safetensors and models/hf_config: what good files say, and what lying ones are told.
#include "tests/unit/models/family_model.h"

#include <functional>

extern "C" {
#include "models/model_internal.h"
}

namespace {

bool says(const struct status &status, const std::string &words) {
    return strstr(status.message, words.c_str()) != nullptr;
}

struct status open_bytes(const std::string &bytes, struct safetensors **out) {
    return safetensors_open_memory(bytes.data(), bytes.size(), out);
}

std::string with_header(const std::string &header, size_t data_bytes) {
    return SafetensorsBuilder::with_header(header, std::string(data_bytes, 'x'));
}

TEST(Safetensors, ReadsWhatIsThere) {
    SafetensorsBuilder builder;
    builder.add("b", "F32", {2, 3}, std::string(24, 1));
    builder.add("a", "BF16", {5}, std::string(10, 2));
    builder.add("ids", "I64", {}, std::string(8, 3));
    builder.add("none", "F16", {0, 4}, "");
    const std::string bytes = builder.build();
    struct safetensors *set = nullptr;
    struct status status = open_bytes(bytes, &set);
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
    ASSERT_EQ(safetensors_count(set), 4u);
    EXPECT_STREQ(safetensors_at(set, 0)->name, "a");
    const struct safetensors_tensor *b = safetensors_find(set, "b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->type, TENSOR_F32);
    EXPECT_EQ(b->dimensions, 2u);
    EXPECT_EQ(b->extent[0], 3u);
    EXPECT_EQ(b->extent[1], 2u);
    EXPECT_EQ(b->extent[2], 1u);
    EXPECT_EQ(b->bytes, 24u);
    EXPECT_EQ(b->data[23], 1);
    EXPECT_FALSE(safetensors_find(set, "ids")->readable);
    EXPECT_EQ(safetensors_find(set, "c"), nullptr);
    safetensors_close(set);
}

TEST(Safetensors, EveryCutIsRefused) {
    SafetensorsBuilder builder;
    builder.add("weight", "F32", {2, 2}, std::string(16, 1));
    builder.add("bias", "F16", {2}, std::string(4, 1));
    const std::string whole = builder.build();
    for (size_t bytes = 0; bytes < whole.size(); bytes++) {
        std::vector<char> cut(whole.begin(), whole.begin() + long(bytes)); // with nothing readable behind it
        struct safetensors *set = nullptr;
        struct status status = safetensors_open_memory(cut.data(), cut.size(), &set);
        ASSERT_EQ(status.code, STATUS_INVALID) << bytes;
        ASSERT_NE(status.message[0], 0);
    }
}

struct Lie {
    const char *header;
    size_t data_bytes;
    const char *says;
};

TEST(Safetensors, LiesAreRefusedByField) {
    const Lie lies[] = {
        {"[]", 0, "header: is an array"},
        {"{", 0, "header"},
        {R"({"__metadata__":1})", 0, "__metadata__: is a number"},
        {R"({"__metadata__":{"a":1}})", 0, "__metadata__: 'a': is a number"},
        {R"({"t":1})", 0, "tensor 't': is a number"},
        {R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 't': dtype: is missing"},
        {R"({"t":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4, "dtype: \"F33\""},
        {R"({"t":{"dtype":"F32","data_offsets":[0,4]}})", 4, "shape"},
        {R"({"t":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})", 4, "shape: must be a list of at most 4"},
        {R"({"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape: must be whole"},
        {R"({"t":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "shape: must be whole"},
        {R"({"t":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "shape: must be whole"},
        {R"({"t":{"dtype":"F32","shape":[9007199254740992,4096],"data_offsets":[0,4]}})", 4, "does not fit 64 bits"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets: must be a list"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "data_offsets: 4 to 0"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 4, "data_offsets: 0 to 8 do not fit"},
        {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "hold 4 bytes, and dtype and shape make 8"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "end at 4 of 8"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "tensor 't': data_offsets: begin at 4"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
         6, "tensor 'u': data_offsets: begin at 2"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
         8, "'t': appears twice"},
        {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", 4, "other fields"},
    };
    for (const Lie &lie : lies) {
        struct safetensors *set = nullptr;
        struct status status = open_bytes(with_header(lie.header, lie.data_bytes), &set);
        EXPECT_NE(status.code, STATUS_OK) << lie.header;
        EXPECT_TRUE(says(status, lie.says)) << lie.header << "\n" << status.message;
    }
    struct safetensors *set = nullptr;
    std::string huge = std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + "{}";
    struct status status = open_bytes(huge, &set);
    EXPECT_TRUE(says(status, "header length")) << status.message;
}

// ---- shards ----

TEST(Safetensors, AnIndexLeadsNowhereElse) {
    for (const char *name :
         {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", ".safetensors", "x.bin", ""}) {
        EXPECT_FALSE(safetensors_is_file_name(name)) << name;
    }
    EXPECT_TRUE(safetensors_is_file_name("model-00001-of-00002.safetensors"));
}

struct status open_index(const std::string &index, const std::string &shard) {
    Folder folder;
    folder.write("model.safetensors.index.json", index);
    folder.write("a.safetensors", shard);
    struct safetensors *set = nullptr;
    struct status status = safetensors_open(folder.path.c_str(), &set);
    safetensors_close(set);
    return status;
}

TEST(Safetensors, IndexesAreCheckedAgainstTheirShards) {
    SafetensorsBuilder builder;
    builder.add("t", "F32", {1}, "abcd");
    const std::string shard = builder.build();
    struct status status = open_index(R"({"weight_map":{"t":"a.safetensors"}})", shard);
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    const struct {
        const char *index, *says;
    } lies[] = {
        {"{", "index.json"},
        {"{}", "weight_map: is missing"},
        {R"({"weight_map":{"t":1}})", "weight_map: 't'"},
        {R"({"weight_map":{"t":"../a.safetensors"}})", "weight_map: 't'"},
        {R"({"weight_map":{"u":"a.safetensors"}})", "weight_map: 'u': is not in 'a.safetensors'"},
        {R"({"weight_map":{"t":"b.safetensors"}})", "b.safetensors"},
    };
    for (const auto &lie : lies) {
        status = open_index(lie.index, shard);
        EXPECT_NE(status.code, STATUS_OK) << lie.index;
        EXPECT_TRUE(says(status, lie.says)) << lie.index << "\n" << status.message;
    }
    status = open_index(R"({"weight_map":{"t":"a.safetensors"}})", "short");
    EXPECT_TRUE(says(status, "a.safetensors")) << status.message;
}

// ---- config.json ----

struct status read_config(const std::string &text) {
    const struct family *family = nullptr;
    struct model_shape shape;
    struct pass pass;
    struct status status = shape_from_config(text.data(), text.size(), &family, &shape, &pass);
    free(pass.window);
    return status;
}

// A llama's config.json with one field replaced, added or, if `value` is empty, left out.
std::string config_with(const std::string &name, const std::string &value) {
    std::map<std::string, std::string> fields = {
        {"model_type", "\"llama\""},        {"hidden_size", "64"},    {"intermediate_size", "96"},
        {"num_hidden_layers", "2"},         {"vocab_size", "80"},     {"num_attention_heads", "4"},
        {"max_position_embeddings", "128"}, {"rms_norm_eps", "1e-5"}, {"hidden_act", "\"silu\""},
    };
    fields[name] = value;
    std::string text;
    for (const auto &field : fields) {
        if (!field.second.empty()) {
            text += (text.empty() ? "{\"" : ",\"") + field.first + "\":" + field.second;
        }
    }
    return text + "}";
}

TEST(HfConfig, FaultsAreRefusedByField) {
    struct status status = read_config(config_with("unrelated", "[1]"));
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    const struct {
        const char *name, *value, *says;
    } faults[] = {
        {"model_type", "", "model_type: is missing"},
        {"model_type", "\"mamba\"", "model_type: \"mamba\" is not built; built are: llama"},
        {"hidden_size", "", "hidden_size: is missing"},
        {"hidden_size", "\"64\"", "hidden_size: is a string"},
        {"hidden_size", "64.5", "hidden_size: is 64.5"},
        {"num_hidden_layers", "0", "num_hidden_layers: is 0"},
        {"num_hidden_layers", "1e9", "num_hidden_layers: is 1e+09"},
        {"num_attention_heads", "3", "num_attention_heads: is 3, must divide"},
        {"num_key_value_heads", "3", "num_key_value_heads: is 3"},
        {"head_dim", "12", "head_dim: is 12"},
        {"rms_norm_eps", "0", "rms_norm_eps"},
        {"hidden_act", "\"gelu\"", "hidden_act: is \"gelu\""},
        {"quantization_config", "{}", "quantization_config"},
        {"final_logit_softcapping", "30", "final_logit_softcapping"},
        {"partial_rotary_factor", "0.5", "partial_rotary_factor"},
        {"tie_word_embeddings", "1", "tie_word_embeddings: is a number"},
        {"rope_theta", "-1", "rope_theta"},
        {"rope_scaling", "[]", "rope_scaling: is an array"},
        {"rope_scaling", R"({"type":"dynamic","factor":2})", "rope_type: is \"dynamic\""},
        {"rope_scaling", R"({"rope_type":"longrope","factor":2})", "rope_type: is \"longrope\""},
        {"rope_scaling", R"({"rope_type":"linear"})", "rope_scaling: factor: is missing"},
        {"rope_scaling", R"({"rope_type":"llama3","factor":8})", "original_max_position_embeddings: is missing"},
        {"rope_scaling", R"({"rope_type":"yarn","factor":8,"mscale":1})", "mscale"},
        {"rope_parameters", "1", "rope_parameters: is a number"},
        {"rope_parameters", R"({"partial_rotary_factor":0.5})", "partial_rotary_factor: is 0.5"},
        {"layer_types", R"(["full_attention"])", "layer_types: must be a list of 2"},
        {"layer_types", R"(["full_attention","chunked"])", "layer_types: 1 is \"chunked\""},
        {"layer_types", R"(["full_attention","sliding_attention"])", "sliding_window is missing"},
        {"sliding_window", "0", "sliding_window: is 0"},
    };
    for (const auto &fault : faults) {
        status = read_config(config_with(fault.name, fault.value));
        EXPECT_NE(status.code, STATUS_OK) << fault.name << " " << fault.value;
        EXPECT_TRUE(says(status, fault.says)) << fault.name << " " << fault.value << "\n" << status.message;
    }
}

TEST(HfConfig, SwitchesOfOptThatAreNotBuilt) {
    const std::string opt =
        R"({"model_type":"opt","hidden_size":64,"ffn_dim":96,"num_hidden_layers":2,"vocab_size":80,)"
        R"("num_attention_heads":4,"max_position_embeddings":64,)";
    EXPECT_EQ(read_config(opt + "\"do_layer_norm_before\":true}").code, STATUS_OK);
    struct status status = read_config(opt + "\"do_layer_norm_before\":false}");
    EXPECT_TRUE(says(status, "do_layer_norm_before: is false")) << status.message;
    status = read_config(opt + "\"word_embed_proj_dim\":32}");
    EXPECT_TRUE(says(status, "word_embed_proj_dim: is 32")) << status.message;
}

// ---- a whole directory ----

// A good directory with one of its tensors changed.
struct status open_changed(const std::function<void(FamilyModel &)> &change) {
    FamilyModel family = FamilyModel::read().at(0);
    change(family);
    Folder folder;
    family.write_directory(folder);
    struct model *model = nullptr;
    struct status status = model_open_weights(folder.path.c_str(), &model);
    model_close(model);
    return status;
}

TEST(Directory, TensorsAreCheckedAgainstTheConfig) {
    EXPECT_EQ(open_changed([](FamilyModel &) {}).code, STATUS_OK);
    struct status status = open_changed([](FamilyModel &f) { f.tensors.pop_back(); });
    EXPECT_TRUE(says(status, "tensor 'lm_head.weight': is missing")) << status.message;
    status = open_changed([](FamilyModel &f) { std::swap(f.tensors[0].shape[0], f.tensors[0].shape[1]); });
    EXPECT_TRUE(says(status, "tensor 'model.embed_tokens.weight': is 80 x 64, must be 64")) << status.message;
    status = open_changed([](FamilyModel &f) { f.tensors.push_back({"model.extra.weight", {1}, {0}}); });
    EXPECT_TRUE(says(status, "'model.extra.weight': is not part of the family 'llama'")) << status.message;
    // What training programs leave behind is known and not needed.
    status = open_changed([](FamilyModel &f) {
        f.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {1}, {0}});
    });
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
}

TEST(Directory, WhatIsMissingIsNamed) {
    Folder folder;
    struct model *model = nullptr;
    struct status status = model_open_weights(folder.path.c_str(), &model);
    EXPECT_EQ(status.code, STATUS_NOT_FOUND);
    EXPECT_TRUE(says(status, "config.json")) << status.message;
    folder.write("config.json", FamilyModel::read().at(0).config);
    status = model_open_weights((folder.path + "/").c_str(), &model);
    EXPECT_TRUE(says(status, "model.safetensors")) << status.message;
}

} // namespace
