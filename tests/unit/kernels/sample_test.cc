// op_sample() on every device against its reference, bit by bit: tokens, scores, and logits that are afterwards as they
// were. Random rows of every kind, and what random numbers do not meet.
extern "C" {
#include "kernels/reference/reference.h"
#include "kernels/sample_math.h"
}
#include "tests/unit/kernels/kernel_test.h"

namespace {

const float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN(), INFINITE = std::numeric_limits<float>::infinity();

// Rows of logits, what is asked of each, and the lists that they name places in.
struct Problem {
    uint32_t vocabulary = 0, scores = 0;
    std::vector<float> logits;
    std::vector<struct sample_row> rows;
    std::vector<struct sample_change> changes;

    const float *row_logits(size_t i) const {
        return logits.data() + i * vocabulary;
    }
    struct sample_row &add(const std::vector<float> &more) {
        vocabulary = (uint32_t)more.size();
        logits.insert(logits.end(), more.begin(), more.end());
        rows.push_back(sample_plain_row());
        return rows.back();
    }
    void change(struct sample_row &row, const std::vector<struct sample_change> &more) {
        row.change_first = (uint32_t)changes.size();
        row.change_count = (uint32_t)more.size();
        changes.insert(changes.end(), more.begin(), more.end());
    }
};

struct Outcome {
    uint32_t token;
    struct sample_score score; // zeros without one
};

bool same(const Outcome &a, const Outcome &b) {
    bool top = a.score.top_count == b.score.top_count;
    for (uint32_t i = 0; top && i < a.score.top_count; i++) {
        top = a.score.top[i].token == b.score.top[i].token && a.score.top[i].logit == b.score.top[i].logit;
    }
    return a.token == b.token && a.score.total == b.score.total && top &&
           memcmp(&a.score.largest, &b.score.largest, sizeof(float)) == 0 &&
           memcmp(&a.score.logit, &b.score.logit, sizeof(float)) == 0;
}

std::string text(const Outcome &outcome) {
    std::string out = "token " + std::to_string(outcome.token) + ", total " + std::to_string(outcome.score.total) +
                      ", largest " + std::to_string(outcome.score.largest) + ", logit " +
                      std::to_string(outcome.score.logit) + ", top";
    for (uint32_t i = 0; i < outcome.score.top_count; i++) {
        out += " " + std::to_string(outcome.score.top[i].token) + "=" + std::to_string(outcome.score.top[i].logit);
    }
    return out;
}

std::vector<Outcome> reference(const Problem &p) {
    std::vector<Outcome> all(p.rows.size(), Outcome{});
    for (size_t i = 0; i < p.rows.size(); i++) {
        EXPECT_TRUE(
            ref_sample(&all[i].token, p.row_logits(i), &p.rows[i], p.changes.data(), &all[i].score, p.vocabulary));
    }
    return all;
}

// Rows [first, first + count) of a problem's on a device, in one call.
std::vector<Outcome> run(Bench &bench, const Problem &p, uint32_t first, uint32_t count) {
    Buffer<float> logits(bench, p.logits);
    Buffer<struct sample_row> rows(bench, p.rows);
    Buffer<struct sample_change> changes(bench, p.changes);
    Buffer<struct sample_score> scores(bench, p.scores);
    Buffer<uint32_t> out(bench, p.rows.size());
    const struct sample_batch batch = {rows.at(), p.rows.data(), p.changes.empty() ? nullptr : changes.at(),
                                       p.scores > 0 ? scores.at() : nullptr, first};
    op_sample(bench.stream, out.at(), logits.at(), &batch, count, p.vocabulary);
    std::vector<uint32_t> tokens = out.read();
    std::vector<struct sample_score> scored = scores.read();
    std::vector<Outcome> all(count, Outcome{});
    for (uint32_t i = 0; i < count; i++) {
        all[i].token = tokens[first + i];
        if (p.rows[first + i].score != SAMPLE_NO_SCORE) {
            all[i].score = scored[p.rows[first + i].score];
        }
    }
    for (uint32_t i = 0; i < tokens.size(); i++) {
        EXPECT_EQ(tokens[i] == UINT32_MAX, i < first || i >= first + count) << "another row's token";
    }
    EXPECT_TRUE(same_bits(logits.read(), p.logits)) << "logits are not as they were";
    return all;
}

std::vector<std::unique_ptr<Bench>> every_bench(const std::vector<Setting> &settings, uint32_t vocabulary) {
    struct device_limits limits = {};
    limits.rows = limits.logit_rows = limits.sequences = 64;
    limits.columns = limits.head_dim = limits.context = 64;
    limits.query_heads = limits.kv_heads = 1;
    limits.vocabulary = vocabulary;
    std::vector<std::unique_ptr<Bench>> benches;
    for (const Setting &setting : settings) {
        benches.push_back(std::make_unique<Bench>(setting));
        EXPECT_OK(device_prepare(benches.back()->device, &limits));
    }
    return benches;
}

// On every device, whole and with each row alone.
void expect_same(const Problem &p, const std::vector<Outcome> &expected) {
    const std::vector<Setting> settings = every_setting();
    auto benches = every_bench(settings, p.vocabulary);
    for (size_t b = 0; b < benches.size(); b++) {
        SCOPED_TRACE(settings[b].name());
        const std::vector<Outcome> got = run(*benches[b], p, 0, (uint32_t)p.rows.size());
        for (uint32_t i = 0; i < got.size(); i++) {
            ASSERT_TRUE(same(got[i], expected[i]))
                << "row " << i << ": " << text(got[i]) << " for " << text(expected[i]);
            ASSERT_TRUE(same(run(*benches[b], p, i, 1)[0], expected[i])) << "row " << i << " alone";
        }
    }
}

std::vector<float> draw_logits(Random &random, uint32_t vocabulary) {
    const uint32_t kind = random.below(5);
    std::vector<float> logits = random.normals(vocabulary, kind == 0 ? 0.01f : kind == 1 ? 20 : 3);
    for (float &logit : logits) {
        if (kind == 2) { // ties abound
            logit = (float)random.below(4);
        } else if (kind == 3 && random.below(8) == 0) {
            logit = random.below(2) ? NOT_A_NUMBER : -INFINITE;
        }
    }
    return logits;
}

std::vector<struct sample_change> draw_changes(Random &random, uint32_t vocabulary) {
    std::vector<struct sample_change> changes;
    const uint32_t step = 1 + random.below(vocabulary);
    for (uint32_t token = random.below(step); token < vocabulary && changes.size() < 3000; token += step) {
        const float bias = random.below(4) == 0 ? -INFINITE : random.below(2) ? random.normal(5) : 0;
        const uint32_t count = random.below(2) ? 0 : SAMPLE_SEEN | random.below(5);
        changes.push_back({token, bias, count});
    }
    return changes;
}

uint64_t draw_bits(Random &random) {
    return random_hash(random.below(UINT32_MAX), 1);
}

void draw_row(Random &random, Problem &p, uint32_t vocabulary) {
    struct sample_row &row = p.add(draw_logits(random, vocabulary));
    row.random = random.below(8) == 0 ? random.below(2) * UINT64_MAX : draw_bits(random);
    row.inverse_temperature = random.below(4) == 0 ? 0 : 1 / (float)random.pick({1, 1, 1, 2, 5}) * 1.25f;
    row.top_k = random.below(2) ? 0 : random.pick({1, 2, 40, vocabulary, 1 + random.below(vocabulary)});
    row.top_p = random.below(2) ? SAMPLE_ALL_MASS : random.below(8) == 0 ? 0 : draw_bits(random);
    row.least_weight = random.below(3) ? 1 : (float)random.below(1000) / 1000 * SAMPLE_ONE + 1;
    row.repetition = random.below(2) ? 1 : 1.3f;
    row.frequency = random.below(2) ? 0 : 0.3f;
    row.presence = random.below(2) ? 0 : -0.7f;
    row.target = random.below(6) ? SAMPLE_DRAW : random.below(vocabulary);
    if (random.below(3) == 0) {
        row.score = p.scores++;
        row.top = random.pick({0, 1, 5, SAMPLE_MOST_TOP});
    }
    if (random.below(2)) {
        p.change(row, draw_changes(random, vocabulary));
    }
}

TEST(Sample, AgreesWithTheReferenceToTheBit) {
#ifdef SANITIZED
    const int PROBLEMS = 6;
#else
    const int PROBLEMS = 40;
#endif
    const uint32_t longest = 20000, very_long = 131072 + 33; // for devices whose rows have several blocks
    const std::vector<Setting> settings = every_setting();
    ASSERT_GE(settings.size(), 1u);
    auto benches = every_bench(settings, very_long);
    for (uint64_t seed = 1; seed <= PROBLEMS; seed++) {
        Random random(seed);
        Problem p;
        const bool extra = seed % 8 == 0;
        const uint32_t some_length = 1 + random.below(longest);
        const uint32_t vocabulary =
            extra ? very_long : random.pick({1, 2, 33, 1000, 1024, 1025, 2049, 8193, some_length, some_length});
        const uint32_t rows = 1 + random.below(extra ? 3 : 12);
        for (uint32_t i = 0; i < rows; i++) {
            draw_row(random, p, vocabulary);
        }
        const std::vector<Outcome> expected = reference(p);
        for (size_t b = 0; b < benches.size(); b++) {
            SCOPED_TRACE(settings[b].name() + ", seed " + std::to_string(seed) + ", " + std::to_string(rows) + " x " +
                         std::to_string(vocabulary));
            const std::vector<Outcome> got = run(*benches[b], p, 0, rows);
            for (uint32_t i = 0; i < rows; i++) {
                ASSERT_TRUE(same(got[i], expected[i]))
                    << "row " << i << ": " << text(got[i]) << " for " << text(expected[i]);
            }
            const uint32_t first = random.below(rows), count = 1 + random.below(rows - first);
            const std::vector<Outcome> some = run(*benches[b], p, first, count);
            for (uint32_t i = 0; i < count; i++) {
                ASSERT_TRUE(same(some[i], expected[first + i])) << "row " << first + i << " in a chunk";
            }
        }
    }
}

// One long row: a model's vocabulary, in every way that a request can ask.
TEST(Sample, ALongVocabulary) {
#ifdef SANITIZED
    const uint32_t vocabulary = 5001;
#else
    const uint32_t vocabulary = 50257;
#endif
    Random random(5);
    const std::vector<float> logits = random.normals(vocabulary, 2.5f);
    Problem p;
    for (uint32_t top_k : {0u, 40u, 1000u, 20000u}) {
        for (float top_p : {1.0f, 0.9f, 0.999f}) {
            struct sample_row &row = p.add(logits);
            row.random = draw_bits(random);
            row.inverse_temperature = 1;
            row.top_k = top_k;
            row.top_p = top_p < 1 ? (uint64_t)((double)top_p * 0x1.0p64) : SAMPLE_ALL_MASS;
        }
    }
    p.rows[0].score = p.scores++;
    p.rows[0].top = SAMPLE_MOST_TOP;
    expect_same(p, reference(p));
}

TEST(Sample, NothingToChooseFrom) {
    const uint32_t vocabulary = 1500;
    Problem p;
    std::vector<std::vector<float>> kinds(5, std::vector<float>(vocabulary, 0));
    kinds[0].assign(vocabulary, NOT_A_NUMBER);
    kinds[1].assign(vocabulary, -INFINITE);
    kinds[2].assign(vocabulary, NOT_A_NUMBER), kinds[2][1234] = -INFINITE; // the only number
    kinds[3][77] = kinds[3][1400] = INFINITE;                              // no sum
    kinds[4].assign(vocabulary, -INFINITE), kinds[4][1023] = -5;           // the only one with any chance
    const std::vector<uint32_t> tokens = {0, 0, 1234, 77, 1023};
    for (const auto &kind : kinds) {
        for (float inverse : {0.0f, 1.0f}) {
            struct sample_row &row = p.add(kind);
            row.inverse_temperature = inverse;
            row.random = UINT64_MAX;
            row.top_k = 3;
            row.top_p = UINT64_MAX / 2;
            row.score = p.scores++;
            row.top = 2;
        }
    }
    const std::vector<Outcome> expected = reference(p);
    for (size_t i = 0; i < expected.size(); i++) {
        EXPECT_EQ(expected[i].token, tokens[i / 2]) << i;
    }
    EXPECT_EQ(expected[0].score.top_count, 0u);
    EXPECT_EQ(expected[4].score.top_count, 1u);
    EXPECT_EQ(expected[6].score.total, 0u);
    expect_same(p, expected);
}

// Of tokens with the same weight the lower ids are kept.
TEST(Sample, TiesAtTheCutGoToTheLowerTokens) {
    const uint32_t vocabulary = 3000, top_k = 5;
    std::vector<float> logits(vocabulary, 1);
    logits[2999] = logits[2500] = 2;
    Problem p;
    for (uint32_t i = 0; i < 40; i++) {
        struct sample_row &row = p.add(logits);
        row.inverse_temperature = 1;
        row.top_k = top_k;
        row.random = random_hash(3, i);
    }
    const std::vector<Outcome> expected = reference(p);
    std::vector<uint32_t> tokens;
    for (const Outcome &outcome : expected) {
        tokens.push_back(outcome.token);
    }
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    EXPECT_EQ(tokens, std::vector<uint32_t>({0, 1, 2, 2500, 2999}));
    expect_same(p, expected);
}

TEST(Sample, PenaltiesInTheirOrder) {
    Problem p;
    struct sample_row &row = p.add({2, -2, 1, 0.5f});
    row.repetition = 2, row.frequency = 0.25f, row.presence = 0.125f;
    struct sample_change changes[] = {{0, 1, SAMPLE_SEEN | 3}, {1, 0, SAMPLE_SEEN}, {2, 0, 2}, {3, -INFINITE, 0}};
    const float expected[] = {(2 + 1) / 2.0f - (0.25f * 3 + 0.125f), -4, 1 - (0.25f * 2 + 0.125f), -INFINITE};
    for (uint32_t i = 0; i < 4; i++) {
        EXPECT_EQ(sample_change(p.logits[i], &changes[i], &row), expected[i]) << i;
    }
}

TEST(Sample, WeightsAreExponentials) {
    for (int i = 0; i <= 320000; i++) {
        const float logit = (float)i * -1e-4f;
        const double want = std::exp((double)logit) * 0x1.0p34;
        const float got = sample_weight(logit, 0, 1, 1);
        ASSERT_EQ(got, std::floor(got));
        ASSERT_NEAR(got, want, want * 3e-7 + 0.51) << logit;
    }
    EXPECT_EQ(sample_weight(5, 5, 0.7f, 1), SAMPLE_ONE);
    EXPECT_EQ(sample_weight(-INFINITE, 5, 1, 1), 0);
    EXPECT_EQ(sample_weight(NOT_A_NUMBER, 5, 1, 1), 0);
    EXPECT_EQ(sample_weight(1, 2, 1, 0.5f * SAMPLE_ONE), 0);
    EXPECT_EQ(sample_share(UINT64_MAX, UINT64_MAX), UINT64_MAX - 1);
    EXPECT_EQ(sample_share(1ull << 63, 10), 5u);
    EXPECT_EQ(sample_share(0x123456789abcdef0, 0xfedcba9876543210),
              (uint64_t)((unsigned __int128)0x123456789abcdef0 * 0xfedcba9876543210 >> 64));
}

} // namespace
