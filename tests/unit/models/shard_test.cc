// Tensor parallelism: ranks on the cpu device, or on the one that METRONOME_TEST_DEVICE names, each with its share of
// every layer, against the model in one piece.
#include "tests/unit/models/family_model.h"
#include "tests/unit/models/forward_runner.h"
#include "tests/unit/models/tiny_model.h"

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
const bool SANITIZED = true;
#else
const bool SANITIZED = false;
#endif
const bool SHORT = SANITIZED || getenv("METRONOME_TEST_DEVICE"); // the emulator takes its time
const size_t GREEDY = SHORT ? 4 : 32;

struct model *open_model(const std::string &path, enum model_quantize quantize = QUANTIZE_NONE) {
    struct model_options options = {quantize, true};
    struct model *model = nullptr;
    struct status status = model_open_with(path.c_str(), &options, &model);
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    return model;
}

// Whether there are so many devices here.
bool can_open(uint32_t ranks) {
    struct device_config config = {};
    const char *chosen = getenv("METRONOME_TEST_DEVICE");
    config.name = chosen ? chosen : "cpu";
    config.ranks = ranks;
    struct device *device = nullptr;
    const bool opens = device_open(&config, &device).code == STATUS_OK;
    device_close(device);
    return opens;
}

// What a model gives: the logits of every token of a prompt, and greedy tokens after it.
struct Result {
    std::vector<Logits> logits;
    std::vector<uint32_t> greedy;
};

Result run(struct model *model, const std::vector<uint32_t> &ids, uint32_t ranks,
           enum compute_mode compute = COMPUTE_F32) {
    Runner::Options options;
    options.ranks = ranks;
    options.compute = compute;
    Runner runner(model, options);
    std::vector<uint32_t> all(ids.size());
    for (uint32_t i = 0; i < all.size(); i++) {
        all[i] = i;
    }
    Result result;
    result.logits = runner.step({{1, ids, all}});
    result.greedy = runner.greedy(ids, GREEDY);
    return result;
}

// Of each position's logits. Sums in another order differ in the last bits of f32; now and then that rounds a key or a
// value of the f16 cache the other way, and the positions that see it are off by some 1e-5: the least error is that of
// the sums, the worst is bounded by a fraction of what the cache's precision costs.
struct Errors {
    double least, worst;
};

Errors errors_of(const Result &ours, const Result &reference) {
    std::vector<double> errors;
    for (size_t i = 0; i < reference.logits.size(); i++) {
        errors.push_back(relative_error(ours.logits[i], reference.logits[i]));
    }
    std::sort(errors.begin(), errors.end());
    return {errors.front(), errors.back()};
}

void expect_close(const Result &ours, const Result &reference, const std::string &what) {
    const Errors errors = errors_of(ours, reference);
    printf("%s: least %.1e, worst %.1e\n", what.c_str(), errors.least, errors.worst);
    EXPECT_LE(errors.least, 1e-5) << what;
    EXPECT_LE(errors.worst, 1e-4) << what;
    EXPECT_EQ(ours.greedy, reference.greedy) << what;
}

const std::vector<FamilyModel> &families() {
    static const std::vector<FamilyModel> all = FamilyModel::read();
    return all;
}

class Ranks : public ::testing::TestWithParam<size_t> {
  protected:
    const FamilyModel &family = families().at(GetParam());

    void expect_same(const std::string &path, const char *kind) {
        Result whole;
        for (uint32_t ranks : {1, 2, 4}) { // with 4, two ranks have one head of keys
            if (!can_open(ranks)) {
                continue;
            }
            struct model *model = open_model(path);
            ASSERT_NE(model, nullptr);
            const uint64_t bytes = model_weight_bytes(model);
            Result split = run(model, family.ids, ranks);
            EXPECT_EQ(model_weight_bytes(model), bytes);
            model_close(model);
            if (ranks == 1) {
                whole = split;
                continue;
            }
            expect_close(split, whole, family.name + " " + kind + ", " + std::to_string(ranks) + " ranks");
        }
    }
};

TEST_P(Ranks, GiveWhatOneGives) {
    Folder folder;
    family.write_directory(folder);
    expect_same(folder.path, "safetensors");
    if (family.has_gguf() && !SHORT) {
        Folder other;
        expect_same(family.write_gguf(other), "gguf");
    }
}

INSTANTIATE_TEST_SUITE_P(, Ranks, ::testing::Range(size_t(0), families().size()),
                         [](const auto &info) { return families().at(info.param).name; });

struct model *open_tiny(TinyModel &tiny) {
    tiny.make();
    return open_model(tiny.write());
}

std::vector<uint32_t> some_ids(uint32_t vocabulary) {
    std::vector<uint32_t> ids;
    for (uint32_t i = 0; i < 21; i++) {
        ids.push_back(uint32_t(random_hash(7, i) % vocabulary));
    }
    return ids;
}

// Eight heads for eight ranks.
TinyModel wide_model(enum tensor_type type) {
    TinyModel tiny;
    tiny.query_heads = 8;
    tiny.kv_heads = 4;
    tiny.head_dim = 32;
    tiny.width = 256;
    tiny.feed_forward = 512;
    tiny.type = type;
    return tiny;
}

