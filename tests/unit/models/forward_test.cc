// The forward pass on real models: SmolLM2-135M-Instruct against the numbers of tests/oracle/llama_oracle.py, and
// stories260K against its golden greedy ids. Models that are not here are skipped, and said to be.
#include "tests/unit/models/forward_runner.h"

#include <cjson/cJSON.h>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <unistd.h>

namespace {

using Json = std::unique_ptr<cJSON, decltype(&cJSON_Delete)>;

Json read_json(const std::string &path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    Json json(cJSON_Parse(text.str().c_str()), cJSON_Delete);
    EXPECT_NE(json, nullptr) << path;
    return json;
}

std::vector<double> numbers(const cJSON *object, const char *name) {
    std::vector<double> out;
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItem(object, name)) {
        out.push_back(item->valuedouble);
    }
    EXPECT_FALSE(out.empty()) << name;
    return out;
}

std::vector<uint32_t> ids_of(const cJSON *object, const char *name) {
    std::vector<double> values = numbers(object, name);
    return std::vector<uint32_t>(values.begin(), values.end());
}

struct model *open_weights(const std::string &path) {
    struct model *model = nullptr;
    struct status status = model_open_weights(path.c_str(), &model);
    EXPECT_EQ(status.code, STATUS_OK) << status.message;
    return model;
}

// ---- SmolLM2 ----

class SmolLM2 : public ::testing::Test {
  protected:
    void SetUp() override {
        const char *named = getenv("METRONOME_TEST_MODEL");
        std::string path = named != nullptr ? named : ".cache/SmolLM2-135M-Instruct.Q4_1.gguf";
        if (access(path.c_str(), R_OK) != 0) {
            GTEST_SKIP() << path << " is not here (sh scripts/demo brings it)";
        }
        model = open_weights(path);
        golden = read_json("tests/data/smollm2_logits.json");
    }
    void TearDown() override {
        model_close(model);
    }

    // All golden logits together within `bound` of the reference, relative to its norm, and those of each position
    // within `bound_each`: single positions amplify rounding, most of all early ones behind an attention sink.
    void expect_goldens(enum compute_mode compute, double bound, double bound_each) {
        Runner::Options options;
        options.compute = compute;
        options.threads = 2;
        Runner runner(model, options);
        std::vector<double> ours, reference;
        const cJSON *prompt;
        uint64_t sequence = 0;
        cJSON_ArrayForEach(prompt, cJSON_GetObjectItem(golden.get(), "prompts")) {
            const cJSON *position, *positions = cJSON_GetObjectItem(prompt, "positions");
            std::vector<uint32_t> wanted;
            cJSON_ArrayForEach(position, positions) {
                wanted.push_back(uint32_t(cJSON_GetObjectItem(position, "position")->valuedouble));
            }
            std::vector<Logits> logits = runner.step({{sequence++, ids_of(prompt, "ids"), wanted}});
            size_t row = 0;
            cJSON_ArrayForEach(position, positions) {
                SCOPED_TRACE(std::string(cJSON_GetObjectItem(prompt, "name")->valuestring) + " position " +
                             std::to_string(wanted[row]));
                expect_position(logits[row++], position, bound_each, &ours, &reference);
            }
        }
        EXPECT_EQ(sequence, 3u);
        EXPECT_LE(relative_error(ours, reference), bound);
        std::cout << "relative error of all golden logits: " << relative_error(ours, reference) << "\n";
    }

    // One position; its logits are appended to those of all.
    void expect_position(const Logits &logits, const cJSON *position, double bound, std::vector<double> *all_ours,
                         std::vector<double> *all_reference) {
        std::vector<uint32_t> ids = ids_of(position, "top"), sampled = ids_of(golden.get(), "sampled");
        ids.insert(ids.end(), sampled.begin(), sampled.end());
        std::vector<double> ours, reference = numbers(position, "top_logits");
        std::vector<double> sampled_logits = numbers(position, "sampled_logits");
        reference.insert(reference.end(), sampled_logits.begin(), sampled_logits.end());
        for (uint32_t id : ids) {
            ours.push_back(logits[id]);
        }
        double squares = 0, golden_norm = cJSON_GetObjectItem(position, "norm")->valuedouble;
        for (float value : logits) {
            squares += double(value) * double(value);
        }
        EXPECT_LE(relative_error(ours, reference), bound);
        EXPECT_LE(std::fabs(std::sqrt(squares) - golden_norm) / golden_norm, bound);
        all_ours->insert(all_ours->end(), ours.begin(), ours.end());
        all_reference->insert(all_reference->end(), reference.begin(), reference.end());
    }

    std::vector<uint32_t> prompt_ids(int index, const char *name) {
        return ids_of(cJSON_GetArrayItem(cJSON_GetObjectItem(golden.get(), "prompts"), index), name);
    }

