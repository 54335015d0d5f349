// The search for what could have been kept, on loads whose best answer is known.
extern "C" {
#include "base/random.h"
#include "scheduler/clairvoyant.h"
}
#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <numeric>
#include <vector>

namespace {

// A server with room for so much: what exceeds it makes the latest late, as a queue would, and with `brittle`
// everybody.
struct Server {
    std::vector<double> cost;
    double room = 0;
    bool brittle = false;
    uint32_t runs = 0, fails_at = 0;

    static struct status run(void *context, const bool *dropped, bool *kept) {
        auto *server = static_cast<Server *>(context);
        if (++server->runs == server->fails_at) {
            return status_error(STATUS_DEVICE, "the device failed");
        }
        double used = 0;
        for (size_t i = 0; i < server->cost.size(); i++) {
            used += dropped[i] ? 0 : server->cost[i];
            kept[i] = !dropped[i] && used <= server->room;
        }
        for (size_t i = 0; i < server->cost.size() && server->brittle && used > server->room; i++) {
            kept[i] = false;
        }
        return {};
    }
    // How many the search keeps; the set is checked by another run.
    uint32_t search(uint32_t most) {
        auto kept = std::make_unique<bool[]>(cost.size()), dropped = std::make_unique<bool[]>(cost.size());
        auto again = std::make_unique<bool[]>(cost.size());
        struct clairvoyant_config config = {(uint32_t)cost.size(), cost.data(), most, 3, run, this};
        uint32_t made = 0;
        status = clairvoyant_search(&config, kept.get(), dropped.get(), &made);
        EXPECT_EQ(made, runs);
        EXPECT_LE(made, most);
        if (status.code != STATUS_OK) {
            return 0;
        }
        struct status checked = run(this, dropped.get(), again.get());
        EXPECT_EQ(checked.code, STATUS_OK);
        uint32_t count = 0;
        for (size_t i = 0; i < cost.size(); i++) {
            EXPECT_EQ(kept[i], again[i]) << i;
            EXPECT_FALSE(kept[i] && dropped[i]) << i;
            count += kept[i];
        }
        return count;
    }
    struct status status = {};
};

TEST(Clairvoyant, KeepsAllWhereAllCanBe) {
    Server server;
    server.cost.assign(50, 1);
    server.room = 50;
    EXPECT_EQ(server.search(10), 50u);
    EXPECT_EQ(server.runs, 2u); // one, and the check
}

// Dear ones come first and take the room: the answer is the cheap ones, of which 40 and no more fit.
TEST(Clairvoyant, DropsTheDear) {
    for (bool brittle : {false, true}) {
        Server server;
        server.brittle = brittle;
        server.cost.assign(20, 10);
        server.cost.resize(100, 1);
        server.room = 40;
        EXPECT_EQ(server.search(60), 40u) << brittle;
    }
}

// Against the best there is, which for one resource is the cheapest first.
TEST(Clairvoyant, FindsNearlyTheBestAtRandom) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        Server server;
        struct random_state random;
        random_seed(&random, seed);
        for (int i = 0; i < 200; i++) {
            server.cost.push_back(1 + (double)random_below(&random, 50));
        }
        std::vector<double> sorted = server.cost;
        std::sort(sorted.begin(), sorted.end());
        server.room = std::accumulate(sorted.begin(), sorted.end(), 0.0) / (double)(2 + seed % 4);
        uint32_t best = 0;
        for (double used = 0; best < 200 && used + sorted[best] <= server.room; best++) {
            used += sorted[best];
        }
        EXPECT_GE(server.search(60), best - best / 20) << seed;
    }
}

TEST(Clairvoyant, SaysWhatFailed) {
    Server server;
    server.cost.assign(10, 1);
    server.fails_at = 2;
    server.search(10);
    EXPECT_EQ(server.status.code, STATUS_DEVICE);
}

} // namespace
