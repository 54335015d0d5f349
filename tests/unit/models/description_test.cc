// models/description.c: shapes without weights; their costs against the forward pass on the sim device.
#include "tests/unit/kernels/sim_rig.h"
#include "tests/unit/models/tiny_model.h"

#include <algorithm>
#include <memory>

extern "C" {
#include "base/log.h"
#include "models/description.h"
#include "models/model.h"
}

static struct model_description load(const std::string &name) {
    struct model_description description = {};
    must(description_load(("configs/models/" + name + ".json").c_str(), &description));
    return description;
}

TEST(Description, AddsUpToThePublishedParameters) {
    const struct {
        const char *name;
        uint64_t parameters;
    } models[] = {{"opt-6.7b", 6658473984},     {"opt-13b", 12853473280},   {"llama-2-7b", 6738415616},
                  {"llama-2-13b", 13015864320}, {"llama-3-8b", 8030261248}, {"qwen-7b", 7721324544},
                  {"smollm2-135m", 134515008}};
    for (const auto &model : models) {
        EXPECT_EQ(load(model.name).shape.parameters, model.parameters) << model.name;
    }
    const struct model_description llama = load("llama-3-8b");
    EXPECT_STREQ(llama.shape.name, "Llama 3 8B");
    EXPECT_STREQ(llama.shape.architecture, "llama");
    EXPECT_EQ(llama.shape.kv_heads, 8u);
    EXPECT_EQ(llama.shape.rope_pairs, 64u);
    EXPECT_EQ(llama.weight_type, TENSOR_BF16);
    const struct kv_shape kv = description_kv_shape(&llama, KV_BF16);
    EXPECT_EQ(kv_layer_bytes(&kv), size_t{16} * 2 * 8 * 128 * 2);
}

TEST(Description, WeighsALayer) {
    struct model_description opt = load("opt-6.7b");
    const size_t vectors = (4 * 4096 + 4 * 4096 + 16384 + 4096) * sizeof(float); // norms, attention's biases, MLP's
    EXPECT_EQ(description_slab_bytes(&opt, 1), size_t{12} * 4096 * 4096 * 2 + vectors);
    EXPECT_EQ(description_global_bytes(&opt),
              (size_t{50272} + 2064) * 4096 * 2 + 2 * 4096 * sizeof(float)); // positions in whole groups of 16
    must(description_set_type(&opt, "Q4_0"));
    EXPECT_EQ(description_slab_bytes(&opt, 1), size_t{12} * 4096 * 4096 / 32 * 18 + vectors);
    EXPECT_LT(description_slab_bytes(&opt, 4), description_slab_bytes(&opt, 1) / 3);
}

TEST(Description, RefusesWithTheFieldsName) {
    std::ifstream file("configs/models/smollm2-135m.json");
    const std::string good((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"layers\": 30", "\"layers\": 31", "parameters: is 134515008, and the shape adds up to 138055104"},
        {"\"layers\": 30", "\"layers\": 0", "layers: is 0, must be 1 to 1024"},
        {"\"kv_heads\": 3", "\"kv_heads\": 4", "kv_heads: is 4, which does not divide query_heads, 9"},
        {"\"head_dim\": 64", "\"head_dim\": 63", "head_dim: is 63, which a rotary embedding cannot halve"},
        {"\"interleaved\"", "\"spiral\"", "rope: \"spiral\" is none of none, interleaved, halves"},
        {"\"bias\": \"none\"", "\"bias\": \"some\"", "bias: \"some\" is none of none, qkv, all"},
        {"\"Q4_1\"", "\"Q9\"", "weight_type: \"Q9\" is no type of tensor"},
        {"\"Q4_1\"", "\"Q4_K\"", "weight_type: Q4_K has blocks of 256, which do not divide 576 columns"},
        {"\"tied_head\": true", "\"tied_head\": 1", "tied_head: expected true or false, found a number"},
        {"\"all\": ", "\"depth\": ", "sources.depth: there is no such figure"},
    };
    for (const auto &each : cases) {
        std::string text = good;
        const size_t at = text.find(each.from);
        ASSERT_NE(at, std::string::npos) << each.from;
        text.replace(at, strlen(each.from), each.to);
        struct model_description description;
        struct status status = description_parse(text.data(), text.size(), &description);
        EXPECT_EQ(status.code, STATUS_INVALID);
        EXPECT_NE(std::string(status.message).find(each.message), std::string::npos) << status.message;
    }
}

