// Runs one block at a time, every CUDA thread a fiber: barriers and warp collectives switch fibers, so a block of any
// size is one thread of the system and every schedule can be repeated from its seed.
//
// Finds: a barrier that not all threads reach, a warp collective whose lanes do not agree, a shuffle from a lane that
// is not there, reads of shared memory that was not written (dynamic shared memory holds NaN at first), copies that are
// not waited for. Threads: each thread of the system that runs launches has fibers of its own.
#include "tests/cuemu/internal.h"

#include "tests/cuemu/include/cuemu.h"

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sys/mman.h>
#include <thread>
#include <vector>

#if !defined(__x86_64__)
#error "the emulator switches fibers in x86-64 assembly"
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace cuemu {

__thread Thread *current_thread;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t GUARD_BYTES = 4096;
constexpr unsigned MAX_THREADS = 1024;

enum class State : uint8_t { READY, AT_BARRIER, IN_COLLECTIVE, ENDED };

struct AsyncCopy {
    void *target;
    const void *source; // NULL: zeros
    size_t bytes;
    int group; // counts up; the one being gathered is `groups`
};

struct Fiber {
    Thread thread;
    State state;
    void *stack_pointer;
    char *stack;
    void *fake_stack; // the address sanitizer's
    std::vector<AsyncCopy> copies;
    int groups; // committed
};

// One meeting of lanes. Lanes that diverged may hold several at once, with masks that share no lane.
struct Meeting {
    uint32_t mask, arrived;
    Collective operation;
    void *arguments[32];
};

struct Warp {
    uint32_t alive;
    std::vector<Meeting> meetings;
};

// What one thread of the system runs blocks with.
struct Worker {
    Block block;
    Fiber fibers[MAX_THREADS];
    Warp warps[MAX_THREADS / 32];
    unsigned threads, alive, waiting, votes;
    unsigned paused; // in this round of ready threads: they wait for another GPU
    const std::function<void()> *body;
    const char *kernel;
    uint64_t random;
    void *main_stack_pointer;
    void *main_fake_stack;
    const void *main_stack;
    size_t main_stack_bytes;
    unsigned char *shared;
    size_t shared_bytes;

    ~Worker() {
        for (Fiber &fiber : fibers) {
            if (fiber.stack) {
                munmap(fiber.stack, STACK_BYTES);
            }
        }
        free(shared);
    }
};

thread_local std::unique_ptr<Worker> worker_owner;
__thread Worker *worker;

// ---- switching ----

// Saves the callee-saved registers and the stack pointer at *save, and goes on where `to` was saved.
extern "C" void cuemu_switch(void **save, void *to);
__asm__(".text\n"
        ".type cuemu_switch, @function\n"
        "cuemu_switch:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size cuemu_switch, . - cuemu_switch\n");

Fiber *fiber_of(Thread *thread) {
    return reinterpret_cast<Fiber *>(thread); // its first member
}

void to_main(Worker *w, Fiber *fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber->fake_stack, w->main_stack, w->main_stack_bytes);
#endif
    cuemu_switch(&fiber->stack_pointer, w->main_stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &w->main_stack, &w->main_stack_bytes);
#endif
}

void to_fiber(Worker *w, Fiber *fiber) {
    current_thread = &fiber->thread;
    threadIdx = fiber->thread.index;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&w->main_fake_stack, fiber->stack + GUARD_BYTES, STACK_BYTES - GUARD_BYTES);
#endif
    cuemu_switch(&w->main_stack_pointer, fiber->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(w->main_fake_stack, nullptr, nullptr);
#endif
    current_thread = nullptr;
}

void deliver(Fiber *fiber, int latest) {
    size_t kept = 0;
    for (const AsyncCopy &copy : fiber->copies) {
        if (copy.group >= fiber->groups - latest) {
            fiber->copies[kept++] = copy;
        } else if (copy.source) {
            memcpy(copy.target, copy.source, copy.bytes);
        } else {
            memset(copy.target, 0, copy.bytes);
        }
    }
    fiber->copies.resize(kept);
}

void release_barrier(Worker *w) {
    w->block.vote = static_cast<int>(w->votes);
    w->votes = 0;
    w->waiting = 0;
    for (unsigned i = 0; i < w->threads; i++) {
        if (w->fibers[i].state == State::AT_BARRIER) {
            w->fibers[i].state = State::READY;
        }
    }
}

