// scheduler/engine on the cpu device with the demo model: the same tokens whatever runs beside a request, blocks that
// come back, queues that are bounded, and exactly one end for every request.
#include "tests/unit/scheduler/running_engine.h"

#include <atomic>
#include <poll.h>

#if !SANITIZED
// Counts every allocation of the process: the engine's loop must make none.
static std::atomic<uint64_t> allocations;
extern "C" void *__libc_malloc(size_t);
extern "C" void *__libc_calloc(size_t, size_t);
extern "C" void *__libc_realloc(void *, size_t);
extern "C" void *malloc(size_t bytes) {
    allocations++;
    return __libc_malloc(bytes);
}
extern "C" void *calloc(size_t count, size_t bytes) {
    allocations++;
    return __libc_calloc(count, bytes);
}
extern "C" void *realloc(void *old, size_t bytes) {
    allocations++;
    return __libc_realloc(old, bytes);
}
#endif

namespace {

TEST_F(EngineTest, SameTokensForAnyChunkAndThreads) {
    std::vector<uint32_t> want = alone(story, LENGTH);
    // Under the sanitizers a token takes a hundred times as long, and one chunk size crosses every border.
    std::vector<uint32_t> chunks = SANITIZED ? std::vector<uint32_t>{7} : std::vector<uint32_t>{1, 7, 16, 33};
    for (uint32_t chunk : chunks) {
        for (uint32_t threads = SANITIZED ? 2 : 1; threads <= 2; threads++) {
            Options options;
            options.threads = threads;
            options.prefill_chunk = chunk;
            Engine engine(options);
            Request request(ids_of(engine, story), LENGTH);
            request.request.sampling.ignore_eos = true;
            Engine::check(engine_submit(engine.engine, &request.request));
            run_until_idle(engine);
            EXPECT_EQ(request.outcome.tokens, want) << "chunk " << chunk << ", threads " << threads;
            EXPECT_TRUE(engine.all_blocks_free());
        }
    }
}

// Many at once, joining at random iterations, some cancelled midway; with a KV cache so small that sequences are
// preempted and computed again. Every one that is not cancelled gives the tokens that it gives alone.
TEST_F(EngineTest, SameTokensAmongOthersThatJoinLeaveAndArePreempted) {
    const uint32_t count = SANITIZED ? 8 : 16;
    for (uint64_t kv_tokens : SANITIZED ? std::vector<uint64_t>{256} : std::vector<uint64_t>{4096, 256}) {
        Options options;
        options.kv_tokens = kv_tokens;
        options.prefix_cache = kv_tokens > 256; // with blocks shared by equal prompts the small one holds them all
        Engine engine(options);
        struct random_state random;
        random_seed(&random, kv_tokens);
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<std::string> texts;
        uint32_t lengths[] = {LENGTH, LENGTH / 2, LENGTH - 1};
        std::vector<uint32_t> cancel_at;
        for (uint32_t i = 0; i < count; i++) {
            texts.push_back(i % 7 == 6 ? story : prompts[i % 6]);
            requests.push_back(std::make_unique<Request>(ids_of(engine, texts.back()), lengths[i % 3]));
            requests.back()->request.sampling.ignore_eos = true;
            cancel_at.push_back(i % 5 == 4 ? 1 + (uint32_t)random_below(&random, LENGTH) : UINT32_MAX);
        }
        uint32_t submitted = 0;
        bool idle = false;
        for (uint32_t step = 0; submitted < count || !idle; step++) {
            while (submitted < count && random_below(&random, 3) > 0) {
                Engine::check(engine_submit(engine.engine, &requests[submitted++]->request));
            }
            for (uint32_t i = 0; i < submitted; i++) {
                if (cancel_at[i] == step && requests[i]->outcome.finishes == 0) {
                    engine_cancel(engine.engine, &requests[i]->request);
                }
            }
            Engine::check(engine_step(engine.engine, &idle));
            drain_events(engine.engine);
            ASSERT_LT(step, 10000u);
        }
        uint32_t cancelled = 0;
        for (uint32_t i = 0; i < count; i++) {
            const Outcome &outcome = requests[i]->outcome;
            ASSERT_EQ(outcome.finishes, 1u);
            std::vector<uint32_t> want = alone(texts[i], lengths[i % 3]);
            if (outcome.finish == FINISH_CANCELLED) {
                cancelled++;
                ASSERT_LE(outcome.tokens.size(), want.size());
                want.resize(outcome.tokens.size());
            } else {
                EXPECT_EQ(outcome.finish, FINISH_LENGTH);
            }
            EXPECT_EQ(outcome.tokens, want) << i << ": " << texts[i];
        }
        struct engine_stats stats;
        engine_stats(engine.engine, &stats);
        EXPECT_EQ(stats.finished[FINISH_CANCELLED], cancelled);
        EXPECT_TRUE(engine.all_blocks_free());
        if (kv_tokens == 256 && !SANITIZED) {
            EXPECT_GT(stats.preemptions, 0u) << "the small cache was meant to force preemption";
        }
    }
}

TEST_F(EngineTest, SeededSamplingIsReproducedAmongOthers) {
    std::vector<uint32_t> first;
    for (int round = 0; round < 2; round++) {
        Engine engine(Options{});
        Request seeded(ids_of(engine, prompts[1]), LENGTH), other(ids_of(engine, prompts[2]), LENGTH);
        seeded.request.sampling.temperature = 1;
        seeded.request.sampling.top_p = 0.9f;
        seeded.request.sampling.seeded = true;
        seeded.request.sampling.seed = 42;
        seeded.request.sampling.ignore_eos = true;
        seeded.request.sampling.repetition_penalty = 1.1f;
        if (round == 1) {
            Engine::check(engine_submit(engine.engine, &other.request));
        }
        Engine::check(engine_submit(engine.engine, &seeded.request));
        run_until_idle(engine);
        if (round == 0) {
            first = seeded.outcome.tokens;
        }
        EXPECT_EQ(seeded.outcome.tokens, first);
    }
    EXPECT_EQ(first.size(), LENGTH);
}

TEST_F(EngineTest, EchoScoresThePromptTheSameForAnyChunk) {
    std::vector<float> first;
    std::string text = prompts[0];
    for (uint32_t chunk : SANITIZED ? std::vector<uint32_t>{3} : std::vector<uint32_t>{64, 3, 1}) {
        Options options;
        options.prefill_chunk = chunk;
        options.max_sequences = 4; /* and so few logit rows that scoring has to go in pieces */
        Engine engine(options);
        Request scored(ids_of(engine, text), 0);
        scored.request.sampling.echo = scored.request.sampling.logprobs = true;
        scored.request.sampling.top_logprobs = 2;
        Request longer(ids_of(engine, text), 3);
        longer.request.sampling.echo = longer.request.sampling.logprobs = true;
        Engine::check(engine_submit(engine.engine, &scored.request));
        Engine::check(engine_submit(engine.engine, &longer.request));
        run_until_idle(engine);
        EXPECT_EQ(scored.outcome.finish, FINISH_LENGTH);
        EXPECT_EQ(scored.outcome.prompt_tokens, scored.prompt);
        EXPECT_EQ(scored.outcome.prompt_text, text);
        EXPECT_TRUE(scored.outcome.tokens.empty());
        ASSERT_EQ(scored.outcome.prompt_logprobs.size(), scored.prompt.size());
        EXPECT_TRUE(std::isnan(scored.outcome.prompt_logprobs[0]));
        if (first.empty()) {
            first = scored.outcome.prompt_logprobs;
        }
        for (size_t i = 1; i < first.size(); i++) {
            EXPECT_EQ(scored.outcome.prompt_logprobs[i], first[i]);
            EXPECT_EQ(longer.outcome.prompt_logprobs[i], first[i]);
            EXPECT_LT(first[i], 0);
        }
        EXPECT_EQ(longer.outcome.tokens.size(), 3u);
        std::vector<uint32_t> want = alone(text, 3);
        EXPECT_EQ(longer.outcome.tokens, want);
    }
}

TEST_F(EngineTest, StopStringsCutAcrossTokenBorders) {
    Engine engine(Options{});
    Request whole(ids_of(engine, prompts[4]), 16);
    whole.request.sampling.ignore_eos = true;
    Engine::check(engine_submit(engine.engine, &whole.request));
    run_until_idle(engine);
    const std::string &text = whole.outcome.text;
    ASSERT_GT(text.size(), 8u);
    for (size_t at = 1; at + 3 < text.size(); at += SANITIZED ? 16 : 2) {
        struct stop_string stop = {};
        stop.bytes = 3;
        memcpy(stop.text, text.data() + at, 3);
        Request stopped(whole.prompt, 16);
        stopped.request.sampling.ignore_eos = true;
        stopped.request.sampling.stops = &stop;
        stopped.request.sampling.stop_count = 1;
        Engine::check(engine_submit(engine.engine, &stopped.request));
        run_until_idle(engine);
        EXPECT_EQ(stopped.outcome.text, text.substr(0, text.find(std::string(stop.text, 3))));
        EXPECT_EQ(stopped.outcome.finish, FINISH_STOP);
        Request late(whole.prompt, 16);
        late.request.sampling = stopped.request.sampling;
        late.request.sampling.min_tokens = 16;
        Engine::check(engine_submit(engine.engine, &late.request));
        run_until_idle(engine);
        EXPECT_EQ(late.outcome.text.substr(0, at), text.substr(0, at)) << "no stop before min_tokens";
        EXPECT_EQ(late.outcome.completion_tokens, 16u);
    }
    EXPECT_TRUE(engine.all_blocks_free());
}

TEST_F(EngineTest, StopTokensMinTokensAndTheContextEnd) {
    Options options;
    options.context = 32;
    options.kv_tokens = 512;
    Engine engine(options);
    std::vector<uint32_t> ids = ids_of(engine, prompts[0]);
    std::vector<uint32_t> greedy = alone(prompts[0], LENGTH);
    Request stopped(ids, 10), banned(ids, 5), full(ids, 1000);
    stopped.request.sampling.stop_tokens = &greedy[2];
    stopped.request.sampling.stop_token_count = 1;
    stopped.request.sampling.ignore_eos = true;
    banned.request.sampling = stopped.request.sampling;
    banned.request.sampling.max_tokens = banned.request.sampling.min_tokens = 5;
    full.request.sampling.ignore_eos = true;
    for (Request *request : {&stopped, &banned, &full}) {
        Engine::check(engine_submit(engine.engine, &request->request));
    }
    run_until_idle(engine);
    EXPECT_EQ(stopped.outcome.finish, FINISH_STOP);
    EXPECT_EQ(stopped.outcome.completion_tokens, 3u);
    EXPECT_EQ(banned.outcome.tokens.size(), 5u);
    EXPECT_NE(banned.outcome.tokens[2], greedy[2]);
    EXPECT_EQ(full.outcome.finish, FINISH_LENGTH);
    EXPECT_EQ(full.outcome.tokens.size() + ids.size(), 32u);
}

TEST_F(EngineTest, RefusesWhatCannotBe) {
    Options options;
    options.max_queue = 3;
    options.context = 64;
    Engine engine(options);
    std::vector<uint32_t> ids(64, 1);
    Request too_long(ids, 1), empty({}, 1), unknown({1u << 30}, 1);
    struct status status = engine_submit(engine.engine, &too_long.request);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(strstr(status.message, "64"), nullptr);
    EXPECT_EQ(engine_submit(engine.engine, &empty.request).code, STATUS_INVALID);
    EXPECT_EQ(engine_submit(engine.engine, &unknown.request).code, STATUS_INVALID);
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < 4; i++) {
        requests.push_back(std::make_unique<Request>(std::vector<uint32_t>{1, 2}, 2));
        status = engine_submit(engine.engine, &requests[i]->request);
        EXPECT_EQ(status.code, i < 3 ? STATUS_OK : STATUS_BUSY) << status.message;
    }
    engine_drain(engine.engine);
    EXPECT_EQ(engine_submit(engine.engine, &requests[3]->request).code, STATUS_UNAVAILABLE);
    run_until_idle(engine);
    for (uint32_t i = 0; i < 3; i++) {
        EXPECT_EQ(requests[i]->outcome.finishes, 1u);
    }
}

