// Sums over GPUs, in the order of ranks: kernels that write into each other's memory and wait for each other.
//
// A rank writes its values into the inboxes of the others, and reads only its own. A word of an inbox is empty, which
// is a NaN that no value has (word_of()), or it is a value: so a word says of itself that it is there, and needs
// neither a flag nor a barrier nor a fence between both. Who has read a word makes it empty again. Threads wait one by
// one.
//
// Two inboxes in turn are enough. Before a rank sends for sum k, its kernel of sum k - 1 has ended, in which it has
// heard of every other rank; that one's kernel of sum k - 1 had begun, so its kernel of sum k - 2, which emptied the
// inbox that sum k takes, had ended. (In shares a rank may hear of another through a third alone.) The fence at a
// kernel's end is for this: whoever sees what a rank sends later sees the inbox empty.
//
// All blocks of a kernel run at once (cuda_peers.most_blocks), and a block of one rank waits for the block of the same
// number of the others only, so that none waits for one that has no place to run. Nothing waits for ever: a thread that
// has looked often asks whether it is to let go, and looks at the clock.
//
// Roofline, for n bytes a rank and R ranks: at once a rank sends, and receives, (R - 1) n; in shares 2 (R - 1) / R n,
// in two steps. A step takes some 2 us until a word has come over NVLink, and of the 450 GB/s that H100's have in a
// direction kernels may get 350. One row of 8192 on 4 ranks: 98 KB and one step, 2.3 us, or 49 KB and two, 4.1; 512
// rows: 50 MB, 146 us, or 25 MB, 76. What comes in is written, read and emptied: 75 MB of those, 23 us of device memory
// beside the link, which is the limit. The two ways are alike where the bytes saved take as long as a step, 2 us x 350
// GB/s = 700 KB: at n = 700 KB R / ((R - 1) (R - 2)), 14 rows of 8192 on 4 ranks and 4 on 8; with 2 ranks the bytes are
// the same, and it is always at once. All of this is an estimate, for no GPU has run it: `make CUDA=1 ranks-bench`
// measures.
#include "kernels/cuda/peer.h"
#include "kernels/cuda/ptx.cuh"

namespace {

constexpr unsigned THREADS = 256; // a block, of which a multiprocessor has one
constexpr unsigned LOOKS = 1024;  // between questions to the host's memory and to the clock: about a millisecond
constexpr unsigned EMPTY = 0xffffffffu, OTHER_NAN = 0x7fffffffu;

__device__ uint32_t word_of(float value) {
    const uint32_t bits = __float_as_uint(value);
    return bits == EMPTY ? OTHER_NAN : bits;
}

__device__ uint4 words_of(float x, float y, float z, float w) {
    return make_uint4(word_of(x), word_of(y), word_of(z), word_of(w));
}

__device__ bool arrived(const uint4 &words) {
    return words.x != EMPTY && words.y != EMPTY && words.z != EMPTY && words.w != EMPTY;
}

// A rank's values, four by four; what is not there is 0.
struct Values {
    float *x;
    unsigned count;
    uint32_t aligned; // to 16 bytes; no bool, for there shall be no padding

    __device__ uint4 read(unsigned vector) const {
        const size_t at = static_cast<size_t>(vector) * 4;
        if (aligned && at + 4 <= count) {
            const float4 four = *reinterpret_cast<const float4 *>(x + at);
            return words_of(four.x, four.y, four.z, four.w);
        }
        return words_of(at < count ? x[at] : 0, at + 1 < count ? x[at + 1] : 0, at + 2 < count ? x[at + 2] : 0,
                        at + 3 < count ? x[at + 3] : 0);
    }
    __device__ void write(unsigned vector, const uint4 &words) const {
        const size_t at = static_cast<size_t>(vector) * 4;
        if (aligned && at + 4 <= count) {
            *reinterpret_cast<uint4 *>(x + at) = words;
            return;
        }
        const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (at + i < count) {
                x[at + i] = __uint_as_float(all[i]);
            }
        }
    }
};

__device__ uint4 *inbox_of(const struct cuda_peers &peers, unsigned rank, unsigned inbox) {
    return static_cast<uint4 *>(peers.inbox[rank]) + inbox * CUDA_PEER_VECTORS;
}

// Called after each look that found a rank missing. False: give up.
struct Patience {
    unsigned looks = 0;
    uint32_t begin = 0; // the clock's, in 2^30 ns, which are seconds enough

