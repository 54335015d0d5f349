// What the tests of kernels/ share: every device that can be opened here, buffers on it with poison and guard zones,
// and how far a result is from its reference. Only for tests.
#ifndef METRONOME_TESTS_UNIT_KERNELS_KERNEL_TEST_H
#define METRONOME_TESTS_UNIT_KERNELS_KERNEL_TEST_H

extern "C" {
#include "base/clock.h"
#include "base/random.h"
#include "kernels/device.h"
#include "kernels/ops.h"
}
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

// Times and heaps mean little under a sanitizer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#define ASSERT_OK(expression)                          \
    do {                                               \
        struct status ok_ = (expression);              \
        ASSERT_EQ(ok_.code, STATUS_OK) << ok_.message; \
    } while (0)
#define EXPECT_OK(expression)                          \
    do {                                               \
        struct status ok_ = (expression);              \
        EXPECT_EQ(ok_.code, STATUS_OK) << ok_.message; \
    } while (0)

// One way to open a device.
struct Setting {
    const char *device;
    const char *isa;
    uint32_t threads;
    enum compute_mode compute;

    bool same_device(const Setting &other) const {
        return strcmp(device, other.device) == 0;
    }
    std::string name() const {
        return std::string(device) + "/" + isa + "/" + std::to_string(threads) +
               (compute == COMPUTE_F32 ? "/f32" : "/int8");
    }
};

inline struct device_config config_of(const Setting &setting) {
    struct device_config config = {};
    config.name = setting.device;
    config.isa = setting.isa;
    config.threads = setting.threads;
    config.compute = setting.compute;
    config.invariant = true; // bits are compared
    return config;
}

inline bool can_open(const Setting &setting) {
    struct device_config config = config_of(setting);
    struct device *device;
    bool opens = device_open(&config, &device).code == STATUS_OK;
    if (opens) {
        device_close(device);
    }
    return opens;
}

// Every setting of the cpu device that this machine can run: each instruction set, one thread and two; two alone where
// it is threads that are looked at.
inline std::vector<Setting> cpu_settings(enum compute_mode compute = COMPUTE_INT8) {
#ifdef __SANITIZE_THREAD__
    const uint32_t fewest = 2;
#else
    const uint32_t fewest = 1;
#endif
    std::vector<Setting> settings;
    for (const char *isa : {"scalar", "avx2", "avx512"}) {
        for (uint32_t threads = fewest; threads <= 2; threads++) {
            Setting setting = {"cpu", isa, threads, compute};
            if (can_open(setting)) {
                settings.push_back(setting);
            }
        }
    }
    return settings;
}

// Every setting of every device present, device after device: cuda where it is built and there is a GPU or the
// emulator. METRONOME_TEST_DEVICE narrows it to one. Bits are the same on one device, not from device to device.
inline std::vector<Setting> every_setting(enum compute_mode compute = COMPUTE_INT8) {
    std::vector<Setting> settings = cpu_settings(compute);
    Setting cuda = {"cuda", "auto", 1, compute};
    if (can_open(cuda)) {
        settings.push_back(cuda);
    }
    if (const char *only = getenv("METRONOME_TEST_DEVICE")) {
        settings.erase(std::remove_if(settings.begin(), settings.end(),
                                      [&](const Setting &setting) { return strcmp(setting.device, only) != 0; }),
                       settings.end());
    }
    return settings;
}

inline struct device_config cpu_config() {
    struct device_config config = {};
    config.name = "cpu";
    config.threads = 2;
    config.invariant = true; // for tests that put another device in its place
    return config;
}

// A device, and what the tests make on it; everything is destroyed in the right order.
class Device {
  public:
    struct device *device = nullptr;

    explicit Device(const struct device_config &config = cpu_config()) {
        struct status status = device_open(&config, &device);
        if (status.code != STATUS_OK) {
            ADD_FAILURE() << status.message;
            abort();
        }
    }
    ~Device() {
        for (struct stream *stream : streams) {
            stream_destroy(stream);
        }
        for (struct event *event : events) {
            event_destroy(event);
        }
        for (void *buffer : buffers) {
            device_free(device, buffer);
        }
        device_close(device);
    }
    struct stream *stream(enum stream_kind kind = STREAM_COPY) {
        struct stream *stream;
        EXPECT_OK(stream_create(device, kind, &stream));
        streams.push_back(stream);
        return stream;
    }
    struct event *event() {
        struct event *event;
        EXPECT_OK(event_create(device, &event));
        events.push_back(event);
        return event;
    }
    // Zeroed, on the device.
    template <typename T> T *alloc(size_t count) {
        void *address;
        EXPECT_OK(device_alloc(device, count * sizeof(T), "a test's buffer", &address));
        buffers.push_back(address);
        memset(address, 0, count * sizeof(T));
        return static_cast<T *>(address);
    }

