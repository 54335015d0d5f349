// Traces replayed on the sim device: every request is accounted for, promises are judged by the token, the same run
// gives the same report, and a run that fails gives everything back.
#include "tests/unit/kernels/sim_rig.h"
#include "tests/unit/models/tiny_model.h"

extern "C" {
#include "base/log.h"
#include "scheduler/replay.h"
}

namespace {

struct Options {
    uint64_t kv_tokens = 2048, ttft_ns = 0, tpot_ns = 0;
    uint32_t max_queue = 1000, max_sequences = 8;
    const char *policy = "none";
    uint64_t device_memory = 0;
    uint32_t context = 128;
    bool prefix_cache = false;
};

// A tiny model on a device of round figures, and its engine.
struct Simulated {
    explicit Simulated(const Options &options = Options()) : rig(SimOptions{.launch_ns = 10000}) {
        log_set_level(LOG_WARN);
        tiny.layers = 4;
        tiny.context = options.context;
        tiny.make();
        must(model_open_weights(tiny.write().c_str(), &model));
        struct engine_config config = {};
        config.max_sequences = options.max_sequences;
        config.max_queue = options.max_queue;
        config.max_batch_tokens = 64;
        config.kv_tokens = options.kv_tokens;
        config.prefix_cache = options.prefix_cache;
        config.promise.ttft_ns = options.ttft_ns;
        config.promise.tpot_ns = options.tpot_ns;
        config.offload_policy = options.policy;
        config.device_memory = options.device_memory;
        config.link_bytes_per_s = 1000000000;
        must(engine_create(&config, model, rig.device, &engine));
    }
    ~Simulated() {
        engine_destroy(engine);
        model_close(model);
    }
    struct replay_report run(const struct replay_config &config,
                             std::vector<struct replay_outcome> *outcomes = nullptr) {
        if (outcomes) {
            outcomes->resize(config.trace->count);
        }
        struct replay_report report;
        must(replay_run(engine, rig.device, &config, outcomes ? outcomes->data() : nullptr, &report));
        struct engine_stats stats;
        engine_stats(engine, &stats);
        EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks);
        return report;
    }
    SimRig rig;
    TinyModel tiny;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
};

struct Trace {
    Trace(uint32_t count, double rate, uint32_t output_tokens = 12) {
        struct trace_shape shape = {};
        shape.count = count;
        shape.rate = rate;
        shape.burstiness = 0.5;
        shape.prompt_tokens = 40;
        shape.output_tokens = output_tokens;
        shape.seed = 5;
        must(trace_draw(&shape, &trace));
    }
    ~Trace() {
        trace_free(&trace);
    }
    Trace(const Trace &) = delete;
    Trace &operator=(const Trace &) = delete;
    struct replay_config config() const {
        struct replay_config config = {};
        config.trace = &trace;
        config.stretch = 1;
        config.vocabulary = 80;
        config.longest = 128;
        return config;
    }
    struct trace trace;
};

TEST(Replay, EveryRequestIsAccountedFor) {
    Simulated simulated;
    Trace trace(300, 100);
    std::vector<struct replay_outcome> outcomes;
    struct replay_report report = simulated.run(trace.config(), &outcomes);
    EXPECT_EQ(report.requests, 300u);
    EXPECT_EQ(report.kept, 300u); // nothing was promised
    EXPECT_EQ(report.refused + report.failed + report.clipped, 0u);
    uint64_t prompts = 0, tokens = 0, last = 0;
    for (uint32_t i = 0; i < 300; i++) {
        const struct trace_request &request = trace.trace.requests[i];
        EXPECT_EQ(outcomes[i].tokens, request.output_tokens);
        EXPECT_EQ(outcomes[i].finish, FINISH_LENGTH);
        EXPECT_EQ(outcomes[i].arrival_ns, request.arrival_ns);
        EXPECT_GT(outcomes[i].first_token_ns, outcomes[i].arrival_ns);
        EXPECT_GE(outcomes[i].last_token_ns, outcomes[i].first_token_ns);
        prompts += request.prompt_tokens;
        tokens += request.output_tokens;
        last = std::max(last, outcomes[i].last_token_ns);
    }
    EXPECT_EQ(report.prompt_tokens, prompts);
    EXPECT_EQ(report.output_tokens, tokens);
    EXPECT_NEAR(report.seconds, (double)last / 1e9, 1e-9);
    EXPECT_GT(report.ttft.p99_ms, report.ttft.p50_ms);
    EXPECT_GT(report.iterations, 100u);
}

