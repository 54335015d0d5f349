// scheduler/sampler and scheduler/stop: what a request asks for, drawn by the op's reference, against plain
// computations; stop strings against a search.
extern "C" {
#include "base/random.h"
#include "kernels/reference/reference.h"
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

// A sequence as far as sampling goes: a prompt, and what was generated after it.
class Sampled {
  public:
    Sampled(const struct sampling &sampling, uint32_t vocabulary, std::vector<uint32_t> prompt = {0}, uint64_t seed = 7)
        : vocabulary_(vocabulary), prompt_(std::move(prompt)) {
        request_.sampling = sampling;
        request_.prompt = prompt_.data();
        request_.prompt_count = (uint32_t)prompt_.size();
        struct status status = sampler_create(&request_, nullptr, vocabulary, 1000, seed, &sampler);
        EXPECT_EQ(status.code, STATUS_OK);
    }
    ~Sampled() {
        sampler_destroy(&sampler);
    }
    Sampled(const Sampled &) = delete;
    Sampled &operator=(const Sampled &) = delete;

    uint32_t draw(const std::vector<float> &logits, struct sample_score *score = nullptr) const {
        struct sample_row row = sampler_row(&sampler);
        uint32_t token;
        EXPECT_TRUE(ref_sample(&token, logits.data(), &row, sampler.changes, score, vocabulary_));
        return token;
    }

    struct sampler sampler;

  private:
    uint32_t vocabulary_;
    std::vector<uint32_t> prompt_;
    struct request request_ = {};
};

std::vector<double> frequencies(const std::vector<float> &logits, const struct sampling &sampling, uint32_t draws) {
    std::vector<double> seen(logits.size());
    Sampled sampled(sampling, (uint32_t)logits.size());
    for (uint32_t i = 0; i < draws; i++) {
        sampled.sampler.generated = i;
        seen[sampled.draw(logits)] += 1.0 / draws;
    }
    return seen;
}

TEST(Sampler, DrawsFollowTheTruncatedDistribution) {
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

TEST(Sampler, SameSeedAndIndexSameTokenOthersDiffer) {
    std::vector<float> logits(1000, 0.0f);
    Sampled one(plain(), 1000, {0}, 1), other(plain(), 1000, {0}, 2);
    uint32_t first = one.draw(logits), differing = 0;
    EXPECT_EQ(one.draw(logits), first);
    for (uint32_t i = 1; i < 20; i++) {
        one.sampler.generated = other.sampler.generated = i;
        differing += one.draw(logits) != first;
        differing += one.draw(logits) != other.draw(logits);
    }
    EXPECT_GT(differing, 30u);
}

TEST(Sampler, PenaltiesBiasAndBans) {
    const std::vector<float> logits = {2.0f, 1.9f, -1.0f, 1.8f};
    struct sampling sampling = plain();
    sampling.temperature = 0;
    auto next = [&](const std::vector<uint32_t> &generated) {
        Sampled sampled(sampling, 4, {0});
        for (uint32_t token : generated) {
            sampler_note(&sampled.sampler, token);
        }
        return sampled.draw(logits);
    };
    EXPECT_EQ(next({0}), 0u);
    sampling.presence_penalty = 0.5f;
    EXPECT_EQ(next({}), 0u) << "the prompt is not what was generated";
    EXPECT_EQ(next({0}), 1u);
    sampling.presence_penalty = 0.15f;
    EXPECT_EQ(next({0, 1, 0}), 0u) << "presence counts once";
    sampling.presence_penalty = 0;
    sampling.repetition_penalty = 1.5f;
    EXPECT_EQ(next({}), 1u) << "the prompt's repetition counts";
    EXPECT_EQ(next({1}), 3u);
    sampling.repetition_penalty = 1;
    sampling.frequency_penalty = 0.15f;
    EXPECT_EQ(next({0, 0}), 1u);
    sampling.frequency_penalty = -1;
    struct logit_bias bias[] = {{2, 60}, {2, 40}}; // they add up
    sampling.bias = bias;
    sampling.bias_count = 2;
    EXPECT_EQ(next({0}), 2u);
    uint32_t stops[] = {2, 0, 2};
    sampling.stop_tokens = stops;
    sampling.stop_token_count = 3;
    sampling.min_tokens = 2;
    EXPECT_EQ(next({0}), 1u);
    EXPECT_EQ(next({0, 0}), 2u) << "min_tokens are there, and the bias is what it was";
}

// Every list has each token once, and no more room is taken than there is.
TEST(Sampler, ChangesAreEachTokensOwn) {
    struct sampling sampling = plain();
    sampling.repetition_penalty = 1.1f;
    struct logit_bias bias[] = {{5, 1}, {3, 1}, {5, 1}};
    sampling.bias = bias;
    sampling.bias_count = 3;
    Sampled sampled(sampling, 8, {1, 5, 5, 7, 1});
    for (uint32_t i = 0; i < 100; i++) {
        sampler_note(&sampled.sampler, i % 8);
    }
    EXPECT_EQ(sampler_row(&sampled.sampler).change_count, 8u);
    std::vector<uint32_t> times(8);
    for (uint32_t i = 0; i < sampled.sampler.count; i++) {
        const struct sample_change &change = sampled.sampler.changes[i];
        times[change.token] += change.count & ~SAMPLE_SEEN;
        EXPECT_EQ(change.bias, change.token == 5 ? 2 : change.token == 3 ? 1 : 0);
        EXPECT_NE(change.count & SAMPLE_SEEN, 0u);
    }
    EXPECT_EQ(times, std::vector<uint32_t>({13, 13, 13, 13, 12, 12, 12, 12}));
}

TEST(Sampler, PlainIsWhatAnArgmaxDoes) {
    struct sampling sampling = plain();
    sampling.temperature = 0;
    auto is_plain = [&] {
        Sampled sampled(sampling, 4);
        struct sample_row row = sampler_row(&sampled.sampler);
        return sample_is_plain(&row);
    };
    EXPECT_TRUE(is_plain());
    sampling.logprobs = true;
    EXPECT_FALSE(is_plain());
    sampling.logprobs = false;
    sampling.temperature = 1;
    EXPECT_FALSE(is_plain());
    sampling.temperature = 0;
    uint32_t stop = 1;
    sampling.stop_tokens = &stop;
    sampling.stop_token_count = 1;
    EXPECT_TRUE(is_plain());
    sampling.min_tokens = 1;
    EXPECT_FALSE(is_plain());
}

TEST(Sampler, LogprobsAreTheLogSoftmax) {
    for (uint32_t vocabulary : {1u, 5u, 16u, 4099u}) {
        std::vector<float> logits = random_logits(vocabulary, vocabulary);
        double sum = 0;
        for (float logit : logits) {
            sum += std::exp((double)logit);
        }
        std::vector<uint32_t> order(vocabulary);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
        struct sampling sampling = plain();
        sampling.logprobs = true;
        sampling.top_logprobs = 20;
        Sampled sampled(sampling, vocabulary);
        struct sample_row row = sampler_score_row(&sampled.sampler, vocabulary - 1);
        struct sample_score score;
        uint32_t token;
        ASSERT_TRUE(ref_sample(&token, logits.data(), &row, nullptr, &score, vocabulary));
        EXPECT_EQ(token, vocabulary - 1);
        EXPECT_NEAR(sample_logprob(&score, score.logit), logits[vocabulary - 1] - std::log(sum), 2e-5);
        EXPECT_EQ(score.top_count, std::min(20u, vocabulary));
        for (uint32_t i = 0; i < score.top_count; i++) {
            EXPECT_EQ(score.top[i].token, order[i]);
            EXPECT_NEAR(sample_logprob(&score, score.top[i].logit), logits[order[i]] - std::log(sum), 2e-5);
        }
    }
}

TEST(Sampler, NotANumberNeverWins) {
    const std::vector<float> logits = {NAN, 1.0f, NAN};
    struct sampling sampling = plain();
    for (float temperature : {0.0f, 1.0f}) {
        sampling.temperature = temperature;
        EXPECT_EQ(Sampled(sampling, 3).draw(logits), 1u);
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
