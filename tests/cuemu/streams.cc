// The emulator's streams: each a thread of the system with a queue, so that streams run beside each other as they do on
// a GPU and only events order them. Kernels run where their stream does; copies are checked and made there, too.
//
// An event is a point of a stream: its count of commands done. Recording it again changes nothing for a wait that was
// enqueued before. Threads: any; a stream's commands run on its own.
#include "tests/cuemu/internal.h"

#include "tests/cuemu/include/cuemu.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace {

uint64_t now_ns() {
    return static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
            .count());
}

// What of a stream outlives it: events and waits of other streams name points of it.
struct Timeline {
    std::mutex lock;
    std::condition_variable changed;
    uint64_t done = 0;

    bool past(uint64_t point) {
        std::lock_guard<std::mutex> hold(lock);
        return done >= point;
    }
    void wait(uint64_t point) {
        std::unique_lock<std::mutex> hold(lock);
        changed.wait(hold, [&] { return done >= point; });
    }
    void advance() {
        std::lock_guard<std::mutex> hold(lock);
        done++;
        changed.notify_all();
    }
};

} // namespace

struct cuemu_stream {
    int device = cuemu::current_device();
    std::shared_ptr<Timeline> timeline = std::make_shared<Timeline>();
    uint64_t enqueued = 0; // under `lock`
    std::mutex lock;
    std::condition_variable work;
    std::deque<std::function<void()>> queue;
    bool stopping = false;
    uint64_t random;
    std::thread thread;

    uint64_t enqueue(std::function<void()> command) {
        std::lock_guard<std::mutex> hold(lock);
        queue.push_back(std::move(command));
        work.notify_one();
        return ++enqueued;
    }
    void wait() {
        uint64_t point;
        {
            std::lock_guard<std::mutex> hold(lock);
            point = enqueued;
        }
        timeline->wait(point);
    }
    void run() {
        cuemu::be_device(device);
        for (;;) {
            std::function<void()> command;
            {
                std::unique_lock<std::mutex> hold(lock);
                work.wait(hold, [&] { return stopping || !queue.empty(); });
                if (queue.empty()) {
                    return;
                }
                command = std::move(queue.front());
                queue.pop_front();
            }
            if (uint32_t most = cuemu::delay_us()) {
                std::this_thread::sleep_for(std::chrono::microseconds(cuemu::draw(random) % (most + 1)));
            }
            command();
            timeline->advance();
        }
    }
};

struct cuemu_event {
    bool timed;
    int device = cuemu::current_device();
    std::mutex lock;
    std::shared_ptr<Timeline> timeline; // NULL: never recorded
    uint64_t point = 0;
    std::shared_ptr<uint64_t> time_ns; // of the latest record; written by its stream before the point is past
};

namespace {

struct Streams {
    std::mutex lock;
    std::set<cudaStream_t> all;
    uint64_t made = 0;
};

Streams &streams() {
    static auto *only = new Streams;
    return *only;
}

void synchronize_all() {
    std::set<cudaStream_t> all;
    {
        std::lock_guard<std::mutex> hold(streams().lock);
        all = streams().all;
    }
    for (cudaStream_t stream : all) {
        stream->wait();
    }
}

// What a call returns after waiting: the waiting may have brought a failure to light.
cudaError_t after(const char *call) {
    return cuemu::keep(cuemu::enter(call));
}

} // namespace

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int) {
    ENTER("cudaStreamCreateWithPriority");
    REFUSE_UNLESS(flags == cudaStreamNonBlocking, cudaErrorNotSupported); // the default stream is not emulated
    auto *stream = new cuemu_stream;
    std::lock_guard<std::mutex> hold(streams().lock);
    stream->random = cuemu::seed() ^ ++streams().made << 32;
    stream->thread = std::thread([stream] { stream->run(); });
    streams().all.insert(stream);
    *out = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    ENTER("cudaStreamDestroy");
    {
        std::lock_guard<std::mutex> hold(streams().lock);
        REFUSE_UNLESS(streams().all.erase(stream) == 1, cudaErrorInvalidResourceHandle);
    }
    {
        std::lock_guard<std::mutex> hold(stream->lock);
        stream->stopping = true;
        stream->work.notify_one();
    }
    stream->thread.join(); // what is enqueued is done first
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    ENTER("cudaStreamSynchronize");
    stream->wait();
    return after("");
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    ENTER("cudaStreamQuery");
    std::lock_guard<std::mutex> hold(stream->lock);
    return stream->timeline->past(stream->enqueued) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
    ENTER("cudaDeviceSynchronize");
    synchronize_all();
    return after("");
}

