// Why tokens are late: each cause is put in alone, on described hardware, and is the one that is named; wherever the
// time went, it adds up.
#include "tests/unit/kernels/sim_rig.h"
#include "tests/unit/models/tiny_model.h"

extern "C" {
#include "base/log.h"
#include "models/description.h"
#include "scheduler/engine.h"
}
#include <chrono>
#include <deque>
#include <thread>

namespace {

const uint64_t MS = 1000000;

struct Options {
    const char *policy = "none";
    double percent = 0;
    uint32_t max_sequences = 64, max_batch_tokens = 512;
    uint64_t kv_tokens = 0, device_memory = 24ull << 30;
    enum scheduling_order order = ORDER_FCFS;
    const struct record *record = nullptr;
};

// Llama 2 7B on an A10. A token alone takes it about 25 ms, 512 prompt tokens six times that.
struct Simulated {
    explicit Simulated(const Options &options = Options()) : rig(SimOptions{.hardware = "configs/hardware/a10.json"}) {
        log_set_level(LOG_ERROR);
        struct model_description description;
        must(description_load("configs/models/llama-2-7b.json", &description));
        must(model_open_described(&description, &model));
        struct engine_config config = {};
        config.context = 4096;
        config.max_sequences = options.max_sequences;
        config.max_queue = 1000;
        config.max_batch_tokens = options.max_batch_tokens;
        config.order = options.order;
        config.kv_tokens = options.kv_tokens;
        config.offload_policy = options.policy;
        config.offload_options.percent = options.percent;
        config.device_memory = options.device_memory;
        config.link_bytes_per_s = 24000000000;
        config.record = options.record;
        must(engine_create(&config, model, rig.device, &engine));
    }
    ~Simulated() {
        engine_destroy(engine);
        model_close(model);
    }
    // A request that comes now.
    struct request &ask(uint32_t prompt_tokens, uint32_t tokens, struct promise promise = {0, 0}) {
        prompts.emplace_back(prompt_tokens, uint32_t(7 + prompts.size()));
        struct request request = {};
        request.prompt = prompts.back().data();
        request.prompt_count = prompt_tokens;
        request.sampling.top_p = request.sampling.repetition_penalty = 1;
        request.sampling.max_tokens = tokens;
        request.sampling.ignore_eos = true;
        request.arrival_ns = rig.now();
        request.has_promise = true;
        request.promise = promise;
        requests.push_back(request);
        must(engine_submit(engine, &requests.back()));
        return requests.back();
    }
    // Returns whether anything was left to do.
    bool step() {
        bool idle = false;
        must(engine_step(engine, &idle));
        std::vector<struct engine_event> events(64);
        while (engine_poll(engine, events.data(), 64) > 0) {
        }
        return !idle;
    }
    void steps(int count) {
        for (int i = 0; i < count; i++) {
            ASSERT_TRUE(step());
        }
    }
    void finish() {
        while (step()) {
        }
    }
    struct engine_stats stats() {
        struct engine_stats stats;
        engine_stats(engine, &stats);
        return stats;
    }
    // Every late token there was came late for this.
    void expect_only(enum cause cause, uint64_t at_least = 1) {
        struct engine_stats numbers = stats();
        EXPECT_GE(numbers.late_tokens[cause], at_least);
        for (int i = 0; i < CAUSES; i++) {
            EXPECT_TRUE(i == cause || numbers.late_tokens[i] == 0)
                << numbers.late_tokens[i] << " late for " << cause_name((enum cause)i);
        }
        std::vector<struct late_run> runs(LATE_RUNS);
        runs.resize(engine_late_runs(engine, runs.data(), LATE_RUNS));
        ASSERT_FALSE(runs.empty());
        for (const struct late_run &run : runs) { // none was forgotten here, and the parts are the whole
            EXPECT_EQ(run.cause, cause);
            EXPECT_EQ(spent_total(&run.spent), run.at_ns - run.begin_ns);
            EXPECT_GT(run.late_ns, 0u);
            EXPECT_LE(run.late_ns, run.at_ns - run.begin_ns);
        }
    }
    SimRig rig;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
    std::deque<std::vector<uint32_t>> prompts;
    std::deque<struct request> requests;
};

TEST(Causes, NothingLateHasNone) {
    Simulated simulated;
    simulated.ask(100, 20, {1000 * MS, 100 * MS});
    simulated.finish();
    struct engine_stats stats = simulated.stats();
    EXPECT_EQ(stats.kept, 1u);
    for (uint64_t late : stats.late_tokens) {
        EXPECT_EQ(late, 0u);
    }
    struct late_run run;
    EXPECT_EQ(engine_late_runs(simulated.engine, &run, 1), 0u);
    EXPECT_EQ(simulated.requests[0].outcome.tokens, 20u);
    EXPECT_EQ(simulated.requests[0].outcome.late_tokens, 0u);
}

TEST(Causes, Queue) {
    Simulated simulated(Options{.max_sequences = 1});
    simulated.ask(100, 60);
    simulated.ask(100, 10, {500 * MS, 100 * MS});
    simulated.finish();
    simulated.expect_only(CAUSE_QUEUE);
    const struct request_outcome &outcome = simulated.requests[1].outcome;
    EXPECT_EQ(outcome.late_tokens, 1u); // the first; the others follow in time
    EXPECT_EQ(outcome.late_by[CAUSE_QUEUE], 1u);
    EXPECT_EQ(outcome.worst.cause, CAUSE_QUEUE);
    EXPECT_EQ(outcome.worst.late_ns, outcome.first_token_ns - simulated.requests[1].arrival_ns - 500 * MS);
    EXPECT_EQ(outcome.worst.spent.ns[CAUSE_QUEUE], outcome.admitted_ns - simulated.requests[1].arrival_ns);
}

TEST(Causes, PrefillOfOthers) {
    for (bool recorded : {false, true}) { // by the record's predictions, and by what was seen before
        Simulated simulated(Options{.policy = recorded ? "metronome" : "none"});
        struct request &first = simulated.ask(100, 60, {1000 * MS, 35 * MS});
        simulated.steps(20);
        simulated.ask(4000, 4);
        simulated.finish();
        simulated.expect_only(CAUSE_PREFILL_OF_OTHERS);
        EXPECT_GT(first.outcome.worst.spent.ns[CAUSE_PREFILL_OF_OTHERS], first.outcome.worst.spent.ns[CAUSE_COMPUTE]);
    }
}

// Its own prompt delays nobody but itself.
TEST(Causes, ComputeIsItsOwn) {
    Simulated simulated;
    simulated.ask(4000, 4, {500 * MS, 0});
    simulated.finish();
    simulated.expect_only(CAUSE_COMPUTE);
}

// More beside it than the promise has time for.
TEST(Causes, ComputeOfABatchThatIsTooLarge) {
    Simulated simulated(Options{.policy = "metronome"});
    for (int i = 0; i < 48; i++) {
        simulated.ask(100, 200);
    }
    simulated.steps(40); // all of them generate
    simulated.ask(16, 100, {0, 29 * MS});
    simulated.finish();
    simulated.expect_only(CAUSE_COMPUTE);
}

TEST(Causes, CopyStall) {
    Simulated simulated(Options{.policy = "flexgen", .percent = 50});
    simulated.ask(100, 30, {0, 60 * MS}); // half of 13 GB take the link 280 ms
    simulated.finish();
    simulated.expect_only(CAUSE_COPY_STALL, 25);
}

// In time on the link as it was recorded, late when that slows.
TEST(Causes, LinkContention) {
    Simulated simulated(Options{.policy = "flexgen", .percent = 50});
    struct request &request = simulated.ask(100, 30, {0, 400 * MS});
    simulated.steps(10);
    EXPECT_EQ(request.outcome.late_tokens, 0u);
    engine_set_link(simulated.engine, 6e9);
    simulated.finish();
    simulated.expect_only(CAUSE_LINK_CONTENTION, 10);
    EXPECT_GT(request.outcome.worst.spent.planned_ns, 0u);
}

TEST(Causes, KvPreemption) {
    Simulated simulated(Options{.max_sequences = 4, .kv_tokens = 4096, .device_memory = 0});
    for (int i = 0; i < 4; i++) {
        simulated.ask(900, 400, {0, 80 * MS});
        simulated.steps(8); // one prompt after the other, so that none delays another much
    }
    simulated.finish();
    struct engine_stats stats = simulated.stats();
    ASSERT_GT(stats.preemptions, 0u);
    EXPECT_GT(stats.late_tokens[CAUSE_KV_PREEMPTION], 0u);
    bool preempted = false;
    for (const struct request &request : simulated.requests) {
        if (request.outcome.preemptions > 0 && request.outcome.late_tokens > 0) {
            EXPECT_EQ(request.outcome.worst.cause, CAUSE_KV_PREEMPTION);
            preempted = true;
        }
    }
    EXPECT_TRUE(preempted);
}

TEST(Causes, HostTime) {
    Simulated simulated;
    simulated.ask(100, 30, {0, 60 * MS});
    simulated.steps(10);
    device_sleep_until_ns(simulated.rig.device, simulated.rig.now() + 900 * MS);
    simulated.finish();
    simulated.expect_only(CAUSE_HOST_TIME, 5); // of the tokens that catch up, too
}

// The record is of a device three times as fast.
TEST(Causes, Device) {
    struct record record;
    {
        Simulated simulated(Options{.policy = "metronome"});
        record = *engine_record(simulated.engine);
    }
    for (auto &row : record.cell) {
        for (struct record_cell &cell : row) {
            cell.layer_ns /= 3;
            cell.outside_ns /= 3;
        }
    }
    Simulated simulated(Options{.policy = "metronome", .record = &record});
    simulated.ask(100, 30, {0, 20 * MS});
    simulated.finish();
    simulated.expect_only(CAUSE_DEVICE, 20);
}

// A ring of events that nobody empties: in real time, on the cpu.
TEST(Causes, ClientSlow) {
    log_set_level(LOG_ERROR);
    TinyModel tiny;
    tiny.make();
    struct device_config device_config = {};
    device_config.name = "cpu";
    device_config.threads = 1;
    struct device *device = nullptr;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
    must(device_open(&device_config, &device));
    must(model_open_weights(tiny.write().c_str(), &model));
    struct engine_config config = {};
    config.max_sequences = 24;
    config.max_queue = 24;
    config.max_batch_tokens = 64;
    config.kv_tokens = 24 * 128;
    config.offload_policy = "none";
    must(engine_create(&config, model, device, &engine));
    must(engine_start(engine));
    std::vector<uint32_t> prompt(8, 3);
    std::vector<struct request> requests(24);
    for (struct request &request : requests) {
        request.prompt = prompt.data();
        request.prompt_count = uint32_t(prompt.size());
        request.sampling.top_p = request.sampling.repetition_penalty = 1;
        request.sampling.max_tokens = 110;
        request.sampling.ignore_eos = true;
        request.arrival_ns = device_now_ns(device);
        request.has_promise = true;
        request.promise.tpot_ns = 10 * MS; // more than an iteration takes, even instrumented
        must(engine_submit(engine, &request));
    }
    struct engine_stats stats = {};
    uint64_t before = 1;
    const auto begin = std::chrono::steady_clock::now();
    do { // until it stands still, ...
        before = stats.generation_tokens;
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        engine_stats(engine, &stats);
    } while (stats.generation_tokens != before || stats.generation_tokens == 0);
    std::this_thread::sleep_for(std::chrono::steady_clock::now() - begin); // ... and for longer than all else took
    ASSERT_LT(stats.generation_tokens, 24u * 110);
    std::vector<struct engine_event> events(64);
    for (uint32_t ended = 0; ended < requests.size();) {
        uint32_t count = engine_poll(engine, events.data(), 64);
        for (uint32_t i = 0; i < count; i++) {
            ended += events[i].finish != FINISH_NONE;
        }
    }
    for (int i = 0; i < 1000 && (i == 0 || stats.running > 0); i++) { // the last events come before the last numbers
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        engine_stats(engine, &stats);
    }
    EXPECT_GT(stats.late_tokens[CAUSE_CLIENT_SLOW], 0u);
    engine_destroy(engine);
    model_close(model);
    device_close(device);
}

TEST(Causes, BlameLeavesAsideWhatWasPlanned) {
    struct spent spent = {};
    spent.ns[CAUSE_COMPUTE] = 100;
    spent.planned_ns = 50;
    spent.ns[CAUSE_HOST_TIME] = 10;
    spent.ns[CAUSE_QUEUE] = 5;
    EXPECT_EQ(spent_total(&spent), 165u);
    EXPECT_EQ(causes_blame(&spent, 8), CAUSE_HOST_TIME);
    EXPECT_EQ(causes_blame(&spent, 15), CAUSE_HOST_TIME);
    EXPECT_EQ(causes_blame(&spent, 16), CAUSE_COPY_STALL);
    EXPECT_EQ(causes_blame(&spent, 66), CAUSE_COMPUTE);
}

TEST(Causes, NamesAreFound) {
    for (int i = 0; i < CAUSES; i++) {
        EXPECT_EQ(cause_named(cause_name((enum cause)i)), i);
    }
    EXPECT_EQ(cause_named("weather"), CAUSES);
}

TEST(Causes, TheRingRemembersTheLast) {
    struct late_ring ring = {};
    struct late_run token = {};
    token.tokens = 1;
    uint64_t number = 0, other = 0;
    token.late_ns = 5;
    token.first_token = 7;
    late_ring_note(&ring, &token, &number);
    token.late_ns = 9;
    token.first_token = 8;
    late_ring_note(&ring, &token, &number);
    token.late_ns = 3;
    token.first_token = 9;
    late_ring_note(&ring, &token, &number); // one run
    EXPECT_EQ(number, 1u);
    token.request = 2;
    late_ring_note(&ring, &token, &other);
    std::vector<struct late_run> runs(LATE_RUNS + 10);
    ASSERT_EQ(late_ring_read(&ring, runs.data(), LATE_RUNS + 10), 2u);
    EXPECT_EQ(runs[0].request, 2u);
    EXPECT_EQ(runs[1].tokens, 3u);
    EXPECT_EQ(runs[1].first_token, 7u);
    EXPECT_EQ(runs[1].late_ns, 9u);
    token.cause = CAUSE_DEVICE; // another reason is another run
    late_ring_note(&ring, &token, &other);
    EXPECT_EQ(other, 3u);
    for (uint32_t i = 0; i < LATE_RUNS; i++) {
        uint64_t none = 0;
        token.request = 100 + i;
        late_ring_note(&ring, &token, &none);
    }
    late_ring_note(&ring, &token, &number); // the first run is forgotten: not the one that has its place now
    EXPECT_EQ(number, uint64_t{LATE_RUNS} + 4);
    ASSERT_EQ(late_ring_read(&ring, runs.data(), LATE_RUNS + 10), uint32_t{LATE_RUNS});
    EXPECT_EQ(runs[LATE_RUNS - 1].request, 101u);
}

} // namespace