TEST(Shards, OfUpToEightRanks) {
    TinyModel tiny = wide_model(TENSOR_F32);
    tiny.biases = true;
    struct model *model = open_tiny(tiny);
    const Result whole = run(model, some_ids(tiny.vocabulary), 1);
    model_close(model);
    for (uint32_t ranks : {2, 4, 8}) {
        model = open_tiny(tiny);
        expect_close(run(model, some_ids(tiny.vocabulary), ranks), whole, std::to_string(ranks) + " ranks");
        model_close(model);
    }
}

// Blocks of 32 and of 256 columns stay whole: the feed-forward's 9 of them, or 3, go to ranks as 5 and 4, or 2 and 1,
// with zeros for what lacks.
TEST(Shards, OfQuantizedWeightsEndAtBlocks) {
    const struct {
        enum tensor_type type, down;
        uint32_t feed_forward;
    } cases[] = {{TENSOR_Q8_0, TENSOR_Q8_0, 288}, {TENSOR_Q4_1, TENSOR_Q4_1, 288}, {TENSOR_Q4_0, TENSOR_Q4_0, 288},
                 {TENSOR_Q5_0, TENSOR_Q5_0, 288}, {TENSOR_Q8_0, TENSOR_Q4_K, 768}, {TENSOR_Q8_0, TENSOR_Q5_K, 768},
                 {TENSOR_Q4_1, TENSOR_Q6_K, 768}, {TENSOR_BF16, TENSOR_F16, 257},  {TENSOR_F32, TENSOR_F32, 259}};
    for (const auto &c : cases) {
        TinyModel tiny = wide_model(c.type);
        tiny.feed_forward = c.feed_forward;
        tiny.down_types = {c.down, c.down};
        const std::string what = tensor_traits(c.down)->name;
        if (SHORT && c.down != TENSOR_Q4_1 && c.down != TENSOR_Q6_K) {
            continue; // whose rows are packed by the same lines
        }
        for (enum compute_mode compute : {COMPUTE_F32, COMPUTE_INT8}) {
            struct model *model = open_tiny(tiny);
            const Result whole = run(model, some_ids(tiny.vocabulary), 1, compute);
            model_close(model);
            model = open_tiny(tiny);
            const Result split = run(model, some_ids(tiny.vocabulary), 2, compute);
            model_close(model);
            if (compute == COMPUTE_F32) {
                expect_close(split, whole, what);
            } else { // an activation may round to the next of its 255 values
                EXPECT_LE(errors_of(split, whole).worst, 2e-2) << what;
            }
        }
    }
}

// A row's bits do not depend on what it shares an iteration with: neither do those of its sums over ranks.
TEST(Shards, GiveTheSameBitsInEveryChunk) {
    TinyModel tiny = wide_model(TENSOR_Q4_1);
    struct model *model = open_tiny(tiny);
    const std::vector<uint32_t> ids = some_ids(tiny.vocabulary);
    Runner::Options options;
    options.compute = COMPUTE_INT8;
    options.ranks = 4;
    options.threads = 4;
    {
        Runner runner(model, options);
        const Logits whole = runner.prefill(1, ids, 64);
        EXPECT_EQ(runner.prefill(2, ids, 5), whole);
        EXPECT_EQ(runner.prefill(3, ids, 1), whole);
    }
    model_close(model);
}

// Weights that are quantized while they are loaded, from matrices that lie transposed.
TEST(Shards, OfWhatIsQuantizedWhileItIsLoaded) {
    for (const FamilyModel &family : families()) {
        if (family.name != "gpt2") {
            continue;
        }
        Folder folder;
        family.write_directory(folder);
        struct model *model = open_model(folder.path, QUANTIZE_Q8_0);
        const Result whole = run(model, family.ids, 1);
        model_close(model);
        model = open_model(folder.path, QUANTIZE_Q8_0);
        expect_close(run(model, family.ids, 2), whole, "gpt2 as Q8_0");
        model_close(model);
    }
}

void expect_refused(TinyModel tiny, uint32_t ranks, const char *words) {
    struct model *model = open_tiny(tiny);
    ASSERT_NE(model, nullptr);
    struct status status = model_split(model, ranks);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(std::string(status.message).find(words), std::string::npos) << status.message;
    EXPECT_EQ(model_split(model, 1).code, STATUS_OK) << "it can still be run in one piece";
    model_close(model);
}

TEST(Shards, AreRefusedByNameAndNumber) {
    TinyModel tiny = wide_model(TENSOR_Q8_0);
    expect_refused(tiny, 3,
                   "tensor_parallel_size 3: the model has 8 heads of queries and 4 of keys, which do not go "
                   "to so many ranks alike; possible are 1, 2, 4, 8");
    TinyModel narrow = wide_model(TENSOR_Q4_K); // a head of 32 is an eighth of a block
    expect_refused(narrow, 2, "layer 0's attn_output.weight has 256 columns in blocks of 256 (Q4_K)");
    TinyModel short_one = wide_model(TENSOR_Q8_0);
    short_one.feed_forward = 256;
    short_one.down_types = {TENSOR_Q8_0, TENSOR_Q6_K};
    expect_refused(short_one, 2, "layer 1's ffn_down.weight has 256 columns in blocks of 256 (Q6_K)");
}

} // namespace
