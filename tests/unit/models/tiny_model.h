// Tiny random models: written as GGUF for the loader, and computed by a scalar forward pass in double for the tests.
#ifndef METRONOME_TESTS_TINY_MODEL_H
#define METRONOME_TESTS_TINY_MODEL_H

#include "tests/unit/models/gguf_builder.h"

#include <cmath>
#include <map>
#include <unistd.h>

extern "C" {
#include "base/random.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
}

struct TinyModel {
    uint32_t layers = 2, width = 64, feed_forward = 96, query_heads = 4, kv_heads = 2, head_dim = 16;
    uint32_t vocabulary = 80, context = 128, rope_dimensions = 0; // 0: head_dim
    enum tensor_type type = TENSOR_F32;                           // of matrices
    std::vector<enum tensor_type> down_types;                     // of ffn_down, layer by layer; empty: `type`
    enum tensor_type norm_type = TENSOR_F32;
    bool tied = true, biases = false;
    double base = 10000;
    std::string scaling; // "", "none", "linear", "yarn"
    double factor = 1, original = 0;
    std::vector<float> factors; // rope_freqs.weight
    double epsilon = 1e-5;
    uint64_t seed = 1;

    GgufBuilder file;

    // Draws the weights and fills `file`.
    void make() {
        random_seed(&random_, seed);
        file = GgufBuilder();
        file.string("general.architecture", "llama");
        file.string("general.name", "tiny");
        file.u32("llama.block_count", layers);
        file.u32("llama.embedding_length", width);
        file.u32("llama.feed_forward_length", feed_forward);
        file.u32("llama.attention.head_count", query_heads);
        file.u32("llama.attention.head_count_kv", kv_heads);
        file.u32("llama.context_length", context);
        file.f32("llama.rope.freq_base", float(base));
        file.f32("llama.attention.layer_norm_rms_epsilon", float(epsilon));
        if (head_dim * query_heads != width) {
            file.u32("llama.attention.key_length", head_dim);
            file.u32("llama.attention.value_length", head_dim);
        }
        if (rope_dimensions != 0) {
            file.u32("llama.rope.dimension_count", rope_dimensions);
        }
        if (!scaling.empty()) {
            file.string("llama.rope.scaling.type", scaling);
            file.f32("llama.rope.scaling.factor", float(factor));
        }
        if (original != 0) {
            file.u32("llama.rope.scaling.original_context_length", uint32_t(original));
        }
        matrix("token_embd.weight", vocabulary, width, type);
        vector("output_norm.weight", width, 1);
        if (!tied) {
            matrix("output.weight", vocabulary, width, type);
        }
        if (!factors.empty()) {
            std::vector<uint8_t> bytes(factors.size() * 4);
            memcpy(bytes.data(), factors.data(), bytes.size());
            file.tensor("rope_freqs.weight", gguf_type_id(TENSOR_F32), {factors.size()}, bytes);
        }
        for (uint32_t layer = 0; layer < layers; layer++) {
            make_layer(layer, "blk." + std::to_string(layer) + ".");
        }
    }

    // The file on disk, removed with the model.
    std::string write() {
        remove();
        char name[] = "/tmp/metronome_tiny_XXXXXX";
        int descriptor = mkstemp(name);
        std::vector<uint8_t> bytes = file.build();
        bool whole = descriptor >= 0 && ::write(descriptor, bytes.data(), bytes.size()) == ssize_t(bytes.size());
        close(descriptor);
        path_ = whole ? name : "";
        return path_;
    }
    ~TinyModel() {
        remove();
    }