  private:
    std::vector<struct stream *> streams;
    std::vector<struct event *> events;
    std::vector<void *> buffers;
};

// A device with one compute stream, for ops.
class Bench {
  public:
    struct device *device = nullptr;
    struct stream *stream = nullptr;

    explicit Bench(const struct device_config &config) {
        struct status status = device_open(&config, &device);
        if (status.code == STATUS_OK) {
            status = stream_create(device, STREAM_COMPUTE, &stream);
        }
        if (status.code != STATUS_OK) {
            ADD_FAILURE() << status.message;
            abort();
        }
    }
    explicit Bench(const Setting &setting) : Bench(config_of(setting)) {
    }
    ~Bench() {
        stream_destroy(stream);
        device_close(device);
    }
    Bench(const Bench &) = delete;
    Bench &operator=(const Bench &) = delete;
};

// `count` values on a device between two guard zones. All of it is 0xff at first: NaN to every float, and no index.
template <typename T> class Buffer {
  public:
    Buffer(Bench &on, size_t values) : bench(on), count(values), image(2 * GUARD + values * sizeof(T), 0xff) {
        struct status status = device_alloc(bench.device, image.size(), "a test's buffer", &base);
        if (status.code != STATUS_OK) {
            ADD_FAILURE() << status.message;
            abort();
        }
        push();
    }
    Buffer(Bench &on, const std::vector<T> &values) : Buffer(on, values.size()) {
        if (count > 0) {
            memcpy(image.data() + GUARD, values.data(), count * sizeof(T));
            push();
        }
    }
    ~Buffer() {
        pull();
        for (size_t i = 0; i < GUARD; i++) {
            if (image[i] != 0xff || image[GUARD + count * sizeof(T) + i] != 0xff) {
                ADD_FAILURE() << "an op wrote outside its output, at byte " << i << " of a guard zone";
                break;
            }
        }
        device_free(bench.device, base);
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    // The device address, 64-byte aligned.
    T *at() const {
        return reinterpret_cast<T *>(static_cast<char *>(base) + GUARD);
    }
    // What the device has now, all enqueued work done.
    std::vector<T> read() {
        pull();
        std::vector<T> values(count);
        if (count > 0) {
            memcpy(values.data(), image.data() + GUARD, count * sizeof(T));
        }
        return values;
    }

  private:
    static constexpr size_t GUARD = 256;
    Bench &bench;
    size_t count;
    std::vector<unsigned char> image;
    void *base = nullptr;

    void push() {
        stream_copy(bench.stream, base, image.data(), image.size(), COPY_HOST_TO_DEVICE);
        EXPECT_OK(stream_sync(bench.stream));
    }
    void pull() {
        stream_copy(bench.stream, image.data(), base, image.size(), COPY_DEVICE_TO_HOST);
        EXPECT_OK(stream_sync(bench.stream));
    }
};

// Seeded numbers; the seed is printed with every failure by the tests that use it.
class Random {
  public:
    explicit Random(uint64_t seed) {
        random_seed(&state, seed);
    }
    uint32_t below(uint32_t bound) {
        return (uint32_t)random_below(&state, bound);
    }
    uint32_t pick(std::initializer_list<uint32_t> values) {
        return values.begin()[below((uint32_t)values.size())];
    }
    // Roughly normal, standard deviation `scale`.
    float normal(float scale = 1) {
        double sum = -6;
        for (int i = 0; i < 12; i++) {
            sum += random_unit(&state);
        }
        return (float)sum * scale;
    }
    std::vector<float> normals(size_t count, float scale = 1) {
        std::vector<float> values(count);
        for (float &value : values) {
            value = normal(scale);
        }
        return values;
    }

  private:
    struct random_state state;
};

// ||a - b|| / ||b||; infinite if anything that ought to be finite is not.
inline double relative_error(const std::vector<float> &a, const std::vector<float> &b) {
    if (a.size() != b.size()) {
        return INFINITY;
    }
    double difference = 0, norm = 0;
    for (size_t i = 0; i < a.size(); i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    if (std::isnan(difference) || std::isinf(difference)) {
        return INFINITY;
    }
    return norm > 0 ? std::sqrt(difference / norm) : difference > 0 ? INFINITY : 0;
}

// Equal bit by bit, or where they first are not.
inline ::testing::AssertionResult same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    if (a.size() != b.size()) {
        return ::testing::AssertionFailure() << a.size() << " values against " << b.size();
    }
    for (size_t i = 0; i < a.size(); i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) != 0) {
            return ::testing::AssertionFailure() << "value " << i << " is " << a[i] << " and " << b[i];
        }
    }
    return ::testing::AssertionSuccess();
}

#endif