// ---- against the forward pass ----

static std::string describe(const TinyModel &tiny, uint64_t parameters) {
    std::ostringstream text;
    text << R"({"name": "tiny", "architecture": "llama", "layers": )" << tiny.layers << R"(, "width": )" << tiny.width
         << R"(, "feed_forward": )" << tiny.feed_forward << R"(, "query_heads": )" << tiny.query_heads
         << R"(, "kv_heads": )" << tiny.kv_heads << R"(, "head_dim": )" << tiny.head_dim << R"(, "vocabulary": )"
         << tiny.vocabulary << R"(, "context": )" << tiny.context
         << R"(, "norm_epsilon": 1e-5, "rope": "interleaved", "learned_positions": 0, "feed_forward_matrices": 3,
            "norm_bias": false, "bias": ")"
         << (tiny.biases ? "qkv" : "none") << R"(", "tied_head": )" << (tiny.tied ? "true" : "false")
         << R"(, "weight_type": ")" << tensor_traits(tiny.type)->name << R"(", "parameters": )" << parameters
         << R"(, "sources": {"all": "a test"}})";
    return text.str();
}

// A tiny model on the sim device, every layer resident, and the description of the same shape.
class Described {
  public:
    Described(TinyModel &tiny, uint32_t slabs) {
        log_set_level(LOG_WARN);
        SimOptions options;
        options.hardware = "configs/hardware/a10.json";
        rig = std::make_unique<SimRig>(options);
        tiny.make();
        must(model_open_weights(tiny.write().c_str(), &model));
        const std::string text = describe(tiny, model_shape(model)->parameters);
        must(description_parse(text.data(), text.size(), &description));
        const struct kv_shape kv = model_kv_shape(model, KV_F16);
        struct offload_config config = {};
        config.policy = "none";
        config.layers = tiny.layers;
        config.slabs = slabs;
        config.slab_bytes = model_slab_bytes(model, rig->device, slabs);
        config.kv_block_bytes = kv_block_bytes(&kv);
        config.kv_blocks_wanted = 64;
        must(offload_create(rig->device, &config, &offload));
        must(model_load(model, rig->device, offload));
        const struct forward_limits limits = {256, 64, 16, 128, true, 0};
        must(forward_create(model, rig->device, offload, &limits, KV_F16, &forward));
    }
    ~Described() {
        forward_destroy(forward);
        model_unload(model);
        offload_destroy(offload);
        model_close(model);
    }
    Described(const Described &) = delete;
    Described &operator=(const Described &) = delete;

    // Runs an iteration and expects the time that the description says, and the tokens that sim gives.
    void run(const std::vector<struct kv_segment> &segments, const std::vector<uint32_t> &wanted,
             const std::vector<struct sample_row> &samples = {}) {
        struct forward_inputs *in = forward_inputs(forward);
        in->sampled = !samples.empty();
        std::copy(samples.begin(), samples.end(), in->samples);
        const std::vector<struct kv_segment> last = rows_of(segments, wanted);
        in->rows = 0;
        for (const struct kv_segment &segment : segments) {
            for (uint32_t i = 0; i < segment.rows; i++) {
                in->tokens[in->rows] = 1;
                in->positions[in->rows++] = segment.first_position + i;
            }
        }
        std::copy(segments.begin(), segments.end(), in->segments);
        std::fill(in->block_table, in->block_table + segments.size() * in->table_stride, 0);
        in->segment_count = static_cast<uint32_t>(segments.size());
        in->logit_count = static_cast<uint32_t>(wanted.size());
        std::copy(wanted.begin(), wanted.end(), in->logit_rows);
        bool all[64];
        std::fill(all, all + 64, true);
        forward_run(forward, all);
        must(forward_wait(forward));
        expect_time(segments, last, samples);
        uint32_t i = 0;
        for (const struct kv_segment &segment : last) {
            for (uint32_t position = segment.first_position; position < segment.first_position + segment.rows; i++) {
                expect_token(i, segment.sequence, position++);
            }
        }
        EXPECT_EQ(i, wanted.size());
    }

