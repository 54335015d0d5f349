// Admission: what is foreseen from counts alone, and whole engines on described hardware that keep what they promise.
#include "tests/unit/kernels/sim_rig.h"

#include <algorithm>
#include <cstring>
#include <vector>

extern "C" {
#include "base/log.h"
#include "models/description.h"
#include "scheduler/foresee.h"
#include "scheduler/replay.h"
}

namespace {

const uint64_t MS = 1000000, NEVER = UINT64_MAX;

// An iteration takes 10 ms, 1 ms a row, and more by the context, if a play says so; 64 rows, chunks as long, 4 places,
// 100 blocks of 16.
struct Play {
    Play() {
        at.time_of = time_of;
        at.times = this;
        at.mixed = 0; // no reserve
        at.most_rows = at.chunk = 64;
        at.most_running = 4;
        at.blocks_free = 100;
        at.behind_share = 8;
    }
    static struct foreseen prompt(uint32_t left, uint64_t due_ns, uint32_t to_come = 10) {
        struct foreseen sequence = {};
        sequence.left = left;
        sequence.due_ns = due_ns;
        sequence.to_come = to_come;
        return sequence;
    }
    static struct foreseen generating(uint32_t context, uint32_t to_come, uint64_t tpot_ns = 0) {
        struct foreseen sequence = {};
        sequence.due_ns = NEVER;
        sequence.context = context;
        sequence.to_come = to_come;
        sequence.tpot_ns = tpot_ns;
        sequence.blocks = (context + 16) / 16;
        return sequence;
    }
    struct foresaw run(uint32_t watched) {
        at.running_count = (uint32_t)running.size();
        running.resize(at.most_running);
        at.running = running.data();
        at.waiting = waiting.data();
        at.waiting_count = (uint32_t)waiting.size();
        return foresee(&at, watched, 100000 * MS);
    }
    static struct foreseen_time time_of(void *times, uint32_t rows, double context) {
        Play *play = static_cast<Play *>(times);
        play->asked++;
        const uint64_t compute_ns = (10 + rows) * MS + (uint64_t)(rows * context * play->ns_of_context);
        return {std::max(compute_ns, play->link_ns), std::max(compute_ns, play->least_link_ns), compute_ns};
    }
    struct foresight at = {};
    std::vector<struct foreseen> running, waiting;
    double ns_of_context = 0;                // a row and a position
    uint64_t link_ns = 0, least_link_ns = 0; // what the copies of weights take, as they are and at the least
    uint32_t asked = 0;
};

TEST(Foresee, APromptAloneTakesItsChunks) {
    Play play;
    play.waiting = {Play::prompt(160, NEVER)};
    struct foresaw seen = play.run(0);
    EXPECT_EQ(seen.first_ns, (74 + 74 + 42) * MS);
    EXPECT_FALSE(seen.for_blocks || seen.for_places || seen.overfull);
}

TEST(Foresee, PromptsLeaveThoseThatGenerateTheirTime) {
    Play play;
    play.running = {Play::generating(32, 1000, 43 * MS)};
    play.waiting = {Play::prompt(64, NEVER)};
    EXPECT_EQ(play.run(0).first_ns, (43 + 43) * MS); // 32 rows beside it: 16 more do not fit 43 ms
}

// A tenth of the promised time stays in reserve, counted as what such iterations compute.
TEST(Foresee, PromptsLeaveAReserve) {
    Play play;
    play.at.mixed = 1;
    play.running = {Play::generating(32, 1000, 60 * MS)};
    play.waiting = {Play::prompt(64, NEVER)};
    EXPECT_EQ(play.run(0).first_ns, (43 + 43) * MS); // 32 rows and one in 54 ms, where 48 would fit 60
}

// What iterations of tokens and prompts compute for longer than the record says, by what they have lately taken.
TEST(Foresee, MixedIterationsTakeWhatTheyHaveTaken) {
    Play play;
    play.at.mixed = 1.5;
    play.running = {Play::generating(32, 1000)};
    play.waiting = {Play::prompt(9, NEVER)};
    EXPECT_EQ(play.run(0).first_ns, 30 * MS);
}

// The time of an iteration that waits for weights has room for prompts.
TEST(Foresee, WhatCopiesTakeIsRoomForPrompts) {
    Play play;
    play.link_ns = 40 * MS;
    play.running = {Play::generating(32, 1000, 43 * MS)};
    play.waiting = {Play::prompt(32, NEVER)};
    EXPECT_EQ(play.run(0).first_ns, 43 * MS);
}

// Weights come home where they are in the way of a promise, and no further.
TEST(Foresee, WeightsComeHomeForAPromise) {
    Play play;
    play.link_ns = 60 * MS;
    play.least_link_ns = 20 * MS;
    play.running = {Play::generating(32, 3, 30 * MS)};
    play.waiting = {Play::prompt(10, NEVER)};
    play.at.most_running = 1;
    struct foresaw seen = play.run(0);
    EXPECT_EQ(seen.first_ns, (3 * 30 + 60) * MS); // nothing is promised to the other
    EXPECT_EQ(seen.token_ns, 20 * MS);
}

TEST(Foresee, LongPromptsTakeLongerByTheirContext) {
    Play play;
    play.ns_of_context = 1e4;
    play.waiting = {Play::prompt(128, NEVER)};
    EXPECT_EQ(play.run(0).first_ns, (74 + 74) * MS + (uint64_t)(64 * 32 * 1e4) + (uint64_t)(64 * 96 * 1e4));
}

// What waits is played whole, in ever longer steps: the last of a thousand comes when it would, nearly, and finding out
// takes no more than a few thousand looks.
TEST(Foresee, AThousandThatWaitAreABoundedPlay) {
    Play play;
    play.at.most_running = 32;
    play.at.blocks_free = 1000;
    play.waiting.assign(1000, Play::prompt(64, NEVER, 1));
    play.at.now_ns = 1;
    struct foresaw seen = play.run(999);
    EXPECT_NEAR((double)seen.first_ns, 1000.0 * 74 * MS, 0.05 * 1000 * 74 * MS);
    EXPECT_LT(play.asked, 5000u);
}

TEST(Foresee, WhoIsLastWaitsForThePlacesOrTheBlocksOfOthers) {
    Play places;
    places.running = {4, Play::generating(32, 100)};
    places.running[2].to_come = 5;
    places.waiting = {Play::prompt(10, NEVER)};
    struct foresaw seen = places.run(0);
    EXPECT_EQ(seen.first_ns, (5 * 14 + 23) * MS);
    EXPECT_TRUE(seen.for_places);
    EXPECT_FALSE(seen.for_blocks);

    Play blocks;
    blocks.running = {Play::generating(31, 7), Play::generating(31, 100)};
    blocks.at.blocks_free = 5;
    blocks.waiting = {Play::prompt(90, NEVER)};
    seen = blocks.run(0);
    EXPECT_GT(seen.first_ns, 7 * 12 * MS);
    EXPECT_TRUE(seen.for_blocks);
}

TEST(Foresee, ThoseOnSufferanceGiveWay) {
    Play play;
    play.running = {4, Play::generating(32, 1000)};
    play.running[3].gives_way = true;
    play.waiting = {Play::prompt(10, NEVER)};
    struct foresaw seen = play.run(0);
    EXPECT_EQ(seen.first_ns, 23 * MS);
    EXPECT_FALSE(seen.for_places);
}

// When the turn of those behind has come, one that runs on sufferance stays.
TEST(Foresee, ATurnMakesOneOnSufferanceStay) {
    Play play;
    play.running = {4, Play::generating(32, 1000)};
    play.running[3] = Play::generating(32, 5);
    play.running[3].gives_way = true;
    play.at.admissions = 7;
    play.waiting = {Play::prompt(10, NEVER)};
    struct foresaw seen = play.run(0);
    EXPECT_EQ(seen.first_ns, (5 * 14 + 23) * MS);
    EXPECT_TRUE(seen.for_places);
}

TEST(Foresee, OthersThatComeLateAreCounted) {
    Play play;
    play.waiting = {Play::prompt(64, 200 * MS), Play::prompt(64, 100 * MS), Play::prompt(64, 300 * MS)};
    struct foresaw seen = play.run(0);
    EXPECT_EQ(seen.first_ns, 74 * MS);
    EXPECT_EQ(seen.late, 1u); // the second; the third comes at 222 ms or so
}

TEST(Foresee, ACacheThatDoesNotHoldThemToTheirEndsIsOverfull) {
    Play play;
    play.at.blocks_free = 20;
    play.running = {Play::generating(32, 160)};
    play.waiting = {Play::prompt(64, NEVER, 100)};
    EXPECT_FALSE(play.run(0).overfull); // 9 and 11 blocks when the second ends
    Play more;
    more.at.blocks_free = 20;
    more.running = {Play::generating(32, 160)};
    more.waiting = {Play::prompt(64, NEVER, 160)};
    EXPECT_TRUE(more.run(0).overfull); // 12 and 14
}

// Llama 2 7B on an A10, its promises refused where they cannot be kept.
struct Admitting {
    Admitting(std::vector<struct slo_class> items, uint32_t max_sequences = 32, const struct record *record = nullptr,
              bool prefix_cache = false)
        : rig(SimOptions{.hardware = "configs/hardware/a10.json"}) {
        log_set_level(LOG_ERROR);
        struct model_description description;
        must(description_load("configs/models/llama-2-7b.json", &description));
        must(model_open_described(&description, &model));
        struct slo_classes classes = {};
        for (const auto &item : items) {
            classes.items[classes.count++] = item;
        }
        struct engine_config config = {};
        config.context = 4096;
        config.max_sequences = max_sequences;
        config.max_queue = 10000;
        config.max_batch_tokens = 512;
        config.classes = &classes;
        config.offload_policy = "metronome";
        config.device_memory = 24ull << 30;
        config.link_bytes_per_s = 24000000000;
        config.record = record;
        config.prefix_cache = prefix_cache;
        must(engine_create(&config, model, rig.device, &engine));
    }
    ~Admitting() {
        engine_destroy(engine);
        model_close(model);
    }
    struct class_stats stats(uint32_t index) const {
        struct class_stats out;
        engine_class_stats(engine, index, &out);
        return out;
    }
    struct replay_report run(uint32_t count, double rate, const struct promise &promise) {
        struct trace_shape shape = {};
        shape.count = count;
        shape.rate = rate;
        shape.burstiness = 1;
        shape.prompt_tokens = 1000;
        shape.output_tokens = 60;
        shape.seed = 5;
        struct trace trace;
        must(trace_draw(&shape, &trace));
        struct replay_config replay = {};
        replay.trace = &trace;
        replay.stretch = 1;
        replay.vocabulary = 32000;
        replay.longest = 4096;
        replay.ttft_ns = promise.ttft_ns;
        replay.tpot_ns = promise.tpot_ns;
        struct replay_report report;
        must(replay_run(engine, rig.device, &replay, nullptr, &report));
        trace_free(&trace);
        return report;
    }
    SimRig rig;
    struct model *model = nullptr;
    struct engine *engine = nullptr;
};

struct slo_class class_of(const char *name, uint64_t ttft_ms, uint64_t tpot_ms, enum on_miss on_miss,
                          uint32_t lesser = 0) {
    struct slo_class item = {};
    snprintf(item.name, sizeof item.name, "%s", name);
    item.promise = {ttft_ms * MS, tpot_ms * MS};
    item.percentile = 99;
    item.on_miss = on_miss;
    item.lesser = lesser;
    item.offered = true;
    return item;
}

TEST(Admission, UnderOverloadWhatIsAdmittedIsKept) {
    const struct slo_class refusing = class_of("default", 2000, 150, ON_MISS_REFUSE);
    Admitting engine({refusing});
    struct replay_report report = engine.run(300, 8, refusing.promise);
    const struct class_stats stats = engine.stats(0);
    uint64_t refused = 0;
    for (uint64_t each : stats.refused) {
        refused += each;
    }
    printf("[ %u refused, %llu admitted, %llu first tokens in time, %llu kept ]\n", report.refused,
           (unsigned long long)stats.admitted, (unsigned long long)stats.first_in_time, (unsigned long long)stats.kept);
    EXPECT_EQ(refused, report.refused);
    EXPECT_EQ(stats.admitted + refused, 300u);
    EXPECT_EQ(stats.kept, report.kept);
    EXPECT_GT(report.refused, 30u); // it is an overload, ...
    EXPECT_GT(stats.admitted, 60u); // ... and not everything is refused
    EXPECT_GE((double)stats.first_in_time, 0.98 * (double)stats.first_tokens);
    EXPECT_EQ(stats.first_tokens, stats.admitted);

    Admitting hoping({class_of("default", 2000, 150, ON_MISS_BEST_EFFORT)});
    struct replay_report all = hoping.run(300, 8, refusing.promise);
    EXPECT_EQ(all.refused, 0u);
    EXPECT_GT(hoping.stats(0).best_effort, 0u);
    EXPECT_GE(report.kept, all.kept); // what is refused makes room for what is kept
}

struct Asked {
    explicit Asked(uint32_t tokens, uint32_t class_index) : prompt(tokens, 7) {
        request.prompt = prompt.data();
        request.prompt_count = tokens;
        request.sampling.top_p = 1;
        request.sampling.repetition_penalty = 1;
        request.sampling.max_tokens = 4;
        request.sampling.ignore_eos = true;
        request.class_index = class_index;
    }
    std::vector<uint32_t> prompt;
    struct request request = {};
};

void run_to_end(struct engine *engine) {
    std::vector<struct engine_event> events(64);
    for (bool idle = false; !idle;) {
        must(engine_step(engine, &idle));
        while (engine_poll(engine, events.data(), 64) > 0) {
        }
    }
}

TEST(Admission, SaysWhatIsShortAndWhatBecomesOfIt) {
    Admitting engine({class_of("default", 0, 0, ON_MISS_BEST_EFFORT), class_of("strict", 50, 0, ON_MISS_REFUSE),
                      class_of("soft", 50, 0, ON_MISS_DOWNGRADE, 0), class_of("chain", 50, 0, ON_MISS_DOWNGRADE, 1),
                      class_of("patient", 60000, 0, ON_MISS_REFUSE)});
    Asked strict(2000, 1), soft(2000, 2), chain(2000, 3), patient(2000, 4), without(2000, 0);
    for (Asked *each : {&strict, &soft, &chain, &patient, &without}) {
        each->request.arrival_ns = device_now_ns(engine.rig.device);
    }
    struct status status = engine_submit(engine.engine, &strict.request);
    EXPECT_EQ(status.code, STATUS_BUSY);
    EXPECT_NE(std::string(status.message).find("50 ms to the first token cannot be kept"), std::string::npos);
    EXPECT_EQ(strict.request.admission.outcome, ADMISSION_REFUSED);
    EXPECT_EQ(strict.request.admission.shortage, SHORT_OF_TTFT);
    EXPECT_GT(strict.request.admission.predicted_ttft_ns, 50 * MS);
    EXPECT_GE(strict.request.admission.retry_after_ns, 1000 * MS);
    EXPECT_EQ(engine_submit(engine.engine, &chain.request).code, STATUS_BUSY);
    EXPECT_EQ(chain.request.class_index, 1u); // refused as what it was downgraded to

    must(engine_submit(engine.engine, &soft.request));
    EXPECT_EQ(soft.request.admission.outcome, ADMITTED_LESSER);
    EXPECT_EQ(soft.request.class_index, 0u);
    EXPECT_EQ(soft.request.promise.ttft_ns, 0u);
    must(engine_submit(engine.engine, &patient.request));
    EXPECT_EQ(patient.request.admission.outcome, ADMITTED);
    must(engine_submit(engine.engine, &without.request));
    EXPECT_EQ(without.request.admission.outcome, ADMITTED_WITHOUT);
    run_to_end(engine.engine);
    EXPECT_EQ(engine.stats(2).downgraded, 1u);
    EXPECT_EQ(engine.stats(1).refused[SHORT_OF_TTFT], 1u);
    EXPECT_EQ(engine.stats(3).refused[SHORT_OF_TTFT], 1u);
    EXPECT_EQ(engine.stats(4).first_in_time, 1u);
}

// Submits a request that arrives now.
void ask(Admitting &engine, Asked &asked) {
    asked.request.arrival_ns = device_now_ns(engine.rig.device);
    must(engine_submit(engine.engine, &asked.request));
}

// When its first token came after it, to when it was predicted to.
double measured_to_predicted(const Asked &asked) {
    double predicted = (double)asked.request.admission.predicted_ttft_ns;
    return (double)(asked.request.outcome.first_token_ns - asked.request.arrival_ns) / predicted;
}

// After a request of so many tokens to warm up one comes alone: when its first token is predicted and when it is there.
void expect_predicted(Admitting &engine, uint32_t warm_up_tokens) {
    Asked warm(600, 0), request(1700, 0);
    warm.request.sampling.max_tokens = warm_up_tokens;
    ask(engine, warm);
    run_to_end(engine.engine);
    ask(engine, request);
    run_to_end(engine.engine);
    EXPECT_NEAR(measured_to_predicted(request), 1, 0.25);
}

// Predicted to the iteration: nothing comes in between.
TEST(Admission, APredictionIsWhatComesToPass) {
    Admitting engine({class_of("default", 20000, 0, ON_MISS_REFUSE)});
    expect_predicted(engine, 4);
}

// What the cache has of a prompt is not to be computed, nor what another computes before it; under another salt it is.
TEST(Admission, CachedPrefixesCountAsComputed) {
    const uint32_t tokens = 1700, shared = tokens / 16 * 16;
    Admitting engine({class_of("default", 20000, 0, ON_MISS_REFUSE)}, 32, nullptr, true);
    Asked first(tokens, 0), second(tokens, 0), third(tokens, 0), other(tokens, 0), salted(tokens, 0);
    std::fill(other.prompt.begin() + 160, other.prompt.end(), 9);
    salted.request.salt.bytes = 1;
    salted.request.salt.text[0] = 's';
    for (Asked *each : {&first, &second, &other, &salted}) {
        ask(engine, *each);
    }
    const uint64_t alone_ns = first.request.admission.predicted_ttft_ns;
    EXPECT_EQ(first.request.admission.shared_tokens, 0u);
    EXPECT_EQ(second.request.admission.shared_tokens, shared); // the first computes it
    EXPECT_EQ(second.request.admission.cached_tokens, 0u);
    EXPECT_LT(second.request.admission.predicted_ttft_ns, alone_ns * 3 / 2);
    EXPECT_EQ(other.request.admission.shared_tokens, 160u);
    EXPECT_EQ(salted.request.admission.shared_tokens, 0u);
    run_to_end(engine.engine);

    ask(engine, third);
    EXPECT_EQ(third.request.admission.cached_tokens, shared);
    EXPECT_LT(third.request.admission.predicted_ttft_ns, alone_ns / 4);
    run_to_end(engine.engine);
    for (const Asked *each : {&first, &second, &third, &other, &salted}) {
        EXPECT_NEAR(measured_to_predicted(*each), 1, 0.3) << each->request.id; // one that shares waits an iteration
    }
}

// Submits a request while an iteration is under way: when the device writes the next line of its log.
struct Meanwhile {
    Meanwhile(Admitting *engine, Asked *asked) : engine(engine), asked(asked) {
        cookie_io_functions_t functions = {};
        functions.write = [](void *cookie, const char *, size_t bytes) {
            static_cast<Meanwhile *>(cookie)->submit();
            return (ssize_t)bytes;
        };
        log = fopencookie(this, "w", functions);
        setvbuf(log, nullptr, _IONBF, 0);
        sim_set_log(engine->rig.device, log);
    }
    ~Meanwhile() {
        sim_set_log(engine->rig.device, nullptr);
        fclose(log);
    }
    void submit() {
        if (!submitted) {
            submitted = true;
            ask(*engine, *asked);
        }
    }
    Admitting *engine;
    Asked *asked;
    FILE *log = nullptr;
    bool submitted = false;
};

// What an iteration has taken out of the queue is nowhere else until it ends, and its time is still to come.
TEST(Admission, WhatTheIterationInHandHasTakenIsSeen) {
    Admitting engine({class_of("default", 20000, 0, ON_MISS_REFUSE)});
    Asked alone(1000, 0), first(3000, 0), second(1000, 0);
    ask(engine, alone);
    run_to_end(engine.engine);
    ask(engine, first);
    {
        Meanwhile meanwhile(&engine, &second);
        bool idle = false;
        must(engine_step(engine.engine, &idle));
        EXPECT_TRUE(meanwhile.submitted);
    }
    EXPECT_GT(second.request.admission.predicted_ttft_ns, 3 * alone.request.admission.predicted_ttft_ns);
    run_to_end(engine.engine);
    EXPECT_NEAR(measured_to_predicted(second), 1, 0.25);
}

// An engine that had nothing to do has looked at no clock since: what comes then is foreseen from when it comes.
TEST(Admission, AfterALongSleepTwoAreAdmittedAtOnce) {
    Admitting engine({class_of("default", 5000, 0, ON_MISS_REFUSE)});
    Asked warm(600, 0), first(1700, 0), second(1700, 0);
    ask(engine, warm);
    run_to_end(engine.engine);
    device_sleep_until_ns(engine.rig.device, device_now_ns(engine.rig.device) + 100000 * MS);
    for (Asked *each : {&first, &second}) {
        ask(engine, *each);
        EXPECT_EQ(each->request.admission.outcome, ADMITTED);
    }
    run_to_end(engine.engine);
    EXPECT_EQ(engine.stats(0).first_in_time, 3u);
}

// What a machine with nothing else to do would have measured, to which this one is as if others took its time.
struct record record_of_faster_device(double times) {
    Admitting here({class_of("default", 2000, 150, ON_MISS_REFUSE)});
    struct record record = *engine_record(here.engine);
    for (auto &row : record.cell) {
        for (auto &cell : row) {
            cell.layer_ns = (uint64_t)((double)cell.layer_ns / times);
            cell.outside_ns = (uint64_t)((double)cell.outside_ns / times);
        }
    }
    return record;
}

TEST(Admission, PredictionsFollowADeviceThatIsSlowerThanItsRecord) {
    const struct record record = record_of_faster_device(2);
    Admitting engine({class_of("default", 20000, 0, ON_MISS_REFUSE)}, 32, &record);
    expect_predicted(engine, 100);
}

TEST(Admission, WhatIsAdmittedIsKeptOnADeviceThatIsSlowerThanItsRecord) {
    const struct record record = record_of_faster_device(1.6);
    const struct slo_class refusing = class_of("default", 2000, 150, ON_MISS_REFUSE);
    Admitting engine({refusing}, 32, &record);
    struct replay_report report = engine.run(300, 8, refusing.promise);
    const struct class_stats stats = engine.stats(0);
    printf("[ %u refused, %llu admitted, %llu first tokens in time ]\n", report.refused,
           (unsigned long long)stats.admitted, (unsigned long long)stats.first_in_time);
    EXPECT_GT(stats.admitted, 60u);
    EXPECT_GE((double)stats.first_in_time, 0.97 * (double)stats.first_tokens);
}

} // namespace
