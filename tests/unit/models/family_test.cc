// Every family against Hugging Face transformers: logits of tiny models, from a directory of safetensors and from the
// GGUF file that the same model becomes, by prefill and by decode.
#include "tests/unit/models/family_model.h"
#include "tests/unit/models/forward_runner.h"

namespace {

struct model *open_model(const std::string &path, enum model_quantize quantize = QUANTIZE_NONE) {
    struct model_options options = {quantize, true};
    struct model *model = nullptr;
    struct status status = model_open_with(path.c_str(), &options, &model);
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    return model;
}

const std::vector<FamilyModel> &families() {
    static const std::vector<FamilyModel> all = FamilyModel::read();
    return all;
}

class Family : public ::testing::TestWithParam<size_t> {
  protected:
    const FamilyModel &family = families().at(GetParam());

    // The logits of the last token.
    Logits last(struct model *model, const Runner::Options &options) {
        return Runner(model, options).prefill(1, family.ids, 64);
    }

    // The largest error of a position's logits, by prefill in one piece and in chunks, and by decode.
    double worst_error(struct model *model) {
        Runner::Options options;
        options.threads = 2;
        Runner runner(model, options);
        double worst = 0;
        std::vector<Logits> prefill = runner.step({{1, family.ids, family.positions}});
        std::vector<Logits> decode;
        for (uint32_t i = 0; i < family.ids.size(); i++) {
            decode.push_back(runner.step({{2, {family.ids[i]}, {0}}}).at(0));
        }
        for (size_t i = 0; i < family.positions.size(); i++) {
            EXPECT_EQ(prefill[i], decode[family.positions[i]]) << "decode differs from prefill";
            worst = std::max(worst, relative_error(prefill[i], family.logits[i]));
        }
        EXPECT_EQ(runner.prefill(3, family.ids, 7), prefill.back()) << "chunks differ";
        EXPECT_LE(relative_error(prefill.back(), family.plain), 1e-3) << "beyond the precision of the cache";
        return worst;
    }
};

class GgufFamily : public Family {};  // those that GGUF has, too
class PlainFamily : public Family {}; // those of them whose files hold the same vectors

TEST_P(Family, AgreesWithTransformers) {
    Folder folder;
    family.write_directory(folder, GetParam() % 2 == 0 ? 1 : 3);
    struct model *model = open_model(folder.path);
    ASSERT_NE(model, nullptr);
    double error = worst_error(model);
    printf("%-8s safetensors %s: %.1e\n", family.name.c_str(), family.dtype.c_str(), error);
    EXPECT_LE(error, 1e-4);
    Runner::Options scalar;
    scalar.isa = "scalar";
    Logits plain = last(model, scalar); // one runner at a time has the model
    EXPECT_EQ(plain, last(model, {})) << "instruction sets differ";
    model_close(model);
}

TEST_P(GgufFamily, AgreesWithTransformers) {
    Folder folder;
    struct model *model = open_model(family.write_gguf(folder));
    ASSERT_NE(model, nullptr);
    double error = worst_error(model);
    printf("%-8s gguf: %.1e\n", family.name.c_str(), error);
    EXPECT_LE(error, 1e-4);
    model_close(model);
}

// Quantized while it is loaded, a directory gives the very bits that a GGUF file of those types gives.
TEST_P(PlainFamily, QuantizedAtLoadIsWhatGgufHolds) {
    Folder folder;
    family.write_directory(folder);
    const bool rotates_alike = family.model_type != "llama" && family.model_type != "mistral";
    const struct {
        enum model_quantize quantize;
        enum tensor_type matrices;
        double bound;
    } kinds[] = {{QUANTIZE_Q8_0, TENSOR_Q8_0, 0.03}, {QUANTIZE_Q4_1, TENSOR_Q4_1, 0.3}};
    for (const auto &kind : kinds) {
        Folder gguf;
        struct model *ours = open_model(folder.path, kind.quantize);
        struct model *theirs = open_model(family.write_gguf(gguf, kind.matrices, TENSOR_Q8_0));
        ASSERT_NE(ours, nullptr);
        ASSERT_NE(theirs, nullptr);
        EXPECT_EQ(model_weight_bytes(ours), model_weight_bytes(theirs));
        Logits a = last(ours, {}), b = last(theirs, {});
        if (rotates_alike) {
            EXPECT_EQ(a, b);
        }
        EXPECT_LE(relative_error(a, b), 1e-4);
        EXPECT_LE(relative_error(a, family.plain), kind.bound);
        Runner::Options fast;
        fast.compute = COMPUTE_INT8;
        EXPECT_LE(relative_error(last(ours, fast), a), 0.05) << "int8";
        EXPECT_GT(relative_error(a, family.plain), 1e-3) << "nothing was quantized";
        model_close(ours);
        model_close(theirs);
    }
}

// The numbers of the families that `wanted` wants.
std::vector<size_t> families_that(bool (*wanted)(const FamilyModel &family)) {
    std::vector<size_t> numbers;
    for (size_t i = 0; i < families().size(); i++) {
        if (wanted(families()[i])) {
            numbers.push_back(i);
        }
    }
    return numbers;
}

std::string name_of(const ::testing::TestParamInfo<size_t> &info) {
    return families().at(info.param).name;
}

INSTANTIATE_TEST_SUITE_P(, Family, ::testing::ValuesIn(families_that([](const FamilyModel &) { return true; })),
                         name_of);
INSTANTIATE_TEST_SUITE_P(, GgufFamily,
                         ::testing::ValuesIn(families_that([](const FamilyModel &f) { return f.has_gguf(); })),
                         name_of);
INSTANTIATE_TEST_SUITE_P(, PlainFamily, ::testing::ValuesIn(families_that([](const FamilyModel &f) {
                             return f.has_gguf() && f.dtype == "F32";
                         })),
                         name_of);

TEST(Families, AreAllInTheGoldens) {
    EXPECT_EQ(families().size(), 8u);
}

// A trained model as its directory has it, in F32, in BF16, and quantized: the golden greedy ids.
TEST(Stories260K, GoldenGreedyIdsFromADirectory) {
    const std::string data = "../shared/data/models/stories260K-hf/";
    if (access((data + "model.safetensors").c_str(), R_OK) != 0) {
        GTEST_SKIP() << data << " is not here";
    }
    auto read = [&](const std::string &name) {
        std::ifstream file(data + name, std::ios::binary);
        std::stringstream text;
        text << file.rdbuf();
        return text.str();
    };
    std::unique_ptr<cJSON, decltype(&cJSON_Delete)> golden(cJSON_Parse(read("golden_greedy.json").c_str()),
                                                           cJSON_Delete);
    std::vector<uint32_t> expected, prompt;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(golden.get(), "greedy_ids")) {
        expected.push_back(uint32_t(item->valuedouble));
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(golden.get(), "prompt_ids")) {
        prompt.push_back(uint32_t(item->valuedouble));
    }
    ASSERT_EQ(expected.size(), 200u);
    for (const char *weights : {"model.safetensors", "model.bf16.safetensors"}) {
        Folder folder;
        folder.write("config.json", read("config.json"));
        folder.write("model.safetensors", read(weights));
        const bool exact = weights[6] == 's';
        struct model *model = open_model(folder.path);
        ASSERT_NE(model, nullptr);
        {
            Runner::Options options;
            options.context = 256;
            options.sequences = 2;
            std::vector<uint32_t> greedy = Runner(model, options).greedy(prompt, expected.size());
            if (exact) {
                EXPECT_EQ(greedy, expected);
            } else { // rounded weights take another turn sooner or later
                EXPECT_TRUE(std::equal(greedy.begin(), greedy.begin() + 20, expected.begin()));
            }
        }
        model_close(model);
    }
}

} // namespace
