// kernels/sim/: memory, data, tokens, costs, the log, and that a run of millions of iterations is cheap.
#include "tests/unit/kernels/sim_rig.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <list>
#include <set>

// ---- allocations by the C library, counted ----

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

#ifndef SANITIZED
static uint64_t allocations;
extern "C" {
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *malloc(size_t bytes) {
    allocations++;
    return __libc_malloc(bytes);
}
void *calloc(size_t count, size_t bytes) {
    allocations++;
    return __libc_calloc(count, bytes);
}
void *realloc(void *address, size_t bytes) {
    allocations++;
    return __libc_realloc(address, bytes);
}
}
#endif

// ---- opening ----

static struct status open_with(const char *hardware, uint64_t device_memory) {
    struct device_config config = {};
    config.name = "sim";
    config.hardware = hardware;
    config.device_memory = device_memory;
    struct device *device = nullptr;
    struct status status = device_open(&config, &device);
    EXPECT_EQ(device != nullptr, status.code == STATUS_OK);
    device_close(device);
    return status;
}

TEST(Sim, RefusesWhatItCannotStandFor) {
    EXPECT_EQ(open_with(nullptr, 0).code, STATUS_INVALID);
    EXPECT_NE(std::string(open_with("", 0).message).find("hardware"), std::string::npos);
    EXPECT_EQ(open_with("/nowhere/a10.json", 0).code, STATUS_NOT_FOUND);
    EXPECT_EQ(open_with("configs/hardware/a10.json", 0).code, STATUS_OK);
    struct status status = open_with("configs/hardware/a10.json", uint64_t{25} << 30);
    EXPECT_EQ(status.code, STATUS_INVALID);
    EXPECT_NE(std::string(status.message).find("NVIDIA A10 has 24 GiB"), std::string::npos) << status.message;
    TemporaryFile broken("{\"name\": 3}");
    status = open_with(broken.path(), 0);
    EXPECT_NE(std::string(status.message).find("name: expected a string"), std::string::npos) << status.message;
}

TEST(Sim, SaysWhatItIs) {
    SimOptions options;
    options.hardware = "configs/hardware/a10.json";
    SimRig rig(options);
    struct device_info info = device_info(rig.device);
    EXPECT_STREQ(info.name, "sim");
    EXPECT_STREQ(info.description, "NVIDIA A10, simulated");
    EXPECT_EQ(info.device_memory, uint64_t{24} << 30);
    EXPECT_EQ(info.link_bytes_per_s, 24e9);
    EXPECT_TRUE(info.invariant);
    EXPECT_STREQ(sim_hardware(rig.device)->bus, "pcie-4.0-x16");
}

// ---- memory ----

