// What the emulator's own files share. Not for kernels, not for tests.
#ifndef METRONOME_TESTS_CUEMU_INTERNAL_H
#define METRONOME_TESTS_CUEMU_INTERNAL_H

#include <cuda_runtime.h>
#include <functional>
#include <string>

namespace cuemu {

// A launch: its kernel with a copy of its arguments.
struct Launch {
    dim3 grid, block;
    size_t shared_bytes;
    const void *kernel;
    std::function<void()> body; // one thread
};

// ---- block.cc ----

// Runs every block of a launch on the calling thread. Threads and blocks go in an order drawn from `seed` (0:
// ascending).
void run_grid(const Launch &launch, uint64_t seed);

// Numbers drawn from a seed, for schedules and delays (splitmix64).
uint64_t draw(uint64_t &state);

// ---- memory.cc ----

// Aborts, naming the kernel, if the guard zone of any allocation has been written to.
void check_guards(const char *kernel);

// Is [address, address + bytes) inside one allocation on this GPU?
bool on_device(const void *address, size_t bytes, int device);
// The GPU that the address is on; -1: none.
int gpu_of(const void *address);
// Does any byte of it lie on a GPU?
bool touches_device(const void *address, size_t bytes);

// ---- streams.cc ----

// Runs `command` on the stream's thread, in its turn.
void enqueue(cudaStream_t stream, std::function<void()> command);
void enqueue(cudaStream_t stream, Launch launch);
void enqueue_record(cudaStream_t stream, cudaEvent_t event);
int device_of(cudaStream_t stream);
int device_of(cudaEvent_t event);

// What waits for the event's latest record, as it is now.
std::function<void()> wait_for(cudaEvent_t event);

// Is the copy what its kind says, of memory of this GPU?
bool can_copy(const void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind, int device);

// ---- kernels.cc ----

// Makes the launch of a known kernel, with a copy of its arguments; refuses what the current GPU cannot run.
cudaError_t make_launch(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, void *const *arguments,
                        Launch *out);

// ---- machine.cc ----

// The calling thread's GPU: cudaSetDevice(). A stream's thread is its GPU's for ever.
int current_device();
void be_device(int device);
bool may_access(int device); // its memory, by the calling thread's GPU

// The error that an injected failure puts in place of this call, or cudaSuccess; and the error of a device that has
// failed. Every function of the runtime asks first.
cudaError_t enter(const char *call);
// Keeps `error` for cudaGetLastError() and returns it.
cudaError_t keep(cudaError_t error);
// True once, when the next kernel on this GPU is to fail.
bool take_kernel_failure(int device);
void break_device(); // the calling thread's, by the kernel that was to fail
bool device_broken();
size_t shared_limit(const void *kernel); // dynamic shared memory that its launches may ask for
uint64_t seed();
uint32_t delay_us();
void count_launch(const Launch &launch);

// ---- names.cc ----

// A function's name in the source, from the program's own symbol table.
std::string function_name(const void *function);

} // namespace cuemu

// At the head of a function of the runtime: what it returns if a failure is injected or the device has failed; and what
// it refuses.
#define ENTER(call)                              \
    do {                                         \
        cudaError_t error_ = cuemu::enter(call); \
        if (error_ != cudaSuccess) {             \
            return cuemu::keep(error_);          \
        }                                        \
    } while (0)
#define REFUSE_UNLESS(condition, error) \
    do {                                \
        if (!(condition)) {             \
            return cuemu::keep(error);  \
        }                               \
    } while (0)

#endif