    __device__ bool lasts(const struct cuda_peers &peers, unsigned missing) {
        spin_pause();
        if (++looks % LOOKS != 0) {
            return true;
        }
        if (load_system(peers.let_go) != 0) {
            return false;
        }
        const uint32_t now = static_cast<uint32_t>(timer_ns() >> 30);
        begin = looks == LOOKS ? now : begin;
        if (now - begin <= peers.patience_s) { // the first of them had begun before
            return true;
        }
        cuda_report(peers.fault, CUDA_FAULT_LATE_RANK, static_cast<uint32_t>(__ffs(static_cast<int>(missing)) - 1),
                    peers.patience_s, 0);
        store_system(peers.let_go, 1); // the sums that follow, here and elsewhere, shall not wait as long each
        return false;
    }
};

// Sends the words to the inboxes of all others, `at` there.
template <unsigned MOST>
__device__ void send_to_all(const struct cuda_peers &peers, unsigned inbox, size_t at, const uint4 &words) {
#pragma unroll
    for (unsigned r = 0; r < MOST; r++) {
        if (r < peers.ranks && r != peers.rank) {
            store_system(inbox_of(peers, r, inbox) + at, words);
        }
    }
}

// Takes rank r's vector from from[r * apart], for each r of the mask `ranks`, and leaves the place empty. False if it
// has given up.
template <unsigned MOST>
__device__ bool receive(const struct cuda_peers &peers, uint4 *from, size_t apart, unsigned ranks,
                        uint4 (&words)[MOST]) {
    Patience patience;
    for (unsigned missing = ranks; missing != 0;) {
#pragma unroll
        for (unsigned r = 0; r < MOST; r++) { // all under way before the first is looked at
            if (missing >> r & 1) {
                words[r] = load_system(from + r * apart);
            }
        }
#pragma unroll
        for (unsigned r = 0; r < MOST; r++) {
            if (missing >> r & 1 && arrived(words[r])) {
                missing &= ~(1u << r);
            }
        }
        if (missing != 0 && !patience.lasts(peers, missing)) {
            return false;
        }
    }
#pragma unroll
    for (unsigned r = 0; r < MOST; r++) {
        if (ranks >> r & 1) {
            store_system(from + r * apart, make_uint4(EMPTY, EMPTY, EMPTY, EMPTY));
        }
    }
    return true;
}

// In the order of ranks, this one's own in its place.
template <unsigned MOST>
__device__ uint4 add_up(const struct cuda_peers &peers, const uint4 (&words)[MOST], const uint4 &own) {
    float x = 0, y = 0, z = 0, w = 0;
#pragma unroll
    for (unsigned r = 0; r < MOST; r++) {
        if (r < peers.ranks) {
            const uint4 term = r == peers.rank ? own : words[r];
            x = r == 0 ? __uint_as_float(term.x) : x + __uint_as_float(term.x);
            y = r == 0 ? __uint_as_float(term.y) : y + __uint_as_float(term.y);
            z = r == 0 ? __uint_as_float(term.z) : z + __uint_as_float(term.z);
            w = r == 0 ? __uint_as_float(term.w) : w + __uint_as_float(term.w);
        }
    }
    return words_of(x, y, z, w);
}

__device__ unsigned others(const struct cuda_peers &peers) {
    return ((1u << peers.ranks) - 1) & ~(1u << peers.rank);
}

// Inbox: (ranks, vectors), whose is what.
template <unsigned MOST>
__global__ void __launch_bounds__(THREADS, 1) sum_at_once(struct cuda_peers peers, unsigned inbox, Values values) {
    const unsigned vectors = (values.count + 3) / 4;
    const unsigned first = blockIdx.x * THREADS + threadIdx.x, step = gridDim.x * THREADS;
    for (unsigned v = first; v < vectors; v += step) {
        send_to_all<MOST>(peers, inbox, static_cast<size_t>(peers.rank) * vectors + v, values.read(v));
    }
    for (unsigned v = first; v < vectors; v += step) {
        uint4 words[MOST];
        if (!receive<MOST>(peers, inbox_of(peers, peers.rank, inbox) + v, vectors, others(peers), words)) {
            return;
        }
        values.write(v, add_up<MOST>(peers, words, values.read(v)));
    }
    fence_system(); // what was emptied, and heard, before what this rank sends next: see above
}

