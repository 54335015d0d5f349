// offload/bus.h: members that come, go, change their minds and die, as threads of one process and as processes.
extern "C" {
#include "base/clock.h"
#include "offload/bus.h"
#include "offload/bus_file.h"
}
#include "tests/unit/offload/load_builder.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

const uint64_t MEGABYTE = 1000000;

class BusTest : public testing::Test {
  protected:
    BusTest() {
        std::string pattern = (std::filesystem::temp_directory_path() / "bus_test.XXXXXX").string();
        directory = mkdtemp(pattern.data());
        config = {directory.c_str(), "0000:3b:00.0", 1000 * MEGABYTE};
    }
    ~BusTest() override {
        std::filesystem::remove_all(directory);
    }
    bus *join() {
        bus *joined = nullptr;
        status status = bus_join(&config, &joined);
        EXPECT_EQ(status.code, STATUS_OK) << status.message;
        return joined;
    }
    // Needs of least, least + step .. in megabytes a second, each keeping as many megabytes in host memory.
    static void state(bus *member, uint64_t least, uint64_t step, uint32_t count) {
        grant_candidate candidates[GRANT_MAX_CANDIDATES];
        for (uint32_t i = 0; i < count; i++) {
            candidates[i] = {(least + i * step) * MEGABYTE, (least + i * step) * MEGABYTE};
        }
        status status = bus_state(member, candidates, count);
        EXPECT_EQ(status.code, STATUS_OK) << status.message;
    }
    // A later moment at each call, far enough on for every poll to look who lives.
    bus_grant poll(bus *member) {
        return bus_poll(member, now += BUS_LOOK_NS);
    }
    std::string path() {
        return directory + "/metronome-bus-" + std::to_string(geteuid()) + "-" + config.name;
    }
    bus_file *map() {
        int fd = open(path().c_str(), O_RDWR | O_CLOEXEC);
        void *mapped = mmap(nullptr, sizeof(bus_file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        return mapped == MAP_FAILED ? nullptr : static_cast<bus_file *>(mapped);
    }
    std::string directory;
    bus_config config;
    uint64_t now = 1;
};

void wait_for(pid_t child) {
    int status;
    ASSERT_EQ(waitpid(child, &status, 0), child);
}

} // namespace

TEST_F(BusTest, AMemberAloneGetsTheBestThatFits) {
    bus *a = join();
    EXPECT_EQ(poll(a).candidate, GRANT_NONE); // nothing stated yet
    state(a, 0, 300, 8);
    bus_grant grant = poll(a);
    EXPECT_EQ(grant.candidate, 3u);
    EXPECT_EQ(grant.bytes_per_s, 900 * MEGABYTE);
    EXPECT_TRUE(grant.kept);
    EXPECT_EQ(grant.members, 1u);
    EXPECT_EQ(grant.link_bytes_per_s, 1000 * MEGABYTE);
    bus_leave(a);
}

TEST_F(BusTest, AGrantGrowsOnlyWhenTheOthersHaveGivenWay) {
    bus *a = join();
    state(a, 200, 200, 5);
    EXPECT_EQ(poll(a).bytes_per_s, 1000 * MEGABYTE);
    bus *b = join();
    state(b, 500, 0, 1);
    EXPECT_EQ(poll(b).candidate, GRANT_NONE); // a still uses all of the link
    bus_grant grant = poll(a);
    EXPECT_EQ(grant.bytes_per_s, 400 * MEGABYTE); // from now on
    EXPECT_EQ(grant.candidate, 1u);
    EXPECT_EQ(poll(b).candidate, GRANT_NONE); // but what a is doing now may have begun before
    poll(a);
    grant = poll(b);
    EXPECT_EQ(grant.candidate, 0u);
    EXPECT_EQ(grant.bytes_per_s, 500 * MEGABYTE);
    EXPECT_EQ(grant.members, 2u);
    bus_leave(b);
    EXPECT_EQ(poll(a).bytes_per_s, 1000 * MEGABYTE); // and back
    bus_leave(a);
}

TEST_F(BusTest, ThoseWhoCameFirstKeepTheirPromisesWhenNotAllCan) {
    bus *a = join(), *b = join(), *c = join();
    state(a, 600, 100, 3);
    state(b, 300, 100, 3);
    state(c, 200, 100, 3); // 1100 together
    for (int i = 0; i < 3; i++) {
        poll(a);
        poll(b);
        poll(c);
    }
    EXPECT_EQ(poll(a).bytes_per_s + poll(b).bytes_per_s, 1000 * MEGABYTE);
    EXPECT_TRUE(poll(a).kept);
    EXPECT_TRUE(poll(b).kept);
    bus_grant grant = poll(c);
    EXPECT_FALSE(grant.kept);
    EXPECT_EQ(grant.candidate, 0u);
    EXPECT_EQ(grant.bytes_per_s, 0u); // nothing is left
    state(b, 0, 100, 2);
    for (int i = 0; i < 3; i++) {
        poll(a);
        poll(b);
        grant = poll(c);
    }
    EXPECT_TRUE(grant.kept);
    bus_leave(a);
    bus_leave(b);
    bus_leave(c);
}

TEST_F(BusTest, TheLeastStatementOfTheLinkCounts) {
    bus *a = join();
    state(a, 0, 100, 12);
    EXPECT_EQ(poll(a).bytes_per_s, 1000 * MEGABYTE);
    config.link_bytes_per_s = 550 * MEGABYTE;
    bus *b = join();
    EXPECT_EQ(poll(a).bytes_per_s, 500 * MEGABYTE);
    bus_leave(b);
    EXPECT_EQ(poll(a).bytes_per_s, 1000 * MEGABYTE);
    bus_leave(a);
}

TEST_F(BusTest, SeatsAreCounted) {
    std::vector<bus *> members;
    members.reserve(GRANT_MAX_MEMBERS);
    for (int i = 0; i < GRANT_MAX_MEMBERS; i++) {
        members.push_back(join());
    }
    bus *late;
    status status = bus_join(&config, &late);
    EXPECT_EQ(status.code, STATUS_BUSY);
    EXPECT_NE(std::string(status.message).find("all 8 seats are taken"), std::string::npos) << status.message;
    bus_leave(members[3]);
    members[3] = join();
    for (bus *member : members) {
        bus_leave(member);
    }
}

TEST_F(BusTest, NeverMoreInUseThanTheLinkCarries) {
    Random random(1);
    std::vector<bus *> members;
    std::vector<uint64_t> in_use; // what each may be doing: the larger of its last two grants
    std::vector<uint64_t> granted;
    int kept = 0, full = 0;
    for (int step = 0; step < 20000; step++) {
        if (members.size() < 6 && random.one_in(60)) {
            members.push_back(join());
            in_use.push_back(0);
            granted.push_back(0);
        } else if (!members.empty() && random.one_in(80)) {
            size_t i = random.pick(0, members.size() - 1);
            bus_leave(members[i]);
            members.erase(members.begin() + i);
            in_use.erase(in_use.begin() + i);
            granted.erase(granted.begin() + i);
        } else if (!members.empty() && random.one_in(20)) {
            state(members[random.pick(0, members.size() - 1)], random.pick(0, 100), random.pick(1, 60),
                  random.pick(1, 16));
        } else if (!members.empty()) {
            size_t i = random.pick(0, members.size() - 1);
            bus_grant grant = poll(members[i]);
            in_use[i] = std::max(granted[i], grant.bytes_per_s);
            granted[i] = grant.bytes_per_s;
            kept += grant.kept;
        }
        uint64_t sum = 0;
        for (uint64_t use : in_use) {
            sum += use;
        }
        ASSERT_LE(sum, config.link_bytes_per_s) << step;
        full += sum > config.link_bytes_per_s * 9 / 10;
    }
    EXPECT_GT(kept, 5000);
    EXPECT_GT(full, 2000);
    for (bus *member : members) {
        bus_leave(member);
    }
}

TEST_F(BusTest, ADeadMembersGrantReturns) {
    bus *a = join();
    state(a, 100, 100, 10);
    std::vector<double> took_ms;
    for (int i = 0; i < 9; i++) {
        int ready[2];
        ASSERT_EQ(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0) {
            bus *b;
            if (bus_join(&config, &b).code != STATUS_OK) {
                _exit(1);
            }
            grant_candidate all = {700 * MEGABYTE, 7000 * MEGABYTE};
            bus_state(b, &all, 1);
            while (bus_poll(b, clock_now_ns()).candidate == GRANT_NONE) {
                usleep(500);
            }
            if (write(ready[1], "!", 1) != 1) {
                _exit(1);
            }
            for (;;) {
                pause();
            }
        }
        char byte;
        // The parent goes on iterating, so that the child gets what it waits for.
        fcntl(ready[0], F_SETFL, O_NONBLOCK);
        while (read(ready[0], &byte, 1) != 1) {
            bus_poll(a, clock_now_ns());
            usleep(500);
        }
        EXPECT_EQ(bus_poll(a, clock_now_ns()).bytes_per_s, 300 * MEGABYTE);
        kill(child, SIGKILL);
        uint64_t killed = clock_now_ns();
        while (bus_poll(a, clock_now_ns()).bytes_per_s != 1000 * MEGABYTE && clock_now_ns() - killed < 10 * NS_PER_S) {
            usleep(500);
        }
        took_ms.push_back(double(clock_now_ns() - killed) / 1e6);
        wait_for(child); // only now: it was a zombie in the meantime
        close(ready[0]);
        close(ready[1]);
    }
    std::sort(took_ms.begin(), took_ms.end());
    printf("a dead member's grant returned within %.1f ms (median), %.1f ms (longest of 9)\n", took_ms[4], took_ms[8]);
    EXPECT_LT(took_ms[4], 100);
    bus_leave(a);
}

TEST_F(BusTest, AMemberThatDiesHoldingTheLockHarmsNobody) {
    bus *a = join();
    state(a, 100, 100, 10);
    poll(a);
    for (uint64_t seed = 0; seed < 30; seed++) {
        pid_t child = fork();
        if (child == 0) { // joins, takes the lock, leaves a mess, dies
            bus *b;
            if (bus_join(&config, &b).code != STATUS_OK) {
                _exit(1);
            }
            state(b, 200, 0, 1);
            bus_file *file = map();
            Random random(seed);
            pthread_mutex_lock(&file->lock);
            for (bus_seat &seat : file->seat) {
                if (seat.joined > 1) { // its own seat, half written
                    unsigned char *bytes = reinterpret_cast<unsigned char *>(&seat);
                    for (size_t i = random.pick(0, 40); i < sizeof seat; i++) {
                        bytes[i] = random.pick(0, 255);
                    }
                    seat.joined |= 1;
                }
                seat.granted = random.pick(0, 1) ? GRANT_NONE : 9; // and grants half worked out
                seat.granted_bytes_per_s = random.pick(0, UINT64_C(1) << 60);
                seat.kept = 0;
            }
            raise(SIGKILL);
        }
        wait_for(child);
        bus_grant grant = poll(a);
        ASSERT_EQ(grant.members, 1u);
        ASSERT_EQ(grant.bytes_per_s, 1000 * MEGABYTE);
        ASSERT_EQ(grant.candidate, 9u);
        ASSERT_TRUE(grant.kept);
        bus *b = join(); // into the seat of the dead
        state(b, 400, 0, 1);
        poll(a);
        poll(a);
        ASSERT_EQ(poll(b).bytes_per_s, 400 * MEGABYTE);
        bus_leave(b);
        poll(a);
    }
    bus_leave(a);
}

TEST_F(BusTest, SurvivesMembersKilledAtAnyMoment) {
    bus *a = join();
    state(a, 0, 50, 16);
    Random random(7);
    std::vector<pid_t> children;
    auto start = [&] {
        uint64_t seed = random.pick(0, UINT32_MAX);
        pid_t child = fork();
        if (child == 0) {
            Random own(seed);
            for (;;) { // join, change, poll, leave, as fast as it goes
                bus *b;
                if (bus_join(&config, &b).code != STATUS_OK) {
                    continue;
                }
                for (int i = own.pick(0, 200); i >= 0; i--) {
                    grant_candidate some[3] = {{own.pick(0, 100 * MEGABYTE), own.pick(0, MEGABYTE)},
                                               {own.pick(0, 300 * MEGABYTE), own.pick(0, MEGABYTE)},
                                               {own.pick(0, 900 * MEGABYTE), own.pick(0, MEGABYTE)}};
                    bus_state(b, some, own.pick(1, 3));
                    bus_poll(b, clock_now_ns());
                }
                bus_leave(b);
            }
        }
        children.push_back(child);
    };
    for (int i = 0; i < 4; i++) {
        start();
    }
    uint64_t begin = clock_now_ns();
    for (int i = 0; i < 400 && clock_now_ns() - begin < 2 * NS_PER_S; i++) {
        usleep(random.pick(0, 2000));
        size_t victim = random.pick(0, children.size() - 1);
        kill(children[victim], SIGKILL);
        wait_for(children[victim]);
        children.erase(children.begin() + victim);
        bus_grant grant = bus_poll(a, clock_now_ns());
        ASSERT_LE(grant.members, 5u);
        ASSERT_LE(grant.bytes_per_s, config.link_bytes_per_s);
        start();
    }
    for (pid_t child : children) {
        kill(child, SIGKILL);
        wait_for(child);
    }
    for (int i = 0; i < 3; i++) {
        poll(a);
    }
    EXPECT_EQ(poll(a).members, 1u);
    EXPECT_EQ(poll(a).bytes_per_s, 750 * MEGABYTE);
    bus_leave(a);
}

TEST_F(BusTest, AFileThatCannotBeUsedIsRefusedAndSaysWhy) {
    bus *member = nullptr;
    for (const char *name : {"", "a/b", "a b", "\xc3\xa4"}) {
        config.name = name;
        status status = bus_join(&config, &member);
        EXPECT_EQ(status.code, STATUS_INVALID) << name;
        EXPECT_NE(std::string(status.message).find("bus name"), std::string::npos) << status.message;
    }
    config.name = "link";
    std::string missing = directory + "/missing";
    config.directory = missing.c_str();
    EXPECT_EQ(bus_join(&config, &member).code, STATUS_IO);
    config.directory = directory.c_str();

    close(open(path().c_str(), O_CREAT | O_RDWR, 0666));
    chmod(path().c_str(), 0666);
    status status = bus_join(&config, &member);
    EXPECT_EQ(status.code, STATUS_IO);
    EXPECT_NE(std::string(status.message).find("not a private file"), std::string::npos) << status.message;
    unlink(path().c_str());
    ASSERT_EQ(symlink("/dev/null", path().c_str()), 0);
    EXPECT_EQ(bus_join(&config, &member).code, STATUS_IO);
    unlink(path().c_str());

    member = join(); // a live member of another version
    bus_file *file = map();
    file->version++;
    bus *other;
    status = bus_join(&config, &other);
    EXPECT_EQ(status.code, STATUS_UNSUPPORTED);
    EXPECT_NE(std::string(status.message).find("another version"), std::string::npos) << status.message;
    bus_leave(member);
    member = join(); // nobody is left: the file is made anew
    EXPECT_EQ(file->version, uint32_t(BUS_FILE_VERSION));
    munmap(file, sizeof *file);
    bus_leave(member);
}

TEST_F(BusTest, NumbersOutOfRangeAreRefused) {
    bus *a = join();
    grant_candidate huge = {UINT64_MAX, 1};
    EXPECT_EQ(bus_state(a, &huge, 1).code, STATUS_INVALID);
    bus_leave(a);
    bus_leave(nullptr);
}

TEST_F(BusTest, APollCostsLittle) {
    std::vector<bus *> members;
    for (int i = 0; i < 8; i++) {
        members.push_back(join());
        state(members.back(), 10 * i, 10, 16);
    }
    uint64_t begin = clock_now_ns();
    for (int i = 0; i < 10000; i++) {
        bus_poll(members[0], 1);
    }
    double poll_us = double(clock_now_ns() - begin) / 10000 / 1e3;
    begin = clock_now_ns();
    for (int i = 0; i < 100; i++) {
        poll(members[0]);
    }
    double look_us = double(clock_now_ns() - begin) / 100 / 1e3;
    begin = clock_now_ns();
    for (int i = 0; i < 100; i++) {
        state(members[0], i % 7, 10, 16);
    }
    double state_us = double(clock_now_ns() - begin) / 100 / 1e3;
    printf("8 members: a poll %.2f us, one that looks who lives %.1f us, a new statement %.1f us\n", poll_us, look_us,
           state_us);
    EXPECT_LT(poll_us, 1000);
    for (bus *member : members) {
        bus_leave(member);
    }
}