    // Logits of the last of `ids`, by the book, in double; keys and values rounded as the cache stores them.
    std::vector<double> logits(const std::vector<uint32_t> &ids, enum kv_type kv = KV_F16) const {
        size_t n = ids.size(), query_width = size_t(query_heads) * head_dim, kv_width = size_t(kv_heads) * head_dim;
        Matrix x(n, std::vector<double>(width));
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < width; j++) {
                x[i][j] = at("token_embd.weight")[ids[i] * width + j];
            }
        }
        for (uint32_t layer = 0; layer < layers; layer++) {
            std::string blk = "blk." + std::to_string(layer) + ".";
            Matrix h = norm(x, blk + "attn_norm.weight");
            Matrix q = product(h, blk + "attn_q", query_width), k = product(h, blk + "attn_k", kv_width);
            Matrix v = product(h, blk + "attn_v", kv_width);
            rotate(q, query_heads);
            rotate(k, kv_heads);
            store(k, kv);
            store(v, kv);
            add(x, product(attend(q, k, v), blk + "attn_output", width));
            h = norm(x, blk + "ffn_norm.weight");
            Matrix gate = product(h, blk + "ffn_gate", feed_forward), up = product(h, blk + "ffn_up", feed_forward);
            for (size_t i = 0; i < n; i++) {
                for (size_t j = 0; j < feed_forward; j++) {
                    gate[i][j] = gate[i][j] / (1 + std::exp(-gate[i][j])) * up[i][j];
                }
            }
            add(x, product(gate, blk + "ffn_down", width));
        }
        Matrix last = {x.back()};
        return product(norm(last, "output_norm.weight"), tied ? "token_embd" : "output", vocabulary)[0];
    }

  private:
    using Matrix = std::vector<std::vector<double>>;

    struct random_state random_;
    std::string path_;
    std::map<std::string, std::vector<float>> values_;

    void remove() {
        if (!path_.empty()) {
            unlink(path_.c_str());
        }
    }

    const std::vector<float> &at(const std::string &name) const {
        return values_.at(name);
    }

    double uniform() { // in [-1, 1)
        return 2 * random_unit(&random_) - 1;
    }

    void make_layer(uint32_t layer, const std::string &blk) {
        uint32_t query_width = query_heads * head_dim, kv_width = kv_heads * head_dim;
        vector(blk + "attn_norm.weight", width, 1);
        matrix(blk + "attn_q.weight", query_width, width, type);
        matrix(blk + "attn_k.weight", kv_width, width, type);
        matrix(blk + "attn_v.weight", kv_width, width, type);
        matrix(blk + "attn_output.weight", width, query_width, type);
        vector(blk + "ffn_norm.weight", width, 1);
        matrix(blk + "ffn_gate.weight", feed_forward, width, type);
        matrix(blk + "ffn_up.weight", feed_forward, width, type);
        matrix(blk + "ffn_down.weight", width, feed_forward, down_types.empty() ? type : down_types[layer]);
        if (biases) {
            vector(blk + "attn_q.bias", query_width, 0);
            vector(blk + "attn_k.bias", kv_width, 0);
            vector(blk + "attn_v.bias", kv_width, 0);
        }
    }

    // Writes `bytes` as a tensor of `rows` x `columns` and keeps its values.
    void keep(const std::string &name, enum tensor_type tensor_type, size_t rows, size_t columns,
              const std::vector<uint8_t> &bytes, const std::vector<uint64_t> &extent) {
        size_t row_bytes = tensor_row_bytes(tensor_type, columns);
        std::vector<float> &values = values_[name];
        values.resize(rows * columns);
        for (size_t row = 0; row < rows; row++) {
            tensor_dequantize_row(tensor_type, bytes.data() + row * row_bytes, values.data() + row * columns, columns);
        }
        file.tensor(name, gguf_type_id(tensor_type), extent, bytes);
    }

    // Values around `middle`.
    void vector(const std::string &name, size_t count, double middle) {
        std::vector<uint8_t> bytes;
        for (size_t i = 0; i < count; i++) {
            put_float(bytes, norm_type, float(middle + 0.3 * uniform()));
        }
        keep(name, norm_type, 1, count, bytes, {count});
    }

    // A matrix of any type whose values are of the size that keeps activations near 1: random bytes in the quantized
    // parts, and scales that fit the number of columns.
    void matrix(const std::string &name, size_t rows, size_t columns, enum tensor_type tensor_type) {
        double size = 1.7 / std::sqrt(double(columns));
        const struct tensor_traits *traits = tensor_traits(tensor_type);
        std::vector<uint8_t> bytes;
        for (size_t block = 0; block < rows * columns / traits->block_elements; block++) {
            put_block(bytes, tensor_type, size);
        }
        keep(name, tensor_type, rows, columns, bytes, {columns, rows});
    }

    void put_half(std::vector<uint8_t> &bytes, size_t at, double value) {
        uint16_t half = tensor_f32_to_f16(float(value));
        memcpy(bytes.data() + at, &half, 2);
    }

    void put_float(std::vector<uint8_t> &bytes, enum tensor_type tensor_type, float value) {
        uint32_t bits;
        memcpy(&bits, &value, 4);
        uint16_t half = tensor_type == TENSOR_F16 ? tensor_f32_to_f16(value) : uint16_t(bits >> 16);
        size_t at = bytes.size();
        bytes.resize(at + (tensor_type == TENSOR_F32 ? 4 : 2));
        memcpy(bytes.data() + at, tensor_type == TENSOR_F32 ? static_cast<void *>(&bits) : &half, bytes.size() - at);
    }

    void put_block(std::vector<uint8_t> &bytes, enum tensor_type tensor_type, double size) {
        const struct tensor_traits *traits = tensor_traits(tensor_type);
        if (traits->block_elements == 1) {
            put_float(bytes, tensor_type, float(size * uniform()));
            return;
        }
        size_t at = bytes.size();
        for (uint32_t i = 0; i < traits->block_bytes; i++) {
            bytes.push_back(uint8_t(random_u64(&random_)));
        }
        double scale = size * (0.75 + 0.25 * uniform());
        switch (tensor_type) {
        case TENSOR_Q8_0:
            put_half(bytes, at, scale / 128);
            break;
        case TENSOR_Q5_0:
            put_half(bytes, at, scale / 16);
            break;
        case TENSOR_Q4_0:
            put_half(bytes, at, scale / 8);
            break;
        case TENSOR_Q4_1: // centred: d * 7.5 + m = 0
            put_half(bytes, at, scale / 8);
            put_half(bytes, at + 2, -7.5 * scale / 8);
            break;
        case TENSOR_Q4_K: // scales and minima are random 6-bit numbers
            put_half(bytes, at, scale / 8 / 32);
            put_half(bytes, at + 2, 7.5 * scale / 8 / 32);
            break;
        case TENSOR_Q5_K:
            put_half(bytes, at, scale / 16 / 32);
            put_half(bytes, at + 2, 15.5 * scale / 16 / 32);
            break;
        case TENSOR_Q6_K:
            put_half(bytes, at + 208, scale / 32 / 64);
            break;
        default:
            break;
        }
    }

    Matrix norm(const Matrix &x, const std::string &gain) const {
        Matrix out = x;
        for (std::vector<double> &row : out) {
            double squares = 0;
            for (double value : row) {
                squares += value * value;
            }
            double scale = 1 / std::sqrt(squares / double(row.size()) + epsilon);
            for (size_t i = 0; i < row.size(); i++) {
                row[i] *= scale * at(gain)[i];
            }
        }
        return out;
    }

    Matrix product(const Matrix &x, const std::string &name, size_t rows) const {
        const std::vector<float> &weight = at(name + ".weight");
        auto bias = values_.find(name + ".bias");
        Matrix out(x.size(), std::vector<double>(rows));
        for (size_t i = 0; i < x.size(); i++) {
            for (size_t row = 0; row < rows; row++) {
                double sum = bias == values_.end() ? 0 : double(bias->second[row]);
                for (size_t j = 0; j < x[i].size(); j++) {
                    sum += x[i][j] * weight[row * x[i].size() + j];
                }
                out[i][row] = sum;
            }
        }
        return out;
    }

    static void add(Matrix &x, const Matrix &y) {
        for (size_t i = 0; i < x.size(); i++) {
            for (size_t j = 0; j < x[i].size(); j++) {
                x[i][j] += y[i][j];
            }
        }
    }

    // The angle of a pair at position 1 and, for YaRN, the size of the rotation, from the papers' formulas.
    double frequency(uint32_t pair, double *magnitude) const {
        double dimensions = rope_dimensions ? rope_dimensions : head_dim;
        double theta = std::pow(base, -2.0 * pair / dimensions) / (factors.empty() ? 1 : double(factors[pair]));
        *magnitude = 1;
        if (scaling == "linear") {
            return theta / factor;
        }
        if (scaling == "yarn") {
            *magnitude = 0.1 * std::log(factor) + 1;
            auto boundary = [&](double turns) { // where a wavelength fits the original context `turns` times
                return dimensions * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(base));
            };
            double low = std::max(std::floor(boundary(32)), 0.0);
            double high = std::min(std::ceil(boundary(1)), dimensions - 1);
            double gamma = (pair - low) / std::max(high - low, 0.001);
            gamma = std::min(std::max(gamma, 0.0), 1.0);
            return theta / factor * gamma + theta * (1 - gamma);
        }
        return theta;
    }

    void rotate(Matrix &x, uint32_t heads) const {
        uint32_t pairs = (rope_dimensions ? rope_dimensions : head_dim) / 2;
        for (size_t position = 0; position < x.size(); position++) {
            for (uint32_t head = 0; head < heads; head++) {
                for (uint32_t pair = 0; pair < pairs; pair++) {
                    double magnitude, angle = double(position) * frequency(pair, &magnitude);
                    double *values = &x[position][head * head_dim + 2 * pair];
                    double even = values[0], odd = values[1];
                    values[0] = magnitude * (even * std::cos(angle) - odd * std::sin(angle));
                    values[1] = magnitude * (even * std::sin(angle) + odd * std::cos(angle));
                }
            }
        }
    }

    static void store(Matrix &x, enum kv_type kv) {
        for (std::vector<double> &row : x) {
            for (double &value : row) {
                if (kv == KV_F16) {
                    value = tensor_f16_to_f32(tensor_f32_to_f16(float(value)));
                } else { // bf16: the upper half of a float, to nearest even
                    float single = float(value);
                    uint32_t bits;
                    memcpy(&bits, &single, 4);
                    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
                    memcpy(&single, &bits, 4);
                    value = single;
                }
            }
        }
    }

    Matrix attend(const Matrix &q, const Matrix &k, const Matrix &v) const {
        Matrix out(q.size(), std::vector<double>(q[0].size()));
        for (size_t i = 0; i < q.size(); i++) {
            for (uint32_t head = 0; head < query_heads; head++) {
                size_t from = head * head_dim, kv_from = size_t(head / (query_heads / kv_heads)) * head_dim;
                std::vector<double> scores(i + 1);
                double sum = 0;
                for (size_t j = 0; j <= i; j++) {
                    for (size_t d = 0; d < head_dim; d++) {
                        scores[j] += q[i][from + d] * k[j][kv_from + d] / std::sqrt(double(head_dim));
                    }
                    scores[j] = std::exp(scores[j]);
                    sum += scores[j];
                }
                for (size_t j = 0; j <= i; j++) {
                    for (size_t d = 0; d < head_dim; d++) {
                        out[i][from + d] += scores[j] / sum * v[j][kv_from + d];
                    }
                }
            }
        }
        return out;
    }
};

// A tiny model that all tests of a program share: drawn and written once, its file removed when the program ends.
struct SharedTinyModel : TinyModel {
    SharedTinyModel(uint32_t model_layers, uint32_t model_context) {
        layers = model_layers;
        context = model_context;
        make();
        path = write();
    }
    // Of a KV block.
    uint64_t block_bytes() const {
        return uint64_t(2) * KV_BLOCK_TOKENS * kv_heads * head_dim * 2 * layers;
    }
    std::string path;
};

#endif
