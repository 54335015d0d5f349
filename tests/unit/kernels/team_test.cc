// A device of several ranks: addresses that stand for each rank's own, sums over all of them, and a rank that fails. On
// the cpu device, or on the one that METRONOME_TEST_DEVICE names; with what METRONOME_TEST_ALL_REDUCE says on cuda.
#include "tests/unit/kernels/kernel_test.h"

namespace {

struct device_config team_config(uint32_t ranks, uint32_t share_values = 0) {
    struct device_config config = cpu_config();
    if (const char *named = getenv("METRONOME_TEST_DEVICE")) {
        config.name = named;
    }
    if (const char *named = getenv("METRONOME_TEST_ALL_REDUCE")) {
        config.all_reduce = strcmp(named, "nccl") == 0 ? ALL_REDUCE_NCCL : ALL_REDUCE_PEER;
    }
    config.share_values = share_values;
    config.ranks = ranks;
    config.threads = 2;
    return config;
}

// Whether there are so many devices here: on a machine with fewer GPUs the test is for the ranks that there are.
bool can_open(uint32_t ranks) {
    struct device_config config = team_config(ranks);
    struct device *device = nullptr;
    const bool opens = device_open(&config, &device).code == STATUS_OK;
    device_close(device);
    return opens;
}

float *floats_of(struct device *device, size_t count) {
    void *address = nullptr;
    EXPECT_OK(device_alloc(device, count * sizeof(float), "a test's buffer", &address));
    return static_cast<float *>(address);
}

// A team, pinned host memory that holds `count` floats of each rank, and as many on the device.
struct Team {
    Device d;
    struct stream *stream;
    struct event *done;
    float *values, *host;
    size_t count;
    uint32_t ranks;

    Team(uint32_t of, size_t floats, uint32_t share_values = 0)
        : d(team_config(of, share_values)), count(floats), ranks(of) {
        stream = d.stream(STREAM_COMPUTE);
        done = d.event();
        values = floats_of(d.device, count);
        void *address = nullptr;
        EXPECT_OK(device_alloc_host(d.device, count * sizeof(float), "a test's host memory", &address));
        host = static_cast<float *>(address);
    }
    ~Team() {
        stream_sync(stream);
        device_free(d.device, values);
        device_free_host(d.device, host);
    }
    float *host_of(uint32_t rank) {
        return static_cast<float *>(device_rank_host(d.device, host, rank));
    }
    void send() {
        stream_copy(stream, values, host, count * sizeof(float), COPY_HOST_TO_DEVICE);
    }
    struct status receive() {
        stream_copy(stream, host, values, count * sizeof(float), COPY_DEVICE_TO_HOST);
        event_record(done, stream);
        return event_sync(done);
    }
};

TEST(Team, SaysWhatItIs) {
    Device d(team_config(2));
    struct device_info info = device_info(d.device);
    EXPECT_STREQ(info.name, team_config(2).name);
    EXPECT_EQ(info.ranks, 2u);
    EXPECT_EQ(info.threads, 1u); // of each
    EXPECT_TRUE(info.invariant);
    if (can_open(3)) {
        const struct device_info three = device_info(Device(team_config(3)).device);
        EXPECT_EQ(three.invariant, strcmp(three.sums, "NCCL") != 0);
    }
    EXPECT_EQ(std::string(info.description).find("2 ranks of "), 0u) << info.description;
    EXPECT_NE(std::string(info.description).find(std::string(", sums by ") + info.sums), std::string::npos)
        << info.description;
    struct device *device = nullptr;
    struct device_config many = team_config(DEVICE_MOST_RANKS + 1);
    struct status status = device_open(&many, &device);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(std::string(status.message).find("tensor_parallel_size 17"), std::string::npos) << status.message;
}

// `count` values of each rank, beginning `skip` after the buffer's, become their sum, in the order of ranks where the
// device says so; the others stay.
void expect_sum(uint32_t ranks, size_t count, size_t skip, uint32_t share_values = 0) {
    SCOPED_TRACE(std::to_string(count) + " values of " + std::to_string(ranks) + " ranks, from " +
                 std::to_string(skip));
    Team team(ranks, skip + count + 1, share_values);
    std::vector<float> want(count, 0);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        std::fill(team.host_of(rank), team.host_of(rank) + team.count, 77.0f);
        for (size_t i = 0; i < count; i++) {
            const float value = (float)(int64_t)random_hash(rank, i) * 0x1p-60f;
            team.host_of(rank)[skip + i] = value;
            want[i] = rank == 0 ? value : want[i] + value;
        }
    }
    team.send();
    op_all_reduce(team.stream, team.values + skip, 1, (uint32_t)count);
    ASSERT_OK(team.receive());
    if (!device_info(team.d.device).invariant) {
        for (size_t i = 0; i < count; i++) {
            EXPECT_NEAR(team.host[skip + i], want[i], 1e-5);
            want[i] = team.host[skip + i];
        }
    }
    for (uint32_t rank = 0; rank < ranks; rank++) {
        const float *own = team.host_of(rank);
        EXPECT_EQ(memcmp(own + skip, want.data(), count * sizeof(float)), 0) << "rank " << rank;
        EXPECT_EQ(own[skip + count], 77);
        EXPECT_EQ(skip > 0 ? own[skip - 1] : 77, 77);
    }
}

