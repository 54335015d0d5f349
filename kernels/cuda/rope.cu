// Rotary embedding: a thread for each angle, and for each pair of values that is turned.
//
// Roofline: a pair is 8 bytes read, 8 written and 4 operations; its angle, 8 bytes more, is from the cache, for all
// heads share it. 512 rows of 40 heads of 64 pairs are 21 MB: 6 us of H100's 3.35 TB/s and 35 us of A10's 600 GB/s:
// memory is the limit. Angles, some 40 instructions each, are one launch an iteration: 64 a row.
#include "kernels/cuda/kernel.cuh"

namespace {

constexpr unsigned THREADS = 128;

// Positions are large and the product of floats is the angle that models were trained with: sincosf(), which reduces it
// exactly, and not its fast namesake.
__global__ void __launch_bounds__(THREADS)
    rope_angles_kernel(float *angles, const uint32_t *positions, const float *frequency, float magnitude, size_t count,
                       uint32_t pairs) {
    const size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i < count) {
        float sine, cosine;
        sincosf(static_cast<float>(positions[i / pairs]) * frequency[i % pairs], &sine, &cosine);
        angles[2 * i] = cosine * magnitude;
        angles[2 * i + 1] = sine * magnitude;
    }
}

// A block for each row; its threads go over the pairs of all heads.
template <enum rope_style STYLE>
__global__ void __launch_bounds__(THREADS)
    rope_kernel(float *x, size_t x_stride, const float *angles, uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    x += blockIdx.x * x_stride;
    angles += static_cast<size_t>(blockIdx.x) * pairs * 2;
    for (uint32_t i = threadIdx.x; i < heads * pairs; i += THREADS) {
        const uint32_t pair = i % pairs;
        float *values = x + static_cast<size_t>(i / pairs) * head_dim;
        float *a = STYLE == ROPE_INTERLEAVED ? values + 2 * pair : values + pair;
        float *b = STYLE == ROPE_INTERLEAVED ? a + 1 : a + pairs;
        const float cosine = angles[2 * pair], sine = angles[2 * pair + 1];
        const float left = *a, right = *b;
        *a = fmaf(left, cosine, -(right * sine));
        *b = fmaf(left, sine, right * cosine);
    }
}

} // namespace

extern "C" void cuda_rope_angles(struct stream *stream, float *angles, const uint32_t *positions,
                                 const float *frequency, float magnitude, uint32_t n, uint32_t pairs) {
    const size_t count = static_cast<size_t>(n) * pairs;
    launch(stream, blocks_for(count, THREADS), THREADS, 0, rope_angles_kernel, angles, positions, frequency, magnitude,
           count, pairs);
}

extern "C" void cuda_rope(struct stream *stream, float *x, size_t x_stride, const float *angles, enum rope_style style,
                          uint32_t n, uint32_t heads, uint32_t head_dim, uint32_t pairs) {
    launch(stream, n, THREADS, 0, style == ROPE_HALVES ? rope_kernel<ROPE_HALVES> : rope_kernel<ROPE_INTERLEAVED>, x,
           x_stride, angles, heads, head_dim, pairs);
}
