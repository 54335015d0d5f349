// What the tests of the cpu device's ops share: an open device with one stream, and memory with guard zones.
#ifndef METRONOME_TESTS_KERNELS_CPU_RIG_H
#define METRONOME_TESTS_KERNELS_CPU_RIG_H

extern "C" {
#include "base/random.h"
#include "kernels/device.h"
#include "kernels/ops.h"
}
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <stdexcept>
#include <string>
#include <vector>

// The instruction sets that can run here; "scalar" always can.
inline std::vector<std::string> instruction_sets() {
    std::vector<std::string> usable;
    for (const char *isa : {"scalar", "avx2", "avx512"}) {
        struct device_config config = {};
        config.name = "cpu";
        config.isa = isa;
        config.threads = 1;
        struct device *device = nullptr;
        if (device_open(&config, &device).code == STATUS_OK) {
            usable.push_back(isa);
        }
        device_close(device);
    }
    return usable;
}

// An open, prepared cpu device with one compute stream.
class Rig {
  public:
    Rig(const std::string &isa, enum compute_mode compute, uint32_t threads, const struct device_limits &limits) {
        struct device_config config = {};
        config.name = "cpu";
        config.isa = isa.c_str();
        config.threads = threads;
        config.compute = compute;
        must(device_open(&config, &device));
        must(device_prepare(device, &limits));
        must(stream_create(device, STREAM_COMPUTE, &stream));
    }
    ~Rig() {
        stream_destroy(stream);
        device_close(device);
    }
    Rig(const Rig &) = delete;
    Rig &operator=(const Rig &) = delete;

    void sync() {
        must(stream_sync(stream));
    }
    static void must(const struct status &status) {
        if (status.code != STATUS_OK) {
            throw std::runtime_error(status.message);
        }
    }

    struct device *device = nullptr;
    struct stream *stream = nullptr;
};

// Device memory on the cpu device; the host may read and write it.
template <typename T> class Buffer {
  public:
    Buffer(Rig &rig, size_t count) : rig_(rig), count_(count) {
        void *address = nullptr;
        Rig::must(device_alloc(rig.device, (count + 1) * sizeof(T), "test", &address));
        data_ = static_cast<T *>(address);
        memset(static_cast<void *>(data_), 0xff, count * sizeof(T)); // NaN for every float type
    }
    Buffer(Rig &rig, const std::vector<T> &values) : Buffer(rig, values.size()) {
        std::copy(values.begin(), values.end(), data_);
    }
    ~Buffer() {
        device_free(rig_.device, data_);
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    T *data() {
        return data_;
    }
    T &operator[](size_t i) {
        return data_[i];
    }
    size_t size() const {
        return count_;
    }
    std::vector<T> values() const {
        return std::vector<T>(data_, data_ + count_);
    }

  private:
    Rig &rig_;
    T *data_;
    size_t count_;
};

inline std::vector<float> random_floats(struct random_state *random, size_t count, double scale = 1) {
    std::vector<float> values(count);
    for (float &value : values) {
        value = static_cast<float>((random_unit(random) * 2 - 1) * scale);
    }
    return values;
}

// ||a - b|| / ||b||; infinite if a holds what is not a number.
inline double relative_error(const std::vector<float> &a, const std::vector<double> &b) {
    double difference = 0, size = 1e-60;
    for (size_t i = 0; i < b.size(); i++) {
        if (!std::isfinite(a[i])) {
            return INFINITY;
        }
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return std::sqrt(difference / size);
}

inline bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline bool is_poison(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits == UINT32_MAX;
}

#endif
