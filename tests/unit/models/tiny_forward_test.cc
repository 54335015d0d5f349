// The forward pass on tiny random models against a scalar one in double: every weight type, every switch of the
// family, and the promise that a row's result depends on nothing but its own sequence.
#include "tests/unit/models/forward_runner.h"
#include "tests/unit/models/tiny_model.h"
#include <set>

namespace {

struct model *open_tiny(TinyModel &tiny) {
    tiny.make();
    struct model *model = nullptr;
    struct status status = model_open_weights(tiny.write().c_str(), &model);
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    return model;
}

std::vector<uint32_t> random_ids(uint64_t seed, size_t count, uint32_t vocabulary) {
    std::vector<uint32_t> ids(count);
    for (size_t i = 0; i < count; i++) {
        ids[i] = uint32_t(random_hash(seed, i) % vocabulary);
    }
    return ids;
}

double error_of(TinyModel &tiny, const Runner::Options &options, size_t tokens = 21) {
    struct model *model = open_tiny(tiny);
    std::vector<uint32_t> ids = random_ids(7, tokens, tiny.vocabulary);
    double error;
    {
        Runner runner(model, options);
        error = relative_error(runner.prefill(1, ids, 64), tiny.logits(ids, options.kv));
    }
    model_close(model);
    return error;
}

Runner::Options with(enum compute_mode compute) {
    Runner::Options options;
    options.compute = compute;
    return options;
}

// Columns that every type allows: multiples of 256.
TinyModel wide_model(enum tensor_type type) {
    TinyModel tiny;
    tiny.width = 256;
    tiny.feed_forward = 512;
    tiny.query_heads = 4;
    tiny.kv_heads = 2;
    tiny.head_dim = 64;
    tiny.type = type;
    return tiny;
}

class Types : public ::testing::TestWithParam<int> {};

TEST_P(Types, AgreeWithTheScalarPass) {
    TinyModel tiny = wide_model(tensor_type(GetParam()));
    EXPECT_LT(error_of(tiny, with(COMPUTE_F32)), 2e-4);
    EXPECT_LT(error_of(tiny, with(COMPUTE_INT8)), 2e-2);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Types, ::testing::Range(0, int(TENSOR_FILE_TYPES)),
                         [](const ::testing::TestParamInfo<int> &type) {
                             return tensor_traits(tensor_type(type.param))->name;
                         });

TEST(Tiny, TypesMixedBetweenLayers) {
    TinyModel tiny = wide_model(TENSOR_Q4_K);
    tiny.layers = 3;
    tiny.down_types = {TENSOR_Q6_K, TENSOR_Q4_K, TENSOR_Q6_K};
    EXPECT_LT(error_of(tiny, with(COMPUTE_F32)), 2e-4);
    EXPECT_LT(error_of(tiny, with(COMPUTE_INT8)), 2e-2);
}

// Slabs are as large as the largest of any layer, and together no larger than the layer needs and its padding.
TEST(Tiny, SlabBytesAreThoseOfTheLargestSlab) {
    TinyModel tiny = wide_model(TENSOR_Q4_K);
    tiny.down_types = {TENSOR_Q4_K, TENSOR_Q6_K};
    struct model *model = open_tiny(tiny);
    {
        Runner runner(model, {});
        const struct device *device = runner.device();
        auto packed = [&](enum tensor_type type, uint32_t rows, uint32_t columns) {
            return device_packed_bytes(device, type, rows, columns);
        };
        const size_t layer = packed(TENSOR_Q4_K, 256, 256) * 2 + packed(TENSOR_Q4_K, 128, 256) * 2 +
                             packed(TENSOR_Q4_K, 512, 256) * 2 + packed(TENSOR_Q6_K, 256, 512) +
                             2 * 256 * sizeof(float);
        EXPECT_EQ(model_slab_bytes(model, device, 1), layer);
        for (uint32_t slabs : {2u, 4u}) { // alike but for a group of rows
            const size_t bytes = model_slab_bytes(model, device, slabs);
            EXPECT_GE(bytes * slabs, layer) << slabs;
            EXPECT_LE(bytes, layer / slabs + packed(TENSOR_Q4_K, 16, 256)) << slabs;
            EXPECT_EQ(bytes % 64, 0u);
        }
        EXPECT_EQ(model_global_bytes(model, device), packed(TENSOR_Q4_K, 80, 256) + 256 * 4 + 32 * 4);
    }
    model_close(model);
}

struct Switch {
    const char *name;
    std::function<void(TinyModel &)> set;
};

class Switches : public ::testing::TestWithParam<Switch> {};

TEST_P(Switches, AgreeWithTheScalarPass) {
    TinyModel tiny;
    GetParam().set(tiny);
    EXPECT_LT(error_of(tiny, with(COMPUTE_F32), 50), 2e-4);
}

// A switch that the pass overlooked would pass the test above only if it changed nothing.
TEST_P(Switches, ChangeTheResult) {
    TinyModel tiny, plain;
    GetParam().set(tiny);
    tiny.make();
    plain.make();
    std::vector<uint32_t> ids = random_ids(7, 50, tiny.vocabulary);
    if (strcmp(GetParam().name, "plain") != 0 && strcmp(GetParam().name, "scaling_none") != 0) {
        EXPECT_GT(relative_error(tiny.logits(ids), plain.logits(ids)), 1e-2);
    }
}

#define SET(...) [](TinyModel &t) { __VA_ARGS__; }

INSTANTIATE_TEST_SUITE_P(
    Tiny, Switches,
    ::testing::Values(
        Switch{"plain", SET(t.layers = 2)}, Switch{"one_layer", SET(t.layers = 1)},
        Switch{"untied_head", SET(t.tied = false)}, Switch{"every_head_its_own", SET(t.kv_heads = 4)},
        Switch{"one_kv_head", SET(t.kv_heads = 1)}, Switch{"heads_wider_than_the_width", SET(t.head_dim = 32)},
        Switch{"partial_rotation", SET(t.rope_dimensions = 8)}, Switch{"base", SET(t.base = 500000)},
        Switch{"epsilon", SET(t.epsilon = 0.3)}, Switch{"biases", SET(t.biases = true)},
        Switch { "norms_f16", SET(t.norm_type = TENSOR_F16; t.seed = 3) },
        Switch { "norms_bf16", SET(t.norm_type = TENSOR_BF16; t.seed = 4) },
        Switch { "odd_sizes", SET(t.width = 60; t.head_dim = 8; t.query_heads = 6; t.feed_forward = 172) },
        Switch { "scaling_none", SET(t.scaling = "none"; t.factor = 4) },
        Switch { "scaling_linear", SET(t.scaling = "linear"; t.factor = 4) },
        Switch { "scaling_yarn", SET(t.scaling = "yarn"; t.factor = 4; t.original = 32) },
        Switch{"scaling_llama3", SET(t.factors = {1, 1, 1, 2, 3.5f, 6, 8, 8})}),
    [](const ::testing::TestParamInfo<Switch> &item) { return std::string(item.param.name); });

TEST(Tiny, KvInBf16) {
    TinyModel tiny;
    Runner::Options options;
    options.kv = KV_BF16;
    EXPECT_LT(error_of(tiny, options, 50), 2e-4);
}

class Invariance : public ::testing::TestWithParam<enum compute_mode> {
  protected:
    void SetUp() override {
        tiny = wide_model(TENSOR_Q4_1);
        model = open_tiny(tiny);
        ids = random_ids(5, 50, tiny.vocabulary);
    }
    void TearDown() override {
        model_close(model);
    }
    TinyModel tiny;
    struct model *model = nullptr;
    std::vector<uint32_t> ids;
};

TEST_P(Invariance, OfChunks) {
    Runner runner(model, with(GetParam()));
    Logits whole = runner.prefill(0, ids, 64);
    for (uint32_t chunk : {1u, 2u, 7u, 16u, 33u}) {
        EXPECT_EQ(runner.prefill(chunk, ids, chunk), whole) << "chunks of " << chunk;
    }
}

TEST_P(Invariance, OfWantedRows) {
    Runner runner(model, with(GetParam()));
    std::vector<uint32_t> every(ids.size());
    for (uint32_t i = 0; i < every.size(); i++) {
        every[i] = i;
    }
    std::vector<Logits> all = runner.step({{0, ids, every}});
    std::vector<uint32_t> some = {0, 1, 2, 17, 30, 31, 49};
    std::vector<Logits> few = runner.step({{1, ids, some}});
    ASSERT_EQ(few.size(), some.size());
    for (size_t i = 0; i < some.size(); i++) {
        EXPECT_EQ(few[i], all[some[i]]) << "row " << some[i];
    }
}

// Three sequences in one iteration, each at another stage, with rows wanted from some; against each alone.
TEST_P(Invariance, OfNeighbours) {
    std::vector<uint32_t> a = random_ids(11, 20, tiny.vocabulary), b = random_ids(12, 33, tiny.vocabulary);
    std::vector<uint32_t> c = random_ids(13, 17, tiny.vocabulary);
    std::vector<Logits> alone, together;
    std::vector<uint32_t> a_then(a.end() - 1, a.end()), b_then(b.begin() + 16, b.end());
    {
        Runner runner(model, with(GetParam()));
        alone.push_back(runner.prefill(1, a, 64));
        std::vector<Logits> rows = runner.step({{2, b, {20, 21, 32}}});
        alone.insert(alone.end(), rows.begin(), rows.end());
        runner.step({{3, c, {}}}); // wants nothing
    }
    Runner runner(model, with(GetParam()));
    runner.step({{1, {a.begin(), a.end() - 1}, {}}, {2, {b.begin(), b.begin() + 16}, {}}});
    together = runner.step({{1, a_then, {0}}, {3, c, {}}, {2, b_then, {4, 5, 16}}});
    ASSERT_EQ(together.size(), alone.size());
    for (size_t i = 0; i < alone.size(); i++) {
        EXPECT_EQ(together[i], alone[i]) << "row " << i;
    }
}

TEST_P(Invariance, OfThreads) {
    Runner::Options options = with(GetParam());
    Logits one, two, three;
    {
        Runner runner(model, options);
        one = runner.prefill(0, ids, 64);
    }
    for (uint32_t threads : {2u, 3u}) {
        options.threads = threads;
        Runner runner(model, options);
        EXPECT_EQ(runner.prefill(0, ids, 64), one) << threads << " threads";
    }
}

TEST_P(Invariance, OfSlabs) {
    Runner::Options options = with(GetParam());
    Logits whole;
    for (uint32_t slabs : {1u, 2u, 3u, 5u, 16u}) { // 16: more than some matrices have groups of rows
        options.slabs = slabs;
        Runner runner(model, options);
        Logits logits = runner.prefill(0, ids, 64);
        whole = slabs == 1 ? logits : whole;
        EXPECT_EQ(logits, whole) << slabs << " slabs";
    }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Invariance, ::testing::Values(COMPUTE_INT8, COMPUTE_F32),
                         [](const ::testing::TestParamInfo<enum compute_mode> &mode) {
                             return mode.param == COMPUTE_INT8 ? "Int8" : "F32";
                         });

TEST(Tiny, ArgmaxIsTheLargestLogit) {
    TinyModel tiny;
    struct model *model = open_tiny(tiny);
    {
        Runner runner(model, {});
        std::vector<uint32_t> ids = random_ids(9, 30, tiny.vocabulary), argmax, every(30);
        for (uint32_t i = 0; i < 30; i++) {
            every[i] = i;
        }
        std::vector<Logits> logits = runner.step({{0, ids, every}}, &argmax);
        for (size_t i = 0; i < logits.size(); i++) {
            EXPECT_EQ(argmax[i], uint32_t(std::max_element(logits[i].begin(), logits[i].end()) - logits[i].begin()));
        }
        EXPECT_GT(forward_elapsed_ns(runner.forward()), 0u);
    }
    model_close(model);
}

// Only the logits that are asked for cross the link.
TEST(Tiny, UnwantedLogitsStayOnTheDevice) {
    TinyModel tiny;
    struct model *model = open_tiny(tiny);
    {
        Runner runner(model, {});
        struct forward_inputs *in = forward_inputs(runner.forward());
        std::vector<uint32_t> ids = random_ids(9, 8, tiny.vocabulary);
        std::vector<Logits> all = runner.step({{0, ids, {1, 2, 3, 5}}});
        uint64_t before = device_link_count(runner.device()).device_to_host_bytes;
        const bool wanted[] = {false, true, true, false};
        in->positions[0] = 0; // the same rows once more: they store the same keys and values
        forward_run(runner.forward(), wanted);
        Runner::check(forward_wait(runner.forward()));
        uint64_t row = tiny.vocabulary * sizeof(float);
        EXPECT_EQ(device_link_count(runner.device()).device_to_host_bytes - before, 2 * row + 4 * sizeof(uint32_t));
        EXPECT_EQ(memcmp(forward_logits(runner.forward(), 2), all[2].data(), row), 0);
        before = device_link_count(runner.device()).device_to_host_bytes;
        forward_run(runner.forward(), nullptr);
        Runner::check(forward_wait(runner.forward()));
        EXPECT_EQ(device_link_count(runner.device()).device_to_host_bytes - before, 4 * sizeof(uint32_t));
    }
    model_close(model);
}

// Where lists of changes are longer than the room for them, rows are drawn in rounds, to the same tokens.
TEST(Tiny, SamplingInRoundsIsSampling) {
    TinyModel tiny;
    struct model *model = open_tiny(tiny);
    const uint32_t rows = 6;
    std::vector<struct sample_change> changes;
    for (uint32_t token = 0; token < tiny.vocabulary; token++) {
        changes.push_back({token, (float)(token % 7) * 0.1f, token % 3 ? SAMPLE_SEEN | token % 5 : 0});
    }
    std::vector<uint32_t> tokens[2];
    std::vector<float> logprobs[2];
    for (uint32_t wide = 0; wide < 2; wide++) {
        Runner::Options options;
        options.changes = wide ? rows * tiny.vocabulary : 1; // no less than a row's
        Runner runner(model, options);
        struct forward_inputs *in = forward_inputs(runner.forward());
        runner.step({{0, random_ids(9, 8, tiny.vocabulary), {1, 2, 3, 4, 5, 6}}});
        in->sampled = true;
        for (uint32_t i = 0; i < rows; i++) {
            struct sample_row *row = &in->samples[i];
            *row = sample_plain_row();
            row->random = random_hash(1, i);
            row->inverse_temperature = i == 2 ? 0 : 1;
            row->repetition = 1.2f;
            row->change_count = i % 3 == 1 ? 0 : tiny.vocabulary - i;
            row->score = i % 2 ? 0 : SAMPLE_NO_SCORE;
            in->changes[i] = changes.data();
        }
        const uint64_t before = device_link_count(runner.device()).device_to_host_bytes;
        forward_run(runner.forward(), nullptr); // the same rows once more
        Runner::check(forward_wait(runner.forward()));
        EXPECT_EQ(device_link_count(runner.device()).device_to_host_bytes - before,
                  rows * sizeof(uint32_t) + rows / 2 * sizeof(struct sample_score));
        EXPECT_EQ(forward_sampling_rounds(runner.forward()), wide ? 0u : 3u);
        for (uint32_t i = 0; i < rows; i++) {
            tokens[wide].push_back(forward_token(runner.forward(), i));
            if (i % 2) {
                const struct sample_score *score = forward_score(runner.forward(), i);
                logprobs[wide].push_back(sample_logprob(score, score->logit));
                EXPECT_LT(logprobs[wide].back(), 0);
            }
        }
    }
    EXPECT_EQ(tokens[0], tokens[1]);
    EXPECT_EQ(logprobs[0], logprobs[1]);
    model_close(model);
}

TEST(Tiny, MemoryTakenIsMemoryForetold) {
    TinyModel tiny;
    struct model *model = open_tiny(tiny);
    {
        Runner runner(model, {});
        struct device_info before = device_info(runner.device());
        struct forward_limits limits = {100, 30, 7, 77, true, 0};
        struct forward *forward = nullptr;
        Runner::check(forward_create(model, runner.device(), nullptr, &limits, KV_F16, &forward));
        struct device_info after = device_info(runner.device());
        EXPECT_EQ(after.device_used - before.device_used, forward_device_bytes(model, &limits));
        EXPECT_EQ(after.host_used - before.host_used, forward_host_bytes(model, &limits));
        forward_destroy(forward);
        EXPECT_EQ(device_info(runner.device()).device_used, before.device_used);
        EXPECT_EQ(device_info(runner.device()).host_used, before.host_used);
    }
    model_close(model);
}

TEST(Tiny, ShortMemoryIsARefusal) {
    TinyModel tiny;
    struct model *model = open_tiny(tiny);
    struct device_config config = {};
    config.name = "cpu";
    config.threads = 1;
    std::set<enum status_code> seen;
    for (uint64_t budget = 1 << 16; budget <= 1 << 22; budget *= 2) {
        config.device_memory = config.host_memory = budget;
        struct device *device = nullptr;
        Runner::check(device_open(&config, &device));
        struct kv_shape kv = model_kv_shape(model, KV_F16);
        struct offload_config offload_config = {};
        offload_config.policy = "none";
        offload_config.layers = 2;
        offload_config.slabs = 1;
        offload_config.slab_bytes = model_slab_bytes(model, device, 1);
        offload_config.kv_block_bytes = kv_block_bytes(&kv);
        offload_config.kv_blocks_wanted = 4;
        struct offload *offload = nullptr;
        struct forward *forward = nullptr;
        struct forward_limits limits = {64, 16, 4, 64, false, 0};
        struct status status = offload_create(device, &offload_config, &offload);
        if (status.code == STATUS_OK) {
            status = model_load(model, device, offload);
            if (status.code == STATUS_OK) {
                status = forward_create(model, device, offload, &limits, KV_F16, &forward);
                forward_destroy(status.code == STATUS_OK ? forward : nullptr);
            }
        }
        seen.insert(status.code);
        EXPECT_TRUE(status.code == STATUS_NO_MEMORY || status.code == STATUS_OK) << budget << " " << status.message;
        model_unload(model);
        offload_destroy(offload);
        EXPECT_EQ(device_info(device).device_used, 0u);
        EXPECT_EQ(device_info(device).host_used, 0u);
        device_close(device);
    }
    EXPECT_EQ(seen.size(), 2u);
    model_close(model);
}

} // namespace
