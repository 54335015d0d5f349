// scheduler/sampler and scheduler/stop: distributions against plain computations, stop strings against a search.
extern "C" {
#include "base/random.h"
#include "scheduler/sampler.h"
#include "scheduler/stop.h"
}
#include <algorithm>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <numeric>
#include <string>
#include <vector>

namespace {

struct sampling plain() {
    struct sampling sampling = {};
    sampling.top_p = 1;
    sampling.repetition_penalty = 1;
    sampling.temperature = 1;
    return sampling;
}

std::vector<float> random_logits(uint64_t seed, uint32_t count) {
    struct random_state state;
    random_seed(&state, seed);
    std::vector<float> logits(count);
    for (float &logit : logits) {
        logit = (float)(random_unit(&state) * 12 - 6);
    }
    return logits;
}

// What each token's probability should be, by sorting: temperature, min_p, top_k, top_p in that order.
std::vector<double> expected(const std::vector<float> &logits, const struct sampling &sampling) {
    std::vector<double> p(logits.size());
    double largest = *std::max_element(logits.begin(), logits.end());
    for (size_t i = 0; i < p.size(); i++) {
        p[i] = std::exp((logits[i] - largest) / sampling.temperature);
        p[i] = p[i] >= sampling.min_p ? p[i] : 0;
    }
    std::vector<size_t> order(p.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
    for (size_t i = sampling.top_k ? sampling.top_k : p.size(); i < p.size(); i++) {
        p[order[i]] = 0;
    }
    double total = std::accumulate(p.begin(), p.end(), 0.0), mass = 0;
    for (size_t i = 0; i < p.size(); i++) {
        if (i > 0 && mass >= sampling.top_p * total) {
            p[order[i]] = 0;
        }
        mass += p[order[i]];
    }
    total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double &value : p) {
        value /= total;
    }
    return p;
}

class Sampler : public ::testing::Test {
  protected:
    void make(uint32_t vocabulary) {
        sampler_destroy(&sampler);
        struct status status = sampler_create(vocabulary, &sampler);
        ASSERT_EQ(status.code, STATUS_OK);
    }
    ~Sampler() override {
        sampler_destroy(&sampler);
    }
    std::vector<double> frequencies(const std::vector<float> &logits, const struct sampling &sampling, uint32_t draws) {
        std::vector<double> seen(logits.size());
        for (uint32_t i = 0; i < draws; i++) {
            struct sample_context context = {};
            context.sampling = &sampling;
            context.seed = 7;
            context.index = i;
            seen[sampler_draw(&sampler, logits.data(), &context)] += 1.0 / draws;
        }
        return seen;
    }
    struct sampler sampler = {};
};

TEST_F(Sampler, DrawsFollowTheTruncatedDistribution) {
    make(50);
    std::vector<float> logits = random_logits(3, 50);
    struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
    } cases[] = {{1, 1, 0, 0},    {0.7f, 1, 0, 5},        {1.3f, 0.9f, 0, 0}, {1, 0.5f, 0, 10},
                 {1, 1, 0.1f, 0}, {0.9f, 0.8f, 0.05f, 8}, {1, 0.0001f, 0, 0}, {2, 0.95f, 0.01f, 0}};
    for (auto &c : cases) {
        struct sampling sampling = plain();
        sampling.temperature = c.temperature;
        sampling.top_p = c.top_p;
        sampling.min_p = c.min_p;
        sampling.top_k = c.top_k;
        std::vector<double> want = expected(logits, sampling), got = frequencies(logits, sampling, 40000);
        for (size_t i = 0; i < want.size(); i++) {
            if (want[i] == 0) {
                ASSERT_EQ(got[i], 0) << "token " << i << " is out of reach";
            }
            ASSERT_NEAR(got[i], want[i], 5 * std::sqrt(want[i] / 40000) + 1e-4) << i;
        }
    }
}

TEST_F(Sampler, SameSeedAndIndexSameTokenOthersDiffer) {
    make(1000);
    std::vector<float> logits(1000, 0.0f);
    struct sampling sampling = plain();
    struct sample_context context = {};
    context.sampling = &sampling;
    context.seed = 1;
    uint32_t first = sampler_draw(&sampler, logits.data(), &context), differing = 0;
    EXPECT_EQ(sampler_draw(&sampler, logits.data(), &context), first);
    for (context.index = 1; context.index < 20; context.index++) {
        differing += sampler_draw(&sampler, logits.data(), &context) != first;
    }
    EXPECT_GT(differing, 15u);
}