// Rank r adds up vectors r * share to (r + 1) * share. Inbox: (ranks, share) of terms, then (ranks, share) of sums.
template <unsigned MOST>
__global__ void __launch_bounds__(THREADS, 1) sum_in_shares(struct cuda_peers peers, unsigned inbox, Values values) {
    const unsigned vectors = (values.count + 3) / 4, share = (vectors + peers.ranks - 1) / peers.ranks;
    const unsigned first = blockIdx.x * THREADS + threadIdx.x, step = gridDim.x * THREADS;
    const size_t own_part = static_cast<size_t>(peers.rank) * share, sums = static_cast<size_t>(peers.ranks) * share;
    for (unsigned v = first; v < share; v += step) {
#pragma unroll
        for (unsigned r = 0; r < MOST; r++) {
            if (r < peers.ranks && r != peers.rank && r * share + v < vectors) {
                store_system(inbox_of(peers, r, inbox) + own_part + v, values.read(r * share + v));
            }
        }
    }
    uint4 *mine = inbox_of(peers, peers.rank, inbox);
    for (unsigned v = first; v < share && own_part + v < vectors; v += step) {
        uint4 words[MOST];
        if (!receive<MOST>(peers, mine + v, share, others(peers), words)) {
            return;
        }
        const unsigned at = static_cast<unsigned>(own_part) + v;
        const uint4 sum = add_up<MOST>(peers, words, values.read(at));
        send_to_all<MOST>(peers, inbox, sums + own_part + v, sum);
        values.write(at, sum);
    }
    for (unsigned v = first; v < share; v += step) {
        unsigned ranks = 0;
#pragma unroll
        for (unsigned r = 0; r < MOST; r++) {
            ranks |= r < peers.ranks && r != peers.rank && r * share + v < vectors ? 1u << r : 0;
        }
        uint4 words[MOST];
        if (!receive<MOST>(peers, mine + sums + v, share, ranks, words)) {
            return;
        }
#pragma unroll
        for (unsigned r = 0; r < MOST; r++) {
            if (ranks >> r & 1) {
                values.write(r * share + v, words[r]);
            }
        }
    }
    fence_system(); // as above
}

using Kernel = void (*)(struct cuda_peers, unsigned, Values);

// Loops over ranks are unrolled up to a power of two.
Kernel kernel_for(uint32_t ranks, enum cuda_peer_way way) {
    const bool shares = way == CUDA_PEER_IN_SHARES;
    return ranks <= 2   ? shares ? sum_in_shares<2> : sum_at_once<2>
             : ranks <= 4 ? shares ? sum_in_shares<4> : sum_at_once<4>
             : ranks <= 8 ? shares ? sum_in_shares<8> : sum_at_once<8>
             : shares ? sum_in_shares<16>
                        : sum_at_once<16>;
}

} // namespace

static_assert(DEVICE_MOST_RANKS == 16, "kernel_for() goes as far");
static_assert(sizeof(Values) == 16 && sizeof(struct cuda_peers) == 18 * 8 + 4 * 4, "arguments have no padding");

extern "C" size_t cuda_peer_share_values(uint32_t ranks) {
    constexpr size_t STEP_BYTES = 700000; // that a rank sends while a word is under way
    return ranks > 2 ? STEP_BYTES * ranks / ((ranks - 1) * (ranks - 2)) / sizeof(float) : SIZE_MAX;
}

extern "C" bool cuda_peer_fits_at_once(uint32_t ranks, size_t count) {
    return ranks * ((count + 3) / 4) <= CUDA_PEER_VECTORS;
}

extern "C" void cuda_peer_reduce(struct stream *stream, const struct cuda_peers *peers, enum cuda_peer_way way,
                                 uint32_t inbox, float *x, uint32_t count) {
    const unsigned vectors = (count + 3) / 4;
    const unsigned blocks =
        blocks_for(way == CUDA_PEER_IN_SHARES ? blocks_for(vectors, peers->ranks) : vectors, THREADS);
    const Values values = {x, count, reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0 ? 1u : 0u};
    CHECK(count > 0 && count <= CUDA_PEER_VALUES && inbox < 2);
    CHECK(way == CUDA_PEER_IN_SHARES || cuda_peer_fits_at_once(peers->ranks, count));
    launch(stream, blocks < peers->most_blocks ? blocks : peers->most_blocks, THREADS, 0, kernel_for(peers->ranks, way),
           *peers, inbox, values);
}

extern "C" struct status cuda_peer_load(void) {
    for (uint32_t ranks = 2; ranks <= DEVICE_MOST_RANKS; ranks *= 2) {
        for (enum cuda_peer_way way : {CUDA_PEER_AT_ONCE, CUDA_PEER_IN_SHARES}) {
            struct cudaFuncAttributes attributes;
            const cudaError_t error = cudaFuncGetAttributes(&attributes, CUDA_ENTRY(kernel_for(ranks, way)));
            if (error != cudaSuccess) {
                return cuda_status(error, "cudaFuncGetAttributes");
            }
        }
    }
    struct status loaded = {};
    return loaded;
}
