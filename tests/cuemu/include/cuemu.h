/* What tests may ask of the emulator beyond CUDA's interface: another machine, calls that fail, schedules, a report.
 *
 * The environment sets what programs do not:
 *     CUEMU_SEED=N       threads and blocks run in an order drawn from N (0, the default: ascending)
 *     CUEMU_DELAY_US=N   every command of a stream first sleeps up to N microseconds, drawn from the seed
 *     CUEMU_DEVICES=N    there are N GPUs (1)
 *     CUEMU_PEERS=0      they have no access to each other's memory
 *     CUEMU_REPORT=FILE  at exit a line for each kernel is added to FILE: what was launched, how often, in how many
 * shapes Threads: any; settings hold for the whole process. */
#ifndef METRONOME_TESTS_CUEMU_CUEMU_H
#define METRONOME_TESTS_CUEMU_CUEMU_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The machine that is emulated. */
struct cuemu_machine {
    int driver_version; /* as cudaDriverGetVersion() says it; 0: no driver */
    int devices;
    int capability; /* 80 */
    uint64_t memory_bytes;
    bool apart;           /* GPUs have no access to each other's memory */
    unsigned timer_speed; /* GPUs' timers run so many times as fast as time does; 0: once */
    bool deaf;            /* what a GPU writes to another's memory is lost */
    bool garbled;         /* ... or comes with a bit turned */
};
struct cuemu_machine cuemu_machine(void);
void cuemu_set_machine(struct cuemu_machine machine);

/* After `skip` more calls of the function named `call`, the next one returns `error` and does nothing. */
void cuemu_fail_call(const char *call, unsigned skip, cudaError_t error);

/* The next kernel does nothing, and its failure is found later: from then on every call that waits or enqueues on its
 * GPU returns `error`, as when a real kernel has touched what it must not; until cuemu_recover(). */
void cuemu_fail_kernel(cudaError_t error);
void cuemu_fail_kernel_of(int device, cudaError_t error); /* the next one on this GPU */
void cuemu_recover(void);

void cuemu_set_seed(uint64_t seed);
void cuemu_set_delay_us(uint32_t most_us);

/* Kernels and launches so far. */
struct cuemu_count {
    uint64_t kernels; /* different ones */
    uint64_t shapes;  /* different (kernel, grid, block, shared memory) */
    uint64_t launches;
    uint64_t threads; /* CUDA threads that ran */
};
struct cuemu_count cuemu_count(void);

/* Calls of the runtime's function of this name so far; NULL: of all of them. */
uint64_t cuemu_calls(const char *call);

#ifdef __cplusplus
}
#endif

#endif
