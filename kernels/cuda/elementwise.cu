// Activations and scaling: each value by itself, four of them a thread.
//
// Roofline: a gated value is 8 bytes read, 4 written and some 20 instructions (an exponential and a division), others 4
// bytes less. 512 rows of 11008 are 68 MB: 20 us of H100's 3.35 TB/s, 113 us of A10's 600 GB/s (less where L2 has what
// the product before has written), against 4 and 7 us of instructions: memory is the limit. One row is a launch.
#include "kernels/cuda/kernel.cuh"

namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned VALUES = 4; // a thread

template <enum activation ACTIVATION> __device__ float activated(float x) {
    if (ACTIVATION == ACTIVATION_RELU) {
        return x < 0 ? 0 : x; // NaN stays
    }
    float exponent = x;
    if (ACTIVATION == ACTIVATION_GELU_TANH) {                           // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u))
        exponent = 1.5957691216057308f * fmaf(0.044715f * x * x, x, x); // 2 sqrt(2 / pi)
    }
    return x / (1.0f + expf(-exponent));
}

template <enum activation ACTIVATION> struct Gated {
    __device__ float operator()(float gate, float up) const {
        return activated<ACTIVATION>(gate) * up;
    }
};

template <enum activation ACTIVATION> struct Plain {
    __device__ float operator()(float x, float) const {
        return activated<ACTIVATION>(x);
    }
};

struct Scale {
    float factor;
    __device__ float operator()(float x, float) const {
        return x * factor;
    }
};

// out = function(a, b), value by value; `out` may be a or b. `vectors`: all three are aligned to 16 bytes.
template <typename Function>
__global__ void __launch_bounds__(THREADS)
    map_kernel(float *out, const float *a, const float *b, size_t count, bool vectors, Function function) {
    const size_t first = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * VALUES;
    if (vectors && first + VALUES <= count) {
        const float4 left = *reinterpret_cast<const float4 *>(a + first);
        const float4 right = *reinterpret_cast<const float4 *>(b + first);
        *reinterpret_cast<float4 *>(out + first) = make_float4(function(left.x, right.x), function(left.y, right.y),
                                                               function(left.z, right.z), function(left.w, right.w));
        return;
    }
    for (size_t i = first; i < first + VALUES && i < count; i++) {
        out[i] = function(a[i], b[i]);
    }
}

template <typename Function>
void map(struct stream *stream, float *out, const float *a, const float *b, uint32_t n, uint32_t dim,
         Function function) {
    const size_t count = static_cast<size_t>(n) * dim;
    const bool vectors =
        ((reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) %
         sizeof(float4)) == 0;
    launch(stream, blocks_for(count, THREADS * VALUES), THREADS, 0, map_kernel<Function>, out, a, b, count, vectors,
           function);
}

} // namespace

extern "C" void cuda_gated(struct stream *stream, enum activation activation, float *out, const float *gate,
                           const float *up, uint32_t n, uint32_t dim) {
    switch (activation) {
    case ACTIVATION_SILU:
        return map(stream, out, gate, up, n, dim, Gated<ACTIVATION_SILU>());
    case ACTIVATION_GELU_TANH:
        return map(stream, out, gate, up, n, dim, Gated<ACTIVATION_GELU_TANH>());
    case ACTIVATION_RELU:
        return map(stream, out, gate, up, n, dim, Gated<ACTIVATION_RELU>());
    case ACTIVATIONS:
        break;
    }
    CHECK(!"an activation");
}

extern "C" void cuda_activate(struct stream *stream, enum activation activation, float *out, const float *x, uint32_t n,
                              uint32_t dim) {
    switch (activation) {
    case ACTIVATION_SILU:
        return map(stream, out, x, x, n, dim, Plain<ACTIVATION_SILU>());
    case ACTIVATION_GELU_TANH:
        return map(stream, out, x, x, n, dim, Plain<ACTIVATION_GELU_TANH>());
    case ACTIVATION_RELU:
        return map(stream, out, x, x, n, dim, Plain<ACTIVATION_RELU>());
    case ACTIVATIONS:
        break;
    }
    CHECK(!"an activation");
}

extern "C" void cuda_scale(struct stream *stream, float *x, float factor, uint32_t n, uint32_t dim) {
    map(stream, x, x, x, n, dim, Scale{factor});
}
