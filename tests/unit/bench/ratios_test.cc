// bench/ratios.h: a mean over the cells that have a ratio, and a count of those that have none.
extern "C" {
#include "bench/ratios.h"
}
#include <cmath>
#include <gtest/gtest.h>

namespace {

TEST(Ratios, CountsWhatHasNoRatioApart) {
    const double ours[] = {8, 1, 5, 0, 0}, theirs[] = {2, 1.1, 0, 3, 0};
    const struct ratios ratios = ratios_of(ours, theirs, 5);
    EXPECT_EQ(ratios.count, 2u);
    EXPECT_DOUBLE_EQ(ratios.most, 4);
    EXPECT_DOUBLE_EQ(ratios.least, 1 / 1.1);
    EXPECT_NEAR(ratios.mean, std::sqrt(4 / 1.1), 1e-12);
    EXPECT_EQ(ratios.only_ours, 1u);
    EXPECT_EQ(ratios.only_theirs, 1u);
    EXPECT_EQ(ratios.below, 2u);
    EXPECT_TRUE(std::isnan(ratios_of(ours + 2, theirs + 2, 3).mean));
}

} // namespace
