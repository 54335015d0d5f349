// Tiny models of every family, made again from tests/data/family_logits.json by its integer hash (as documented in
// tests/oracle/make_family_goldens.py), and written as Hugging Face directories and as GGUF files.
#ifndef METRONOME_TESTS_FAMILY_MODEL_H
#define METRONOME_TESTS_FAMILY_MODEL_H

#include "tests/unit/models/gguf_builder.h"

#include <cjson/cJSON.h>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

extern "C" {
#include "base/random.h"
#include "models/quantize.h"
}

struct FamilyTensor {
    std::string name;
    std::vector<uint64_t> shape;
    std::vector<float> values; // as the file's type has them
};

// A folder of files that goes with the object.
class Folder {
  public:
    Folder() {
        char name[] = "/tmp/metronome_family_XXXXXX";
        path = mkdtemp(name);
    }
    ~Folder() {
        for (const std::string &file : files_) {
            unlink((path + "/" + file).c_str());
        }
        rmdir(path.c_str());
    }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;

    std::string write(const std::string &name, const std::string &content) {
        std::ofstream(path + "/" + name, std::ios::binary) << content;
        files_.push_back(name);
        return path + "/" + name;
    }
    std::string path;

  private:
    std::vector<std::string> files_;
};

// The bytes of a safetensors file.
class SafetensorsBuilder {
  public:
    void add(const std::string &name, const std::string &dtype, const std::vector<uint64_t> &shape,
             const std::string &data) {
        std::string extents;
        for (uint64_t extent : shape) {
            extents += (extents.empty() ? "" : ",") + std::to_string(extent);
        }
        header_ += (header_.empty() ? "" : ",") + ("\"" + name + "\":{\"dtype\":\"" + dtype) + "\",\"shape\":[" +
                   extents + "],\"data_offsets\":[" + std::to_string(data_.size()) + "," +
                   std::to_string(data_.size() + data.size()) + "]}";
        data_ += data;
    }
    std::string build() const {
        return with_header("{\"__metadata__\":{\"format\":\"pt\"}" + (header_.empty() ? "" : "," + header_) + "}",
                           data_);
    }
    static std::string with_header(const std::string &header, const std::string &data) {
        uint64_t length = header.size();
        return std::string(reinterpret_cast<const char *>(&length), sizeof length) + header + data;
    }

  private:
    std::string header_, data_;
};

class FamilyModel {
  public:
    std::string name, dtype, config, model_type;
    std::vector<FamilyTensor> tensors;
    std::vector<uint32_t> ids, positions;
    std::vector<std::vector<double>> logits; // of `positions`, with the cache's precision
    std::vector<double> plain;               // of the last, without

    // All of them.
    static std::vector<FamilyModel> read() {
        std::ifstream file("tests/data/family_logits.json");
        std::stringstream text;
        text << file.rdbuf();
        std::unique_ptr<cJSON, decltype(&cJSON_Delete)> json(cJSON_Parse(text.str().c_str()), cJSON_Delete);
        EXPECT_NE(json, nullptr) << "tests/data/family_logits.json";
        std::vector<FamilyModel> models;
        const cJSON *item;
        cJSON_ArrayForEach(item, cJSON_GetObjectItem(json.get(), "families")) {
            models.emplace_back(item);
        }
        return models;
    }

    explicit FamilyModel(const cJSON *json) {
        name = cJSON_GetObjectItem(json, "name")->valuestring;
        dtype = cJSON_GetObjectItem(json, "dtype")->valuestring;
        const cJSON *fields = cJSON_GetObjectItem(json, "config"), *item;
        model_type = cJSON_GetObjectItem(fields, "model_type")->valuestring;
        char *printed = cJSON_PrintUnformatted(fields);
        config = printed;
        free(printed);
        cJSON_ArrayForEach(item, fields) {
            fields_[item->string] = item->valuedouble;
        }
        cJSON_ArrayForEach(item, cJSON_GetObjectItem(json, "tensors")) {
            tensors.push_back(make(item));
        }
        for (double value : numbers(cJSON_GetObjectItem(json, "ids"))) {
            ids.push_back(uint32_t(value));
        }
        for (double value : numbers(cJSON_GetObjectItem(json, "positions"))) {
            positions.push_back(uint32_t(value));
        }
        cJSON_ArrayForEach(item, cJSON_GetObjectItem(json, "logits")) {
            logits.push_back(numbers(item));
        }
        plain = numbers(cJSON_GetObjectItem(json, "plain"));
    }

