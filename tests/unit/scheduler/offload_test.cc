// Offloading under a whole engine: every policy, budget, slab and ring gives the tokens that no offloading gives, on
// the real model, while placements change; and what is reported is what the copies were.
#include "tests/unit/scheduler/running_engine.h"

#include <unistd.h>

namespace {

const uint64_t MIB = 1 << 20;

// Device memory that leaves `share` of the layers' weights resident, with one context of KV.
uint64_t budget_for(double share, const Options &options) {
    static uint64_t weights, rest;
    if (weights == 0) {
        Options whole = options;
        whole.policy = "none";
        whole.device_memory = 0;
        whole.kv_tokens = options.context;
        Engine engine(whole);
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        weights = stats.offload.weight_bytes_device;
        rest = device_info(engine.device).device_used - weights;
    }
    return rest + (uint64_t)(share * (double)weights) + MIB;
}

std::vector<uint32_t> generate(Engine &engine, const std::string &text, uint32_t tokens) {
    Request request(ids_of(engine, text), tokens);
    request.request.sampling.ignore_eos = true;
    request.request.arrival_ns = device_now_ns(engine.device);
    Engine::check(engine_submit(engine.engine, &request.request));
    run_until_idle(engine);
    EXPECT_EQ(request.outcome.finishes, 1u);
    return request.outcome.tokens;
}

struct Case {
    const char *policy;
    double share; // of the weights that fit the device; 0: no budget
    struct policy_options options;
    uint32_t slabs;
};

TEST_F(EngineTest, EveryPolicyGivesTheTokensOfNone) {
    std::vector<uint32_t> want = alone(prompts[1], LENGTH);
    std::vector<Case> cases = {
        {"metronome", 0.25, {}, 0},      {"metronome", 0.5, {}, 0},       {"metronome", 0.75, {}, 4},
        {"metronome", 0.5, {}, 1},       {"zero-inference", 0.25, {}, 0}, {"flexgen", 0.5, {}, 8},
        {"prefetch-group", 0.75, {}, 0}, {"select-n", 0.75, {}, 0},
    };
    cases[5].options.percent = 75;
    cases[6].options.group = 3;
    cases[6].options.group_streamed = 1;
    cases[6].options.prefetch_step = 2;
    cases[7].options.interval = 3;
    if (SANITIZED) { // the one that moves most; the ring of every rule is in pipeline_test
        cases = {cases[1]};
    }
    for (const Case &c : cases) {
        Options options;
        options.context = 128;
        options.kv_tokens = 0;
        options.policy = c.policy;
        options.policy_options = c.options;
        options.slabs = c.slabs;
        options.device_memory = budget_for(c.share, options);
        options.copy_jitter_ns = 100000;
        Engine engine(options);
        EXPECT_EQ(generate(engine, prompts[1], LENGTH), want) << c.policy << " " << c.share;
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        EXPECT_GT(stats.offload.streamed_slabs, 0u) << c.policy << ": a test of offloading with nothing offloaded";
        EXPECT_GE(stats.offload.weight_bytes_host + stats.offload.staging_bytes,
                  (1 - c.share) * (stats.offload.weight_bytes_host + stats.offload.weight_bytes_device) * 0.9);
        // Every iteration streamed what the placement says: no more than a ring's worth of difference in the sum.
        uint64_t expected = stats.offload.iterations * stats.offload.weight_bytes_host;
        EXPECT_NEAR((double)stats.offload.total_bytes_streamed, (double)expected,
                    (double)(stats.offload.staging_bytes + stats.offload.weight_bytes_host) * 2)
            << c.policy;
        EXPECT_LE(device_info(engine.device).device_used, options.device_memory);
    }
}

// The promise changes in every request, from one that allows everything to leave to one that allows nothing: the
// placement follows in mid-generation, and no token changes.
TEST_F(EngineTest, PlacementsChangeInMidGeneration) {
    const uint32_t length = SANITIZED ? 14 : LENGTH; // a rise takes a few iterations' evidence
    std::vector<uint32_t> want = alone(prompts[2], length);
    Options options;
    options.context = 128;
    options.kv_tokens = 1024;
    options.policy = "metronome";
    options.tpot_ms = SANITIZED ? 100000 : 100;
    Engine engine(options);
    struct random_state random;
    random_seed(&random, 4);
    Request request(ids_of(engine, prompts[2]), length);
    request.request.sampling.ignore_eos = true;
    Engine::check(engine_submit(engine.engine, &request.request));
    bool idle = false;
    while (!idle) {
        // A link that is now fast, now slow, now nearly dead.
        static const double rates[] = {0, 5e9, 1e9, 3e8};
        device_set_link(engine.device, rates[random_below(&random, SANITIZED ? 3 : 4)]);
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
    EXPECT_EQ(request.outcome.tokens, want);
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    EXPECT_GT(stats.offload.placements, 0u);
    EXPECT_GT(stats.offload.total_bytes_streamed, 0u);
    EXPECT_TRUE(engine.all_blocks_free());
}

// Two engines that share a link by name: each gets a part of it, together no more than it carries, and the one that is
// left gets all that it wants again.
TEST_F(EngineTest, EnginesOnOneBusShareTheLink) {
    Options options;
    options.context = 128;
    options.kv_tokens = 1024;
    options.policy = "metronome";
    options.threads = 1;
    options.link_gbps = 1;
    options.tpot_ms = SANITIZED ? 100000 : 150; // at a promise that slow machines keep, and that asks for much
    options.bus = "test-" + std::to_string(getpid());
    std::vector<uint32_t> want = alone(prompts[0], LENGTH);
    auto first = std::make_unique<Engine>(options);
    struct engine_stats one, two;
    EXPECT_EQ(generate(*first, prompts[0], LENGTH), want);
    engine_stats(first->engine, &one);
    EXPECT_EQ(one.offload.bus_members, 1u);
    {
        struct record record = *engine_record(first->engine);
        options.record = &record;
        Engine second(options);
        for (int round = 0; round < (SANITIZED ? 1 : 3); round++) {
            EXPECT_EQ(generate(*first, prompts[0], LENGTH), want);
            EXPECT_EQ(generate(second, prompts[0], LENGTH), want);
        }
        engine_stats(first->engine, &one);
        engine_stats(second.engine, &two);
        EXPECT_EQ(one.offload.bus_members, 2u);
        EXPECT_EQ(two.offload.bus_members, 2u);
        EXPECT_LE(one.offload.bus_bytes_per_s + two.offload.bus_bytes_per_s, 1000000000u);
    }
    for (int round = 0; round < (SANITIZED ? 1 : 2); round++) {
        EXPECT_EQ(generate(*first, prompts[0], LENGTH), want);
    }
    engine_stats(first->engine, &one);
    EXPECT_EQ(one.offload.bus_members, 1u);
}

TEST_F(EngineTest, ImpossibleBudgetsAreRefusedWithWhatIsShort) {
    struct device_config device_config = {};
    device_config.name = "cpu";
    struct device *device;
    struct model *model;
    Engine::check(device_open(&device_config, &device));
    Engine::check(model_open(model_path().c_str(), &model));
    struct engine_config config = {};
    config.max_sequences = 4;
    config.max_queue = 4;
    config.max_batch_tokens = 64;
    config.context = 256;
    config.offload_policy = "metronome";
    config.device_memory = 32 * MIB; // the embedding alone is 29 MiB
    struct engine *engine = nullptr;
    struct status status = engine_create(&config, model, device, &engine);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(strstr(status.message, "short"), nullptr) << status.message;
    config.device_memory = 200 * MIB;
    config.host_memory = MIB;
    status = engine_create(&config, model, device, &engine);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(strstr(status.message, "host_memory"), nullptr) << status.message;
    config.host_memory = 0;
    config.record = SANITIZED && known_record().known ? &known_record().record : nullptr;
    config.promise.tpot_ns = 1000; // a microsecond a token
    status = engine_create(&config, model, device, &engine);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(strstr(status.message, "slo.tpot_ms"), nullptr) << status.message;
    config.offload_policy = "magic";
    status = engine_create(&config, model, device, &engine);
    EXPECT_EQ(status.code, STATUS_NOT_FOUND);
    EXPECT_NE(strstr(status.message, "zero-inference"), nullptr) << status.message;
    EXPECT_EQ(device_info(device).device_used, 0u);
    EXPECT_EQ(device_info(device).host_used, 0u);
    model_close(model);
    device_close(device);
}

} // namespace