// Everywhere all ranks have the same bits; with an order they are those of the sum in that order.
TEST(Team, AddsUpTheSameBitsOnEveryRank) {
    for (uint32_t ranks : {2, 3, 4, 8}) {
        for (size_t count : {1u, 2u, 7u, 1000u, 4096u}) {
            if (can_open(ranks)) {
                expect_sum(ranks, count, count % 4);
            }
        }
    }
}

// In shares, of which the last are short or empty.
TEST(Team, AddsUpInShares) {
    for (uint32_t ranks : {2, 3, 4, 8}) {
        for (size_t count : {1u, 5u, 13u, 1001u}) {
            if (can_open(ranks)) {
                expect_sum(ranks, count, 1, 1);
            }
        }
    }
}

// So many that ranks share the work (cuda_peer_share_values() of kernels/cuda/peer.h), or take it piece by piece.
TEST(Team, AddsUpManyValues) {
    const struct {
        uint32_t ranks;
        size_t count;
    } cases[] = {{2, 2097213}, {3, 300001}, {4, 130000}, {4, 130002}, {8, 40001}};
    for (const auto &c : cases) {
        if (can_open(c.ranks)) {
            expect_sum(c.ranks, c.count, c.count % 2);
        }
    }
}

// Not a number is one, whatever its bits, and nobody waits for it.
TEST(Team, AddsUpWhatIsNoNumber) {
    const uint32_t ranks = can_open(4) ? 4 : 2;
    for (size_t count : {24u, 130000u}) {
        Team team(ranks, count);
        for (uint32_t rank = 0; rank < ranks; rank++) {
            std::fill(team.host_of(rank), team.host_of(rank) + count, 1.0f);
            memset(&team.host_of(rank)[5 * rank], 0xff, sizeof(float));
            team.host_of(rank)[count - 1] = -0.0f;
        }
        team.send();
        op_all_reduce(team.stream, team.values, 1, (uint32_t)count);
        op_all_reduce(team.stream, team.values, 1, (uint32_t)count);
        ASSERT_OK(team.receive());
        for (uint32_t rank = 0; rank < ranks; rank++) {
            for (size_t i = 0; i + 1 < count; i++) {
                const float value = team.host_of(rank)[i];
                ASSERT_TRUE(i % 5 == 0 && i / 5 < ranks ? std::isnan(value) : value == (float)(ranks * ranks)) << i;
            }
            EXPECT_EQ(team.host_of(rank)[count - 1], 0);
            EXPECT_TRUE(std::signbit(team.host_of(rank)[count - 1]));
        }
    }
}

