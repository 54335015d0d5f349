// The machine that is emulated, the failures that tests inject, and the count of what ran.
//
// By default: one GPU of compute capability 8.0 with the shared memory of the smallest GPU that is built for, so that
// what runs here fits all of them. Threads: any; one lock.
#include "tests/cuemu/internal.h"

#include "tests/cuemu/include/cuemu.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

namespace {

constexpr int SHARED_BYTES = 48 << 10;        // without asking
constexpr int SHARED_BYTES_OPT_IN = 99 << 10; // sm_86 and sm_89: the least

using Shape = std::tuple<unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t>;

struct KernelCount {
    std::set<Shape> shapes;
    uint64_t launches = 0, threads = 0;
};

constexpr int NO_DEVICE = -1, ANY_DEVICE = -2;

struct Injection {
    unsigned skip;
    cudaError_t error;
};

struct State {
    std::mutex lock;
    struct cuemu_machine machine = {13000, 1, 80, UINT64_C(8) << 30, false, 0, false, false};
    std::map<std::string, Injection> injections;
    std::map<std::string, uint64_t> calls;  // of the runtime's functions
    int failing_device = NO_DEVICE;         // whose next kernel fails
    cudaError_t kernel_error = cudaSuccess; // what a failing kernel breaks its device with
    std::map<int, cudaError_t> broken;      // devices
    std::set<std::pair<int, int>> peers;    // (device, whose memory it may access)
    uint64_t seed = 0;
    uint32_t delay_us = 0;
    std::map<const void *, KernelCount> kernels;
    std::map<std::pair<int, const void *>, int> shared_limits; // of kernels, on each GPU
};

uint64_t number_from(const char *variable) {
    const char *text = getenv(variable);
    return text ? strtoull(text, nullptr, 10) : 0;
}

void write_report();

State &state() {
    static State *only = [] {
        auto *s = new State; // never destroyed: streams' threads may outlive static objects
        s->seed = number_from("CUEMU_SEED");
        s->delay_us = static_cast<uint32_t>(number_from("CUEMU_DELAY_US"));
        s->machine.devices = getenv("CUEMU_DEVICES") ? static_cast<int>(number_from("CUEMU_DEVICES")) : 1;
        s->machine.apart = getenv("CUEMU_PEERS") && number_from("CUEMU_PEERS") == 0;
        if (getenv("CUEMU_REPORT")) {
            atexit(write_report);
        }
        return s;
    }();
    return *only;
}

// One line for each kernel: launches, shapes, threads, name.
void write_report() {
    FILE *file = fopen(getenv("CUEMU_REPORT"), "a");
    if (!file) {
        return;
    }
    std::lock_guard<std::mutex> hold(state().lock);
    for (const auto &[kernel, count] : state().kernels) {
        fprintf(file, "%llu\t%zu\t%llu\t%s\n", static_cast<unsigned long long>(count.launches), count.shapes.size(),
                static_cast<unsigned long long>(count.threads), cuemu::function_name(kernel).c_str());
    }
    fclose(file);
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local int chosen_device = 0;

struct Name {
    cudaError_t error;
    const char *name, *text;
};

const Name NAMES[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorSystemDriverMismatch, "cudaErrorSystemDriverMismatch",
     "system has unsupported display driver / cuda driver combination"},
};

const Name &name_of(cudaError_t error) {
    for (const Name &name : NAMES) {
        if (name.error == error) {
            return name;
        }
    }
    static const Name unknown = {cudaSuccess, "cudaErrorUnknown", "unknown error"};
    return unknown;
}

} // namespace

