// A whole engine, stepped by hand: what the engine's tests share. On the cpu device with the demo model, if nothing
// else is asked for.
#ifndef METRONOME_TESTS_RUNNING_ENGINE_H
#define METRONOME_TESTS_RUNNING_ENGINE_H

extern "C" {
#include "base/log.h"
#include "base/random.h"
#include "scheduler/engine.h"
}
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

inline std::string model_path() {
    const char *named = getenv("METRONOME_TEST_MODEL");
    std::string path = named ? named : ".cache/SmolLM2-135M-Instruct.Q4_1.gguf";
    struct stat info;
    return stat(path.c_str(), &info) == 0 ? path : "";
}

struct Options {
    uint32_t threads = 2, ranks = 1, context = 256, max_sequences = 16, max_queue = 64, max_batch_tokens = 64,
             prefill_chunk = 0;
    uint64_t kv_tokens = 4096, kv_host_memory = 0, kv_stream_memory = 0, host_memory = 0;
    bool prefix_cache = true;
    std::string policy = "none", bus;
    struct policy_options policy_options = {};
    uint64_t device_memory = 0;
    uint32_t slabs = 0;
    double link_gbps = 0, tpot_ms = 0;
    uint64_t copy_jitter_ns = 0;
    bool no_graphs = false; // on cuda
    enum all_reduce all_reduce = ALL_REDUCE_AUTO;
    const struct record *record = nullptr; // measured before; nullptr: measured at the start
    std::string device = "cpu", hardware;  // what sim stands for
    std::string weights;                   // a model's file, to be used without a tokenizer; empty: the demo model
};

// What iterations of the demo model cost on cpu. Under the sanitizers measuring it takes most of a test, and is done
// once.
struct KnownRecord {
    struct record record;
    bool known = false;
};
inline KnownRecord &known_record() {
    static KnownRecord known = {};
    return known;
}

class Engine {
  public:
    explicit Engine(const Options &given) : options(given) {
        struct device_config device_config = {};
        device_config.name = options.device.c_str();
        device_config.hardware = options.hardware.empty() ? nullptr : options.hardware.c_str();
        device_config.seed = 1;
        device_config.threads = options.threads;
        device_config.ranks = options.ranks;
        device_config.link_bytes_per_s = options.link_gbps * 1e9;
        device_config.copy_jitter_ns = options.copy_jitter_ns;
        device_config.invariant = true; // tokens are compared
        device_config.no_graphs = options.no_graphs;
        device_config.all_reduce = options.all_reduce;
        struct engine_config config = {};
        config.context = options.context;
        config.max_sequences = options.max_sequences;
        config.max_queue = options.max_queue;
        config.max_batch_tokens = options.max_batch_tokens;
        config.prefill_chunk = options.prefill_chunk;
        config.kv_tokens = options.kv_tokens;
        config.kv_host_memory = options.kv_host_memory;
        config.kv_stream_memory = options.kv_stream_memory;
        config.host_memory = options.host_memory;
        config.prefix_cache = options.prefix_cache;
        config.offload_policy = options.policy.c_str();
        config.offload_options = options.policy_options;
        config.offload_slabs = options.slabs;
        config.offload_bus = options.bus.c_str();
        config.link_bytes_per_s = (uint64_t)(options.link_gbps * 1e9);
        config.device_memory = options.device_memory;
        config.promise.tpot_ns = (uint64_t)(options.tpot_ms * 1e6);
        config.seed = 1;
        const bool demo = options.weights.empty() && options.device == "cpu" && options.ranks == 1;
        const bool reuse = SANITIZED && demo && known_record().known && !options.record;
        config.record = reuse ? &known_record().record : options.record;
        log_set_level(LOG_WARN);
        check(device_open(&device_config, &device));
        check(options.weights.empty() ? model_open(model_path().c_str(), &model)
                                      : model_open_weights(options.weights.c_str(), &model));
        check(engine_create(&config, model, device, &engine));
        if (demo && engine_record(engine)) {
            known_record() = {*engine_record(engine), true};
        }
    }
    ~Engine() {
        engine_destroy(engine);
        model_close(model);
        device_close(device);
    }
    static void check(struct status status) {
        if (status.code != STATUS_OK) {
            fprintf(stderr, "%s\n", status.message);
            abort();
        }
    }
    bool all_blocks_free() const {
        struct engine_stats stats;
        engine_stats(engine, &stats);
        return stats.kv_blocks > 0 && stats.kv_blocks_free == stats.kv_blocks &&
               stats.offload.kv_parked == stats.prefix_parked;
    }
    Options options; // first: the engine's configuration points into it
    struct device *device = nullptr;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
};