// Streams that are a team's one after the other.
TEST(Team, AddsUpOnAnotherStream) {
    Team team(2, 64);
    struct stream *other = team.d.stream(STREAM_COMPUTE);
    for (uint32_t rank = 0; rank < 2; rank++) {
        std::fill(team.host_of(rank), team.host_of(rank) + 64, 1.0f);
    }
    team.send();
    for (int i = 0; i < 6; i++) {
        struct stream *now = i % 2 ? other : team.stream, *next = i % 2 ? team.stream : other;
        op_all_reduce(now, team.values, 1, 64);
        event_record(team.done, now);
        stream_wait(next, team.done);
    }
    ASSERT_OK(team.receive());
    for (uint32_t rank = 0; rank < 2; rank++) {
        EXPECT_EQ(std::vector<float>(team.host_of(rank), team.host_of(rank) + 64), std::vector<float>(64, 64));
    }
}

// Many of them, back to back, with other work between: nobody overtakes anybody.
TEST(Team, AddsUpAgainAndAgain) {
    const uint32_t ranks = can_open(4) ? 4 : 2;
    Team team(ranks, 256);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        std::fill(team.host_of(rank), team.host_of(rank) + 256, 1.0f);
    }
    team.send();
    for (int i = 0; i < 200; i++) {
        op_all_reduce(team.stream, team.values, 16, 16);
        op_scale(team.stream, team.values, 1.0f / (float)ranks, 16, 16);
    }
    ASSERT_OK(team.receive());
    for (uint32_t rank = 0; rank < ranks; rank++) {
        for (size_t i = 0; i < 256; i++) {
            ASSERT_EQ(team.host_of(rank)[i], 1.0f);
        }
    }
}

// What the host writes is rank 0's until it is shared; a table's addresses become each rank's own, its other entries
// stay.
TEST(Team, SharesWhatTheHostWrites) {
    const uint32_t ranks = can_open(3) ? 3 : 2;
    Team team(ranks, 64);
    uint64_t *table = reinterpret_cast<uint64_t *>(team.host);
    const uint64_t first = (uint64_t)(uintptr_t)team.values;
    table[0] = kv_streamed_entry(3, 4096);
    table[1] = first;
    table[2] = first + 128;
    table[3] = 7777; // nobody's
    device_share_table(team.d.device, table, 4);
    team.host[32] = 5;
    device_share(team.d.device, team.host + 32, sizeof(float));
    for (uint32_t rank = 1; rank < ranks; rank++) {
        const uint64_t *own = reinterpret_cast<uint64_t *>(team.host_of(rank));
        EXPECT_EQ(own[0], table[0]);
        EXPECT_NE(own[1], table[1]);
        EXPECT_EQ(own[2], own[1] + 128);
        EXPECT_EQ(own[3], 7777u);
        EXPECT_EQ(team.host_of(rank)[32], 5);
    }
}

TEST(Team, CopiesToOneRank) {
    Team team(2, 4);
    const float zero[4] = {}, own[4] = {1, 2, 3, 4};
    stream_copy(team.stream, team.values, zero, sizeof zero, COPY_HOST_TO_DEVICE); // memory that is everybody's
    stream_copy_to_rank(team.stream, 1, team.values + 1, own, 2 * sizeof(float));
    ASSERT_OK(team.receive());
    EXPECT_EQ(std::vector<float>(team.host_of(0), team.host_of(0) + 4), std::vector<float>(4, 0));
    EXPECT_EQ(std::vector<float>(team.host_of(1), team.host_of(1) + 4), (std::vector<float>{0, 1, 2, 0}));
}

