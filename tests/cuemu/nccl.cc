// The emulator's NCCL: sums over GPUs, on their streams, that wait for each other as NCCL's kernels do.
//
// As on a ring, each part of the buffer is added up beginning with another rank. A group that does not have every rank
// of its communicator is refused, where NCCL would wait for ever. It stands in for kernels/cuda/nccl_load.c. Threads: a
// group is one thread's; a sum runs on its streams'.
extern "C" {
#include "kernels/cuda/nccl.h"
}

#include "tests/cuemu/include/cuemu.h"
#include "tests/cuemu/internal.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

namespace {

// One sum, shared by the streams that it runs on.
struct Sum {
    std::mutex lock;
    std::condition_variable changed;
    size_t arrived = 0, count;
    std::vector<float *> x;
    bool done = false, spoiled = false; // by a GPU that has failed

    void add_up() {
        const size_t ranks = x.size();
        for (size_t i = 0; i < count; i++) {
            const size_t first = i * ranks / count;
            float sum = x[first][i];
            for (size_t r = 1; r < ranks; r++) {
                sum += x[(first + r) % ranks][i];
            }
            for (float *own : x) {
                own[i] = sum;
            }
        }
    }
};

} // namespace

// What the communicators of one call of ncclCommInitAll() share.
struct Ring {
    std::mutex lock;
    bool aborted = false;
    size_t ranks;
    std::vector<std::weak_ptr<Sum>> waiting;
};

struct ncclComm {
    std::shared_ptr<Ring> ring;
    size_t rank;
    int device;
};

namespace {

struct Call {
    ncclComm_t comm;
    float *x;
    size_t count;
    cudaStream_t stream;
};

thread_local std::vector<Call> group;
thread_local bool grouped = false;

bool aborted(const std::shared_ptr<Ring> &ring) {
    std::lock_guard<std::mutex> hold(ring->lock);
    return ring->aborted;
}

void meet(const std::shared_ptr<Ring> &ring, const std::shared_ptr<Sum> &sum) {
    std::unique_lock<std::mutex> hold(sum->lock);
    sum->spoiled = sum->spoiled || cuemu::device_broken();
    if (++sum->arrived == sum->x.size()) {
        if (!sum->spoiled) {
            sum->add_up();
        }
        sum->done = true;
        sum->changed.notify_all();
    }
    sum->changed.wait(hold, [&] { return sum->done || aborted(ring); });
}

ncclResult_t init_all(ncclComm_t *comms, int count, const int *ordinals) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess) {
        return ncclUnhandledCudaError;
    }
    for (int i = 0; i < count; i++) {
        bool again = ordinals[i] >= devices;
        for (int j = 0; j < i; j++) {
            again = again || ordinals[i] == ordinals[j];
        }
        if (again) {
            return ncclInvalidUsage; // a GPU is one rank
        }
    }
    auto ring = std::make_shared<Ring>();
    ring->ranks = static_cast<size_t>(count);
    for (int i = 0; i < count; i++) {
        comms[i] = new ncclComm{ring, static_cast<size_t>(i), ordinals[i]};
    }
    return ncclSuccess;
}

ncclResult_t destroy(ncclComm_t comm) {
    delete comm;
    return ncclSuccess;
}

ncclResult_t abort_comm(ncclComm_t comm) {
    std::vector<std::weak_ptr<Sum>> waiting;
    {
        std::lock_guard<std::mutex> hold(comm->ring->lock);
        comm->ring->aborted = true;
        waiting.swap(comm->ring->waiting);
    }
    for (const auto &weak : waiting) {
        if (auto sum = weak.lock()) {
            std::lock_guard<std::mutex> hold(sum->lock);
            sum->changed.notify_all();
        }
    }
    delete comm;
    return ncclSuccess;
}

ncclResult_t group_start() {
    grouped = true;
    group.clear();
    return ncclSuccess;
}

ncclResult_t all_reduce(const void *source, void *target, size_t count, ncclDataType_t type, ncclRedOp_t op,
                        ncclComm_t comm, cudaStream_t stream) {
    if (cuemu::enter("ncclAllReduce") != cudaSuccess) {
        return ncclUnhandledCudaError;
    }
    const bool fits = cuemu::on_device(target, count * sizeof(float), comm->device);
    if (!grouped || type != ncclFloat32 || op != ncclSum || source != target || !fits) {
        return ncclInvalidArgument;
    }
    group.push_back({comm, static_cast<float *>(target), count, stream});
    return ncclSuccess;
}

ncclResult_t group_end() {
    grouped = false;
    if (group.empty()) {
        return ncclSuccess;
    }
    const std::shared_ptr<Ring> ring = group[0].comm->ring;
    auto sum = std::make_shared<Sum>();
    sum->count = group[0].count;
    sum->x.resize(ring->ranks);
    for (const Call &call : group) {
        if (call.comm->ring != ring || call.count != sum->count || sum->x[call.comm->rank] ||
            cuemu::device_of(call.stream) != call.comm->device) {
            return ncclInvalidUsage;
        }
        sum->x[call.comm->rank] = call.x;
    }
    if (group.size() != ring->ranks) {
        return ncclInvalidUsage;
    }
    {
        std::lock_guard<std::mutex> hold(ring->lock);
        ring->waiting.push_back(sum);
        if (ring->waiting.size() > 4096) {
            ring->waiting.erase(ring->waiting.begin(), ring->waiting.begin() + 2048);
        }
    }
    for (const Call &call : group) {
        cuemu::enqueue(call.stream, [ring, sum] { meet(ring, sum); });
    }
    return ncclSuccess;
}

const char *error_string(ncclResult_t result) {
    return result == ncclSuccess              ? "no error"
           : result == ncclUnhandledCudaError ? "unhandled cuda error (run with NCCL_DEBUG=INFO for details)"
           : result == ncclInvalidUsage       ? "invalid usage (run with NCCL_DEBUG=WARN for details)"
                                              : "invalid argument (run with NCCL_DEBUG=WARN for details)";
}

} // namespace

struct status nccl_load(struct nccl *out) {
    if (cuemu::enter("dlopen") != cudaSuccess) {
        return status_error(STATUS_DEVICE,
                            "sums over GPUs take NCCL here: libnccl.so.2: cannot open shared object file");
    }
    *out = {init_all, destroy, abort_comm, group_start, group_end, all_reduce, error_string};
    struct status status = {};
    return status;
}