struct Outcome {
    std::vector<uint32_t> tokens, prompt_tokens;
    std::vector<float> logprobs, prompt_logprobs;
    std::string text, prompt_text;
    enum finish_reason finish = FINISH_NONE;
    uint32_t finishes = 0, completion_tokens = 0, cached_tokens = 0;
};

class Request {
  public:
    Request(std::vector<uint32_t> ids, uint32_t max_tokens) : prompt(std::move(ids)) {
        request.prompt = prompt.data();
        request.prompt_count = (uint32_t)prompt.size();
        request.sampling.top_p = 1;
        request.sampling.repetition_penalty = 1;
        request.sampling.max_tokens = max_tokens;
        request.owner = this;
    }
    std::vector<uint32_t> prompt;
    struct request request = {};
    Outcome outcome;
};

inline void drain_events(struct engine *engine) {
    std::vector<struct engine_event> events(64);
    for (uint32_t count; (count = engine_poll(engine, events.data(), 64)) > 0;) {
        for (uint32_t i = 0; i < count; i++) {
            const struct engine_event &event = events[i];
            Outcome &outcome = static_cast<Request *>(event.request->owner)->outcome;
            ASSERT_EQ(outcome.finishes, 0u) << "an event after the last";
            (event.is_prompt ? outcome.prompt_text : outcome.text).append(event.text, event.text_bytes);
            if (event.has_token) {
                (event.is_prompt ? outcome.prompt_tokens : outcome.tokens).push_back(event.token);
                (event.is_prompt ? outcome.prompt_logprobs : outcome.logprobs)
                    .push_back(event.has_logprob ? event.logprob : NAN);
            }
            if (event.finish != FINISH_NONE) {
                outcome.finish = event.finish;
                outcome.finishes++;
                outcome.completion_tokens = event.completion_tokens;
                outcome.cached_tokens = event.cached_tokens;
            }
        }
    }
}

inline void run_until_idle(Engine &engine) {
    for (bool idle = false; !idle;) {
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
}

inline std::vector<uint32_t> ids_of(const Engine &engine, const std::string &text) {
    struct token_list list = {};
    Engine::check(
        tokenizer_encode(model_tokenizer(engine.model), text.data(), text.size(), TOKENIZE_SPECIAL, 10000, &list));
    std::vector<uint32_t> ids(list.ids, list.ids + list.count);
    token_list_free(&list);
    return ids;
}

const char *const story = "<|im_start|>user\nTell me about the history of clocks, from sundials to quartz.<|im_end|>\n"
                          "<|im_start|>assistant\n";
const char *const prompts[] = {
    "The capital of France is",        "Once upon a time", "def fibonacci(n):",
    "Water boils at a temperature of", "1, 2, 3, 4,",      "<|im_start|>user\nHi<|im_end|>\n"};

// The greedy tokens of a request alone, whole prompt at once, one thread: what every other run must give.
inline std::vector<uint32_t> alone(const std::string &text, uint32_t tokens) {
    static std::map<std::pair<std::string, uint32_t>, std::vector<uint32_t>> known;
    auto &entry = known[{text, tokens}];
    if (entry.empty()) {
        Options options;
        options.threads = 1;
        options.max_batch_tokens = 256;
        Engine engine(options);
        Request request(ids_of(engine, text), tokens);
        request.request.sampling.ignore_eos = true;
        Engine::check(engine_submit(engine.engine, &request.request));
        run_until_idle(engine);
        EXPECT_EQ(request.outcome.finish, FINISH_LENGTH);
        entry = request.outcome.tokens;
        EXPECT_EQ(entry.size(), tokens);
    }
    return entry;
}

class EngineTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (model_path().empty()) {
            GTEST_SKIP() << "no demo model; set METRONOME_TEST_MODEL";
        }
    }
};

const uint32_t LENGTH = SANITIZED ? 6 : 40;

#endif
