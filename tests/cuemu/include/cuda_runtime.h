// The emulator's twin of <cuda_runtime.h>: CUDA C++ as plain C++. Every CUDA thread is a fiber (tests/cuemu/block.cc).
//
// Owns the words of the language and the device functions that kernels use: barriers, shuffles, votes, atomics, vector
// types, intrinsics. What is not here is not emulated, and does not compile. Threads: device functions are called in
// kernels only; all threads of a launch are fibers of one thread of the system.
#ifndef METRONOME_TESTS_CUEMU_RUNTIME_H
#define METRONOME_TESTS_CUEMU_RUNTIME_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <cuda_runtime_api.h>
#include <functional>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
// A block's threads are fibers of one thread of the system, which runs one block at a time.
#define __shared__ static thread_local
#define CUDA_ENTRY(kernel) cuemu::entry(kernel)
#define CUDA_DYNAMIC_SHARED(type, name) type *name = reinterpret_cast<type *>(cuemu::self()->block->dynamic_shared)

// ---- vector types ----

#define CUEMU_VECTOR2(name, type, bytes)             \
    struct alignas(bytes) name {                     \
        type x, y;                                   \
    };                                               \
    static inline name make_##name(type x, type y) { \
        return {x, y};                               \
    }
#define CUEMU_VECTOR4(name, type, bytes)                             \
    struct alignas(bytes) name {                                     \
        type x, y, z, w;                                             \
    };                                                               \
    static inline name make_##name(type x, type y, type z, type w) { \
        return {x, y, z, w};                                         \
    }
CUEMU_VECTOR2(float2, float, 8)
CUEMU_VECTOR4(float4, float, 16)
CUEMU_VECTOR2(int2, int, 8)
CUEMU_VECTOR4(int4, int, 16)
CUEMU_VECTOR2(uint2, unsigned, 8)
CUEMU_VECTOR4(uint4, unsigned, 16)
CUEMU_VECTOR2(ushort2, unsigned short, 4)
CUEMU_VECTOR4(ushort4, unsigned short, 8)
CUEMU_VECTOR2(char2, signed char, 2)
CUEMU_VECTOR4(char4, signed char, 4)
CUEMU_VECTOR2(uchar2, unsigned char, 2)
CUEMU_VECTOR4(uchar4, unsigned char, 4)

struct uint3 {
    unsigned x, y, z;
};

// ---- threads, blocks ----

namespace cuemu {

struct Block;

// One CUDA thread.
struct Thread {
    uint3 index;
    unsigned linear; // within the block
    Block *block;
};

// The block that this thread of the system runs.
struct Block {
    unsigned char *dynamic_shared;
    int vote; // the result of the block's last voting barrier
};

extern __thread Thread *current_thread;
static inline Thread *self() {
    return current_thread;
}

// Returns when every thread of the block that has not ended is here; block->vote is then the number of true votes.
void block_barrier(int vote);

// Gathers `argument` of every lane in `mask`; the last one to come calls operation(arguments, mask), where only lanes
// in the mask have an argument. All must come with the same mask and operation.
using Collective = void (*)(void *const arguments[32], uint32_t mask);
void warp_collective(uint32_t mask, void *argument, Collective operation);

// A kernel's parameters, by which it can be called with pointers to its arguments.
using Invoke = void (*)(const void *kernel, void *const *arguments);
template <typename... Parameters> struct Signature {
    static constexpr size_t sizes[] = {sizeof(Parameters)..., 0};

    static void invoke(const void *kernel, void *const *arguments) {
        call(reinterpret_cast<void (*)(Parameters...)>(const_cast<void *>(kernel)), arguments,
             std::index_sequence_for<Parameters...>());
    }
    template <size_t... I>
    static void call(void (*kernel)(Parameters...), void *const *arguments, std::index_sequence<I...>) {
        kernel(*static_cast<Parameters *>(arguments[I])...);
    }
};

// The kernel's address, by which CUDA's C interface may launch it from now on (kernels.cc): nvcc's twin of this is
// code that registers every kernel when the program starts.
const void *know(const void *kernel, const size_t *sizes, size_t count, Invoke invoke);
template <typename... Parameters> const void *entry(void (*kernel)(Parameters...)) {
    using Known = Signature<std::decay_t<Parameters>...>;
    return know(reinterpret_cast<const void *>(kernel), Known::sizes, sizeof...(Parameters), Known::invoke);
}

[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

cudaError_t set_shared_limit(const void *kernel, int bytes);

} // namespace cuemu

extern __thread uint3 threadIdx, blockIdx;
extern __thread dim3 blockDim, gridDim;
static const int warpSize = 32;

// Arguments are copied now, the kernel runs when its stream comes to it.
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
    auto values = std::tuple<std::decay_t<Parameters>...>(std::forward<Arguments>(arguments)...);
    return std::apply(
        [&](auto &...value) {
            void *pointers[] = {&value..., nullptr};
            return cudaLaunchKernelExC(config, cuemu::entry(kernel), pointers);
        },
        values);
}