// Tokens of the crowd: those that came by when the last request had its first, refused ones not being waited for.
TEST(Replay, TokensThatCameWhileOthersWaitedAreCounted) {
    for (uint32_t places : {4u, 16u}) {
        Options options;
        options.max_sequences = places;
        options.max_queue = 60;
        Simulated simulated(options);
        Trace trace(100, 1e6);
        std::vector<struct replay_outcome> outcomes;
        struct replay_report report = simulated.run(trace.config(), &outcomes);
        EXPECT_GT(report.refused, 0u);
        uint64_t last_first = 0;
        for (const struct replay_outcome &outcome : outcomes) {
            last_first = std::max(last_first, outcome.first_token_ns);
        }
        uint32_t amid = 0;
        for (const struct replay_outcome &outcome : outcomes) {
            if (outcome.last_token_ns <= last_first) {
                EXPECT_EQ(outcome.crowd_tokens, outcome.tokens);
            } else {
                EXPECT_GE(outcome.crowd_tokens, 1u);
                EXPECT_LT(outcome.crowd_tokens, outcome.tokens);
                amid++;
            }
        }
        EXPECT_GT(amid, 0u);
        EXPECT_LE(amid, places);
    }
}

TEST(Replay, PromisesAreJudgedByTheToken) {
    Simulated simulated;
    Trace trace(200, 1500);
    struct replay_config config = trace.config();
    std::vector<struct replay_outcome> free, judged;
    simulated.run(config, &free);
    Simulated again;
    config.ttft_ns = 5000000;
    config.tpot_ns = 900000;
    struct replay_report report = again.run(config, &judged);
    uint32_t kept = 0, ttft = 0;
    for (uint32_t i = 0; i < 200; i++) { // judging changes nothing
        EXPECT_EQ(judged[i].first_token_ns, free[i].first_token_ns);
        EXPECT_EQ(judged[i].last_token_ns, free[i].last_token_ns);
        bool in_time = judged[i].first_token_ns - judged[i].arrival_ns <= config.ttft_ns;
        ttft += in_time;
        kept += judged[i].late_tokens == 0;
        if (judged[i].last_token_ns - judged[i].first_token_ns > (judged[i].tokens - 1) * config.tpot_ns) {
            EXPECT_GT(judged[i].late_tokens, 0u);
        }
    }
    EXPECT_EQ(report.kept, kept);
    EXPECT_EQ(report.kept_ttft, ttft);
    EXPECT_GT(kept, 0u);
    EXPECT_LT(kept, 200u); // else this case shows nothing
    EXPECT_GE(report.kept_ttft, kept);
    EXPECT_GE(report.kept_tpot, kept);
}

TEST(Replay, LoadIsStretchedAndFullQueuesRefuse) {
    Options options;
    options.max_queue = 10;
    Simulated simulated(options);
    Trace trace(400, 100);
    struct replay_config config = trace.config();
    config.stretch = 0;
    struct replay_report report = simulated.run(config); // all at once
    EXPECT_EQ(report.refused, 400 - options.max_queue);
    EXPECT_EQ(report.kept, options.max_queue);
    Simulated calm(options);
    config.stretch = 10;
    report = calm.run(config);
    EXPECT_EQ(report.refused, 0u);
    EXPECT_NEAR(report.seconds, (double)trace.trace.requests[399].arrival_ns / 1e8, 1);
}

TEST(Replay, LongPromptsLoseTheirBeginnings) {
    Simulated simulated;
    Trace trace(50, 100);
    struct replay_config config = trace.config();
    config.longest = 45;
    std::vector<struct replay_outcome> outcomes;
    struct replay_report report = simulated.run(config, &outcomes);
    uint32_t clipped = 0;
    for (uint32_t i = 0; i < 50; i++) {
        const struct trace_request &request = trace.trace.requests[i];
        EXPECT_EQ(outcomes[i].clipped, request.prompt_tokens + request.output_tokens > 45);
        EXPECT_EQ(outcomes[i].tokens, request.output_tokens);
        clipped += outcomes[i].clipped;
    }
    EXPECT_EQ(report.clipped, clipped);
    EXPECT_GT(clipped, 0u);
    EXPECT_LT(clipped, 50u);
}

// What is dropped is never sent, and counted as nothing else.
TEST(Replay, DroppedRequestsCostNothing) {
    Trace trace(100, 100000), half(50, 100000);
    auto dropped = std::make_unique<bool[]>(100);
    for (uint32_t i = 0; i < 50; i++) {
        dropped[2 * i] = true;
        trace.trace.requests[2 * i + 1] = half.trace.requests[i];
        trace.trace.requests[2 * i].arrival_ns = half.trace.requests[i].arrival_ns;
    }
    struct replay_config config = trace.config();
    config.dropped = dropped.get();
    Simulated simulated, again;
    std::vector<struct replay_outcome> outcomes, alone;
    struct replay_report report = simulated.run(config, &outcomes);
    again.run(half.config(), &alone);
    EXPECT_EQ(report.requests, 100u);
    EXPECT_EQ(report.dropped, 50u);
    EXPECT_EQ(report.kept, 50u);
    EXPECT_EQ(report.refused, 0u);
    for (uint32_t i = 0; i < 50; i++) {
        EXPECT_TRUE(outcomes[2 * i].dropped);
        EXPECT_FALSE(replay_kept(&outcomes[2 * i]));
        EXPECT_TRUE(replay_kept(&outcomes[2 * i + 1]));
        EXPECT_EQ(outcomes[2 * i + 1].last_token_ns, alone[i].last_token_ns);
    }
}