    struct model *model = nullptr;
    Json golden{nullptr, cJSON_Delete};
};

TEST_F(SmolLM2, LogitsWithF32) {
    expect_goldens(COMPUTE_F32, 1e-3, 2e-3);
}

TEST_F(SmolLM2, LogitsWithInt8) {
    expect_goldens(COMPUTE_INT8, 2e-2, 5e-2);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
const int greedy_prompts = 1; // the sanitizers look for other faults, and are slow
#else
const int greedy_prompts = 3;
#endif

TEST_F(SmolLM2, GreedyTokensAreTheOracles) {
    Runner::Options options;
    options.threads = 2;
    Runner runner(model, options);
    for (int prompt = 0; prompt < greedy_prompts; prompt++) {
        std::vector<uint32_t> expected = prompt_ids(prompt, "greedy");
        EXPECT_EQ(runner.greedy(prompt_ids(prompt, "ids"), expected.size()), expected) << "prompt " << prompt;
    }
}

// 72 tokens, so that chunks of 1 to 64 and the whole cross KV blocks.
std::vector<uint32_t> long_prompt(const std::vector<uint32_t> &seed) {
    std::vector<uint32_t> ids;
    while (ids.size() < 72) {
        ids.insert(ids.end(), seed.begin(), seed.end());
    }
    ids.resize(72);
    return ids;
}

TEST_F(SmolLM2, ChunksDoNotChangeABit) {
    Runner::Options options;
    options.compute = COMPUTE_INT8;
    options.threads = 2;
    options.rows = options.context = 80;
    Runner runner(model, options);
    std::vector<uint32_t> ids = long_prompt(prompt_ids(1, "ids"));
    Logits whole = runner.prefill(0, ids, 72);
    for (uint32_t chunk : {1u, 7u, 16u, 64u}) {
        EXPECT_EQ(runner.prefill(chunk, ids, chunk), whole) << "chunks of " << chunk;
        runner.release(chunk);
    }
}

TEST_F(SmolLM2, NeighboursAndThreadsDoNotChangeABit) {
    Runner::Options options;
    options.compute = COMPUTE_INT8;
    options.rows = 160;
    std::vector<uint32_t> ids = prompt_ids(1, "ids");
    std::vector<Logits> alone; // after the prompt, and after each of 3 more tokens
    {
        Runner runner(model, options); // one thread
        alone.push_back(runner.prefill(0, ids, 64));
        for (uint32_t token : {28u, 314u, 253u}) {
            alone.push_back(runner.step({{0, {token}, {0}}})[0]);
        }
    }
    options.threads = 2;
    Runner runner(model, options);
    std::vector<Logits> together;
    std::vector<Piece> pieces;
    for (uint32_t i = 0; i < 15; i++) { // neighbours of different lengths, before and after ours
        if (i == 9) {
            pieces.push_back({0, ids, {uint32_t(ids.size() - 1)}});
        }
        pieces.push_back({100 + i, std::vector<uint32_t>(1 + i % 7, 1000 * i + 17), {0}});
    }
    together.push_back(runner.step(pieces)[9]);
    for (uint32_t token : {28u, 314u, 253u}) {
        for (Piece &piece : pieces) {
            piece = {piece.sequence, {piece.sequence == 0 ? token : 5 * token}, {0}};
        }
        together.push_back(runner.step(pieces)[9]);
    }
    for (size_t i = 0; i < alone.size(); i++) {
        EXPECT_EQ(together[i], alone[i]) << "step " << i;
    }
}

// ---- stories260K ----

TEST(Stories260K, GoldenGreedyIds) {
    const std::string data = "../shared/data/models/", path = ".cache/stories260K.f32.gguf";
    if (access((data + "stories260K.bin").c_str(), R_OK) != 0) {
        GTEST_SKIP() << data << "stories260K.bin is not here";
    }
    if (access(path.c_str(), R_OK) != 0) {
        std::string command = "mkdir -p .cache && python3 tests/tools/stories_to_gguf.py " + data + "stories260K.bin " +
                              data + "tok512.bin " + path;
        ASSERT_EQ(std::system(command.c_str()), 0) << command;
    }
    Json golden = read_json(data + "stories260K-hf/golden_greedy.json");
    struct model *model = open_weights(path);
    {
        Runner::Options options;
        options.context = 256;
        options.sequences = 2;
        Runner runner(model, options);
        std::vector<uint32_t> expected = ids_of(golden.get(), "greedy_ids");
        ASSERT_EQ(expected.size(), 200u);
        EXPECT_EQ(runner.greedy(ids_of(golden.get(), "prompt_ids"), expected.size()), expected);
        Logits first = runner.prefill(1, ids_of(golden.get(), "prompt_ids"), 64);
        EXPECT_LT(relative_error(first, numbers(golden.get(), "first_logits")), 1e-4);
    }
    model_close(model);
}

} // namespace
