// offload/pipeline on the cpu device: every slab that a layer is given holds that slab's bytes, for every shape of the
// ring, while copies are delayed at random and placements change. Under the thread sanitizer a missing wait is a race
// between the copy thread and the compute thread.
extern "C" {
#include "base/random.h"
#include "kernels/ops.h"
#include "offload/arena.h"
#include "offload/pipeline.h"
}
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

namespace {

const size_t SLAB_BYTES = 64, KV_BYTES = 16; // a slab; a layer's part of a KV block: a slot holds up to four

void check(struct status status) {
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
}

uint64_t pattern(uint32_t layer, uint32_t slab) {
    return random_hash(layer + 1, slab + 1);
}

// K of `total` spread as evenly as Bresenham spreads a line, in layers of `slabs`.
std::vector<uint8_t> spread(uint32_t layers, uint32_t slabs, uint32_t count) {
    std::vector<uint8_t> streamed(layers);
    for (uint32_t layer = 0; layer < layers; layer++) {
        streamed[layer] = (uint8_t)((uint64_t)(layer + 1) * count / layers - (uint64_t)layer * count / layers);
        EXPECT_LE(streamed[layer], slabs);
    }
    return streamed;
}

class Bench {
  public:
    Bench(struct device *on, uint32_t layers, uint32_t slabs, uint32_t staging, const std::vector<uint8_t> &streamed)