static size_t resident_bytes() {
    size_t total = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> total >> resident;
    return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST(SimMemory, IsCountedAndCostsNothing) {
    SimOptions options;
    options.device_memory = uint64_t{12} << 30;
    SimRig rig(options);
    const size_t before = resident_bytes();
    void *layers = nullptr, *more = nullptr;
    must(device_alloc(rig.device, size_t{10} << 30, "layers", &layers));
    EXPECT_EQ(device_info(rig.device).device_used, uint64_t{10} << 30);
    struct status status = device_alloc(rig.device, size_t{3} << 30, "the KV cache", &more);
    EXPECT_EQ(status.code, STATUS_NO_MEMORY);
    EXPECT_STREQ(status.message, "the KV cache needs 3 GiB of device memory, and 2 GiB of 12 GiB are left: short by "
                                 "1 GiB; raise device_memory");
    must(device_alloc(rig.device, size_t{2} << 30, "the KV cache", &more));
    const auto low = reinterpret_cast<uintptr_t>(layers), high = reinterpret_cast<uintptr_t>(more);
    EXPECT_TRUE(low + (size_t{10} << 30) <= high || high + (size_t{2} << 30) <= low); // ranges do not meet
    device_free(rig.device, layers);
    EXPECT_EQ(device_info(rig.device).device_used, uint64_t{2} << 30);
    device_free(rig.device, more);

    uint8_t *host = rig.host<uint8_t>(size_t{64} << 30); // more than this machine has
    host[0] = 1;
    host[(size_t{64} << 30) - 1] = 2;
    EXPECT_EQ(host[0] + host[(size_t{64} << 30) - 1], 3);
    EXPECT_EQ(host[size_t{32} << 30], 0);
    EXPECT_EQ(device_info(rig.device).host_used, uint64_t{64} << 30);
    EXPECT_LT(resident_bytes(), before + (size_t{32} << 20));
}

TEST(SimMemory, PacksToTheBytesOfTheCpuDevice) {
    SimRig rig;
    struct device_config config = {};
    config.name = "cpu";
    config.threads = 1;
    struct device *cpu = nullptr;
    must(device_open(&config, &cpu));
    for (int type = 0; type < TENSOR_TYPES; type++) {
        for (uint32_t rows : {1u, 16u, 17u, 576u, 49152u}) {
            for (uint32_t columns : {256u, 1536u}) {
                EXPECT_EQ(device_packed_bytes(rig.device, static_cast<enum tensor_type>(type), rows, columns),
                          device_packed_bytes(cpu, static_cast<enum tensor_type>(type), rows, columns));
            }
        }
    }
    device_close(cpu);
}

TEST(SimMemory, SmallCopiesMoveBytesAndLargeOnesDoNot) {
    SimRig rig;
    struct stream *stream = rig.stream(STREAM_COMPUTE), *copy = rig.stream(STREAM_COPY);
    const size_t size = SIM_MOVED_BYTES + 1;
    uint8_t *in = rig.host<uint8_t>(size), *out = rig.host<uint8_t>(size), *device = rig.memory<uint8_t>(2 * size);
    for (size_t i = 0; i < size; i++) {
        in[i] = static_cast<uint8_t>(i * 7 + 1);
    }
    stream_copy(stream, device, in, SIM_MOVED_BYTES, COPY_HOST_TO_DEVICE);
    stream_copy(stream, device + size, device, SIM_MOVED_BYTES, COPY_DEVICE_TO_DEVICE);
    stream_copy(stream, out, device + size, SIM_MOVED_BYTES, COPY_DEVICE_TO_HOST);
    must(stream_sync(stream));
    EXPECT_EQ(memcmp(in, out, SIM_MOVED_BYTES), 0);
    struct link_count count = device_link_count(rig.device);
    EXPECT_EQ(count.host_to_device_bytes, SIM_MOVED_BYTES);
    EXPECT_EQ(count.device_to_host_bytes, SIM_MOVED_BYTES);
    EXPECT_EQ(count.host_to_device_copies + count.device_to_host_copies, 2u);
    const uint64_t begin = rig.now();
    memset(in, 0, size);
    stream_copy(stream, device, in, size, COPY_HOST_TO_DEVICE);
    must(stream_sync(stream));
    EXPECT_EQ(device[0], 1); // as it was
    EXPECT_EQ(rig.now() - begin, size);
    EXPECT_EQ(device_link_count(rig.device).host_to_device_bytes, SIM_MOVED_BYTES + size);
    stream_copy(copy, device, in, 1, COPY_HOST_TO_DEVICE);
    must(stream_sync(copy));
    EXPECT_EQ(device[0], 1); // nobody reads what copy streams carry
}

// ---- costs ----

// Every op with random shapes: the time it takes on the stream is the one that cost.h says.
TEST(SimCost, AStreamTakesWhatTheCostsSay) {
    for (const char *name : {"a10", "a100-40g", "a100-80g", "h100", "rtx4090", "gh200", "cpu"}) {
        const std::string path = std::string("configs/hardware/") + name + ".json";
        SimOptions options;
        options.hardware = path.c_str();
        SimRig rig(options);
        const struct cost_model *cost = sim_cost_model(rig.device);
        struct stream *stream = rig.stream(STREAM_COMPUTE);
        float *f = rig.memory<float>(16);
        uint32_t *ids = rig.memory<uint32_t>(16);
        struct random_state random;
        random_seed(&random, 5);
        uint64_t sum = 0;
        for (int i = 0; i < 200; i++) {
            const auto pick = [&](uint64_t bound) { return 1 + static_cast<uint32_t>(random_below(&random, bound)); };
            const uint32_t n = pick(2000), dim = 256 * pick(64), heads = 8 * pick(8), kv_heads = 8, pairs = 32;
            const auto type = static_cast<enum tensor_type>(random_below(&random, TENSOR_TYPES));
            const struct weight weight = {f, type, 16 * pick(1000), dim};
            struct matmul_part parts[3] = {};
            for (struct matmul_part &part : parts) {
                part = {weight, nullptr, f, weight.rows, random_below(&random, 2) == 0};
            }
            const struct kv_segment segments[] = {{1, 0, n, pick(3000), 0}, {2, n, 1, pick(3000), 1}};
            struct kv_batch batch = {};
            batch.shape = {2, kv_heads, 128, KV_F16};
            batch.segments = batch.segments_host = segments;
            batch.segment_count = 2;
            batch.rows = n + 1;
            batch.block_table = reinterpret_cast<const uint64_t *>(f);
            op_embed(stream, f, weight, ids, n);
            op_rmsnorm(stream, f, f, f, 0, n, dim);
            op_matmul(stream, parts, 3, f, dim, n);
            op_rope_angles(stream, f, ids, f, 1, n, pairs);
            op_rope(stream, f, heads * 128, f, ROPE_HALVES, n, heads, 128, pairs);
            op_kv_store(stream, &batch, 0, f, 1024, f, 1024);
            op_attention(stream, f, heads * 128, f, heads * 128, &batch, 0, heads, 1, 0);
            op_attention(stream, f, heads * 128, f, heads * 128, &batch, 1, heads, 1, 0); // known from the layer below
            const uint32_t window = pick(2000);
            op_attention(stream, f, heads * 128, f, heads * 128, &batch, 1, heads, 1, window);
            op_add_rows(stream, f, f, 8, ids, n, dim);
            op_scale(stream, f, 2, n, dim);
            op_rmsnorm_add(stream, f, f + 64, f, 0, n, dim);
            op_layernorm(stream, f, f, f, f, 0, n, dim);
            op_activate(stream, ACTIVATION_RELU, f, f, n, dim);
            op_gated(stream, ACTIVATION_SILU, f, f, f, n, dim);
            op_gather(stream, f, f, ids, n, dim);
            stream_copy(stream, f, f + 4, 16, COPY_DEVICE_TO_DEVICE);
            sum += cost_embed_ns(cost, type, dim, n) + cost_rmsnorm_ns(cost, n, dim);
            sum += cost_matmul_ns(cost, parts, 3, n) + cost_rope_angles_ns(cost, n, pairs);
            sum += cost_rope_ns(cost, n, heads, 128, pairs) + cost_kv_store_ns(cost, &batch.shape, n + 1);
            sum += 2 * cost_attention_ns(cost, &batch.shape, segments, 2, heads, 0);
            sum += cost_attention_ns(cost, &batch.shape, segments, 2, heads, window);
            sum += cost_add_rows_ns(cost, n, dim) + cost_rmsnorm_add_ns(cost, n, dim);
            sum += cost_rmsnorm_ns(cost, n, dim) + 2 * cost_activate_ns(cost, n, dim);
            sum += cost_gated_ns(cost, n, dim) + cost_gather_ns(cost, n, dim) + cost_device_copy_ns(cost, 16);
        }
        must(stream_sync(stream));
        EXPECT_EQ(rig.now(), sum) << name;
    }
}

TEST(SimCost, FollowsTheRoofline) {
    struct hardware hardware = {};
    const std::string text = round_hardware(0, 100);
    must(hardware_parse(text.data(), text.size(), &hardware));
    const struct cost_model fast = cost_model(&hardware, COMPUTE_INT8), exact = cost_model(&hardware, COMPUTE_F32);
    struct matmul_part part = {};
    part.weight = {nullptr, TENSOR_F16, 4096, 4096};
    // One row: 2 * 4096^2 bytes of weights and two rows of f32 at 1000 bytes a ns.
    EXPECT_EQ(cost_matmul_ns(&fast, &part, 1, 1), 100u + 33587u);
    // A thousand rows: 2 * 1000 * 4096^2 operations at 1e5 a ns.
    EXPECT_EQ(cost_matmul_ns(&fast, &part, 1, 1000), 100u + 335544u);
    EXPECT_EQ(cost_matmul_ns(&exact, &part, 1, 1000), 100u + 3355443u);
    part.weight.type = TENSOR_Q8_0;
    EXPECT_EQ(cost_matmul_ns(&fast, &part, 1, 1000), 100u + 167772u);
    EXPECT_EQ(cost_matmul_ns(&exact, &part, 1, 1000), 100u + 3355443u);

    // A matrix in slabs costs what it costs whole.
    struct matmul_part slabs[3] = {part, part, part};
    slabs[0].weight.rows = slabs[1].weight.rows = 1360; // whole groups of WEIGHT_ROW_GROUP
    slabs[2].weight.rows = 1376;
    for (uint32_t n : {1u, 7u, 1000u, 4001u}) {
        EXPECT_EQ(cost_matmul_ns(&fast, slabs, 3, n), cost_matmul_ns(&fast, &part, 1, n));
    }

    // Decoding: 2000 positions of 2 * 8 * 128 * 2 bytes, q and out of 32 * 128 * 4.
    const struct kv_shape kv = {1, 8, 128, KV_F16};
    const struct kv_segment decode = {1, 0, 1, 1999, 0};
    EXPECT_EQ(cost_attention_ns(&fast, &kv, &decode, 1, 32, 0), 100u + (2000u * 4096 + 32768) / 1000 + 1);
    // 128 rows from position 0 in two tiles, of 64 and 128 positions; 128 * 129 / 2 pairs.
    const struct kv_segment prefill = {1, 0, 128, 0, 0};
    EXPECT_EQ(cost_attention_ns(&fast, &kv, &prefill, 1, 32, 0), 100u + (192u * 4096 + 128u * 32768) / 1000 + 1);
    // A thousand tiles take time in proportion to their pairs.
    const struct kv_segment longer = {1, 0, 64000, 0, 0};
    const double pairs = 64000.0 * 64001 / 2;
    EXPECT_NEAR(static_cast<double>(cost_attention_ns(&fast, &kv, &longer, 1, 32, 0)), pairs * 4 * 4096 / 1e5, 1000);
    // A window: a tile reads from where its first row's begins. Counted row by row.
    for (uint32_t window : {1u, 63u, 64u, 100u, 1050u, 5000u}) {
        const struct kv_segment windowed = {1, 0, 200, 1000, 0};
        uint64_t positions = 0, seen = 0;
        for (uint32_t row = 0; row < 200; row++) {
            const uint32_t before = 1000 + row + 1 > window ? 1000 + row + 1 - window : 0;
            positions += row % 64 == 0 ? 1000 + std::min(row + 64, 200u) - before : 0;
            seen += 1000 + row + 1 - before;
        }
        const double bytes = static_cast<double>(positions) * 4096 + 200 * 32768;
        const double compute_ns = static_cast<double>(seen) * 4 * 4096 / 1e5;
        EXPECT_NEAR(static_cast<double>(cost_attention_ns(&fast, &kv, &windowed, 1, 32, window)),
                    100 + std::max(bytes / 1000, compute_ns), 1)
            << window;
    }
    EXPECT_EQ(cost_transfer_ns(1, 0), UINT64_MAX);
    EXPECT_EQ(cost_transfer_ns(0, 0), 0u);
    EXPECT_EQ(cost_copy_ns(SIZE_MAX, 1e-3, 5), UINT64_MAX);
}

// ---- tokens ----

// A batch on a prepared device, and the tokens that it gets.
class SimTokens : public testing::Test {
  protected:
    static constexpr uint32_t rows = 64, vocabulary = 49152;

    explicit SimTokens(uint64_t seed = 7) : rig(with_seed(seed)) {
        struct device_limits limits = {};
        limits.rows = rows;
        limits.columns = 64;
        limits.vocabulary = vocabulary;
        limits.logit_rows = rows;
        limits.sequences = rows;
        limits.context = 4096;
        must(device_prepare(rig.device, &limits));
        stream = rig.stream(STREAM_COMPUTE);
        logits = rig.memory<float>(size_t{rows} * vocabulary);
        ids = rig.memory<uint32_t>(rows);
        out = rig.memory<uint32_t>(rows);
        host = rig.host<uint32_t>(rows);
    }
    static SimOptions with_seed(uint64_t seed) {
        SimOptions options;
        options.seed = seed;
        return options;
    }
    void attend(const std::vector<struct kv_segment> &segments, uint32_t layer = 0) {
        batch_segments.push_back(segments); // stays where it is until the test ends
        struct kv_batch batch = {};
        batch.shape = {4, 1, 64, KV_F16};
        batch.segments = batch.segments_host = batch_segments.back().data();
        batch.segment_count = static_cast<uint32_t>(segments.size());
        for (const struct kv_segment &segment : segments) {
            batch.rows += segment.rows;
        }
        batch.block_table = reinterpret_cast<const uint64_t *>(logits);
        op_attention(stream, logits, 64, logits, 64, &batch, layer, 1, 1, 0);
    }
    void gather(const std::vector<uint32_t> &wanted) {
        std::copy(wanted.begin(), wanted.end(), host);
        stream_copy(stream, ids, host, wanted.size() * sizeof *ids, COPY_HOST_TO_DEVICE);
        op_gather(stream, logits, logits, ids, static_cast<uint32_t>(wanted.size()), 64);
    }
    std::vector<uint32_t> argmax(uint32_t n) {
        op_argmax(stream, out, logits, n, vocabulary);
        stream_copy(stream, host, out, n * sizeof *out, COPY_DEVICE_TO_HOST);
        must(stream_sync(stream));
        return std::vector<uint32_t>(host, host + n);
    }
    uint32_t expected(uint64_t sequence, uint32_t position, uint64_t seed = 7) const {
        return static_cast<uint32_t>(random_hash(random_hash(seed, sequence), position) % vocabulary);
    }

    SimRig rig;
    struct stream *stream;
    float *logits;
    uint32_t *ids, *out, *host;
    std::list<std::vector<struct kv_segment>> batch_segments;
};

using Tokens = std::vector<uint32_t>;

TEST_F(SimTokens, AreAHashOfSequenceAndPosition) {
    attend({{10, 0, 3, 0, 0}, {11, 3, 1, 77, 1}});
    EXPECT_EQ(argmax(4), Tokens({expected(10, 0), expected(10, 1), expected(10, 2), expected(11, 77)}));
    gather({2, 3});
    EXPECT_EQ(argmax(2), Tokens({expected(10, 2), expected(11, 77)}));
    gather({3, 0, 2}); // in any order
    EXPECT_EQ(argmax(3), Tokens({expected(11, 77), expected(10, 0), expected(10, 2)}));
    // The same rows in another batch get the same tokens.
    attend({{11, 0, 1, 77, 0}, {12, 1, 1, 5, 1}, {10, 2, 1, 2, 2}});
    EXPECT_EQ(argmax(3), Tokens({expected(11, 77), expected(12, 5), expected(10, 2)}));
    EXPECT_EQ(std::set<uint32_t>({expected(10, 0), expected(10, 1), expected(11, 0), expected(10, 0, 8)}).size(), 4u);
}

TEST_F(SimTokens, WithRowsGatheredBeforeTheLastAttention) {
    attend({{10, 0, 8, 16, 0}, {11, 8, 1, 77, 1}});
    gather({7, 8});
    attend({{10, 0, 1, 23, 0}, {11, 1, 1, 77, 1}}, 1); // the last layer runs the gathered rows alone
    EXPECT_EQ(argmax(2), Tokens({expected(10, 23), expected(11, 77)}));
}

static uint32_t largest(const float *row, uint32_t vocabulary) {
    return static_cast<uint32_t>(std::max_element(row, row + vocabulary) - row);
}

TEST_F(SimTokens, LogitsOnTheHostSayTheSame) {
    float *row = rig.host<float>(size_t{rows} * vocabulary);
    for (uint32_t round = 0; round < 3; round++) {
        attend({{10, 0, 40, round * 40, 0}, {round, 40, 20, 9, 1}});
        const Tokens tokens = argmax(60);
        // One row, which is a small copy; all of them, which is not.
        stream_copy(stream, row, logits + 3 * vocabulary, vocabulary * sizeof(float), COPY_DEVICE_TO_HOST);
        must(stream_sync(stream));
        EXPECT_EQ(largest(row, vocabulary), tokens[3]);
        stream_copy(stream, row, logits, 60 * vocabulary * sizeof(float), COPY_DEVICE_TO_HOST);
        must(stream_sync(stream));
        for (uint32_t i = 0; i < 60; i++) {
            const float *at = row + size_t{i} * vocabulary;
            EXPECT_EQ(largest(at, vocabulary), tokens[i]);
            EXPECT_EQ(at[tokens[i]], SIM_LOGIT);
            EXPECT_EQ(std::count(at, at + vocabulary, 0.0f), vocabulary - 1); // nothing is left of the round before
        }
    }
}

// Whatever is asked for, the token is the hash, unless changes make another the likeliest.
TEST_F(SimTokens, SampledAreTheSame) {
    const uint32_t n = 5;
    auto *wanted = rig.memory<struct sample_row>(n);
    auto *changes = rig.memory<struct sample_change>(2);
    auto *scores = rig.memory<struct sample_score>(2);
    attend({{10, 0, n, 0, 0}});
    for (uint32_t i = 0; i < n; i++) {
        wanted[i] = sample_plain_row();
    }
    wanted[1].inverse_temperature = 1, wanted[1].top_k = 40, wanted[1].score = 0, wanted[1].top = 3;
    wanted[2].change_count = 1, changes[0] = {expected(10, 2), -INFINITY, 0};
    wanted[3].target = expected(10, 3) == 9 ? 8 : 9, wanted[3].score = 1;
    wanted[4].change_first = 1, wanted[4].change_count = 1, changes[1] = {3, SIM_LOGIT + 1, 0};
    const struct sample_batch batch = {wanted, wanted, changes, scores, 0};
    must(stream_sync(stream));
    const uint64_t before = device_now_ns(rig.device);
    op_sample(stream, out, logits, &batch, n, vocabulary);
    must(stream_sync(stream));
    EXPECT_EQ(device_now_ns(rig.device) - before, cost_sample_ns(sim_cost_model(rig.device), wanted, n, vocabulary));
    const Tokens tokens(out, out + n);
    EXPECT_EQ(tokens, Tokens({expected(10, 0), expected(10, 1), expected(10, 2) == 0, wanted[3].target, 3}));
    EXPECT_EQ(sample_logprob(&scores[0], scores[0].logit), 0);
    EXPECT_EQ(scores[0].top_count, 3u);
    EXPECT_EQ(scores[0].top[0].token, expected(10, 1));
    EXPECT_EQ(sample_logprob(&scores[0], scores[0].top[2].logit), -SIM_LOGIT);
    EXPECT_EQ(sample_logprob(&scores[1], scores[1].logit), -SIM_LOGIT);
    EXPECT_EQ(largest(logits + 2 * vocabulary, vocabulary), expected(10, 2)); // logits are as they were
}

TEST_F(SimTokens, LogitsMayGoAway) {
    float *mine = nullptr;
    void *address = nullptr;
    must(device_alloc(rig.device, size_t{2} * vocabulary * sizeof(float), "logits", &address));
    mine = static_cast<float *>(address);
    op_argmax(stream, out, mine, 2, vocabulary); // before any attention: positions of sequence 0
    EXPECT_EQ(Tokens(out, out + 2), Tokens({expected(0, 0), expected(0, 1)}));
    device_free(rig.device, mine);
    attend({{10, 0, 1, 0, 0}});
    EXPECT_EQ(argmax(1), Tokens({expected(10, 0)})); // and does not touch what is gone
}

// ---- the log: the same calls and the same seed, the same bytes ----

// Random calls on several streams; returns the log and the last time.
static std::pair<std::string, uint64_t> random_run(uint64_t calls_seed, uint64_t seed, bool logged) {
    SimOptions options;
    options.latency_ns = 700;
    options.launch_ns = 50;
    options.enqueue_ns = calls_seed % 2 ? 30 : 0;
    options.jitter_ns = 5000;
    options.seed = seed;
    SimRig rig(options);
    char *text = nullptr;
    size_t bytes = 0;
    FILE *log = logged ? open_memstream(&text, &bytes) : nullptr;
    sim_set_log(rig.device, log);
    std::vector<struct stream *> compute, all;
    std::vector<struct event *> events;
    for (int i = 0; i < 2; i++) {
        compute.push_back(rig.stream(STREAM_COMPUTE));
        all.push_back(compute.back());
        all.push_back(rig.stream(STREAM_COPY));
    }
    for (int i = 0; i < 8; i++) {
        events.push_back(rig.event());
    }
    struct random_state random;
    random_seed(&random, calls_seed);
    const auto below = [&](uint64_t bound) { return random_below(&random, bound); };
    for (int i = 0; i < 6000; i++) {
        struct stream *stream = all[below(all.size())];
        struct event *event = events[below(events.size())];
        switch (below(40)) {
        case 0:
            must(event_sync(event));
            break;
        case 1:
            event_query(event);
            break;
        case 2:
            device_sleep_until_ns(rig.device, rig.now() + below(20000));
            break;
        case 3:
            if (below(20) == 0) {
                must(stream_sync(stream));
            }
            break;
        case 4:
            device_set_link(rig.device, 1e8 * static_cast<double>(1 + below(20)));
            break;
        default:
            switch (below(5)) {
            case 0:
                rig.copy(stream, 1 + below(30000), below(2) ? COPY_HOST_TO_DEVICE : COPY_DEVICE_TO_HOST);
                break;
            case 1:
                event_record(event, stream);
                break;
            case 2:
                stream_wait(stream, event);
                break;
            default:
                rig.busy(compute[below(2)], 100 + below(20000));
            }
        }
    }
    for (struct stream *stream : all) {
        must(stream_sync(stream));
    }
    sim_set_log(rig.device, nullptr);
    std::pair<std::string, uint64_t> result("", rig.now());
    if (log) {
        fclose(log);
        result.first.assign(text, bytes);
        free(text);
    }
    return result;
}

TEST(SimLog, TheSameSeedMakesTheSameBytes) {
    for (uint64_t calls = 1; calls <= 6; calls++) {
        const auto first = random_run(calls, 42, true), second = random_run(calls, 42, true);
        EXPECT_GT(first.first.size(), 100000u);
        EXPECT_TRUE(first.first == second.first) << "calls " << calls;
        EXPECT_EQ(random_run(calls, 42, false).second, first.second) << "the log changed the times; calls " << calls;
        EXPECT_FALSE(random_run(calls, 43, true).first == first.first); // another jitter
    }
}

TEST(SimLog, HasALineForEachThing) {
    SimOptions options;
    options.latency_ns = 10;
    SimRig rig(options);
    struct stream *compute = rig.stream(STREAM_COMPUTE), *copies = rig.stream(STREAM_COPY);
    struct event *event = rig.event();
    rig.copy(copies, 1); // makes the rig's memory
    rig.busy(compute, 12);
    must(stream_sync(copies));
    device_sleep_until_ns(rig.device, 1000);
    char *text = nullptr;
    size_t bytes = 0;
    FILE *log = open_memstream(&text, &bytes);
    sim_set_log(rig.device, log);
    rig.copy(copies, 500);
    event_record(event, copies);
    stream_wait(compute, event);
    rig.busy(compute, 60);
    rig.busy(compute, 40);
    must(stream_sync(compute));
    fclose(log);
    sim_set_log(rig.device, nullptr);
    EXPECT_STREQ(text, "1000 1510 1 copy_to_device 500\n"
                       "1510 1510 1 record 0\n"
                       "12 1510 0 wait 0\n"
                       "1510 1570 0 gated 0\n"
                       "1570 1610 0 gated 0\n"
                       "1000 1610 - wait 0\n");
    free(text);
}

// ---- a run of millions of iterations ----

// A decoder of 30 layers, 10 ops a layer, 15 of them streamed through 2 slots: what an iteration enqueues.
class Decoder {
  public:
    explicit Decoder(SimRig &rig) : rig_(rig) {
        compute_ = rig.stream(STREAM_COMPUTE);
        copies_ = rig.stream(STREAM_COPY);
        for (int i = 0; i < 2; i++) {
            arrived_[i] = rig.event();
            released_[i] = rig.event();
        }
        ended_ = rig.event();
        f_ = rig.memory<float>(16);
        slots_ = rig.memory<char>(16 << 20);
        layers_ = rig.host<char>(16 << 20);
        for (uint32_t i = 0; i < batch; i++) {
            segments_[i] = {i, i, 1, 500, i};
        }
        batch_.shape = {30, 3, 64, KV_F16};
        batch_.segments = batch_.segments_host = segments_;
        batch_.segment_count = batch_.rows = batch;
        batch_.block_table = reinterpret_cast<const uint64_t *>(f_);
    }
    void iterate() {
        for (uint32_t layer = 0; layer < 30; layer++) {
            const bool offloaded = layer % 2 == 1;
            if (offloaded) {
                stream_wait(copies_, released_[slot_]);
                stream_copy(copies_, slots_, layers_, 4 << 20, COPY_HOST_TO_DEVICE);
                event_record(arrived_[slot_], copies_);
                stream_wait(compute_, arrived_[slot_]);
            }
            run(layer);
            if (offloaded) {
                event_record(released_[slot_], compute_);
                slot_ ^= 1;
            }
        }
        event_record(ended_, compute_);
        must(event_sync(ended_));
    }

  private:
    static constexpr uint32_t batch = 64;

    void run(uint32_t layer) {
        const struct weight square = {f_, TENSOR_Q4_1, 576, 576}, wide = {f_, TENSOR_Q4_1, 1536, 576},
                            down = {f_, TENSOR_Q4_1, 576, 1536};
        const struct matmul_part qkv[] = {
            {square, nullptr, f_, 576, false}, {square, nullptr, f_, 576, false}, {square, nullptr, f_, 576, false}};
        const struct matmul_part up[] = {{wide, nullptr, f_, 1536, false}, {wide, nullptr, f_, 1536, false}};
        const struct matmul_part last = {down, nullptr, f_, 576, true};
        op_rmsnorm(compute_, f_, f_, f_, 0, batch, 576);
        op_matmul(compute_, qkv, 3, f_, 576, batch);
        op_rope(compute_, f_, 576, f_, ROPE_HALVES, batch, 9, 64, 32);
        op_kv_store(compute_, &batch_, layer, f_, 192, f_, 192);
        op_attention(compute_, f_, 576, f_, 576, &batch_, layer, 9, 1, 0);
        op_matmul(compute_, qkv, 1, f_, 576, batch);
        op_rmsnorm(compute_, f_, f_, f_, 0, batch, 576);
        op_matmul(compute_, up, 2, f_, 576, batch);
        op_gated(compute_, ACTIVATION_SILU, f_, f_, f_, batch, 1536);
        op_matmul(compute_, &last, 1, f_, 1536, batch);
    }

    SimRig &rig_;
    struct stream *compute_, *copies_;
    struct event *arrived_[2], *released_[2], *ended_;
    float *f_;
    char *slots_, *layers_;
    struct kv_segment segments_[batch];
    struct kv_batch batch_ = {};
    uint32_t slot_ = 0;
};

// METRONOME_TEST_ITERATIONS=1000000 for the whole million.
TEST(SimSpeed, IterationsAreCheapAndAllocateNothing) {
    SimOptions options;
    options.hardware = "configs/hardware/a10.json";
    SimRig rig(options);
    Decoder decoder(rig);
    for (int i = 0; i < 100; i++) {
        decoder.iterate();
    }
    const char *asked = getenv("METRONOME_TEST_ITERATIONS");
#ifdef SANITIZED
    const long iterations = asked ? atol(asked) : 2000;
#else
    const long iterations = asked ? atol(asked) : 50000;
    const uint64_t allocations_before = allocations;
#endif
    const uint64_t begin_ns = rig.now();
    const clock_t begin = clock();
    for (long i = 0; i < iterations; i++) {
        decoder.iterate();
    }
    const double seconds = static_cast<double>(clock() - begin) / CLOCKS_PER_SEC;
    const auto virtual_ns = static_cast<double>(rig.now() - begin_ns);
    printf("%ld iterations of 30 layers x 10 ops, 15 layers streamed: %.2f s of CPU, %.1f us each; %.1f virtual s\n",
           iterations, seconds, seconds / static_cast<double>(iterations) * 1e6, virtual_ns * 1e-9);
    EXPECT_GT(virtual_ns, static_cast<double>(iterations) * 1e6);
#ifndef SANITIZED
    EXPECT_EQ(allocations, allocations_before);
    EXPECT_LT(seconds / static_cast<double>(iterations), 100e-6);
#endif
}