    std::unique_ptr<SimRig> rig;
    struct model *model = nullptr;
    struct model_description description = {};
    struct offload *offload = nullptr;
    struct forward *forward = nullptr;

  private:
    // The segments that the wanted rows form: one for each run of neighbours of a sequence.
    static std::vector<struct kv_segment> rows_of(const std::vector<struct kv_segment> &segments,
                                                  const std::vector<uint32_t> &wanted) {
        std::vector<struct kv_segment> out;
        for (uint32_t row : wanted) {
            for (const struct kv_segment &segment : segments) {
                if (row < segment.first_row || row >= segment.first_row + segment.rows) {
                    continue;
                }
                const uint32_t position = segment.first_position + row - segment.first_row;
                if (!out.empty() && out.back().sequence == segment.sequence &&
                    out.back().first_position + out.back().rows == position) {
                    out.back().rows++;
                } else {
                    out.push_back({segment.sequence, 0, 1, position, 0});
                }
            }
        }
        return out;
    }

    void expect_token(uint32_t index, uint64_t sequence, uint32_t position) {
        const uint32_t vocabulary = description.shape.vocabulary, token = forward_token(forward, index);
        const float *logits = forward_logits(forward, index);
        EXPECT_EQ(token, random_hash(random_hash(1, sequence), position) % vocabulary);
        EXPECT_EQ(logits[token], SIM_LOGIT);
        EXPECT_EQ(std::count(logits, logits + vocabulary, 0.0f), vocabulary - 1);
    }

    void expect_time(const std::vector<struct kv_segment> &segments, const std::vector<struct kv_segment> &last,
                     const std::vector<struct sample_row> &samples) {
        const struct cost_model *cost = sim_cost_model(rig->device);
        const struct description_rows rows = {segments.data(), uint32_t(segments.size()), last.data(),
                                              uint32_t(last.size()), samples.empty() ? nullptr : samples.data()};
        const uint64_t layers = description.shape.layers;
        EXPECT_EQ(forward_elapsed_ns(forward), description_begin_ns(&description, cost, &rows) +
                                                   (layers - 1) * description_layer_ns(&description, cost, &rows) +
                                                   description_last_layer_ns(&description, cost, &rows) +
                                                   description_end_ns(&description, cost, &rows));
    }
};

TEST(Description, IsTheForwardPassToTheNanosecond) {
    for (enum tensor_type type : {TENSOR_F32, TENSOR_F16, TENSOR_Q4_0, TENSOR_Q8_0}) {
        for (uint32_t slabs : {1u, 3u}) {
            TinyModel tiny;
            tiny.layers = 3;
            tiny.type = type;
            tiny.tied = slabs == 1;
            tiny.biases = slabs == 3;
            Described described(tiny, slabs);
            EXPECT_EQ(description_slab_bytes(&described.description, slabs),
                      model_slab_bytes(described.model, described.rig->device, slabs));
            EXPECT_EQ(description_global_bytes(&described.description),
                      model_global_bytes(described.model, described.rig->device));
            described.run({{1, 0, 100, 0, 0}}, {99});                                        // prefill
            described.run({{1, 0, 1, 100, 0}, {2, 1, 1, 7, 1}, {3, 2, 1, 0, 2}}, {0, 1, 2}); // decode
            described.run({{1, 0, 1, 101, 0}, {2, 1, 70, 8, 1}}, {0, 70});                   // both
            described.run({{2, 0, 30, 78, 0}}, {});                                          // a chunk before the last
            described.run({{4, 0, 5, 0, 0}, {5, 5, 64, 0, 1}}, {3, 4, 67, 68});
            struct sample_row drawn = sample_plain_row(), cut = drawn, scored = drawn;
            drawn.inverse_temperature = cut.inverse_temperature = 1;
            cut.top_k = 40;
            scored.score = 0;
            scored.top = 5;
            described.run({{1, 0, 1, 102, 0}, {2, 1, 1, 78, 1}, {3, 2, 1, 1, 2}}, {0, 1, 2}, {drawn, cut, scored});
        }
    }
}

// ---- the paper's case ----