TEST_F(EngineTest, BudgetsThatAreShortAreRefusedWithTheNumber) {
    struct device_config device_config = {};
    device_config.name = "cpu";
    struct device *device;
    struct model *model;
    Engine::check(device_open(&device_config, &device));
    Engine::check(model_open(model_path().c_str(), &model));
    for (uint64_t budget : {(uint64_t)1 << 20, (uint64_t)32 << 20}) { // the embedding alone is 29 MiB
        struct engine_config config = {};
        config.max_sequences = 4;
        config.max_queue = 4;
        config.max_batch_tokens = 64;
        config.device_memory = budget;
        config.offload_policy = "none";
        struct engine *engine = nullptr;
        struct status status = engine_create(&config, model, device, &engine);
        EXPECT_EQ(status.code, STATUS_NO_MEMORY);
        EXPECT_NE(strstr(status.message, "device_memory"), nullptr) << status.message;
        EXPECT_EQ(device_info(device).device_used, 0u) << "a refused start gives everything back";
    }
    model_close(model);
    device_close(device);
}

// The engine's own thread, with submissions and cancellations from this one: for the thread sanitizer, and for the
// promise that everything submitted ends exactly once whatever happens.
TEST_F(EngineTest, ThreadedWithCancellationsAndStop) {
    const uint32_t count = SANITIZED ? 8 : 24, tokens = SANITIZED ? 4 : 8;
    for (bool stop_early : {false, true}) {
        Engine engine(Options{});
        std::vector<std::unique_ptr<Request>> requests;
        Engine::check(engine_start(engine.engine));
        uint32_t ended = 0;
        for (uint32_t i = 0; i < count; i++) {
            requests.push_back(std::make_unique<Request>(ids_of(engine, prompts[i % 6]), tokens));
            requests.back()->request.sampling.ignore_eos = true;
            Engine::check(engine_submit(engine.engine, &requests.back()->request));
            if (i % 4 == 3) {
                engine_cancel(engine.engine, &requests[i - 1]->request);
                drain_events(engine.engine);
            }
        }
        if (stop_early) {
            engine_stop(engine.engine);
            drain_events(engine.engine);
        }
        for (int rounds = 0; rounds < 600 && ended < count; rounds++) {
            struct pollfd readable = {engine_wake_fd(engine.engine), POLLIN, 0};
            poll(&readable, 1, 100);
            drain_events(engine.engine);
            ended = 0;
            for (auto &request : requests) {
                ended += request->outcome.finishes;
            }
        }
        EXPECT_EQ(ended, count);
        if (!stop_early) {
            for (uint32_t i = 0; i < count; i++) {
                if (requests[i]->outcome.finish != FINISH_CANCELLED) {
                    EXPECT_EQ(requests[i]->outcome.tokens.size(), tokens);
                }
            }
        }
        engine_stop(engine.engine);
        EXPECT_TRUE(engine.all_blocks_free());
    }
}

#if !SANITIZED
TEST_F(EngineTest, TheLoopAllocatesNothing) {
    Engine engine(Options{});
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < 8; i++) {
        requests.push_back(std::make_unique<Request>(ids_of(engine, prompts[i % 6]), 40));
        requests.back()->request.sampling.ignore_eos = true;
        requests.back()->request.sampling.temperature = i % 2 ? 0.8f : 0;
        requests.back()->request.sampling.top_p = 0.9f;
        requests.back()->request.sampling.logprobs = i % 3 == 0;
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    bool idle;
    Engine::check(engine_step(engine.engine, &idle));
    uint64_t before = allocations;
    for (int i = 0; i < 30; i++) {
        Engine::check(engine_step(engine.engine, &idle));
    }
    EXPECT_EQ(allocations - before, 0u);
    run_until_idle(engine);
}
#endif

} // namespace
