// The emulator's twins of kernels/cuda/ptx.cuh, by the PTX manual's fragment layouts.
//
// A copy of cp_async_16() spoils its target at once and delivers as late as it may, at the wait: a missing wait or
// barrier then gives wrong numbers. Threads: as ptx.cuh says.
#ifndef METRONOME_TESTS_CUEMU_PTX_H
#define METRONOME_TESTS_CUEMU_PTX_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cuemu {

// This thread's copies in flight (block.cc).
void async_copy(void *shared, const void *global, size_t bytes, bool valid);
void async_commit();
void async_wait(int latest);

// Lets the other threads of the block, and other GPUs, go on (block.cc).
void pause();
uint64_t timer_ns();
// False if what is written there is lost; ends the program where the running kernel's GPU has no access.
bool reaches(const void *address);
uint32_t noise(const void *address); // what is turned of a word written there

template <typename D> struct Fragments {
    D *d;
    const uint32_t *a, *b;
};

// d += a b for one warp. A register holds 4 / sizeof(value) values; `get` reads value `i` of one.
template <typename D, int K, typename Get> void mma(D *d, const uint32_t *a, const uint32_t *b, Get) {
    Fragments<D> mine = {d, a, b};
    warp_collective(0xffffffffu, &mine, [](void *const *arguments, uint32_t lanes) {
        if (lanes != 0xffffffffu) {
            fault("mma needs all 32 lanes of the warp, and has %08x", lanes);
        }
        constexpr int PACKED = K / 8; // values in a register
        D left[16][K], right[K][8];
        for (int lane = 0; lane < 32; lane++) {
            const auto *f = static_cast<Fragments<D> *>(arguments[lane]);
            int group = lane >> 2, column = (lane & 3) * PACKED;
            for (int i = 0; i < PACKED; i++) {
                for (int r = 0; r < 4; r++) {
                    left[group + (r & 1) * 8][column + i + (r >> 1) * (K / 2)] = Get::get(f->a[r], i);
                }
                for (int r = 0; r < 2; r++) {
                    right[column + i + r * (K / 2)][group] = Get::get(f->b[r], i);
                }
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            auto *f = static_cast<Fragments<D> *>(arguments[lane]);
            for (int r = 0; r < 4; r++) {
                int row = (lane >> 2) + (r >> 1) * 8, column = (lane & 3) * 2 + (r & 1);
                D sum = f->d[r];
                for (int k = 0; k < K; k++) {
                    sum += left[row][k] * right[k][column];
                }
                f->d[r] = sum;
            }
        }
    });
}

struct GetBf16 {
    static float get(uint32_t word, int i) {
        return __bfloat162float({static_cast<unsigned short>(word >> 16 * i)});
    }
};
struct GetF16 {
    static float get(uint32_t word, int i) {
        return __half2float({static_cast<unsigned short>(word >> 16 * i)});
    }
};
struct GetS8 {
    static int get(uint32_t word, int i) {
        return static_cast<int8_t>(word >> 8 * i);
    }
};

struct MatrixRow {
    uint32_t *out;
    const void *row;
};

template <bool TRANSPOSED> void load_matrices(uint32_t *out, const void *row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        fault("ldmatrix: a row's address is not 16-byte aligned");
    }
    MatrixRow mine = {out, row};
    warp_collective(0xffffffffu, &mine, [](void *const *arguments, uint32_t) {
        uint16_t matrices[4][8][8];
        for (int lane = 0; lane < 32; lane++) {
            memcpy(matrices[lane / 8][lane % 8], static_cast<MatrixRow *>(arguments[lane])->row, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            int group = lane >> 2, pair = (lane & 3) * 2;
            for (int m = 0; m < 4; m++) {
                uint32_t low = TRANSPOSED ? matrices[m][pair][group] : matrices[m][group][pair];
                uint32_t high = TRANSPOSED ? matrices[m][pair + 1][group] : matrices[m][group][pair + 1];
                static_cast<MatrixRow *>(arguments[lane])->out[m] = low | high << 16;
            }
        }
    });
}

} // namespace cuemu

static inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    cuemu::mma<float, 16>(d, a, b, cuemu::GetBf16());
}
static inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    cuemu::mma<float, 16>(d, a, b, cuemu::GetF16());
}
static inline void mma_m16n8k32_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    cuemu::mma<int, 32>(d, a, b, cuemu::GetS8());
}
static inline void ldmatrix_x4(uint32_t (&out)[4], const void *row) {
    cuemu::load_matrices<false>(out, row);
}
static inline void ldmatrix_x4_trans(uint32_t (&out)[4], const void *row) {
    cuemu::load_matrices<true>(out, row);
}
static inline uint4 load_system(const uint4 *address) {
    auto *words = reinterpret_cast<const unsigned *>(address);
    return {__atomic_load_n(words, __ATOMIC_RELAXED), __atomic_load_n(words + 1, __ATOMIC_RELAXED),
            __atomic_load_n(words + 2, __ATOMIC_RELAXED), __atomic_load_n(words + 3, __ATOMIC_RELAXED)};
}
static inline void store_system(uint4 *address, uint4 value) {
    if (cuemu::reaches(address)) {
        auto *words = reinterpret_cast<unsigned *>(address);
        __atomic_store_n(words + 3, value.w, __ATOMIC_RELAXED); // in any order
        __atomic_store_n(words, value.x, __ATOMIC_RELAXED);
        __atomic_store_n(words + 2, value.z ^ cuemu::noise(address), __ATOMIC_RELAXED);
        __atomic_store_n(words + 1, value.y, __ATOMIC_RELAXED);
    }
}
static inline uint32_t load_system(const uint32_t *address) {
    return __atomic_load_n(address, __ATOMIC_RELAXED);
}
static inline void store_system(uint32_t *address, uint32_t value) {
    if (cuemu::reaches(address)) {
        __atomic_store_n(address, value, __ATOMIC_RELAXED);
    }
}
static inline void fence_system() {
    __atomic_thread_fence(__ATOMIC_ACQ_REL);
}
static inline uint64_t timer_ns() {
    return cuemu::timer_ns();
}
static inline void spin_pause() {
    cuemu::pause();
}
static inline void cp_async_16(void *shared, const void *global, bool valid) {
    cuemu::async_copy(shared, global, 16, valid);
}
static inline void cp_async_commit() {
    cuemu::async_commit();
}
template <int LATEST> void cp_async_wait() {
    cuemu::async_wait(LATEST);
}

#endif
