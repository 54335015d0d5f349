// scheduler/reserve.h against disturbances that come at random: what is late raises it, and it settles where no more is
// late than is allowed.
extern "C" {
#include "base/random.h"
#include "scheduler/reserve.h"
}
#include <cmath>
#include <gtest/gtest.h>

namespace {

TEST(Reserve, NothingLateCostsNothing) {
    struct reserve reserve = {};
    for (int i = 0; i < 10000; i++) {
        reserve_note(&reserve, false, 1e-3);
        ASSERT_EQ(reserve.share, 0);
    }
}

TEST(Reserve, RisesAtOnceAndFallsSlowly) {
    struct reserve reserve = {};
    reserve_note(&reserve, true, 1e-3);
    EXPECT_GT(reserve.share, 0.2);
    const double risen = reserve.share;
    for (int i = 0; i < 500; i++) {
        reserve_note(&reserve, false, 1e-3);
    }
    EXPECT_GT(reserve.share, risen / 3);
    EXPECT_LT(reserve.share, risen);
    for (int i = 0; i < 1000; i++) {
        reserve_note(&reserve, false, 1e-3);
    }
    EXPECT_EQ(reserve.share, 0);
    for (int i = 0; i < 100; i++) {
        reserve_note(&reserve, true, 1e-3);
        EXPECT_LE(reserve.share, RESERVE_MOST);
    }
}

// One iteration in twenty is disturbed, by 0.08 of the time of a token in the mean: without a reserve, five in a
// hundred would be late.
TEST(Reserve, AsManyAreLateAsIsAllowed) {
    for (double allowed : {0.01, 0.002}) {
        struct random_state random;
        random_seed(&random, 7);
        struct reserve reserve = {};
        uint32_t late = 0;
        const uint32_t count = 400000;
        for (uint32_t i = 0; i < count; i++) {
            const bool disturbed = random_unit(&random) < 0.05;
            const bool is_late = disturbed && -0.08 * std::log(1 - random_unit(&random)) > reserve.share;
            late += is_late;
            reserve_note(&reserve, is_late, allowed);
        }
        EXPECT_LE(late, 1.02 * count * allowed);
        EXPECT_GE(late, 0.5 * count * allowed); // fewer, for it cannot fall below nothing
        EXPECT_LT(reserve.share, 0.8);
    }
}

} // namespace