namespace cuemu {

cudaError_t enter(const char *call) {
    State &s = state();
    std::lock_guard<std::mutex> hold(s.lock);
    s.calls[call]++;
    auto injection = s.injections.find(call);
    if (injection != s.injections.end() && injection->second.skip-- == 0) {
        cudaError_t error = injection->second.error;
        s.injections.erase(injection);
        return error;
    }
    if (s.machine.driver_version < CUDART_VERSION / 1000 * 1000) {
        return cudaErrorInsufficientDriver;
    }
    auto broken = s.broken.find(chosen_device);
    return s.machine.devices == 0 ? cudaErrorNoDevice : broken == s.broken.end() ? cudaSuccess : broken->second;
}

int current_device() {
    return chosen_device;
}

void be_device(int device) {
    chosen_device = device;
}

bool may_access(int device) {
    std::lock_guard<std::mutex> hold(state().lock);
    return device == chosen_device || state().peers.count({chosen_device, device}) > 0;
}

cudaError_t keep(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) {
        last_error = error;
    }
    return error;
}

bool take_kernel_failure(int device) {
    std::lock_guard<std::mutex> hold(state().lock);
    const bool fails = state().failing_device == device || state().failing_device == ANY_DEVICE;
    state().failing_device = fails ? NO_DEVICE : state().failing_device;
    return fails;
}

void break_device() {
    std::lock_guard<std::mutex> hold(state().lock);
    state().broken[chosen_device] = state().kernel_error;
}

bool device_broken() {
    std::lock_guard<std::mutex> hold(state().lock);
    return state().broken.count(chosen_device) > 0;
}

uint64_t seed() {
    std::lock_guard<std::mutex> hold(state().lock);
    return state().seed;
}

uint32_t delay_us() {
    std::lock_guard<std::mutex> hold(state().lock);
    return state().delay_us;
}

void count_launch(const Launch &launch) {
    std::lock_guard<std::mutex> hold(state().lock);
    dim3 grid = launch.grid, block = launch.block;
    KernelCount &count = state().kernels[launch.kernel];
    count.launches++;
    count.threads += static_cast<uint64_t>(grid.x) * grid.y * grid.z * block.x * block.y * block.z;
    count.shapes.insert({grid.x, grid.y, grid.z, block.x, block.y, block.z, launch.shared_bytes});
}

cudaError_t set_shared_limit(const void *kernel, int bytes) {
    cudaError_t error = enter("cudaFuncSetAttribute");
    if (error != cudaSuccess || bytes > SHARED_BYTES_OPT_IN) {
        return keep(error != cudaSuccess ? error : cudaErrorInvalidValue);
    }
    std::lock_guard<std::mutex> hold(state().lock);
    state().shared_limits[{chosen_device, kernel}] = bytes;
    return cudaSuccess;
}

size_t shared_limit(const void *kernel) {
    std::lock_guard<std::mutex> hold(state().lock);
    auto limit = state().shared_limits.find({chosen_device, kernel});
    return static_cast<size_t>(limit == state().shared_limits.end() ? SHARED_BYTES : limit->second);
}

} // namespace cuemu

// ---- what tests ask for ----

struct cuemu_machine cuemu_machine(void) {
    std::lock_guard<std::mutex> hold(state().lock);
    return state().machine;
}

void cuemu_set_machine(struct cuemu_machine machine) {
    std::lock_guard<std::mutex> hold(state().lock);
    state().machine = machine;
}

void cuemu_fail_call(const char *call, unsigned skip, cudaError_t error) {
    std::lock_guard<std::mutex> hold(state().lock);
    state().injections[call] = {skip, error};
}

void cuemu_fail_kernel(cudaError_t error) {
    cuemu_fail_kernel_of(ANY_DEVICE, error);
}

void cuemu_fail_kernel_of(int device, cudaError_t error) {
    std::lock_guard<std::mutex> hold(state().lock);
    state().failing_device = device;
    state().kernel_error = error;
}

void cuemu_recover(void) {
    std::lock_guard<std::mutex> hold(state().lock);
    state().broken.clear();
    state().failing_device = NO_DEVICE;
    state().injections.clear();
    last_error = cudaSuccess;
}

void cuemu_set_seed(uint64_t seed) {
    std::lock_guard<std::mutex> hold(state().lock);
    state().seed = seed;
}

