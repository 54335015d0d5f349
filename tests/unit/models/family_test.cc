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

TEST_P(Family, AgreesWithTransformersFromADirectory) {
    Folder folder;
    family.write_directory(folder, GetParam() % 2 == 0 ? 1 : 3);
    struct model *model = open_model(folder.path);
    ASSERT_NE(model, nullptr);
    double error = worst_error(model);
    printf("%-8s safetensors %s: %.1e\n", family.name.c_str(), family.dtype.c_str(), error);
    EXPECT_LE(error, 1e-4);
    model_close(model);
}

TEST_P(Family, AgreesWithTransformersFromGguf) {
    if (!family.has_gguf()) {
        GTEST_SKIP() << "GGUF has no such architecture";
    }
    Folder folder;
    struct model *model = open_model(family.write_gguf(folder));
    ASSERT_NE(model, nullptr);
    double error = worst_error(model);
    printf("%-8s gguf: %.1e\n", family.name.c_str(), error);
    EXPECT_LE(error, 1e-4);
    model_close(model);
}

INSTANTIATE_TEST_SUITE_P(, Family, ::testing::Range<size_t>(0, 8),
                         [](const auto &info) { return families().at(info.param).name; });

TEST(Families, AreAllInTheGoldens) {
    EXPECT_EQ(families().size(), 8u);
}

} // namespace