template <typename Function>
cudaError_t cudaFuncSetAttribute(Function *kernel, cudaFuncAttribute attribute, int value) {
    return attribute == cudaFuncAttributeMaxDynamicSharedMemorySize
               ? cuemu::set_shared_limit(reinterpret_cast<const void *>(kernel), value)
               : cudaSuccess;
}

// ---- barriers, votes, shuffles ----

static inline void __syncthreads() {
    cuemu::block_barrier(0);
}
static inline int __syncthreads_count(int predicate) {
    cuemu::block_barrier(predicate != 0);
    return cuemu::self()->block->vote;
}
static inline int __syncthreads_or(int predicate) {
    return __syncthreads_count(predicate) != 0;
}
static inline int __syncthreads_and(int predicate) {
    return __syncthreads_count(predicate == 0) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    cuemu::warp_collective(mask, nullptr, [](void *const *, uint32_t) {});
}

namespace cuemu {

template <typename T> struct Shuffle {
    T value, result;
    int source; // a lane, always of this lane's group
};

template <typename T> T shuffle(uint32_t mask, T value, int source) {
    Shuffle<T> mine = {value, value, source};
    warp_collective(mask, &mine, [](void *const *arguments, uint32_t lanes) {
        for (int lane = 0; lane < 32; lane++) {
            if (lanes >> lane & 1) {
                auto *to = static_cast<Shuffle<T> *>(arguments[lane]);
                if (!(lanes >> to->source & 1)) {
                    fault("lane %d shuffles from lane %d, which is not in the mask %08x or has ended", lane, to->source,
                          lanes);
                }
                to->result = static_cast<Shuffle<T> *>(arguments[to->source])->value;
            }
        }
    });
    return mine.result;
}

static inline int lane() {
    return static_cast<int>(self()->linear & 31);
}

struct Vote {
    unsigned value, result;
};

template <typename Fold> unsigned warp_fold(uint32_t mask, unsigned value, Fold) {
    Vote mine = {value, 0};
    warp_collective(mask, &mine, [](void *const *arguments, uint32_t lanes) {
        unsigned folded = 0;
        bool first = true;
        for (int lane = 0; lane < 32; lane++) {
            if (lanes >> lane & 1) {
                unsigned lane_value = static_cast<Vote *>(arguments[lane])->value;
                folded = first ? lane_value : Fold::fold(folded, lane_value);
                first = false;
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            if (lanes >> lane & 1) {
                static_cast<Vote *>(arguments[lane])->result = folded;
            }
        }
    });
    return mine.result;
}

struct FoldOr {
    static unsigned fold(unsigned a, unsigned b) {
        return a | b;
    }
};
struct FoldAdd {
    static unsigned fold(unsigned a, unsigned b) {
        return a + b;
    }
};
struct FoldMaxUnsigned {
    static unsigned fold(unsigned a, unsigned b) {
        return a > b ? a : b;
    }
};
struct FoldMaxSigned {
    static unsigned fold(unsigned a, unsigned b) {
        return static_cast<int>(a) > static_cast<int>(b) ? a : b;
    }
};

} // namespace cuemu

template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = cuemu::lane();
    return cuemu::shuffle(mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = cuemu::lane(), source = lane ^ bits;
    return cuemu::shuffle(mask, value, (source & ~(width - 1)) > (lane & ~(width - 1)) ? lane : source);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = cuemu::lane();
    return cuemu::shuffle(
        mask, value, (lane & (width - 1)) + static_cast<int>(delta) < width ? lane + static_cast<int>(delta) : lane);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = cuemu::lane();
    return cuemu::shuffle(mask, value,
                          (lane & (width - 1)) >= static_cast<int>(delta) ? lane - static_cast<int>(delta) : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return cuemu::warp_fold(mask, predicate ? 1u << cuemu::lane() : 0, cuemu::FoldOr());
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, !predicate) == 0;
}
static inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
    return cuemu::warp_fold(mask, value, cuemu::FoldAdd());
}
static inline int __reduce_add_sync(unsigned mask, int value) {
    return static_cast<int>(cuemu::warp_fold(mask, static_cast<unsigned>(value), cuemu::FoldAdd()));
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    return cuemu::warp_fold(mask, value, cuemu::FoldMaxUnsigned());
}
static inline int __reduce_max_sync(unsigned mask, int value) {
    return static_cast<int>(cuemu::warp_fold(mask, static_cast<unsigned>(value), cuemu::FoldMaxSigned()));
}

