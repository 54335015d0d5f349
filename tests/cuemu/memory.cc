// The emulator's memory: every allocation ends at a page that nobody may touch, and what lies around it is filled and
// checked after every kernel, so that an access outside is found where it happens or right after it.
//
// New device memory is filled with 0xff: NaN to every float, and no index. Threads: any; one lock.
#include "tests/cuemu/internal.h"

#include "tests/cuemu/include/cuemu.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr size_t PAGE = 4096;
constexpr size_t WALL = 1 << 20;  // of addresses without memory, on both sides
constexpr size_t ALIGNMENT = 256; // of cudaMalloc
constexpr unsigned char GUARD = 0xff;

// [wall][guard][bytes][guard, less than ALIGNMENT][wall]
struct Allocation {
    unsigned char *map;
    size_t map_bytes;
    unsigned char *begin;
    size_t bytes;
    bool device;
    int gpu; // whose it is, if `device`
};

struct Heap {
    std::mutex lock;
    std::map<uintptr_t, Allocation> allocations; // by address
    std::map<int, uint64_t> device_bytes;        // of each GPU
    std::map<void *, size_t> registered;         // pinned memory that the program allocated
};

Heap &heap() {
    static auto *only = new Heap; // never destroyed: threads may outlive static objects
    return *only;
}

const Allocation *find(Heap &h, const void *address) {
    auto next = h.allocations.upper_bound(reinterpret_cast<uintptr_t>(address));
    return next == h.allocations.begin() ? nullptr : &std::prev(next)->second;
}

// Says which allocation an illegal access was nearest to. Runs in a signal handler of a process that ends here.
void on_illegal_access(int number, siginfo_t *info, void *) {
    auto *address = static_cast<unsigned char *>(info->si_addr);
    signal(number, SIG_DFL);
    Heap &h = heap();
    for (const auto &[key, a] : h.allocations) {
        if (address >= a.map && address < a.map + a.map_bytes) {
            cuemu::fault("touches %p, %td bytes %s %zu bytes of %s memory at %p", static_cast<void *>(address),
                         address < a.begin ? a.begin - address : address - (a.begin + a.bytes),
                         address < a.begin ? "before" : "after the end of", a.bytes, a.device ? "device" : "pinned",
                         static_cast<void *>(a.begin));
        }
    }
    if (cuemu::current_thread) {
        cuemu::fault("touches %p, which is no device memory", static_cast<void *>(address));
    }
    raise(number);
}

void watch_accesses() {
    static const bool once = [] {
        struct sigaction action = {};
        action.sa_sigaction = on_illegal_access;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, nullptr);
        return true;
    }();
    (void)once;
}

cudaError_t allocate(void **out, size_t bytes, bool device) {
    Heap &h = heap();
    std::lock_guard<std::mutex> hold(h.lock);
    const int gpu = cuemu::current_device();
    if (device && bytes > cuemu_machine().memory_bytes - h.device_bytes[gpu]) {
        return cudaErrorMemoryAllocation;
    }
    size_t inner = (bytes + ALIGNMENT + PAGE - 1) / PAGE * PAGE, total = inner + 2 * WALL;
    void *map = total < bytes ? MAP_FAILED
                              : mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return cudaErrorMemoryAllocation;
    }
    auto *first = static_cast<unsigned char *>(map) + WALL;
    mprotect(first, inner, PROT_READ | PROT_WRITE);
    Allocation a = {
        static_cast<unsigned char *>(map), total, first + (inner - bytes) / ALIGNMENT * ALIGNMENT, bytes, device, gpu};
    if (device) {
        memset(first, GUARD, inner);
        h.device_bytes[gpu] += bytes;
    } else {
        memset(first, GUARD, static_cast<size_t>(a.begin - first));
        memset(a.begin + bytes, GUARD, static_cast<size_t>(first + inner - (a.begin + bytes)));
    }
    h.allocations[reinterpret_cast<uintptr_t>(a.begin)] = a;
    *out = a.begin;
    watch_accesses();
    return cudaSuccess;
}

void check(const Allocation &a, const char *kernel) {
    const unsigned char *first = a.map + WALL, *last = a.map + a.map_bytes - WALL;
    auto fail = [&](const unsigned char *at) {
        fprintf(stderr, "cuemu: %s: wrote %td bytes %s %zu bytes of %s memory at %p\n", kernel,
                at < a.begin ? a.begin - at : at - (a.begin + a.bytes), at < a.begin ? "before" : "after the end of",
                a.bytes, a.device ? "device" : "pinned", static_cast<const void *>(a.begin));
        abort();
    };
    for (const unsigned char *at = first; at < a.begin; at++) {
        if (*at != GUARD) {
            fail(at);
        }
    }
    for (const unsigned char *at = a.begin + a.bytes; at < last; at++) {
        if (*at != GUARD) {
            fail(at);
        }
    }
}

