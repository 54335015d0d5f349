// Whole models whose products cuBLAS makes, on the device that METRONOME_TEST_DEVICE names: every family stays as close
// to the exact pass as 16 bits are.
#include "tests/unit/models/family_model.h"
#include "tests/unit/models/forward_runner.h"

namespace {

const std::vector<FamilyModel> &families() {
    static const std::vector<FamilyModel> all = FamilyModel::read();
    return all;
}

// Logits of every token of the prompt. `exact` is the pass in f32.
enum Arithmetic { EXACT, OWN_KERNELS, LIBRARY };
std::vector<Logits> logits_of(const FamilyModel &family, enum model_quantize quantize, uint32_t ranks,
                              Arithmetic arithmetic) {
    Folder folder;
    family.write_directory(folder);
    const struct model_options model_options = {quantize, true};
    struct model *model = nullptr;
    Runner::check(model_open_with(folder.path.c_str(), &model_options, &model));
    Runner::Options options;
    options.compute = arithmetic == EXACT ? COMPUTE_F32 : COMPUTE_INT8;
    options.invariant = arithmetic != LIBRARY;
    options.library_rows = 2;
    options.ranks = ranks;
    std::vector<Logits> logits;
    {
        Runner runner(model, options);
        EXPECT_EQ(device_info(runner.device()).invariant, arithmetic != LIBRARY);
        logits = runner.step({{1, family.ids, family.positions}});
        for (uint32_t token : {family.ids[3], family.ids[1]}) { // a row alone is for own kernels
            logits.push_back(runner.step({{1, {token}, {0}}}).at(0));
        }
    }
    model_close(model);
    return logits;
}

double worst_error(const std::vector<Logits> &ours, const std::vector<Logits> &reference) {
    double worst = 0;
    for (size_t i = 0; i < reference.size(); i++) {
        worst = std::max(worst, relative_error(ours[i], reference[i]));
    }
    return worst;
}

class Library : public ::testing::TestWithParam<size_t> {
  protected:
    const FamilyModel &family = families().at(GetParam());

    void SetUp() override {
        struct device_config config = {};
        const char *chosen = getenv("METRONOME_TEST_DEVICE");
        config.name = chosen ? chosen : "cpu";
        config.library_rows = 1;
        struct device *device = nullptr;
        Runner::check(device_open(&config, &device));
        struct device_limits limits = {};
        limits.rows = limits.columns = limits.vocabulary = limits.logit_rows = limits.sequences = 1;
        limits.query_heads = limits.kv_heads = limits.context = 1;
        limits.head_dim = 8;
        const struct status status = device_prepare(device, &limits);
        const bool invariant = device_info(device).invariant;
        device_close(device);
        if (status.code != STATUS_OK || invariant) {
            GTEST_SKIP() << "here own kernels multiply" << status.message;
        }
    }
};

// What it is off by is what activations and weights lose in bf16, layer after layer: at the most what own kernels lose
// with activations in int8, 2.6e-2 (llama). Weights in f32 are theirs in any case.
const double BOUND = 3e-2;

TEST_P(Library, StaysCloseToTheExactPass) {
    for (enum model_quantize quantize : {QUANTIZE_NONE, QUANTIZE_Q8_0}) {
        const std::vector<Logits> exact = logits_of(family, quantize, 1, EXACT);
        const std::vector<Logits> own = logits_of(family, quantize, 1, OWN_KERNELS);
        const std::vector<Logits> library = logits_of(family, quantize, 1, LIBRARY);
        printf("%-8s %-4s %.1e; own kernels %.1e\n", family.name.c_str(), quantize ? "q8_0" : family.dtype.c_str(),
               worst_error(library, exact), worst_error(own, exact));
        EXPECT_LE(worst_error(library, exact), BOUND);
        if (quantize || family.dtype == "F32") {
            EXPECT_EQ(library == own, !quantize) << "who has multiplied?";
        }
    }
}

TEST_P(Library, StaysCloseOverRanks) {
    struct device_config config = {};
    config.name = getenv("METRONOME_TEST_DEVICE");
    config.ranks = 2;
    struct device *device = nullptr;
    const struct status status = device_open(&config, &device);
    if (status.code != STATUS_OK) {
        GTEST_SKIP() << status.message;
    }
    device_close(device);
    if (family.name == "mistral") {
        GTEST_SKIP() << "its heads are not whole blocks of 32 columns";
    }
    const std::vector<Logits> exact = logits_of(family, QUANTIZE_Q8_0, 1, EXACT);
    const std::vector<Logits> library = logits_of(family, QUANTIZE_Q8_0, 2, LIBRARY);
    EXPECT_LE(worst_error(library, exact), BOUND);
}

INSTANTIATE_TEST_SUITE_P(, Library, ::testing::Range(size_t(0), families().size()),
                         [](const auto &info) { return families().at(info.param).name; });

} // namespace