// ---- atomics and fences: streams are threads of the system, so these are real ----

static inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_block() {
}
static inline void __threadfence_system() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
template <typename T> T atomicCAS(T *address, T compare, T value) {
    __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return compare;
}
template <typename T> T atomicExch(T *address, T value) {
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);
}
template <typename T> T atomicAdd(T *address, T value) {
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
static inline float atomicAdd(float *address, float value) {
    float old, sum;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
        sum = old + value;
    } while (!__atomic_compare_exchange(address, &old, &sum, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return old;
}
template <typename T> T atomicMax(T *address, T value) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (old < value &&
           !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
    return old;
}

// ---- numbers ----

template <typename To, typename From> To cuemu_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline unsigned __float_as_uint(float value) {
    return cuemu_bits<unsigned>(value);
}
static inline int __float_as_int(float value) {
    return cuemu_bits<int>(value);
}
static inline float __uint_as_float(unsigned value) {
    return cuemu_bits<float>(value);
}
static inline float __int_as_float(int value) {
    return cuemu_bits<float>(value);
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float a) {
    return 1 / a;
}
#define __expf(a) expf(a) // the C library has the name, too
static inline float rsqrtf(float a) {
    return static_cast<float>(1 / sqrt(static_cast<double>(a)));
}
static inline int __float2int_rn(float a) {
    return static_cast<int>(nearbyintf(a));
}
static inline int __popc(unsigned a) {
    return __builtin_popcount(a);
}
static inline int __clz(int a) {
    return a ? __builtin_clz(static_cast<unsigned>(a)) : 32;
}
static inline int __ffs(int a) {
    return __builtin_ffs(a);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        result |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    }
    return result;
}
// c + the dot product of four signed bytes.
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) {
        c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    }
    return c;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) {
        c += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
    }
    return c;
}
template <typename T> T __ldg(const T *address) {
    return *address;
}
template <typename T> T __ldcs(const T *address) {
    return *address;
}
template <typename T> T __ldcg(const T *address) {
    return *address;
}
#define CUEMU_MIN_MAX(type)                  \
    static inline type min(type a, type b) { \
        return b < a ? b : a;                \
    }                                        \
    static inline type max(type a, type b) { \
        return a < b ? b : a;                \
    }
CUEMU_MIN_MAX(int)
CUEMU_MIN_MAX(unsigned)
CUEMU_MIN_MAX(unsigned long)
CUEMU_MIN_MAX(long)

#endif