bool cuemu::can_copy(const void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind, int device) {
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return (to_device ? on_device(target, bytes, device) : !touches_device(target, bytes)) &&
           (from_device ? on_device(source, bytes, device) : !touches_device(source, bytes));
}

cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    ENTER("cudaMemcpyAsync");
    REFUSE_UNLESS(stream && cuemu::can_copy(target, source, bytes, kind, stream->device), cudaErrorInvalidValue);
    stream->enqueue([=] { memmove(target, source, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *target, size_t target_pitch, const void *source, size_t source_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    ENTER("cudaMemcpy2DAsync");
    REFUSE_UNLESS(stream && kind == cudaMemcpyHostToDevice && height > 0,
                  cudaErrorInvalidValue); /* none else is used */
    REFUSE_UNLESS(width <= target_pitch && width <= source_pitch, cudaErrorInvalidPitchValue);
    const size_t last = height - 1;
    REFUSE_UNLESS(cuemu::on_device(target, last * target_pitch + width, stream->device) &&
                      !cuemu::touches_device(source, last * source_pitch + width),
                  cudaErrorInvalidValue);
    stream->enqueue([=] {
        for (size_t row = 0; row < height; row++) {
            memcpy(static_cast<char *>(target) + row * target_pitch,
                   static_cast<const char *>(source) + row * source_pitch, width);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t stream) {
    ENTER("cudaMemsetAsync");
    REFUSE_UNLESS(stream && cuemu::on_device(target, bytes, stream->device), cudaErrorInvalidValue);
    stream->enqueue([=] { memset(target, value, bytes); });
    return cudaSuccess;
}

void cuemu::enqueue(cudaStream_t stream, std::function<void()> command) {
    stream->enqueue(std::move(command));
}

int cuemu::device_of(cudaStream_t stream) {
    return stream->device;
}

void cuemu::enqueue(cudaStream_t stream, Launch launch) {
    bool fails = take_kernel_failure(stream->device);
    count_launch(launch);
    uint64_t order = seed();
    stream->enqueue([launch = std::move(launch), fails, order] {
        if (fails) {
            break_device();
        } else if (!device_broken()) {
            run_grid(launch, order);
        }
    });
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    ENTER("cudaEventCreateWithFlags");
    *out = new cuemu_event;
    (*out)->timed = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    ENTER("cudaEventDestroy");
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    ENTER("cudaEventRecord");
    REFUSE_UNLESS(event && stream && event->device == stream->device, cudaErrorInvalidResourceHandle);
    cuemu::enqueue_record(stream, event);
    return cudaSuccess;
}

void cuemu::enqueue_record(cudaStream_t stream, cudaEvent_t event) {
    auto time_ns = std::make_shared<uint64_t>(0);
    std::lock_guard<std::mutex> hold(event->lock);
    event->time_ns = time_ns;
    event->timeline = stream->timeline;
    event->point = stream->enqueue([time_ns] { *time_ns = now_ns(); });
}

int cuemu::device_of(cudaEvent_t event) {
    return event->device;
}

namespace {

// The point of an event's latest record.
std::pair<std::shared_ptr<Timeline>, uint64_t> latest(cudaEvent_t event) {
    std::lock_guard<std::mutex> hold(event->lock);
    return {event->timeline, event->point};
}

} // namespace

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    ENTER("cudaStreamWaitEvent");
    stream->enqueue(cuemu::wait_for(event));
    return cudaSuccess;
}

std::function<void()> cuemu::wait_for(cudaEvent_t event) {
    auto [timeline, point] = latest(event);
    return [timeline = timeline, point = point] {
        if (timeline) {
            timeline->wait(point);
        }
    };
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    ENTER("cudaEventQuery");
    auto [timeline, point] = latest(event);
    if (!timeline || timeline->past(point)) {
        return cudaSuccess;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20)); // who asks in a loop leaves streams the processor
    return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    ENTER("cudaEventSynchronize");
    auto [timeline, point] = latest(event);
    if (timeline) {
        timeline->wait(point);
    }
    return after("");
}

// In milliseconds, to half a microsecond and to the 24 bits of a float, as the runtime has it.
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    ENTER("cudaEventElapsedTime");
    for (cudaEvent_t event : {start, end}) {
        auto [timeline, point] = latest(event);
        REFUSE_UNLESS(event->timed && timeline, cudaErrorInvalidResourceHandle);
        REFUSE_UNLESS(timeline->past(point), cudaErrorNotReady);
    }
    auto difference_ns = static_cast<int64_t>(*end->time_ns) - static_cast<int64_t>(*start->time_ns);
    *ms = static_cast<float>(static_cast<double>(difference_ns / 500) * 500e-6);
    return cudaSuccess;
}
