// KV of running sequences that lives in host memory and passes through the device layer by layer: contexts that are
// longer than the device has room for, and more sequences at once; the tokens are the same.
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

namespace {

const uint32_t CONTEXT = 512;

const SharedTinyModel &tiny() {
    static const SharedTinyModel model(12, CONTEXT); // the ring holds two layers' worth of what is streamed
    return model;
}

Options options_with(uint64_t device_memory, uint32_t ranks = 1) {
    Options options;
    options.weights = tiny().path;
    options.ranks = ranks;
    options.context = CONTEXT;
    options.max_batch_tokens = 32;
    options.max_sequences = 6;
    options.slabs = 4;
    options.policy = "metronome";
    options.kv_tokens = 0;
    options.kv_host_memory = 64 * tiny().block_bytes();
    options.device_memory = device_memory;
    return options;
}

// What a device must have beside KV blocks and weights, and with every layer gone from it.
struct Sizes {
    uint64_t rest, weights, ring;
};
Sizes sizes() {
    Options whole = options_with(0);
    whole.device_memory = 0;
    Engine engine(whole);
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    const struct offload_report &report = stats.offload;
    uint64_t arena = report.arena_bytes;
    return {device_info(engine.device).device_used - arena, report.weight_bytes_device, report.staging_bytes};
}

// A device on which no more than `blocks` KV blocks have room beside the ring, all weights gone.
uint64_t memory_for(uint32_t blocks) {
    static const Sizes known = sizes();
    return known.rest + known.ring + blocks * tiny().block_bytes();
}

std::vector<uint32_t> prompt_of(uint32_t seed, uint32_t length) {
    struct random_state random;
    random_seed(&random, seed);
    std::vector<uint32_t> ids(length);
    for (uint32_t &id : ids) {
        id = (uint32_t)random_below(&random, tiny().vocabulary);
    }
    return ids;
}

std::vector<uint32_t> generate(Engine &engine, const std::vector<uint32_t> &prompt, uint32_t tokens) {
    Request request(prompt, tokens);
    request.request.sampling.ignore_eos = true;
    request.request.arrival_ns = device_now_ns(engine.device);
    Engine::check(engine_submit(engine.engine, &request.request));
    run_until_idle(engine);
    EXPECT_EQ(request.outcome.finish, FINISH_LENGTH);
    return request.outcome.tokens;
}

struct offload_report report_of(const Engine &engine) {
    struct engine_stats stats;
    engine_stats(engine.engine, &stats);
    return stats.offload;
}

TEST(KvStream, AContextLongerThanTheDeviceHasRoomFor) {
    Options whole = options_with(0);
    whole.policy = "none";
    const std::vector<uint32_t> prompt = prompt_of(1, 300);
    Engine with_all(whole);
    const std::vector<uint32_t> want = generate(with_all, prompt, 100);
    for (uint64_t jitter_ns : {0, 100000}) {
        Options options = options_with(memory_for(16)); // of the 32 of a context
        options.copy_jitter_ns = jitter_ns;
        Engine engine(options);
        struct offload_report report = report_of(engine);
        EXPECT_GE(report.kv_blocks + report.kv_stream_blocks, CONTEXT / KV_BLOCK_TOKENS);
        EXPECT_LT(report.kv_blocks, 400u / KV_BLOCK_TOKENS) << "nothing to stream";
        EXPECT_LE(device_info(engine.device).device_used, options.device_memory);
        for (int round = 0; round < (jitter_ns ? 1 : 2); round++) {
            EXPECT_EQ(generate(engine, prompt, 100), want);
        }
        report = report_of(engine);
        EXPECT_EQ(report.kv_streamed, 0u) << "given back";
        EXPECT_GE(report.kv_blocks_out, 400u / KV_BLOCK_TOKENS - report.kv_blocks);
        EXPECT_TRUE(engine.all_blocks_free());
    }
}

// On sim the time that is predicted, KV included, is the time that it takes; and the bytes are those of the copies.
TEST(KvStream, WhatIsPredictedIsMeasured) {
    Options options = options_with(memory_for(16));
    options.device = "sim";
    options.hardware = "configs/hardware/a10.json";
    options.tpot_ms = 100;
    Engine engine(options);
    Request request(prompt_of(2, 250), 200);
    request.request.sampling.ignore_eos = true;
    request.request.arrival_ns = device_now_ns(engine.device);
    Engine::check(engine_submit(engine.engine, &request.request));
    uint32_t steady = 0, close = 0;
    struct offload_report before = {};
    uint64_t sent = 0;
    for (bool idle = false; !idle;) {
        const uint64_t bytes = device_link_count(engine.device).host_to_device_bytes;
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
        const struct offload_report report = report_of(engine);
        if (report.kv_streamed > 0 && report.kv_streamed == before.kv_streamed && !idle) {
            steady++;
            double error = (double)report.predicted_ns / (double)report.measured_ns - 1;
            close += error < 0.01 && error > -0.01;
            EXPECT_EQ(report.bytes_streamed, report.weight_bytes_host + report.kv_streamed_bytes);
            EXPECT_GE(device_link_count(engine.device).host_to_device_bytes - bytes, report.bytes_streamed);
            sent += report.kv_streamed_bytes;
        }
        before = report;
    }
    EXPECT_EQ(request.outcome.tokens.size(), 200u);
    EXPECT_GT(steady, 100u);
    EXPECT_GT(close, steady * 9 / 10);
    EXPECT_GT(sent, 0u);
    EXPECT_EQ(before.total_late, 0u);
}

// Where room is short and the link has time, more sequences run at once; each gives what it gives alone.
TEST(KvStream, MoreSequencesAtOnceWithTheSameTokens) {
    Options whole = options_with(0);
    whole.policy = "none";
    Engine with_all(whole);
    std::vector<std::vector<uint32_t>> want;
    for (uint32_t i = 0; i < 6; i++) {
        want.push_back(generate(with_all, prompt_of(10 + i, 150), 60));
    }
    uint32_t most[2] = {};
    for (int streams = 0; streams < 2; streams++) {
        Options options = options_with(memory_for(44)); // of the 84 that they take
        options.kv_host_memory = 200 * tiny().block_bytes();
        options.tpot_ms = 10000; // time enough for everything to leave
        options.kv_stream_memory = streams ? 60 * tiny().block_bytes() : 0;
        Engine engine(options);
        std::vector<std::unique_ptr<Request>> requests;
        for (uint32_t i = 0; i < 6; i++) {
            requests.push_back(std::make_unique<Request>(prompt_of(10 + i, 150), 60));
            requests.back()->request.sampling.ignore_eos = true;
            Engine::check(engine_submit(engine.engine, &requests.back()->request));
        }
        for (bool idle = false; !idle;) {
            Engine::check(engine_step(engine.engine, &idle));
            drain_events(engine.engine);
            struct engine_stats stats;
            engine_stats(engine.engine, &stats);
            most[streams] = std::max(most[streams], stats.running);
        }
        for (uint32_t i = 0; i < 6; i++) {
            EXPECT_EQ(requests[i]->outcome.tokens, want[i]) << "request " << i;
        }
        EXPECT_EQ(report_of(engine).kv_blocks_streamed > 0, streams == 1);
        EXPECT_TRUE(engine.all_blocks_free());
    }
    EXPECT_GT(most[1], most[0]);
}

// With half of the heads on each of two ranks blocks are half as large, and each rank streams its own.
TEST(KvStream, OnTwoRanks) {
    Options whole = options_with(0, 2);
    whole.policy = "none";
    const std::vector<uint32_t> prompt = prompt_of(3, 200);
    Engine with_all(whole);
    const std::vector<uint32_t> want = generate(with_all, prompt, 60);
    Engine resident(options_with(0, 2));
    const struct offload_report sizes = report_of(resident);
    const uint64_t rest = device_info(resident.device).device_used - sizes.arena_bytes;
    Options options = options_with(rest + sizes.staging_bytes + 12 * tiny().block_bytes() / 2, 2);
    options.copy_jitter_ns = 20000;
    Engine engine(options);
    EXPECT_EQ(generate(engine, prompt, 60), want);
    EXPECT_GT(report_of(engine).kv_blocks_streamed, 0u);
    EXPECT_TRUE(engine.all_blocks_free());
}

TEST(KvStream, WhatIsShortIsSaid) {
    Options options = options_with(memory_for(16));
    struct device_config device_config = {};
    device_config.name = "cpu";
    struct device *device;
    struct model *model;
    Engine::check(device_open(&device_config, &device));
    Engine::check(model_open_weights(options.weights.c_str(), &model));
    struct engine_config config = {};
    config.context = CONTEXT;
    config.max_sequences = config.max_queue = 4;
    config.max_batch_tokens = 32;
    config.offload_policy = "metronome";
    config.offload_slabs = 4;
    config.device_memory = options.device_memory;
    struct engine *engine = nullptr;
    const struct {
        uint64_t host, stream;
        const char *word;
    } cases[] = {{0, 0, "offload.kv_host_memory"},
                 {2 * tiny().block_bytes(), 0, "offload.kv_host_memory"},
                 {64 * tiny().block_bytes(), 65 * tiny().block_bytes(), "offload.kv_stream_memory"}};
    for (const auto &c : cases) {
        config.kv_host_memory = c.host;
        config.kv_stream_memory = c.stream;
        const struct status status = engine_create(&config, model, device, &engine);
        EXPECT_EQ(status.code, STATUS_NO_MEMORY);
        EXPECT_NE(strstr(status.message, c.word), nullptr) << status.message;
    }
    model_close(model);
    device_close(device);
}

} // namespace