void cuemu_set_delay_us(uint32_t most_us) {
    std::lock_guard<std::mutex> hold(state().lock);
    state().delay_us = most_us;
}

struct cuemu_count cuemu_count(void) {
    std::lock_guard<std::mutex> hold(state().lock);
    struct cuemu_count total = {};
    for (const auto &[kernel, count] : state().kernels) {
        total.kernels++;
        total.shapes += count.shapes.size();
        total.launches += count.launches;
        total.threads += count.threads;
    }
    return total;
}

uint64_t cuemu_calls(const char *call) {
    std::lock_guard<std::mutex> hold(state().lock);
    uint64_t total = 0;
    for (const auto &[name, count] : state().calls) {
        total += !name.empty() && (!call || name == call) ? count : 0;
    }
    return total;
}

// ---- CUDA's questions about errors and the device ----

const char *cudaGetErrorName(cudaError_t error) {
    return name_of(error).name;
}

const char *cudaGetErrorString(cudaError_t error) {
    return name_of(error).text;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    return last_error;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = cuemu_machine().driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    cudaError_t error = cuemu::enter("cudaGetDeviceCount");
    *count = error == cudaSuccess ? cuemu_machine().devices : 0;
    return cuemu::keep(error);
}

// A GPU that has failed can be left, and come back to with its error.
cudaError_t cudaSetDevice(int device) {
    const int before = chosen_device;
    const bool exists = device >= 0 && device < cuemu_machine().devices;
    chosen_device = exists ? device : before;
    const cudaError_t error = cuemu::enter("cudaSetDevice");
    if (error != cudaSuccess && !cuemu::device_broken()) {
        chosen_device = before;
    }
    return cuemu::keep(error != cudaSuccess ? error : exists ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    cudaError_t error = cuemu::enter("cudaDeviceCanAccessPeer");
    const struct cuemu_machine machine = cuemu_machine();
    const bool exist = device >= 0 && peer >= 0 && device < machine.devices && peer < machine.devices;
    *can = exist && device != peer && !machine.apart;
    return cuemu::keep(error != cudaSuccess ? error : exist ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    int can = 0;
    cudaError_t error = cuemu::enter("cudaDeviceEnablePeerAccess");
    if (error == cudaSuccess) {
        error = cudaDeviceCanAccessPeer(&can, chosen_device, peer);
    }
    if (error != cudaSuccess || !can || flags != 0) {
        return cuemu::keep(error != cudaSuccess ? error : cudaErrorInvalidDevice);
    }
    std::lock_guard<std::mutex> hold(state().lock);
    const bool first = state().peers.insert({chosen_device, peer}).second;
    return cuemu::keep(first ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int bytes, int device) {
    cudaError_t error = cuemu::enter("cudaDeviceGetPCIBusId");
    if (error == cudaSuccess) {
        snprintf(id, static_cast<size_t>(bytes), "FFFF:%02X:00.0", static_cast<unsigned>(device)); // a slot nobody has
    }
    return cuemu::keep(error);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int) {
    cudaError_t error = cuemu::enter("cudaGetDeviceProperties");
    if (error == cudaSuccess) {
        struct cuemu_machine machine = cuemu_machine();
        *properties = {};
        snprintf(properties->name, sizeof properties->name, "emulated GPU");
        properties->totalGlobalMem = machine.memory_bytes;
        properties->sharedMemPerBlockOptin = SHARED_BYTES_OPT_IN;
        properties->major = machine.capability / 10;
        properties->minor = machine.capability % 10;
        properties->multiProcessorCount = 4;
    }
    return cuemu::keep(error);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
        return error;
    }
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = SHARED_BYTES;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = SHARED_BYTES_OPT_IN;
        break;
    default:
        return cuemu::keep(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cuemu::keep(cuemu::enter("cudaDeviceGetStreamPriorityRange"));
}