// Does what a meeting came together for, if everyone who can come is there.
bool complete(Worker *w, unsigned warp_index, size_t meeting_index) {
    Warp &warp = w->warps[warp_index];
    Meeting meeting = warp.meetings[meeting_index];
    if (meeting.arrived != (meeting.mask & warp.alive)) {
        return false;
    }
    warp.meetings.erase(warp.meetings.begin() + static_cast<long>(meeting_index));
    meeting.operation(meeting.arguments, meeting.arrived);
    for (unsigned lane = 0; lane < 32; lane++) {
        if (meeting.arrived >> lane & 1) {
            w->fibers[warp_index * 32 + lane].state = State::READY;
        }
    }
    return true;
}

// A thread that ends no longer keeps others waiting.
void end_thread(Worker *w, Fiber *fiber) {
    if (fiber->groups > 0 && !fiber->copies.empty()) {
        fault("a thread ends with cp.async copies that it never waited for");
    }
    unsigned warp = fiber->thread.linear / 32;
    fiber->state = State::ENDED;
    w->alive--;
    w->warps[warp].alive &= ~(1u << fiber->thread.linear % 32);
    for (size_t i = 0; i < w->warps[warp].meetings.size();) {
        i = complete(w, warp, i) ? 0 : i + 1;
    }
    if (w->waiting > 0 && w->waiting == w->alive) {
        release_barrier(w);
    }
}

// A fiber runs the same thread of one block after another.
void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &worker->main_stack, &worker->main_stack_bytes);
#endif
    for (;;) {
        Worker *w = worker;
        Fiber *fiber = fiber_of(current_thread);
        (*w->body)();
        end_thread(w, fiber);
        to_main(w, fiber);
    }
}

void make_fiber(Fiber *fiber, unsigned index) {
    if (fiber->stack) {
        return;
    }
    fiber->stack = static_cast<char *>(
        mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (fiber->stack == MAP_FAILED) {
        fault("no memory for the stack of thread %u", index);
    }
    mprotect(fiber->stack, GUARD_BYTES, PROT_NONE);
    // Tops of stacks are spread over the sets of the caches. Above the entry point: a return address that is never
    // used.
    size_t colour = index * 17 % 61 * 256;
    auto **top = reinterpret_cast<void **>(fiber->stack + STACK_BYTES - colour) - 2;
    top[0] = reinterpret_cast<void *>(fiber_main);
    top[1] = nullptr;
    fiber->stack_pointer = top - 6; // six registers, zero
}

// ---- a block ----

// Wakes every ready thread in turn, beginning anywhere and in any fixed stride if a seed asks for it.
bool run_ready(Worker *w) {
    static const unsigned STRIDES[] = {1031, 1033, 1039, 1049, 1051, 1061, 2003, 3001}; // primes above any block's size
    unsigned offset = 0, stride = 1;
    if (w->random) {
        uint64_t number = draw(w->random);
        offset = static_cast<unsigned>(number % w->threads);
        stride = STRIDES[number >> 32 & 7];
    }
    unsigned ran = 0;
    w->paused = 0;
    for (unsigned i = 0, at = offset; i < w->threads; i++, at = (at + stride) % w->threads) {
        if (w->fibers[at].state == State::READY) {
            to_fiber(w, &w->fibers[at]);
            ran++;
        }
    }
    if (ran > 0 && w->paused == ran) {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return ran > 0;
}

void begin_block(Worker *w) {
    dim3 size = blockDim;
    w->threads = w->alive = size.x * size.y * size.z;
    w->waiting = w->votes = 0;
    for (unsigned i = 0; i * 32 < w->threads; i++) {
        unsigned lanes = w->threads - i * 32;
        w->warps[i].alive = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        w->warps[i].meetings.clear();
    }
    for (unsigned i = 0; i < w->threads; i++) {
        Fiber *fiber = &w->fibers[i];
        make_fiber(fiber, i);
        fiber->thread = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, i, &w->block};
        fiber->state = State::READY;
        fiber->copies.clear();
        fiber->groups = 0;
    }
    if (w->shared_bytes > 0) {
        memset(w->shared, 0xff, w->shared_bytes); // NaN to every float
    }
}

void run_block(Worker *w) {
    begin_block(w);
    while (w->alive > 0) {
        if (!run_ready(w)) {
            fault("nobody can go on: %u of the block's %u threads wait at a barrier, %u have ended and the others wait "
                  "for "
                  "lanes of their warp",
                  w->waiting, w->threads, w->threads - w->alive);
        }
    }
}

} // namespace

uint64_t draw(uint64_t &state) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

