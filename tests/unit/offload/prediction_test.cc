// The real pipeline on the sim device against plan_predict(): the steady iteration takes what the recurrence says, to
// the nanosecond, for every policy's kind of plan, ring and prefetch rule.
extern "C" {
#include "base/random.h"
#include "kernels/ops.h"
#include "offload/arena.h"
#include "offload/pipeline.h"
#include "offload/plan.h"
}
#include <algorithm>
#include <gtest/gtest.h>
#include <vector>

namespace {

void check(struct status status) {
    ASSERT_EQ(status.code, STATUS_OK) << status.message;
}

class Prediction : public ::testing::Test {
  protected:
    void SetUp() override {
        struct device_config config = {};
        config.name = "sim";
        config.hardware = "configs/hardware/a10.json";
        check(device_open(&config, &device_));
        struct device_limits limits = {64, 1 << 20, 32, 1, 1, 1, 1, 8, 64};
        check(device_prepare(device_, &limits));
        check(device_alloc(device_, 64 << 20, "operands", &operand_));
    }
    void TearDown() override {
        device_free(device_, operand_);
        device_close(device_);
    }
    // A "layer" of a given weight in time: one op whose cost the device knows.
    void compute(struct stream *stream, uint32_t size) {
        op_gated(stream, ACTIVATION_SILU, (float *)operand_, (float *)operand_, (float *)operand_, 1, size);
    }
    uint64_t cost(uint32_t size) {
        struct stream *stream;
        struct event *a, *b;
        check(stream_create(device_, STREAM_COMPUTE, &stream));
        check(event_create(device_, &a));
        check(event_create(device_, &b));
        event_record(a, stream);
        compute(stream, size);
        event_record(b, stream);
        check(event_sync(b));
        uint64_t ns = event_time_ns(b) - event_time_ns(a);
        event_destroy(a);
        event_destroy(b);
        stream_destroy(stream);
        return ns;
    }
    struct device *device_ = nullptr;
    void *operand_ = nullptr;
};

TEST_F(Prediction, SteadyIterationsTakeWhatThePlanSays) {
    struct random_state random;
    random_seed(&random, 12);
    for (int round = 0; round < 300; round++) {
        uint32_t layers = 1 + (uint32_t)random_below(&random, 40), slabs = 1 + (uint32_t)random_below(&random, 4);
        uint32_t size = 1000 + (uint32_t)random_below(&random, 1000000);
        size_t slab_bytes = 64 * (1 + random_below(&random, 1 << (4 + random_below(&random, 15))));
        struct plan_load load = {};
        load.layers = layers;
        load.slabs = slabs;
        load.slab_bytes = slab_bytes;
        load.layer_ns = cost(size);
        load.after_ns = cost(size / 2);
        struct plan plan;
        uint32_t count = (uint32_t)random_below(&random, layers * slabs + 1);
        uint32_t groups = random_below(&random, 2) ? (uint32_t)random_below(&random, 4) : 0;
        plan_even(&load, count, slabs + groups + (uint32_t)random_below(&random, 4), &plan);
        load.kv_copies = groups; // of KV, each as large as a slab
        std::fill_n(load.kv_bytes, groups, slab_bytes);
        plan.prefetch_layers = (uint32_t)random_below(&random, layers < 3 ? layers + 1 : 4);
        // The link as the device has it: a copy of one slab alone.
        size_t slots = (size_t)layers * slabs + plan.staging + 1;
        void *host;
        check(device_alloc_host(device_, slots * slab_bytes, "slabs", &host));
        struct arena arena;
        check(arena_create(device_, slots * slab_bytes, slab_bytes, slab_bytes, (uint32_t)slots, &arena));
        struct pipeline_shape shape = {layers, slabs, plan.staging, 64, layers * size_t(64)};
        struct pipeline *pipeline;
        check(pipeline_create(device_, &shape, &arena, (const uint8_t *)host, plan.streamed, &pipeline));
        pipeline_set_prefetch(pipeline, plan.prefetch_layers);
        const struct pipeline_group group = {(const uint8_t *)host, (uint32_t)(slab_bytes / 64), 1};
        const std::vector<struct pipeline_group> kv(groups, group);
        pipeline_set_groups(pipeline, kv.data(), groups);
        struct stream *stream;
        struct event *begun, *ended;
        check(stream_create(device_, STREAM_COMPUTE, &stream));
        check(event_create(device_, &begun));
        check(event_create(device_, &ended));
        {
            struct stream *copy = pipeline_copy_stream(pipeline);
            event_record(begun, copy);
            stream_copy(copy, arena_slot_address(&arena, 0), host, slab_bytes, COPY_HOST_TO_DEVICE);
            event_record(ended, copy);
            check(event_sync(ended));
            load.copy_ns = event_time_ns(ended) - event_time_ns(begun) - 1;
            load.link_bytes_per_s = (uint64_t)1e9 * slab_bytes; // so that bytes / rate is the nanosecond left out
        }
        struct plan_prediction want = plan_predict(&load, &plan);
        uint64_t last = 0, took = 0;
        for (uint32_t i = 0; i < want.iterations + 8; i++) {
            pipeline_begin(pipeline, stream);
            for (uint32_t layer = 0; layer < layers; layer++) {
                pipeline_acquire(pipeline, stream, layer);
                compute(stream, size);
                pipeline_release(pipeline, stream, layer);
            }
            compute(stream, size / 2);
            event_record(ended, stream);
            check(event_sync(ended));
            took = event_time_ns(ended) - last;
            last = event_time_ns(ended);
        }
        EXPECT_EQ(took, want.iteration_ns)
            << "L " << layers << " u " << slabs << " K " << count << " s " << plan.staging << " p "
            << plan.prefetch_layers << " kv " << groups << " c " << load.layer_ns << " copy " << load.copy_ns;
        event_destroy(begun);
        event_destroy(ended);
        stream_destroy(stream);
        pipeline_destroy(pipeline);
        arena_destroy(&arena);
        device_free_host(device_, host);
    }
}

} // namespace