cudaError_t release(void *address, bool device) {
    if (!address) {
        return cudaSuccess;
    }
    Heap &h = heap();
    std::lock_guard<std::mutex> hold(h.lock);
    auto at = h.allocations.find(reinterpret_cast<uintptr_t>(address));
    if (at == h.allocations.end() || at->second.device != device) {
        return cudaErrorInvalidValue;
    }
    check(at->second, "host");
    h.device_bytes[at->second.gpu] -= device ? at->second.bytes : 0;
    munmap(at->second.map, at->second.map_bytes);
    h.allocations.erase(at);
    return cudaSuccess;
}

} // namespace

namespace cuemu {

void check_guards(const char *kernel) {
    Heap &h = heap();
    std::lock_guard<std::mutex> hold(h.lock);
    for (const auto &[key, allocation] : h.allocations) {
        check(allocation, kernel);
    }
}

bool on_device(const void *address, size_t bytes, int device) {
    Heap &h = heap();
    std::lock_guard<std::mutex> hold(h.lock);
    const Allocation *a = find(h, address);
    auto *at = static_cast<const unsigned char *>(address);
    return a && a->device && a->gpu == device && at >= a->begin && bytes <= a->bytes &&
           at - a->begin <= static_cast<ptrdiff_t>(a->bytes - bytes);
}

int gpu_of(const void *address) {
    Heap &h = heap();
    std::lock_guard<std::mutex> hold(h.lock);
    const Allocation *a = find(h, address);
    return a && a->device && static_cast<const unsigned char *>(address) < a->begin + a->bytes ? a->gpu : -1;
}

bool touches_device(const void *address, size_t bytes) {
    Heap &h = heap();
    std::lock_guard<std::mutex> hold(h.lock);
    auto *at = static_cast<const unsigned char *>(address);
    const Allocation *a = bytes > 0 ? find(h, at + bytes - 1) : nullptr;
    return a && a->device && at < a->begin + a->bytes && at + bytes > a->begin;
}

} // namespace cuemu

cudaError_t cudaMalloc(void **out, size_t bytes) {
    cudaError_t error = cuemu::enter("cudaMalloc");
    return cuemu::keep(error != cudaSuccess ? error : allocate(out, bytes, true));
}

cudaError_t cudaFree(void *address) {
    cudaError_t error = cuemu::enter("cudaFree");
    return cuemu::keep(error != cudaSuccess                     ? error
                       : cudaDeviceSynchronize() == cudaSuccess ? release(address, true)
                                                                : error);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    cudaError_t error = cuemu::enter("cudaHostAlloc");
    return cuemu::keep(error != cudaSuccess ? error : allocate(out, bytes, false));
}

cudaError_t cudaFreeHost(void *address) {
    cudaError_t error = cuemu::enter("cudaFreeHost");
    return cuemu::keep(error != cudaSuccess ? error : release(address, false));
}

cudaError_t cudaHostRegister(void *address, size_t bytes, unsigned) {
    cudaError_t error = cuemu::enter("cudaHostRegister");
    if (error == cudaSuccess) {
        Heap &h = heap();
        std::lock_guard<std::mutex> hold(h.lock);
        error = bytes == 0                                    ? cudaErrorInvalidValue
                : h.registered.emplace(address, bytes).second ? cudaSuccess
                                                              : cudaErrorHostMemoryAlreadyRegistered;
    }
    return cuemu::keep(error);
}

cudaError_t cudaHostUnregister(void *address) {
    cudaError_t error = cuemu::enter("cudaHostUnregister");
    if (error == cudaSuccess) {
        Heap &h = heap();
        std::lock_guard<std::mutex> hold(h.lock);
        error = h.registered.erase(address) > 0 ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
    }
    return cuemu::keep(error);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    cudaError_t error = cuemu::enter("cudaMemGetInfo");
    if (error == cudaSuccess) {
        Heap &h = heap();
        std::lock_guard<std::mutex> hold(h.lock);
        *total = cuemu_machine().memory_bytes;
        *free_bytes = *total - h.device_bytes[cuemu::current_device()];
    }
    return cuemu::keep(error);
}
