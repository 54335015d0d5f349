// What the emulator's own files share. Not for kernels, not for tests.
#ifndef METRONOME_TESTS_CUEMU_INTERNAL_H
#define METRONOME_TESTS_CUEMU_INTERNAL_H

#include <cuda_runtime.h>
#include <functional>
#include <string>

namespace cuemu {

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
// Does any byte of it lie on a GPU?
bool touches_device(const void *address, size_t bytes);

// ---- streams.cc ----

// Runs `command` on the stream's thread, in its turn.
void enqueue(cudaStream_t stream, std::function<void()> command);
int device_of(cudaStream_t stream);

// ---- machine.cc ----

// The calling thread's GPU: cudaSetDevice().
int current_device();

// The error that an injected failure puts in place of this call, or cudaSuccess; and the error of a device that has
// failed. Every function of the runtime asks first.
cudaError_t enter(const char *call);
// Keeps `error` for cudaGetLastError() and returns it.
cudaError_t keep(cudaError_t error);
// True once, when the next kernel is to fail.
bool take_kernel_failure();
void break_device(); // by the kernel that was to fail
bool device_broken();
size_t shared_limit(const void *kernel); // dynamic shared memory that its launches may ask for
uint64_t seed();
uint32_t delay_us();
void count_launch(const Launch &launch);

// ---- names.cc ----

// A function's name in the source, from the program's own symbol table.
std::string function_name(const void *function);

} // namespace cuemu

#endif