    // Writes config.json and the weights, in `shards` files.
    void write_directory(Folder &folder, size_t shards = 1) const {
        folder.write("config.json", config);
        std::string map;
        for (size_t shard = 0; shard < shards; shard++) {
            std::string file = shards == 1 ? "model.safetensors" : "model-" + std::to_string(shard) + ".safetensors";
            SafetensorsBuilder builder;
            for (size_t i = shard; i < tensors.size(); i += shards) {
                builder.add(tensors[i].name, dtype, tensors[i].shape, encode(tensors[i].values));
                map += (map.empty() ? "\"" : ",\"") + tensors[i].name + "\":\"" + file + "\"";
            }
            folder.write(file, builder.build());
        }
        if (shards > 1) {
            folder.write("model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":{" + map + "}}");
        }
    }

    bool has_gguf() const {
        return model_type != "opt";
    }

    // The same model as the converter of GGUF's makers writes it: matrices in `matrix_type`, embedding and head in
    // `table_type`, the rest in F32.
    std::string write_gguf(Folder &folder, enum tensor_type matrix_type = TENSOR_F32,
                           enum tensor_type table_type = TENSOR_F32) const {
        GgufBuilder file;
        std::string architecture = model_type == "gemma3_text" ? "gemma3"
                                   : model_type == "mistral"   ? "llama"
                                                               : model_type;
        std::string prefix = architecture + ".";
        bool gpt2 = architecture == "gpt2";
        auto number = [&](const char *field, double fallback) {
            return fields_.count(field) ? fields_.at(field) : fallback;
        };
        auto field = [&](const char *field, const char *in_gpt2) {
            return uint32_t(number(gpt2 ? in_gpt2 : field, 0));
        };
        uint32_t width = field("hidden_size", "n_embd"), heads = field("num_attention_heads", "n_head");
        uint32_t head_dim = uint32_t(number("head_dim", width / heads));
        file.string("general.architecture", architecture);
        file.u32(prefix + "block_count", field("num_hidden_layers", "n_layer"));
        file.u32(prefix + "embedding_length", width);
        file.u32(prefix + "feed_forward_length", gpt2 ? 4 * width : field("intermediate_size", ""));
        file.u32(prefix + "attention.head_count", heads);
        file.u32(prefix + "context_length", field("max_position_embeddings", "n_positions"));
        file.f32(prefix + (gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
                 float(number(gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", 0)));
        if (!gpt2) {
            file.u32(prefix + "attention.head_count_kv", uint32_t(number("num_key_value_heads", 0)));
            file.u32(prefix + "attention.key_length", head_dim);
            file.u32(prefix + "attention.value_length", head_dim);
            file.f32(prefix + "rope.freq_base", name == "qwen3" ? 1e6f : float(number("rope_theta", 1e4)));
        }
        if (name == "mistral" || name == "gemma3") {
            file.u32(prefix + "attention.sliding_window", uint32_t(number("sliding_window", 0)));
        }
        if (name == "gemma3") {
            file.u32(prefix + "attention.sliding_window_pattern", uint32_t(number("sliding_window_pattern", 0)));
            file.string(prefix + "rope.scaling.type", "linear");
            file.f32(prefix + "rope.scaling.factor", 8);
        }
        if (name == "qwen2") {
            file.string(prefix + "rope.scaling.type", "yarn");
            file.f32(prefix + "rope.scaling.factor", 4);
            file.u32(prefix + "rope.scaling.original_context_length", 32);
        }
        if (name == "llama3") {
            add(file, "rope_freqs.weight", {8}, llama3_factors());
        }
        for (const FamilyTensor &tensor : tensors) {
            add_converted(file, tensor, architecture, head_dim, matrix_type, table_type);
        }
        std::vector<uint8_t> bytes = file.build();
        return folder.write("model.gguf", std::string(bytes.begin(), bytes.end()));
    }

  private:
    std::map<std::string, double> fields_;

    static std::vector<double> numbers(const cJSON *list) {
        std::vector<double> out;
        const cJSON *item;
        cJSON_ArrayForEach(item, list) {
            out.push_back(item->valuedouble);
        }
        return out;
    }

    FamilyTensor make(const cJSON *spec) const {
        FamilyTensor tensor;
        tensor.name = cJSON_GetArrayItem(spec, 0)->valuestring;
        size_t count = 1;
        for (double extent : numbers(cJSON_GetArrayItem(spec, 1))) {
            tensor.shape.push_back(uint64_t(extent));
            count *= size_t(extent);
        }
        float centre = float(cJSON_GetArrayItem(spec, 2)->valuedouble);
        float scale = float(cJSON_GetArrayItem(spec, 3)->valuedouble);
        uint64_t key = 0xcbf29ce484222325;
        for (char character : tensor.name) {
            key = (key ^ uint8_t(character)) * 0x100000001b3;
        }
        for (size_t i = 0; i < count; i++) {
            float unit = float(int64_t(random_hash(key, i) >> 40) - (1 << 23)) / float(1 << 23);
            tensor.values.push_back(round(unit * scale + centre));
        }
        return tensor;
    }

    uint16_t to_16(float value) const {
        if (dtype == "F16") {
            return tensor_f32_to_f16(value);
        }
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }

    float round(float value) const {
        if (dtype == "F32") {
            return value;
        }
        uint16_t half = to_16(value);
        enum tensor_type type = dtype == "F16" ? TENSOR_F16 : TENSOR_BF16;
        tensor_dequantize_row(type, &half, &value, 1);
        return value;
    }

    std::string encode(const std::vector<float> &values) const {
        std::string bytes;
        for (float value : values) {
            uint16_t half = to_16(value);
            bytes += dtype == "F32" ? std::string(reinterpret_cast<char *>(&value), 4)
                                    : std::string(reinterpret_cast<char *>(&half), 2);
        }
        return bytes;
    }

    static void add(GgufBuilder &file, const std::string &tensor, const std::vector<uint64_t> &shape,
                    const std::vector<float> &values, enum tensor_type type = TENSOR_F32) {
        std::vector<uint8_t> bytes(tensor_row_bytes(type, values.size()));
        if (type == TENSOR_F32) {
            memcpy(bytes.data(), values.data(), bytes.size());
        } else {
            quantize_row(type, values.data(), bytes.data(), values.size());
        }
        file.tensor(tensor, gguf_type_id(type), std::vector<uint64_t>(shape.rbegin(), shape.rend()), bytes);
    }

    // What the converter writes for Llama 3's scaling of the model in the goldens: divisors of the frequencies.
    static std::vector<float> llama3_factors() {
        const double factor = 8, low = 1, high = 4, original = 16;
        std::vector<float> factors;
        for (int pair = 0; pair < 8; pair++) {
            double wavelength = 2 * M_PI * std::pow(500000.0, pair / 8.0);
            double smooth = (original / wavelength - low) / (high - low);
            factors.push_back(float(wavelength < original / high  ? 1
                                    : wavelength > original / low ? factor
                                                                  : 1 / ((1 - smooth) / factor + smooth)));
        }
        return factors;
    }

    // The layer's number and what comes after it: "model.layers.3.mlp.up_proj.weight" is 3, "mlp.up_proj.weight".
    static bool split_layer(const std::string &full, std::string *layer, std::string *rest) {
        for (const char *marker : {"layers.", "h."}) {
            size_t at = full.find(marker);
            if (at != std::string::npos && isdigit(full[at + strlen(marker)])) {
                size_t begin = at + strlen(marker), dot = full.find('.', begin);
                *layer = full.substr(begin, dot - begin);
                *rest = full.substr(dot + 1);
                return true;
            }
        }
        return false;
    }

    // As the converter does: names; Llama's queries and keys with pairs side by side; GPT-2's matrices turned over;
    // Gemma's gains counted from 0.
    static void add_converted(GgufBuilder &file, const FamilyTensor &tensor, const std::string &architecture,
                              uint32_t head_dim, enum tensor_type matrix_type, enum tensor_type table_type) {
        static const std::map<std::string, std::string> names = {
            {"model.embed_tokens.weight", "token_embd.weight"},
            {"model.norm.weight", "output_norm.weight"},
            {"lm_head.weight", "output.weight"},
            {"transformer.wte.weight", "token_embd.weight"},
            {"transformer.wpe.weight", "position_embd.weight"},
            {"transformer.ln_f.weight", "output_norm.weight"},
            {"transformer.ln_f.bias", "output_norm.bias"},
            {"input_layernorm", "attn_norm"},
            {"post_attention_layernorm", "ffn_norm"},
            {"self_attn.q_proj", "attn_q"},
            {"self_attn.k_proj", "attn_k"},
            {"self_attn.v_proj", "attn_v"},
            {"self_attn.o_proj", "attn_output"},
            {"self_attn.q_norm", "attn_q_norm"},
            {"self_attn.k_norm", "attn_k_norm"},
            {"mlp.gate_proj", "ffn_gate"},
            {"mlp.up_proj", "ffn_up"},
            {"mlp.down_proj", "ffn_down"},
            {"ln_1", "attn_norm"},
            {"attn.c_attn", "attn_qkv"},
            {"attn.c_proj", "attn_output"},
            {"ln_2", "ffn_norm"},
            {"mlp.c_fc", "ffn_up"},
            {"mlp.c_proj", "ffn_down"},
        };
        static const std::map<std::string, std::string> gemma = {
            {"post_attention_layernorm", "post_attention_norm"},
            {"pre_feedforward_layernorm", "ffn_norm"},
            {"post_feedforward_layernorm", "post_ffw_norm"},
        };
        std::vector<uint64_t> shape = tensor.shape;
        std::vector<float> values = tensor.values;
        std::string layer, rest, called;
        if (split_layer(tensor.name, &layer, &rest)) {
            std::string stem = rest.substr(0, rest.rfind('.')), ending = rest.substr(rest.rfind('.'));
            bool renamed = architecture == "gemma3" && gemma.count(stem) > 0;
            called = "blk." + layer + "." + (renamed ? gemma.at(stem) : names.at(stem)) + ending;
            if (architecture == "llama" && (stem == "self_attn.q_proj" || stem == "self_attn.k_proj")) {
                values = interleave(values, shape, head_dim);
            }
            if (architecture == "gpt2" && shape.size() == 2) {
                values = transpose(values, shape);
                std::swap(shape[0], shape[1]);
            }
        } else {
            called = names.at(tensor.name);
        }
        if (architecture == "gemma3" && shape.size() == 1) {
            for (float &value : values) {
                value += 1;
            }
        }
        bool table = called == "token_embd.weight" || called == "output.weight";
        bool plain = shape.size() == 1 || called == "position_embd.weight";
        add(file, called, shape, values, plain ? TENSOR_F32 : table ? table_type : matrix_type);
    }

    // Rows of each head from (i, i + half) to (2i, 2i + 1).
    static std::vector<float> interleave(const std::vector<float> &values, const std::vector<uint64_t> &shape,
                                         uint32_t head_dim) {
        size_t columns = shape[1];
        std::vector<float> out(values.size());
        for (size_t row = 0; row < shape[0]; row++) {
            size_t head = row / head_dim, in_head = row % head_dim;
            size_t to = head * head_dim + in_head % (head_dim / 2) * 2 + in_head / (head_dim / 2);
            memcpy(&out[to * columns], &values[row * columns], columns * sizeof(float));
        }
        return out;
    }

    static std::vector<float> transpose(const std::vector<float> &values, const std::vector<uint64_t> &shape) {
        std::vector<float> out(values.size());
        for (size_t row = 0; row < shape[0]; row++) {
            for (size_t column = 0; column < shape[1]; column++) {
                out[column * shape[0] + row] = values[row * shape[1] + column];
            }
        }
        return out;
    }
};

#endif
