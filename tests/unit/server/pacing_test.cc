// Paced streams without a clock: what is due when, and that every byte comes out once, in order, never early.
extern "C" {
#include "base/random.h"
#include "server/pacing.h"
}
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace {

TEST(Pacing, TokensAreDueFromTheFirstOn) {
    struct pacing pacing = {};
    EXPECT_EQ(pacing_due(&pacing, false, 10, 500), 500u); // a prompt's echo
    EXPECT_EQ(pacing_due(&pacing, true, 10, 1000), 1000u);
    EXPECT_EQ(pacing_due(&pacing, true, 10, 1001), 1010u);
    EXPECT_EQ(pacing_due(&pacing, false, 10, 1002), 1010u); // the rest of its text
    EXPECT_EQ(pacing_due(&pacing, true, 10, 1500), 1020u);  // late
    EXPECT_EQ(pacing_due(&pacing, true, 10, 1501), 1030u);  // and those after it when they were
    EXPECT_EQ(pacing_next(&pacing), UINT64_MAX);
    pacing_free(&pacing);
}

TEST(Pacing, EveryPieceComesOutOnceInOrderAndNotBefore) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct random_state random;
        random_seed(&random, seed);
        struct pacing pacing = {};
        struct text out = {};
        std::string put, taken;
        std::vector<std::pair<uint64_t, size_t>> due; // and the length of all up to it
        uint64_t now = 0, last = 0;
        for (int step = 0; step < 500; step++) {
            now += random_below(&random, 10);
            if (random_below(&random, 3) != 0) {
                last += random_below(&random, 8);
                std::string piece(random_below(&random, 50), (char)('a' + step % 26));
                ASSERT_TRUE(pacing_hold(&pacing, last, piece.data(), piece.size()));
                put += piece;
                due.emplace_back(last, put.size());
            }
            if (random_below(&random, 4) == 0) {
                text_clear(&out);
                pacing_take(&pacing, now, &out);
                taken.append(out.data ? out.data : "", out.bytes);
                size_t wanted = 0;
                for (auto &[due_ns, bytes] : due) {
                    wanted = due_ns <= now ? bytes : wanted;
                }
                ASSERT_EQ(taken, put.substr(0, wanted)) << seed;
                ASSERT_GT(pacing_next(&pacing), now);
            }
            ASSERT_EQ(pacing_bytes(&pacing), put.size() - taken.size());
        }
        text_clear(&out);
        pacing_take(&pacing, UINT64_MAX, &out);
        taken.append(out.data ? out.data : "", out.bytes);
        EXPECT_EQ(taken, put);
        EXPECT_EQ(pacing_next(&pacing), UINT64_MAX);
        text_free(&out);
        pacing_free(&pacing);
    }
}

} // namespace