TEST_F(Sampler, PenaltiesBiasAndBans) {
    make(4);
    std::vector<float> logits = {2.0f, 1.9f, -1.0f, 1.8f};
    struct sampling sampling = plain();
    sampling.temperature = 0;
    uint32_t generated[4] = {1, 0, 0, 0};
    uint8_t seen[4] = {1, 0, 0, 0};
    struct token_counts counts = {generated, seen};
    struct sample_context context = {};
    context.sampling = &sampling;
    context.counts = &counts;
    EXPECT_EQ(sampler_draw(&sampler, logits.data(), &context), 0u);
    sampling.presence_penalty = 0.5f;
    EXPECT_EQ(sampler_draw(&sampler, logits.data(), &context), 1u);
    sampling.presence_penalty = 0;
    sampling.repetition_penalty = 1.5f;
    EXPECT_EQ(sampler_draw(&sampler, logits.data(), &context), 1u);
    sampling.repetition_penalty = 1;
    sampling.frequency_penalty = -1;
    struct logit_bias bias = {2, 100};
    sampling.bias = &bias;
    sampling.bias_count = 1;
    EXPECT_EQ(sampler_draw(&sampler, logits.data(), &context), 2u);
    uint32_t banned[] = {2, 0};
    context.banned = banned;
    context.banned_count = 2;
    EXPECT_EQ(sampler_draw(&sampler, logits.data(), &context), 1u);
    EXPECT_EQ(logits[0], 2.0f); // the caller's logits are untouched
}

TEST_F(Sampler, LogprobsAreTheLogSoftmax) {
    for (uint32_t vocabulary : {1u, 5u, 16u, 4099u}) {
        make(vocabulary);
        std::vector<float> logits = random_logits(vocabulary, vocabulary);
        double sum = 0;
        for (float logit : logits) {
            sum += std::exp((double)logit);
        }
        std::vector<uint32_t> order(vocabulary);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
        struct token_logprob top[20];
        uint32_t count = std::min(20u, vocabulary);
        float logprob = sampler_logprobs(&sampler, logits.data(), vocabulary - 1, top, count);
        EXPECT_NEAR(logprob, logits[vocabulary - 1] - std::log(sum), 2e-5);
        for (uint32_t i = 0; i < count; i++) {
            EXPECT_EQ(top[i].token, order[i]);
            EXPECT_NEAR(top[i].logprob, logits[order[i]] - std::log(sum), 2e-5);
        }
    }
}

TEST_F(Sampler, NotANumberNeverWins) {
    make(3);
    float logits[] = {NAN, 1.0f, NAN};
    struct sampling sampling = plain();
    struct sample_context context = {};
    context.sampling = &sampling;
    for (float temperature : {0.0f, 1.0f}) {
        sampling.temperature = temperature;
        EXPECT_EQ(sampler_draw(&sampler, logits, &context), 1u);
    }
}

// Feeds `text` in random pieces; what is shown must be the text up to the first stop that becomes complete.
TEST(Stop, RandomPiecesShowExactlyTheTextBeforeTheStop) {
    struct random_state random;
    random_seed(&random, 11);
    for (int round = 0; round < 20000; round++) {
        std::vector<struct stop_string> stops(1 + random_below(&random, 3));
        for (auto &stop : stops) {
            stop.bytes = (uint16_t)(1 + random_below(&random, 4));
            for (uint16_t i = 0; i < stop.bytes; i++) {
                stop.text[i] = (char)('a' + random_below(&random, 2));
            }
        }
        std::string text(random_below(&random, 24), 0);
        for (char &c : text) {
            c = (char)('a' + random_below(&random, 2));
        }
        char held[64];
        struct stop_matcher matcher;
        stop_matcher_init(&matcher, stops.data(), (uint32_t)stops.size(), held, sizeof held);
        std::string shown;
        size_t fed = 0, bytes;
        bool matched = false;
        while (fed < text.size() && !matched) {
            size_t piece = std::min<size_t>(text.size() - fed, random_below(&random, 5));
            matched = stop_matcher_push(&matcher, text.data() + fed, piece, true);
            fed += piece;
            const char *out = stop_matcher_text(&matcher, &bytes);
            shown.append(out, bytes);
            // Nothing is held back longer than it could still begin a stop string.
            ASSERT_LT(fed - shown.size(), matched ? text.size() + 1 : (size_t)4);
        }
        stop_matcher_finish(&matcher);
        const char *out = stop_matcher_text(&matcher, &bytes);
        shown.append(out, bytes);
        size_t cut = fed;
        for (auto &stop : stops) {
            cut = std::min(cut, text.substr(0, fed).find(std::string(stop.text, stop.bytes)));
        }
        ASSERT_EQ(matched, cut < fed || (fed > 0 && cut != std::string::npos && cut < fed)) << text;
        ASSERT_EQ(shown, text.substr(0, std::min(cut, fed))) << text;
    }
}

TEST(Stop, UnarmedShowsEverything) {
    struct stop_string stop = {};
    stop.bytes = 1;
    stop.text[0] = 'x';
    char held[16];
    struct stop_matcher matcher;
    stop_matcher_init(&matcher, &stop, 1, held, sizeof held);
    EXPECT_FALSE(stop_matcher_push(&matcher, "axb", 3, false));
    size_t bytes;
    stop_matcher_text(&matcher, &bytes);
    EXPECT_EQ(bytes, 3u);
    EXPECT_TRUE(stop_matcher_push(&matcher, "cx", 2, true));
    const char *text = stop_matcher_text(&matcher, &bytes);
    EXPECT_EQ(std::string(text, bytes), "c");
}

} // namespace
