// Offloading under a whole engine for every family of models: each policy, with layers whole and in slabs, gives the
// tokens that no offloading gives.
#include "tests/unit/models/family_model.h"
#include "tests/unit/scheduler/running_engine.h"

namespace {

struct Case {
    const char *policy;
    uint32_t slabs;
    struct policy_options options;
};

std::vector<Case> every_policy() {
    std::vector<Case> cases = {{"metronome", 3, {}},      {"metronome", 1, {}},      {"select-n", 1, {}},
                               {"zero-inference", 2, {}}, {"prefetch-group", 0, {}}, {"flexgen", 4, {}}};
    cases[0].options.interval = 1.5;
    cases[1].options.interval = cases[2].options.interval = 2;
    cases[4].options.group = 2;
    cases[4].options.group_streamed = cases[4].options.prefetch_step = 1;
    cases[5].options.percent = 50;
    if (SANITIZED) { // the one that moves most; the ring of every rule is in pipeline_test
        cases = {cases[0]};
    }
    return cases;
}

// Two prompts at once, one longer than any window; greedy.
std::vector<uint32_t> generate(Engine &engine, const FamilyModel &family) {
    std::vector<uint32_t> other(family.ids.rbegin(), family.ids.rend() - 5);
    Request requests[] = {{family.ids, 12}, {other, 12}};
    std::vector<uint32_t> tokens;
    for (Request &request : requests) {
        request.request.sampling.ignore_eos = true;
        request.request.arrival_ns = device_now_ns(engine.device);
        Engine::check(engine_submit(engine.engine, &request.request));
    }
    run_until_idle(engine);
    for (Request &request : requests) {
        EXPECT_EQ(request.outcome.finish, FINISH_LENGTH);
        tokens.insert(tokens.end(), request.outcome.tokens.begin(), request.outcome.tokens.end());
    }
    return tokens;
}

TEST(FamilyOffload, EveryPolicyGivesTheTokensOfNone) {
    for (const FamilyModel &family : FamilyModel::read()) {
        Folder folder;
        family.write_directory(folder);
        Options options;
        options.weights = folder.path;
        if (const char *chosen = getenv("METRONOME_TEST_DEVICE")) {
            options.device = chosen;
        }
        options.context = 64;
        options.kv_tokens = 256;
        options.max_sequences = 4;
        std::vector<uint32_t> want;
        {
            Engine engine(options);
            want = generate(engine, family);
            ASSERT_EQ(want.size(), 24u) << family.name;
        }
        for (const Case &c : every_policy()) {
            SCOPED_TRACE(family.name + " " + c.policy + " in slabs " + std::to_string(c.slabs));
            options.policy = c.policy;
            options.policy_options = c.options;
            options.slabs = c.slabs;
            options.copy_jitter_ns = options.device == "cpu" ? 20000 : 0; // a GPU's copies take their own time
            Engine engine(options);
            EXPECT_EQ(generate(engine, family), want);
            struct engine_stats stats;
            engine_stats(engine.engine, &stats);
            EXPECT_GT(stats.offload.streamed_slabs, 0u) << "a test of offloading with nothing offloaded";
            EXPECT_GT(stats.offload.total_bytes_streamed, 0u);
        }
    }
}

} // namespace