void fault(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (current_thread) {
        fprintf(stderr, "cuemu: %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", worker->kernel, blockIdx.x,
                blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, text);
    } else {
        fprintf(stderr, "cuemu: %s: %s\n", worker && worker->kernel ? worker->kernel : "host", text);
    }
    abort();
}

void block_barrier(int vote) {
    Worker *w = worker;
    Fiber *fiber = fiber_of(current_thread);
    w->votes += static_cast<unsigned>(vote);
    w->waiting++;
    if (w->waiting == w->alive) {
        release_barrier(w);
        return;
    }
    fiber->state = State::AT_BARRIER;
    to_main(w, fiber);
}

void warp_collective(uint32_t mask, void *argument, Collective operation) {
    Worker *w = worker;
    Fiber *fiber = fiber_of(current_thread);
    unsigned warp_index = fiber->thread.linear / 32, lane = fiber->thread.linear % 32;
    std::vector<Meeting> &meetings = w->warps[warp_index].meetings;
    if (!(mask >> lane & 1)) {
        fault("a warp operation with mask %08x, which leaves out its own lane %u", mask, lane);
    }
    size_t i = 0;
    while (i < meetings.size() && meetings[i].mask != mask) {
        if (meetings[i].mask & mask) {
            fault("lanes of one warp meet with masks %08x and %08x", meetings[i].mask, mask);
        }
        i++;
    }
    if (i == meetings.size()) {
        meetings.push_back({mask, 0, operation, {}});
    }
    Meeting &meeting = meetings[i];
    if (meeting.operation != operation) {
        fault("lanes of one warp meet in different operations (mask %08x)", mask);
    }
    meeting.arguments[lane] = argument;
    meeting.arrived |= 1u << lane;
    fiber->state = State::IN_COLLECTIVE;
    if (!complete(w, warp_index, i)) {
        to_main(w, fiber);
    }
}

void pause() {
    worker->paused++;
    to_main(worker, fiber_of(current_thread));
}

uint64_t timer_ns() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    const unsigned speed = cuemu_machine().timer_speed;
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()) *
           (speed ? speed : 1);
}

bool reaches(const void *address) {
    const int gpu = gpu_of(address);
    if (gpu >= 0 && !may_access(gpu)) {
        fault("touches %p of GPU %d, whose memory its own GPU has no access to", address, gpu);
    }
    return gpu < 0 || gpu == current_device() || !cuemu_machine().deaf;
}

uint32_t noise(const void *address) {
    const int gpu = gpu_of(address);
    return gpu >= 0 && gpu != current_device() && cuemu_machine().garbled ? 1u << 20 : 0;
}

void async_copy(void *shared, const void *global, size_t bytes, bool valid) {
    Fiber *fiber = fiber_of(current_thread);
    if (reinterpret_cast<uintptr_t>(shared) % bytes != 0 ||
        (valid && reinterpret_cast<uintptr_t>(global) % bytes != 0)) {
        fault("cp.async of %zu bytes from %p to %p: an address is not aligned to it", bytes, global, shared);
    }
    memset(shared, 0xff, bytes);
    fiber->copies.push_back({shared, valid ? global : nullptr, bytes, fiber->groups});
}

void async_commit() {
    fiber_of(current_thread)->groups++;
}

void async_wait(int latest) {
    deliver(fiber_of(current_thread), latest);
}

void run_grid(const Launch &launch, uint64_t seed) {
    if (!worker) {
        worker_owner = std::make_unique<Worker>();
        worker = worker_owner.get();
    }
    Worker *w = worker;
    std::string name = function_name(launch.kernel);
    w->kernel = name.c_str();
    w->body = &launch.body;
    w->random = seed;
    blockDim = launch.block;
    gridDim = launch.grid;
    w->shared_bytes = launch.shared_bytes;
    free(w->shared);
    w->shared = static_cast<unsigned char *>(aligned_alloc(1024, (launch.shared_bytes + 1024) / 1024 * 1024));
    w->block.dynamic_shared = w->shared;
    dim3 grid = launch.grid;
    uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
    uint64_t offset = seed ? draw(w->random) % blocks : 0;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t at = (seed & 1 ? blocks - 1 - i : i) + offset;
        at = at >= blocks ? at - blocks : at;
        blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                    static_cast<unsigned>(at / grid.x / grid.y)};
        run_block(w);
    }
    check_guards(w->kernel);
    w->kernel = nullptr;
    w->body = nullptr;
}

} // namespace cuemu