// A bias, and what is there already, count once; the weights' shares of the columns make up the whole.
TEST(Team, AddsUpPartialProducts) {
    const uint32_t rows = 3, columns = 4;
    Team team(2, rows * columns + rows + rows + columns); // weights, bias, out, x of each rank
    const size_t packed_bytes = device_packed_bytes(team.d.device, TENSOR_F32, rows, columns);
    void *weights = nullptr, *packed = aligned_alloc(64, packed_bytes);
    ASSERT_OK(device_alloc(team.d.device, packed_bytes, "a test's weights", &weights));
    double want[rows] = {100 + 7, 100 + 7, 100 + 7}; // bias and out
    float *bias = team.values, *out = team.values + rows, *x = team.values + 2 * rows;
    for (uint32_t rank = 0; rank < 2; rank++) {
        float matrix[rows][columns], *host = team.host_of(rank);
        for (uint32_t i = 0; i < rows; i++) {
            host[i] = 7;
            host[rows + i] = 100;
            for (uint32_t j = 0; j < columns; j++) {
                matrix[i][j] = (float)(i + j + rank);
                host[2 * rows + j] = (float)(j + 1 + 10 * rank);
                want[i] += (double)matrix[i][j] * (double)host[2 * rows + j];
            }
        }
        device_pack(team.d.device, TENSOR_F32, rows, columns, matrix, packed);
        stream_copy_to_rank(team.stream, rank, weights, packed, packed_bytes);
        ASSERT_OK(stream_sync(team.stream));
    }
    free(packed);
    const struct device_limits limits = {1, 16, 16, 1, 1, 1, 1, 16, 16};
    ASSERT_OK(device_prepare(team.d.device, &limits));
    team.send();
    struct matmul_part part = {};
    part.weight = {weights, TENSOR_F32, rows, columns};
    part.bias = bias;
    part.out = out;
    part.out_stride = rows;
    part.accumulate = true;
    op_matmul_partial(team.stream, &part, 1, x, columns, 1);
    op_all_reduce(team.stream, out, 1, rows);
    ASSERT_OK(team.receive());
    for (uint32_t rank = 0; rank < 2; rank++) {
        for (uint32_t i = 0; i < rows; i++) {
            EXPECT_FLOAT_EQ(team.host_of(rank)[rows + i], (float)want[i]);
        }
    }
    device_free(team.d.device, weights);
}

// One rank is given an id that its table does not have: the others learn of it where they would wait for it.
TEST(Team, NobodyWaitsForARankThatHasFailed) {
    const uint32_t ranks = can_open(3) ? 3 : 2;
    Team team(ranks, 64);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        memset(team.host_of(rank), 0, 64 * sizeof(float));
    }
    uint32_t *ids = reinterpret_cast<uint32_t *>(team.host_of(1));
    ids[0] = 1000;
    team.send();
    op_add_rows(team.stream, team.values + 32, team.values + 16, 4, reinterpret_cast<uint32_t *>(team.values), 1, 4);
    for (int i = 0; i < 3; i++) {
        op_all_reduce(team.stream, team.values + 32, 1, 4);
    }
    struct status status = team.receive();
    EXPECT_EQ(status.code, STATUS_DEVICE);
    EXPECT_EQ(std::string(status.message).find("rank 1: "), 0u) << status.message;
    EXPECT_NE(std::string(status.message).find("1000"), std::string::npos) << status.message;
}

TEST(Team, RefusesWhatARankHasNoRoomFor) {
    struct device_config config = team_config(2);
    config.device_memory = 4096;
    Device d(config);
    void *address = nullptr, *rest = nullptr;
    ASSERT_OK(device_alloc(d.device, 4096, "all of it", &address)); // of each
    struct status status = device_alloc(d.device, 64, "one thing more", &rest);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_NE(std::string(status.message).find("rank 0: one thing more"), std::string::npos) << status.message;
    device_free(d.device, address);
    ASSERT_OK(device_alloc(d.device, 4096, "all of it", &address));
    device_free(d.device, address);
}

} // namespace
