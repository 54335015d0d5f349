// op_kv_store and op_attention on the cpu device: against plain loops in double over scattered, poisoned blocks, and
// bit for bit against each other however the rows are cut and whoever computes them.
#include "tests/unit/kernels/cpu_rig.h"

#include <algorithm>
#include <memory>

namespace {

struct Heads {
    uint32_t query, kv, dim;
};

// One sequence's inputs: q, k and v for every position.
struct Sequence {
    uint32_t length;
    std::vector<float> q, k, v;

    Sequence(struct random_state *random, const Heads &heads, uint32_t length)
        : length(length), q(random_floats(random, static_cast<size_t>(length) * heads.query * heads.dim, 2)),
          k(random_floats(random, static_cast<size_t>(length) * heads.kv * heads.dim, 2)),
          v(random_floats(random, static_cast<size_t>(length) * heads.kv * heads.dim, 2)) {
    }
};

float through_cache(enum kv_type type, float value) {
    if (type == KV_F16) {
        return tensor_f16_to_f32(tensor_f32_to_f16(value));
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

// Rows first .. length - 1 of softmax(q.k * scale) v, one position after another.
std::vector<double> plain_attention(const Heads &heads, const Sequence &sequence, enum kv_type type, uint32_t first,
                                    double scale) {
    std::vector<double> out;
    std::vector<float> k, v;
    std::transform(sequence.k.begin(), sequence.k.end(), std::back_inserter(k),
                   [type](float x) { return through_cache(type, x); });
    std::transform(sequence.v.begin(), sequence.v.end(), std::back_inserter(v),
                   [type](float x) { return through_cache(type, x); });
    for (uint32_t row = first; row < sequence.length; row++) {
        for (uint32_t head = 0; head < heads.query; head++) {
            const float *q = &sequence.q[(static_cast<size_t>(row) * heads.query + head) * heads.dim];
            const size_t kv_head = head / (heads.query / heads.kv);
            std::vector<double> weights(row + 1), sum(heads.dim);
            double largest = -INFINITY, total = 0;
            for (uint32_t t = 0; t <= row; t++) {
                for (uint32_t d = 0; d < heads.dim; d++) {
                    weights[t] += static_cast<double>(q[d]) * k[(t * heads.kv + kv_head) * heads.dim + d] * scale;
                }
                largest = std::max(largest, weights[t]);
            }
            for (uint32_t t = 0; t <= row; t++) {
                weights[t] = std::exp(weights[t] - largest);
                total += weights[t];
                for (uint32_t d = 0; d < heads.dim; d++) {
                    sum[d] += weights[t] * v[(t * heads.kv + kv_head) * heads.dim + d];
                }
            }
            for (uint32_t d = 0; d < heads.dim; d++) {
                out.push_back(sum[d] / total);
            }
        }
    }
    return out;
}

struct device_limits limits_for(const Heads &heads, uint32_t rows, uint32_t sequences, uint32_t context) {
    struct device_limits limits = {};
    limits.rows = rows;
    limits.columns = heads.query * heads.dim;
    limits.vocabulary = limits.logit_rows = 1;
    limits.sequences = sequences;
    limits.query_heads = heads.query;
    limits.kv_heads = heads.kv;
    limits.head_dim = heads.dim;
    limits.context = context;
    return limits;
}

// How much of a sequence goes into one iteration: rows first .. first + rows - 1.
struct Run {
    size_t sequence;
    uint32_t first, rows;
};

// A device whose cache holds some sequences in blocks scattered among poison; layer 1 of 3 is the one in use.
class Cache {
  public:
    Cache(const std::string &isa, uint32_t threads, const Heads &heads, enum kv_type type,
          const std::vector<Sequence> &sequences)
        : heads(heads), sequences(sequences), longest(longest_of(sequences)), table_stride(longest / 16 + 2),
          rig(isa, COMPUTE_INT8, threads,
              limits_for(heads, longest * static_cast<uint32_t>(sequences.size()),
                         static_cast<uint32_t>(sequences.size()), longest)),
          shape{3, heads.kv, heads.dim, type}, pool(rig, block_values() * block_count()),
          table(rig, sequences.size() * table_stride) {
        struct random_state random;
        random_seed(&random, 99);
        std::vector<uint64_t> order(block_count());
        for (size_t i = 0; i < order.size(); i++) {
            order[i] = reinterpret_cast<uintptr_t>(pool.data() + i * block_values());
            std::swap(order[i], order[random_below(&random, i + 1)]);
        }
        std::copy_n(order.begin(), table.size(), table.data());
        for (const Sequence &sequence : sequences) {
            out.emplace_back(static_cast<size_t>(sequence.length) * heads.query * heads.dim, -1.0f);
        }
    }

    // One iteration: stores the runs' keys and values and attends; results go to `out` of each sequence.
    void iterate(const std::vector<Run> &runs, float scale) {
        const size_t q_row = heads.query * heads.dim, kv_row = heads.kv * heads.dim;
        const size_t q_stride = q_row + 8, kv_stride = kv_row + 4, out_stride = q_row + 3;
        uint32_t rows = 0;
        Buffer<struct kv_segment> segments(rig, runs.size());
        for (size_t i = 0; i < runs.size(); i++) {
            segments[i] = {i + 1, rows, runs[i].rows, runs[i].first, static_cast<uint32_t>(runs[i].sequence)};
            rows += runs[i].rows;
        }
        Buffer<float> q(rig, rows * q_stride), k(rig, rows * kv_stride), v(rig, rows * kv_stride);
        Buffer<float> result(rig, rows * out_stride);
        for (size_t i = 0, row = 0; i < runs.size(); i++) {
            const Sequence &sequence = sequences[runs[i].sequence];
            for (size_t from = runs[i].first; from < runs[i].first + runs[i].rows; from++, row++) {
                std::copy_n(&sequence.q[from * q_row], q_row, &q[row * q_stride]);
                std::copy_n(&sequence.k[from * kv_row], kv_row, &k[row * kv_stride]);
                std::copy_n(&sequence.v[from * kv_row], kv_row, &v[row * kv_stride]);
            }
        }
        struct kv_batch batch = {};
        batch.shape = shape;
        batch.segments = batch.segments_host = segments.data();
        batch.segment_count = static_cast<uint32_t>(runs.size());
        batch.rows = rows;
        batch.block_table = table.data();
        batch.table_stride = table_stride;
        op_kv_store(rig.stream, &batch, 1, k.data(), kv_stride, v.data(), kv_stride);
        op_attention(rig.stream, result.data(), out_stride, q.data(), q_stride, &batch, 1, heads.query, scale);
        rig.sync();
        for (size_t i = 0, row = 0; i < runs.size(); i++) {
            for (size_t to = runs[i].first; to < runs[i].first + runs[i].rows; to++, row++) {
                std::copy_n(&result[row * out_stride], q_row, &out[runs[i].sequence][to * q_row]);
                EXPECT_TRUE(is_poison(result[row * out_stride + q_row])) << "wrote past row " << row;
            }
        }
    }

    // Every sequence whole, `chunk` rows an iteration; sequences share iterations.
    void prefill(uint32_t chunk, float scale) {
        for (uint32_t first = 0; first < longest; first += chunk) {
            std::vector<Run> runs;
            for (size_t i = 0; i < sequences.size(); i++) {
                if (first < sequences[i].length) {
                    runs.push_back({i, first, std::min(chunk, sequences[i].length - first)});
                }
            }
            iterate(runs, scale);
        }
    }

    // Nothing but layer 1 was written, and no block that is no sequence's.
    void expect_others_untouched() {
        const size_t layer = kv_layer_bytes(&shape) / 2;
        for (size_t block = 0; block < block_count(); block++) {
            for (size_t i = 0; i < block_values(); i++) {
                if (i < layer || i >= 2 * layer) {
                    ASSERT_EQ(pool[block * block_values() + i], 0xffff) << "block " << block;
                }
            }
        }
    }

    Heads heads;
    const std::vector<Sequence> &sequences;
    uint32_t longest, table_stride;
    Rig rig;
    struct kv_shape shape;
    Buffer<uint16_t> pool; // 0xffff is a NaN in both types
    Buffer<uint64_t> table;
    std::vector<std::vector<float>> out;

  private:
    static uint32_t longest_of(const std::vector<Sequence> &sequences) {
        uint32_t longest = 0;
        for (const Sequence &sequence : sequences) {
            longest = std::max(longest, sequence.length);
        }
        return longest;
    }
    size_t block_values() const {
        return kv_block_bytes(&shape) / 2;
    }
    size_t block_count() const {
        return sequences.size() * table_stride + 3;
    }
};

TEST(Attention, MatchesPlainLoops) {
    struct random_state random;
    random_seed(&random, 11);
    const Heads heads_list[] = {{1, 1, 8},  {2, 1, 24},  {6, 2, 40},  {9, 3, 64},  {4, 1, 80},
                                {5, 1, 96}, {12, 2, 64}, {7, 1, 128}, {16, 2, 32}, {1, 1, 256}};
    for (const Heads &heads : heads_list) {
        for (enum kv_type type : {KV_F16, KV_BF16}) {
            std::vector<Sequence> sequences;
            for (uint32_t length : {1, 2, 15, 16, 17, 40}) {
                sequences.emplace_back(&random, heads, length);
            }
            const float scale = 1 / std::sqrt(static_cast<float>(heads.dim));
            std::vector<std::vector<float>> first;
            for (const std::string &isa : instruction_sets()) {
                SCOPED_TRACE(isa + " heads " + std::to_string(heads.query) + "/" + std::to_string(heads.kv) + " of " +
                             std::to_string(heads.dim));
                Cache cache(isa, 2, heads, type, sequences);
                cache.prefill(cache.longest, scale);
                for (size_t i = 0; i < sequences.size(); i++) {
                    EXPECT_LE(relative_error(cache.out[i], plain_attention(heads, sequences[i], type, 0, scale)), 1e-5);
                }
                cache.expect_others_untouched();
                if (first.empty()) {
                    first = cache.out;
                }
                for (size_t i = 0; i < sequences.size(); i++) {
                    EXPECT_TRUE(same_bits(cache.out[i], first[i])) << "differs from scalar";
                }
            }
        }
    }
}

TEST(Attention, MatchesPlainLoopsOverManySpans) {
    struct random_state random;
    random_seed(&random, 12);
    const Heads heads = {3, 1, 16};
    for (const std::string &isa : instruction_sets()) {
        for (uint32_t length : {255, 256, 257, 512, 513, 700}) {
            const std::vector<Sequence> sequences(1, Sequence(&random, heads, length));
            Cache cache(isa, 1, heads, KV_F16, sequences);
            cache.prefill(length, 0.25f);
            const size_t row = heads.query * heads.dim, from = length - 3;
            const std::vector<float> last(cache.out[0].begin() + static_cast<long>(from * row), cache.out[0].end());
            EXPECT_LE(relative_error(last, plain_attention(heads, sequences[0], KV_F16, length - 3, 0.25)), 1e-5)
                << isa << " length " << length;
        }
    }
}

// A whole prefill, chunks of any size, decode, another batch, other threads (which split long sequences by spans).
TEST(Attention, ARowDependsOnNeitherChunksNorNeighboursNorThreads) {
    struct random_state random;
    random_seed(&random, 13);
    for (const std::string &isa : instruction_sets()) {
        const Heads heads = isa == "scalar" ? Heads{2, 1, 8} : Heads{6, 2, 24};
        std::vector<Sequence> sequences;
        for (uint32_t length : {600, 30, 257}) {
            sequences.emplace_back(&random, heads, length);
        }
        Cache whole(isa, 1, heads, KV_BF16, sequences);
        whole.prefill(600, 0.2f);
        struct {
            uint32_t threads, chunk;
        } cuts[] = {{1, 1}, {1, 7}, {2, 16}, {4, 100}, {3, 255}, {4, 600}};
        for (const auto &cut : cuts) {
            Cache cache(isa, cut.threads, heads, KV_BF16, sequences);
            cache.prefill(cut.chunk, 0.2f);
            for (size_t i = 0; i < sequences.size(); i++) {
                EXPECT_TRUE(same_bits(cache.out[i], whole.out[i]))
                    << isa << " threads " << cut.threads << " chunk " << cut.chunk << " sequence " << i;
            }
        }
        // Decode of the long sequence alone, its spans shared out.
        Cache cache(isa, 4, heads, KV_BF16, sequences);
        cache.iterate({{0, 0, 560}}, 0.2f);
        for (uint32_t row = 560; row < 600; row++) {
            cache.iterate({{0, row, 1}}, 0.2f);
        }
        EXPECT_TRUE(same_bits(cache.out[0], whole.out[0])) << isa << " decode";
    }
}

// Keys and values that are not numbers do not reach rows before them.
TEST(Attention, WhatComesLaterIsNotSeen) {
    struct random_state random;
    random_seed(&random, 14);
    const Heads heads = {4, 1, 16};
    std::vector<Sequence> clean(1, Sequence(&random, heads, 48)), spoilt = clean;
    std::fill(spoilt[0].k.begin() + 33 * 16, spoilt[0].k.end(), NAN);
    std::fill(spoilt[0].v.begin() + 33 * 16, spoilt[0].v.end(), INFINITY);
    for (const std::string &isa : instruction_sets()) {
        Cache a(isa, 1, heads, KV_F16, clean), b(isa, 1, heads, KV_F16, spoilt);
        a.prefill(48, 0.25f);
        b.prefill(48, 0.25f);
        a.out[0].resize(33 * 64);
        b.out[0].resize(33 * 64);
        EXPECT_TRUE(same_bits(a.out[0], b.out[0])) << isa;
    }
}

// More query heads to a kv head than one pass holds.
TEST(Attention, ManyQueryHeadsShareOneKvHead) {
    struct random_state random;
    random_seed(&random, 15);
    const Heads heads = {71, 1, 8};
    const std::vector<Sequence> sequences(1, Sequence(&random, heads, 19));
    for (const std::string &isa : instruction_sets()) {
        Cache cache(isa, 2, heads, KV_F16, sequences);
        cache.prefill(19, 0.3f);
        EXPECT_LE(relative_error(cache.out[0], plain_attention(heads, sequences[0], KV_F16, 0, 0.3)), 1e-5) << isa;
    }
}

// Scores far apart: weights underflow to 0, nothing overflows.
TEST(Attention, LargeScores) {
    struct random_state random;
    random_seed(&random, 16);
    const Heads heads = {2, 1, 32};
    const std::vector<Sequence> sequences(1, Sequence(&random, heads, 300));
    for (const std::string &isa : instruction_sets()) {
        Cache cache(isa, 1, heads, KV_F16, sequences);
        cache.prefill(300, 20.0f);
        EXPECT_LE(relative_error(cache.out[0], plain_attention(heads, sequences[0], KV_F16, 0, 20.0)), 1e-3) << isa;
    }
}

} // namespace