struct PaperCase {
    const char *phase;
    uint32_t batch, rows, first_position;
    double paper; // transfer / compute, Select-N (arXiv 2502.08182)
};

// OPT-6.7B on an A10, sequences of 64: how long a layer's transfer takes against its compute. The bounds are wide: the
// figures of the hardware are the data sheet's and round efficiencies, and are not tuned to these two numbers.
TEST(Description, ComesNearThePapersRatios) {
    struct hardware a10;
    must(hardware_load("configs/hardware/a10.json", &a10));
    const struct cost_model cost = cost_model(&a10, COMPUTE_INT8);
    const struct model_description opt = load("opt-6.7b");
    const size_t bytes = description_slab_bytes(&opt, 1);
    const uint64_t copy_ns = cost_copy_ns(bytes, a10.link_bytes_per_s, a10.link_latency_ns);
    for (const PaperCase &each : {PaperCase{"prefill", 16, 64, 0, 3.5}, PaperCase{"decode", 128, 1, 63, 13.8}}) {
        std::vector<struct kv_segment> segments;
        for (uint32_t i = 0; i < each.batch; i++) {
            segments.push_back({i, i * each.rows, each.rows, each.first_position, i});
        }
        const struct description_rows rows = {segments.data(), each.batch, nullptr, 0, nullptr};
        const uint64_t layer_ns = description_layer_ns(&opt, &cost, &rows);
        const double ratio = static_cast<double>(copy_ns) / static_cast<double>(layer_ns);
        printf("OPT-6.7B, A10, %s: layer %.1f MB, copy %.3f ms, compute %.3f ms, ratio %.2f (paper %.1f)\n", each.phase,
               static_cast<double>(bytes) * 1e-6, static_cast<double>(copy_ns) * 1e-6,
               static_cast<double>(layer_ns) * 1e-6, ratio, each.paper);
        EXPECT_GT(ratio, each.paper * 0.7);
        EXPECT_LT(ratio, each.paper * 1.4);
    }
}

// A model made from a description weighs what the description says, tensor by tensor; devices that read weights refuse
// it.
TEST(Description, StandsInForAModel) {
    log_set_level(LOG_WARN);
    for (const char *name : {"opt-6.7b", "opt-13b", "llama-2-7b", "llama-2-13b", "llama-3-8b", "qwen-7b"}) {
        const struct model_description description = load(name);
        SimRig rig;
        struct model *model = nullptr;
        must(model_open_described(&description, &model));
        EXPECT_EQ(model_shape(model)->parameters, description.shape.parameters);
        EXPECT_EQ(model_tokenizer(model), nullptr);
        for (uint32_t slabs : {1u, 4u, 16u}) {
            EXPECT_EQ(model_slab_bytes(model, rig.device, slabs), description_slab_bytes(&description, slabs)) << name;
        }
        model_close(model);
    }
    const struct model_description description = load("smollm2-135m");
    struct device_config config = {};
    config.name = "cpu";
    struct device *cpu = nullptr;
    struct model *model = nullptr;
    must(device_open(&config, &cpu));
    must(model_open_described(&description, &model));
    struct offload_config offload_config = {};
    offload_config.policy = "none";
    offload_config.layers = description.shape.layers;
    offload_config.slabs = 1;
    offload_config.slab_bytes = 64;
    offload_config.kv_block_bytes = 64;
    offload_config.kv_blocks_wanted = 1;
    struct offload *offload = nullptr;
    must(offload_create(cpu, &offload_config, &offload));
    struct status status = model_load(model, cpu, offload);
    EXPECT_EQ(status.code, STATUS_UNSUPPORTED);
    EXPECT_NE(strstr(status.message, "runs on sim, not on cpu"), nullptr) << status.message;
    EXPECT_EQ(device_info(cpu).device_used, offload_report(offload).arena_bytes);
    offload_destroy(offload);
    model_close(model);
    device_close(cpu);

    struct model_description unknown = load("llama-3-8b");
    unknown.norm_bias = true;
    status = model_open_described(&unknown, &model);
    EXPECT_EQ(status.code, STATUS_UNSUPPORTED);
    EXPECT_NE(strstr(status.message, "no family is built"), nullptr) << status.message;
}
