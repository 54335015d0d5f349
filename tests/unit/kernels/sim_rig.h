// What the tests on the sim device share: a device of round figures, so that times can be worked out by hand.
#ifndef METRONOME_TESTS_KERNELS_SIM_RIG_H
#define METRONOME_TESTS_KERNELS_SIM_RIG_H

extern "C" {
#include "base/random.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/sim/cost.h"
#include "kernels/sim/hardware.h"
#include "kernels/sim/sim.h"
}
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

// The text of a description: 1 byte a ns of link and 1000 of memory, latency and launch as given.
inline std::string round_hardware(uint64_t latency_ns, uint64_t launch_ns, uint64_t enqueue_ns = 0) {
    std::ostringstream text;
    text << R"({"name": "round", "bus": "test", "device_memory_bytes": 17179869184, "memory_bytes_per_s": 1e12,
        "f16_flops_per_s": 1e14, "int8_ops_per_s": 2e14, "f32_flops_per_s": 1e13, "compute_efficiency": 1,
        "bandwidth_efficiency": 1, "link_nominal_bytes_per_s": 1e9, "link_bytes_per_s": 1e9, "peer_bytes_per_s": 2e9,
        "peer_latency_ns": 5, "op_launch_ns": )"
         << launch_ns << R"(, "host_enqueue_ns": )" << enqueue_ns << R"(, "link_latency_ns": )" << latency_ns
         << R"(, "sources": {"all": "round figures of a test"}})";
    return text.str();
}

inline void must(const struct status &status) {
    if (status.code != STATUS_OK) {
        throw std::runtime_error(status.message);
    }
}

// A file that is there as long as this object is.
class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string &text) {
        char name[] = "/tmp/metronome-test-XXXXXX";
        int file = mkstemp(name);
        if (file < 0 || write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
            throw std::runtime_error("cannot write a temporary file");
        }
        close(file);
        path_ = name;
    }
    ~TemporaryFile() {
        unlink(path_.c_str());
    }
    TemporaryFile(const TemporaryFile &) = delete;
    TemporaryFile &operator=(const TemporaryFile &) = delete;
    const char *path() const {
        return path_.c_str();
    }

  private:
    std::string path_;
};

struct SimOptions {
    uint64_t latency_ns = 0, launch_ns = 0, enqueue_ns = 0, jitter_ns = 0, seed = 1, device_memory = 0;
    uint32_t ranks = 1;
    const char *hardware = nullptr; // a description to use instead of the round one
};

// An open sim device, and whatever was made on it, taken down in order.
class SimRig {
  public:
    explicit SimRig(const SimOptions &options = SimOptions()) {
        TemporaryFile description(round_hardware(options.latency_ns, options.launch_ns, options.enqueue_ns));
        struct device_config config = {};
        config.name = "sim";
        config.hardware = options.hardware ? options.hardware : description.path();
        config.seed = options.seed;
        config.ranks = options.ranks;
        config.copy_jitter_ns = options.jitter_ns;
        config.device_memory = options.device_memory;
        must(device_open(&config, &device));
    }
    ~SimRig() {
        for (struct stream *stream : streams_) {
            stream_destroy(stream);
        }
        for (struct event *event : events_) {
            event_destroy(event);
        }
        for (void *address : device_memory_) {
            device_free(device, address);
        }
        for (void *address : host_memory_) {
            device_free_host(device, address);
        }
        device_close(device);
    }
    SimRig(const SimRig &) = delete;
    SimRig &operator=(const SimRig &) = delete;

    struct stream *stream(enum stream_kind kind) {
        struct stream *stream = nullptr;
        must(stream_create(device, kind, &stream));
        streams_.push_back(stream);
        return stream;
    }
    struct event *event() {
        struct event *event = nullptr;
        must(event_create(device, &event));
        events_.push_back(event);
        return event;
    }
    template <typename T> T *memory(size_t count) {
        void *address = nullptr;
        must(device_alloc(device, count * sizeof(T), "test", &address));
        device_memory_.push_back(address);
        return static_cast<T *>(address);
    }
    template <typename T> T *host(size_t count) {
        void *address = nullptr;
        must(device_alloc_host(device, count * sizeof(T), "test", &address));
        host_memory_.push_back(address);
        return static_cast<T *>(address);
    }

    // Puts an op of exactly `ns` > launch on a compute stream: memory moves 1000 bytes a ns, gated 12 an element.
    // The elements are not looked at.
    void busy(struct stream *stream, uint64_t ns) {
        const uint64_t work = ns - sim_cost_model(device)->launch_ns;
        if (!scratch_) {
            scratch_ = memory<float>(16);
        }
        op_gated(stream, ACTIVATION_SILU, scratch_, scratch_, scratch_, 1, static_cast<uint32_t>(work * 1000 / 12));
        // 12 does not divide 1000: the cost rounds to the nearest nanosecond, and that is the one asked for.
    }
    // Puts `bytes` (moved in as many ns) on a stream.
    void copy(struct stream *stream, size_t bytes, enum copy_kind kind = COPY_HOST_TO_DEVICE) {
        if (!target_) {
            target_ = memory<char>(size_t{1} << 33);
            source_ = host<char>(size_t{1} << 33);
        }
        const bool back = kind == COPY_DEVICE_TO_HOST;
        stream_copy(stream, back ? source_ : target_, back ? target_ : source_, bytes, kind);
    }
    uint64_t now() const {
        return device_now_ns(device);
    }

    struct device *device = nullptr;

  private:
    std::vector<struct stream *> streams_;
    std::vector<struct event *> events_;
    std::vector<void *> device_memory_, host_memory_;
    float *scratch_ = nullptr;
    char *target_ = nullptr, *source_ = nullptr;
};

#endif