// With preemption, offloading and bursts: twice the same, to the nanosecond.
TEST(Replay, TheSameRunGivesTheSameReport) {
    Options options;
    options.kv_tokens = 128;
    options.tpot_ns = 2000000;
    options.max_sequences = 32;
    options.policy = "metronome";
    struct replay_report reports[2];
    for (struct replay_report &report : reports) {
        Simulated simulated(options);
        Trace trace(300, 3000, 80);
        struct replay_config config = trace.config();
        config.ttft_ns = 20000000;
        config.tpot_ns = options.tpot_ns;
        report = simulated.run(config);
    }
    EXPECT_EQ(memcmp(&reports[0], &reports[1], sizeof reports[0]), 0);
    EXPECT_GT(reports[0].preemptions, 0u);
    EXPECT_GT(reports[0].bytes_streamed, 0u);
    EXPECT_GT(reports[0].host_bytes_mean, 0.0);
}

// First tokens that cannot come in time hurry nobody: weights stay where they are, instead of taking the memory of the
// KV cache back for the sake of what is lost.
TEST(Replay, LostFirstTokensHurryNobody) {
    Options options;
    options.tpot_ns = 2000000;
    options.policy = "metronome";
    struct replay_report reports[2];
    for (int lost = 0; lost < 2; lost++) {
        options.ttft_ns = lost ? 1000 : 0; // a microsecond
        Simulated simulated(options);
        Trace trace(300, 1500);
        struct replay_config config = trace.config();
        config.ttft_ns = options.ttft_ns;
        config.tpot_ns = options.tpot_ns;
        reports[lost] = simulated.run(config);
    }
    EXPECT_EQ(reports[1].kept_ttft, 0u);
    EXPECT_EQ(reports[1].iterations, reports[0].iterations);
    EXPECT_EQ(reports[1].host_bytes_mean, reports[0].host_bytes_mean);
    EXPECT_EQ(reports[1].kept_tpot, reports[0].kept_tpot);
    EXPECT_GT(reports[0].host_bytes_mean, 0.0);
}

// Prompts of equal parts share what is computed of them, as Mooncake's traces have it.
TEST(Replay, EqualPartsOfPromptsAreComputedOnce) {
    const char *lines = "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [7, 8]}\n"
                        "{\"timestamp\": 1000, \"input_length\": 700, \"output_length\": 5, \"hash_ids\": [7, 9]}\n"
                        "{\"timestamp\": 2000, \"input_length\": 700, \"output_length\": 5, \"hash_ids\": [9, 7]}\n"
                        "{\"timestamp\": 3000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [7, 8]}\n";
    struct trace trace;
    must(trace_read(lines, strlen(lines), &trace));
    struct replay_config config = {};
    config.trace = &trace;
    config.stretch = 1;
    config.vocabulary = 80;
    config.longest = 1024;
    for (bool cache : {true, false}) {
        Options options;
        options.context = 1024;
        options.kv_tokens = 4096;
        options.prefix_cache = cache;
        Simulated simulated(options);
        std::vector<struct replay_outcome> outcomes;
        struct replay_report report = simulated.run(config, &outcomes);
        EXPECT_EQ(report.kept, 4u);
        EXPECT_EQ(report.prefix_queries, cache ? 2600u : 0u);
        EXPECT_EQ(report.prefix_hits, cache ? 512u + 592u : 0u); // of the last all but the block of its last token
        uint64_t first = outcomes[0].first_token_ns - outcomes[0].arrival_ns;
        uint64_t again = outcomes[3].first_token_ns - outcomes[3].arrival_ns;
        EXPECT_EQ(again < first / 2, cache);
    }
    trace_free(&trace);
}

TEST(Replay, WhatIsRefusedOtherwiseEndsTheRun) {
    Simulated simulated;
    Trace trace(50, 1000000);
    struct replay_config config = trace.config();
    config.longest = 4096; // longer than the model's context of 128: a mistake of the caller's
    const_cast<struct trace_request &>(trace.trace.requests[30]).prompt_tokens = 2000;
    struct replay_report report;
    struct status status = replay_run(simulated.engine, simulated.rig.device, &config, nullptr, &report);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(strstr(status.message, "request 31 of the trace"), nullptr) << status.message;
    struct engine_stats stats;
    engine_stats(simulated.engine, &stats);
    EXPECT_EQ(stats.running + stats.waiting, 0u);
    EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks);
}

TEST(Replay, Quantiles) {
    const double values[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    EXPECT_EQ(replay_quantile(values, 10, 0), 1);
    EXPECT_EQ(replay_quantile(values, 10, 0.5), 5);
    EXPECT_EQ(replay_quantile(values, 10, 0.99), 10);
    EXPECT_EQ(replay_quantile(values, 10, 1), 10);
    EXPECT_EQ(replay_quantile(values, 0, 0.5), 0);
}

} // namespace