        : device(on), shape{layers, slabs, staging, KV_BYTES, layers * KV_BYTES} {
        uint32_t total = layers * slabs;
        check(device_alloc_host(device, total * SLAB_BYTES, "slabs", &host));
        check(device_alloc(device, seen_words() * sizeof(uint64_t), "what was seen", &seen));
        check(device_alloc_host(device, seen_words() * sizeof(uint64_t), "the same, to look at", &seen_host));
        for (uint32_t i = 0; i < total; i++) {
            uint64_t value = pattern(i / slabs, i % slabs);
            memset((uint8_t *)host + i * SLAB_BYTES, 0, SLAB_BYTES);
            memcpy((uint8_t *)host + i * SLAB_BYTES, &value, sizeof value);
        }
        check(arena_create(device, (size_t)(total + staging) * SLAB_BYTES, SLAB_BYTES, SLAB_BYTES, total + staging,
                           &arena));
        check(pipeline_create(device, &shape, &arena, (const uint8_t *)host, streamed.data(), &pipeline));
        check(stream_create(device, STREAM_COMPUTE, &compute));
        const std::vector<uint8_t> poison(arena.bytes, 0xee);
        stream_copy(compute, arena.base, poison.data(), arena.bytes, COPY_HOST_TO_DEVICE);
        check(stream_sync(compute));
        for (uint32_t i = 0; i < total; i++) {
            uint32_t slot = pipeline_home(pipeline, i / slabs, i % slabs);
            if (slot != UINT32_MAX) {
                stream_copy(pipeline_copy_stream(pipeline), arena_slot_address(&arena, slot),
                            (uint8_t *)host + i * SLAB_BYTES, SLAB_BYTES, COPY_HOST_TO_DEVICE);
            }
        }
        check(stream_sync(pipeline_copy_stream(pipeline)));
    }
    ~Bench() {
        stream_destroy(compute);
        pipeline_destroy(pipeline);
        arena_destroy(&arena);
        device_free(device, seen);
        device_free_host(device, seen_host);
        device_free_host(device, host);
    }
    // A word for each slab, and then for each KV part that a layer may have.
    size_t seen_words() const {
        return (size_t)shape.layers * (shape.slabs + MOST_BLOCKS);
    }
    size_t kv_words(uint32_t layer) const {
        return (size_t)shape.layers * shape.slabs + (size_t)layer * MOST_BLOCKS;
    }
    // KV blocks that every layer streams from now on, in groups of so many; the first word of each layer's part is a
    // hash of its value, which is new in `changed` groups.
    void stream_kv(const std::vector<uint32_t> &counts, uint32_t changed) {
        std::vector<struct pipeline_group> now(counts.size());
        check(stream_sync(pipeline_copy_stream(pipeline))); // what is rewritten here is not being read
        kv.resize(counts.size());
        for (uint32_t i = 0; i < counts.size(); i++) {
            if (kv[i].empty() || kv[i].size() != counts[i] * shape.layers * KV_BYTES / 8 || i < changed) {
                kv[i].resize(counts[i] * shape.layers * KV_BYTES / 8);
                version++;
                for (uint64_t &word : kv[i]) {
                    word = random_hash(version, uint64_t(&word - kv[i].data()));
                }
                versions[i] = version;
            }
            now[i] = {(const uint8_t *)kv[i].data(), counts[i], versions[i]};
        }
        pipeline_set_groups(pipeline, now.data(), (uint32_t)now.size());
    }
    // One iteration: "compute" copies the first word of every slab and KV part aside; they must all be right.
    void iterate() {
        pipeline_begin(pipeline, compute);
        for (uint32_t layer = 0; layer < shape.layers; layer++) {
            const void *const *slabs = pipeline_acquire(pipeline, compute, layer);
            for (uint32_t slab = 0; slab < shape.slabs; slab++) {
                stream_copy(compute, (uint64_t *)seen + layer * shape.slabs + slab, slabs[slab], sizeof(uint64_t),
                            COPY_DEVICE_TO_DEVICE);
            }
            uint64_t *to = (uint64_t *)seen + kv_words(layer);
            for (uint32_t i = 0; i < kv.size(); i++) {
                for (uint32_t at = 0; at < kv[i].size() * 8; at += shape.kv_block_bytes, to++) {
                    uint64_t entry = kv_streamed_entry(i, at / shape.kv_block_bytes * KV_BYTES);
                    uint64_t address = kv_entry_address(pipeline_groups(pipeline), entry) + layer * KV_BYTES;
                    stream_copy(compute, to, (const void *)address, sizeof(uint64_t), COPY_DEVICE_TO_DEVICE);
                }
            }
            pipeline_release(pipeline, compute, layer);
        }
        stream_copy(compute, seen_host, seen, seen_words() * sizeof(uint64_t), COPY_DEVICE_TO_HOST);
        check(stream_sync(compute));
        for (uint32_t layer = 0; layer < shape.layers; layer++) {
            const uint64_t *from = (const uint64_t *)seen_host + kv_words(layer);
            for (const std::vector<uint64_t> &group : kv) {
                for (size_t at = layer * KV_BYTES / 8; at < group.size(); at += shape.kv_block_bytes / 8) {
                    ASSERT_EQ(*from++, group[at]) << "KV of layer " << layer << " of " << shape.layers;
                }
            }
        }
        for (uint32_t i = 0; i < shape.layers * shape.slabs; i++) {
            ASSERT_EQ(((uint64_t *)seen_host)[i], pattern(i / shape.slabs, i % shape.slabs))
                << "layer " << i / shape.slabs << " slab " << i % shape.slabs << " of " << shape.layers << " x "
                << shape.slabs << ", staging " << shape.staging;
        }
    }
    struct device *device;
    struct pipeline_shape shape;
    static const uint32_t MOST_BLOCKS = 16;
    void *host = nullptr, *seen = nullptr, *seen_host = nullptr;
    std::vector<std::vector<uint64_t>> kv; // of each group
    uint64_t versions[4] = {}, version = 0;
    struct arena arena = {};
    struct pipeline *pipeline = nullptr;
    struct stream *compute = nullptr;
};

class Pipeline : public ::testing::Test {
  protected:
    void open(uint64_t jitter_ns) {
        struct device_config config = {};
        const char *chosen = getenv("METRONOME_TEST_DEVICE");
        config.name = chosen ? chosen : "cpu";
        config.threads = 1;
        config.copy_jitter_ns = strcmp(config.name, "cpu") == 0 ? jitter_ns : 0; // a GPU's copies take their own time
        config.seed = 5;
        check(device_open(&config, &device));
    }
    ~Pipeline() override {
        device_close(device);
    }
    struct device *device = nullptr;
};

// The ring-slot rule for every (L, K, s): also where K is no multiple of s and the ring does not end with the
// iteration.
TEST_F(Pipeline, EveryRingShape) {
    open(0);
    uint32_t step = SANITIZED ? 5 : 1;
    for (uint32_t layers = 1; layers <= 48; layers += step) {
        for (uint32_t count = 1; count <= layers; count += step) {
            for (uint32_t staging = 1; staging <= 4; staging++) {
                Bench bench(device, layers, 1, staging, spread(layers, 1, count));
                for (int i = 0; i < 3; i++) {
                    bench.iterate();
                    ASSERT_FALSE(HasFatalFailure());
                }
                struct pipeline_times times;
                pipeline_times(bench.pipeline, nullptr, &times);
                // Three iterations' slabs, and at most a ring's worth sent ahead for the fourth.
                ASSERT_GE(times.copies, 3 * count);
                ASSERT_LE(times.copies, 3 * count + staging);
                ASSERT_EQ(times.copied_bytes, times.copies * SLAB_BYTES);
            }
        }
    }
}

TEST_F(Pipeline, DelayedCopies) {
    open(200000);
    struct random_state random;
    random_seed(&random, 3);
    for (int round = 0; round < (SANITIZED ? 20 : 60); round++) {
        uint32_t layers = 1 + (uint32_t)random_below(&random, 12), slabs = 1 + (uint32_t)random_below(&random, 4);
        std::vector<uint8_t> streamed(layers);
        uint8_t most = 0;
        for (uint8_t &count : streamed) {
            count = (uint8_t)random_below(&random, slabs + 1);
            most = std::max(most, count);
        }
        Bench bench(device, layers, slabs, most + (uint32_t)random_below(&random, 4), streamed);
        pipeline_set_prefetch(bench.pipeline, (uint32_t)random_below(&random, 3));
        for (int i = 0; i < 3; i++) {
            bench.iterate();
            ASSERT_FALSE(HasFatalFailure());
        }
    }
}

TEST_F(Pipeline, PlacementsThatChangeEveryIteration) {
    open(20000);
    struct random_state random;
    random_seed(&random, 9);
    for (int round = 0; round < (SANITIZED ? 10 : 40); round++) {
        uint32_t layers = 1 + (uint32_t)random_below(&random, 10), slabs = 1 + (uint32_t)random_below(&random, 4);
        uint32_t longest = slabs + (uint32_t)random_below(&random, 4), staging = longest;
        std::vector<uint8_t> streamed(layers);
        Bench bench(device, layers, slabs, longest, streamed);
        for (int i = 0; i < 25; i++) {
            if (random_below(&random, 3) > 0) {
                if (random_below(&random, 3) == 0) { // the ring, too
                    staging = slabs + (uint32_t)random_below(&random, longest - slabs + 1);
                    pipeline_set_ring(bench.pipeline, staging);
                }
                for (uint8_t &count : streamed) {
                    count = (uint8_t)(random_below(&random, 2) ? random_below(&random, slabs + 1) : count);
                }
                pipeline_place(bench.pipeline, streamed.data());
                uint32_t end = pipeline_slots(bench.pipeline, streamed.data());
                for (uint32_t slab = 0; slab < layers * slabs; slab++) {
                    uint32_t home = pipeline_home(bench.pipeline, slab / slabs, slab % slabs);
                    bool stays = slab % slabs < slabs - streamed[slab / slabs];
                    ASSERT_EQ(home != UINT32_MAX, stays);
                    ASSERT_TRUE(!stays || (home >= staging && home < end));
                }
            }
            bench.iterate();
            ASSERT_FALSE(HasFatalFailure());
        }
    }
}

// Groups of KV pass behind the slabs of each layer; they come, go, grow and are rewritten while placements change.
TEST_F(Pipeline, GroupsOfKvBehindTheSlabs) {
    open(20000);
    struct random_state random;
    random_seed(&random, 10);
    for (int round = 0; round < (SANITIZED ? 6 : 16); round++) {
        uint32_t layers = 1 + (uint32_t)random_below(&random, 10), slabs = 1 + (uint32_t)random_below(&random, 3);
        std::vector<uint8_t> streamed(layers, (uint8_t)slabs);
        Bench bench(device, layers, slabs, slabs + 4 + (uint32_t)random_below(&random, 4), streamed);
        std::vector<uint32_t> counts;
        for (int i = 0; i < 20; i++) {
            if (random_below(&random, 4) == 0) {
                streamed[random_below(&random, layers)] = (uint8_t)random_below(&random, slabs + 1);
                pipeline_place(bench.pipeline, streamed.data());
            }
            if (random_below(&random, 2) == 0) {
                counts.resize(random_below(&random, 5));
                for (uint32_t &count : counts) {
                    count = random_below(&random, 2) || count == 0 ? 1 + (uint32_t)random_below(&random, 4) : count;
                }
                bench.stream_kv(counts, (uint32_t)random_below(&random, 3));
            }
            bench.iterate();
            ASSERT_FALSE(HasFatalFailure());
        }
        struct pipeline_times times;
        bench.stream_kv({4, 2}, 2);
        bench.iterate();
        bench.iterate();
        pipeline_times(bench.pipeline, nullptr, &times);
        bench.iterate();
        pipeline_times(bench.pipeline, nullptr, &times);
        uint32_t slabs_streamed = pipeline_slots(bench.pipeline, std::vector<uint8_t>(layers, 0).data()) -
                                  pipeline_slots(bench.pipeline, streamed.data());
        EXPECT_EQ(times.copies, slabs_streamed + 2 * layers) << "steady: one of each";
        EXPECT_EQ(times.copied_bytes, slabs_streamed * SLAB_BYTES + 6 * layers * KV_BYTES);
    }
}

// A change of one slab costs no more copies than the ring holds, beyond the new placement's own.
TEST_F(Pipeline, AChangeCostsAtMostOneRefill) {
    open(0);
    const uint32_t layers = 24, slabs = 4, staging = 6;
    std::vector<uint8_t> streamed(layers, 1);
    Bench bench(device, layers, slabs, staging, streamed);
    struct pipeline_times times;
    bench.iterate();
    bench.iterate();
    for (uint32_t layer = 0; layer < layers; layer++) {
        pipeline_times(bench.pipeline, nullptr, &times);
        streamed[layer]++;
        pipeline_place(bench.pipeline, streamed.data());
        bench.iterate();
        pipeline_times(bench.pipeline, nullptr, &times);
        ASSERT_LE(times.copies, layers + layer + 1 + staging);
    }
    for (uint32_t layer = 0; layer < layers; layer++) {
        streamed[layer]--;
        pipeline_place(bench.pipeline, streamed.data());
        bench.iterate();
        pipeline_times(bench.pipeline, nullptr, &times);
        // The slab that stays again came in place of being streamed: one copy, counted.
        ASSERT_LE(times.copies, layers + (layers - layer - 1) + 1 + staging);
    }
}

// What weights got of the link while something else of ours was on it is no sample of it.
TEST_F(Pipeline, CopiesBesideOthersAreNoSample) {
    open(0);
    std::vector<uint8_t> streamed(8, 1);
    Bench bench(device, 8, 2, 3, streamed);
    struct pipeline_times times;
    for (int i = 0; i < 3; i++) {
        uint64_t begin_ns = device_now_ns(device);
        bench.iterate();
        const struct pipeline_busy always = {0, UINT64_MAX}, before = {0, begin_ns - 1000000000};
        pipeline_times(bench.pipeline, i == 1 ? &always : i == 2 ? &before : nullptr, &times);
        EXPECT_GT(times.copies, 0u);
        EXPECT_EQ(times.sample_bytes > 0, i != 1);
        EXPECT_EQ(times.late_bytes > 0, i != 1);
    }
}

} // namespace
