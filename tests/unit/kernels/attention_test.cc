// op_kv_store and op_attention: against the reference over scattered, poisoned blocks, and on the cpu device bit for
// bit in every instruction set, however the rows are cut and whoever computes them.
#include "tests/unit/kernels/kernel_test.h"

extern "C" {
#include "kernels/reference/reference.h"
}

#include <algorithm>
#include <memory>

namespace {

struct Heads {
    uint32_t query, kv, dim;
};

// One sequence's q, k and v, a row a position.
struct Sequence {
    uint32_t length;
    std::vector<float> q, k, v;

    Sequence(Random &random, const Heads &heads, uint32_t positions)
        : length(positions), q(random.normals(static_cast<size_t>(positions) * heads.query * heads.dim)),
          k(random.normals(static_cast<size_t>(positions) * heads.kv * heads.dim)),
          v(random.normals(static_cast<size_t>(positions) * heads.kv * heads.dim)) {
    }
};

// What the rows first .. length - 1 of a sequence ought to give.
std::vector<float> expected(const Heads &heads, const Sequence &sequence, enum kv_type type, float scale,
                            uint32_t first = 0, uint32_t window = 0) {
    const size_t row = heads.query * heads.dim;
    std::vector<float> out((sequence.length - first) * row);
    ref_attention(out.data(), &sequence.q[first * row], sequence.k.data(), sequence.v.data(), type,
                  sequence.length - first, first, heads.query, heads.kv, heads.dim, scale, window);
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
    Cache(const Setting &setting, const Heads &shape_heads, enum kv_type type, const std::vector<Sequence> &contents)
        : bench_(setting), heads_(shape_heads), shape_{3, shape_heads.kv, shape_heads.dim, type}, sequences_(contents),
          table_stride_(longest() / 16 + 2), pool_(bench_, block_values() * block_count()),
          table_(bench_, scattered()) {
        const uint32_t count = static_cast<uint32_t>(sequences_.size());
        const struct device_limits limits = limits_for(heads_, longest() * count, count, longest());
        EXPECT_OK(device_prepare(bench_.device, &limits));
        for (const Sequence &sequence : sequences_) {
            out.emplace_back(static_cast<size_t>(sequence.length) * heads_.query * heads_.dim, -1.0f);
        }
    }

    // One iteration: stores the runs' keys and values and attends; results go to `out` of each sequence.
    void iterate(const std::vector<Run> &runs, float scale, uint32_t window = 0) {
        const size_t q_row = heads_.query * heads_.dim, kv_row = heads_.kv * heads_.dim, out_stride = q_row + 3;
        std::vector<struct kv_segment> segments;
        std::vector<float> q, k, v;
        uint32_t rows = 0;
        for (const Run &run : runs) {
            const Sequence &sequence = sequences_[run.sequence];
            const size_t first = run.first, end = run.first + run.rows;
            segments.push_back({segments.size() + 1, rows, run.rows, run.first, static_cast<uint32_t>(run.sequence)});
            q.insert(q.end(), &sequence.q[first * q_row], &sequence.q[0] + end * q_row);
            k.insert(k.end(), &sequence.k[first * kv_row], &sequence.k[0] + end * kv_row);
            v.insert(v.end(), &sequence.v[first * kv_row], &sequence.v[0] + end * kv_row);
            rows += run.rows;
        }
        Buffer<struct kv_segment> device_segments(bench_, segments);
        Buffer<float> device_q(bench_, q), device_k(bench_, k), device_v(bench_, v), result(bench_, rows * out_stride);
        struct kv_batch batch = {};
        batch.shape = shape_;
        batch.segments = device_segments.at();
        batch.segments_host = segments.data();
        batch.segment_count = static_cast<uint32_t>(segments.size());
        batch.rows = rows;
        batch.block_table = table_.at();
        batch.table_stride = table_stride_;
        for (size_t i = 0; i < groups_.size(); i++) { // of layer 1: where those of layer 0 would begin
            batch.groups[i] = reinterpret_cast<uintptr_t>(groups_[i]->at()) - kv_layer_bytes(&shape_);
        }
        op_kv_store(bench_.stream, &batch, 1, device_k.at(), kv_row, device_v.at(), kv_row);
        op_attention(bench_.stream, result.at(), out_stride, device_q.at(), q_row, &batch, 1, heads_.query, scale,
                     window);
        const std::vector<float> all = result.read();
        size_t row = 0;
        for (const Run &run : runs) {
            for (size_t to = run.first; to < run.first + run.rows; to++, row++) {
                std::copy_n(&all[row * out_stride], q_row, &out[run.sequence][to * q_row]);
                EXPECT_TRUE(std::isnan(all[row * out_stride + q_row])) << "wrote past the end of row " << row;
            }
        }
    }

    // Every sequence whole, `chunk` rows an iteration; sequences share iterations.
    void prefill(uint32_t chunk, float scale, uint32_t window = 0) {
        for (uint32_t first = 0; first < longest(); first += chunk) {
            std::vector<Run> runs;
            for (size_t i = 0; i < sequences_.size(); i++) {
                if (first < sequences_[i].length) {
                    runs.push_back({i, first, std::min(chunk, sequences_[i].length - first)});
                }
            }
            iterate(runs, scale, window);
        }
    }

    // Of the first blocks of a sequence only the layer in use stays on the device, in groups: from host memory, in
    // which they lie whole, one strided copy brings each group. Where they were is poison.
    void stream(size_t sequence, uint32_t blocks, uint32_t group_blocks) {
        std::vector<uint64_t> table = table_.read();
        const std::vector<uint16_t> all = pool_.read(), poison(block_values(), 0xffff);
        const size_t layer = kv_layer_bytes(&shape_) / 2, layer_bytes = kv_layer_bytes(&shape_);
        for (uint32_t first = 0; first < blocks; first += group_blocks) {
            const uint32_t count = std::min(group_blocks, blocks - first), group = uint32_t(groups_.size());
            std::vector<uint16_t> host;
            for (uint32_t i = 0; i < count; i++) {
                uint64_t &entry = table[sequence * table_stride_ + first + i];
                const size_t at = (entry - reinterpret_cast<uintptr_t>(pool_.at())) / 2;
                host.insert(host.end(), all.begin() + at, all.begin() + at + block_values());
                stream_copy(bench_.stream, pool_.at() + at, poison.data(), 2 * poison.size(), COPY_HOST_TO_DEVICE);
                entry = kv_streamed_entry(group, i * layer_bytes);
            }
            groups_.push_back(std::make_unique<Buffer<uint16_t>>(bench_, count * layer));
            stream_copy_rows(bench_.stream, groups_.back()->at(), &host[layer], 2 * block_values(), layer_bytes, count);
            stream_copy(bench_.stream, table_.at(), table.data(), 8 * table.size(), COPY_HOST_TO_DEVICE);
            EXPECT_OK(stream_sync(bench_.stream));
        }
    }

    // No layer but the one in use was written.
    void expect_others_untouched() {
        const size_t layer = kv_layer_bytes(&shape_) / 2;
        const std::vector<uint16_t> all = pool_.read();
        for (size_t i = 0; i < all.size(); i++) {
            if (i % block_values() / layer != 1) {
                ASSERT_EQ(all[i], 0xffff) << "value " << i % block_values() << " of block " << i / block_values();
            }
        }
    }

    uint32_t longest() const {
        uint32_t most = 0;
        for (const Sequence &sequence : sequences_) {
            most = std::max(most, sequence.length);
        }
        return most;
    }

    std::vector<std::vector<float>> out;

  private:
    size_t block_values() const {
        return kv_block_bytes(&shape_) / 2;
    }
    size_t block_count() const {
        return sequences_.size() * table_stride_ + 3;
    }
    // A block table in which no block follows the one before it.
    std::vector<uint64_t> scattered() const {
        Random random(99);
        std::vector<uint64_t> blocks(block_count());
        for (uint32_t i = 0; i < blocks.size(); i++) {
            blocks[i] = reinterpret_cast<uintptr_t>(pool_.at() + i * block_values());
            std::swap(blocks[i], blocks[random.below(i + 1)]);
        }
        blocks.resize(sequences_.size() * table_stride_);
        return blocks;
    }

    Bench bench_;
    Heads heads_;
    struct kv_shape shape_;
    const std::vector<Sequence> &sequences_;
    uint32_t table_stride_;
    Buffer<uint16_t> pool_; // 0xffff, the poison, is a NaN in both types
    Buffer<uint64_t> table_;
    std::vector<std::unique_ptr<Buffer<uint16_t>>> groups_;
};

std::vector<Sequence> sequences_of(Random &random, const Heads &heads, std::initializer_list<uint32_t> lengths) {
    std::vector<Sequence> sequences;
    for (uint32_t length : lengths) {
        sequences.emplace_back(random, heads, length);
    }
    return sequences;
}

// One setting for each instruction set.
std::vector<Setting> settings_with(uint32_t threads) {
    std::vector<Setting> settings;
    for (Setting setting : every_setting()) {
        if (settings.empty() || !setting.same_device(settings.back()) ||
            strcmp(setting.isa, settings.back().isa) != 0) {
            setting.threads = threads;
            settings.push_back(setting);
        }
    }
    return settings;
}

TEST(Attention, MatchesTheReferenceAndIsTheSameInEveryInstructionSet) {
    Random random(11);
    const Heads heads_list[] = {{1, 1, 8},  {2, 1, 24},  {6, 2, 40},  {9, 3, 64},  {4, 1, 80},
                                {5, 1, 96}, {12, 2, 64}, {7, 1, 128}, {16, 2, 32}, {1, 1, 256}};
    for (const Heads &heads : heads_list) {
        for (enum kv_type type : {KV_F16, KV_BF16}) {
            const std::vector<Sequence> sequences = sequences_of(random, heads, {1, 2, 15, 16, 17, 40});
            const float scale = 2 / std::sqrt(static_cast<float>(heads.dim));
            std::vector<std::vector<float>> first;
            const char *device = "";
            for (const Setting &setting : settings_with(2)) {
                SCOPED_TRACE(setting.name() + " heads " + std::to_string(heads.query) + "/" + std::to_string(heads.kv) +
                             " of " + std::to_string(heads.dim));
                Cache cache(setting, heads, type, sequences);
                cache.prefill(cache.longest(), scale);
                cache.expect_others_untouched();
                first = strcmp(device, setting.device) == 0 ? first : cache.out;
                device = setting.device;
                for (size_t i = 0; i < sequences.size(); i++) {
                    EXPECT_LE(relative_error(cache.out[i], expected(heads, sequences[i], type, scale)), 1e-5);
                    EXPECT_TRUE(same_bits(cache.out[i], first[i]));
                }
            }
        }
    }
}

TEST(Attention, MatchesTheReferenceOverManySpans) {
    Random random(12);
    const Heads heads = {3, 1, 16};
    for (uint32_t length : {255, 256, 257, 512, 513, 700}) {
        const std::vector<Sequence> sequences = sequences_of(random, heads, {length});
        for (const Setting &setting : settings_with(1)) {
            Cache cache(setting, heads, KV_F16, sequences);
            cache.prefill(length, 0.5f);
            const std::vector<float> last(cache.out[0].end() - 3 * heads.query * heads.dim, cache.out[0].end());
            EXPECT_LE(relative_error(last, expected(heads, sequences[0], KV_F16, 0.5f, length - 3)), 1e-5)
                << setting.name() << " length " << length;
        }
    }
}

// A whole prefill, chunks of any size, decode, another batch, other threads (which share out the spans of a few rows).
TEST(Attention, ARowDependsOnNeitherChunksNorNeighboursNorThreads) {
    for (Setting setting : settings_with(1)) {
        Random random(13);
        const Heads heads = std::string(setting.isa) == "scalar" ? Heads{2, 1, 8} : Heads{6, 2, 24};
        const std::vector<Sequence> sequences = sequences_of(random, heads, {600, 30, 257});
        Cache whole(setting, heads, KV_BF16, sequences);
        whole.prefill(600, 0.5f);
        const struct { uint32_t threads, chunk; } cuts[] = {{1, 7}, {2, 16}, {4, 100}, {3, 255}, {4, 600}};
        for (const auto &cut : cuts) {
            setting.threads = cut.threads;
            Cache cache(setting, heads, KV_BF16, sequences);
            cache.prefill(cut.chunk, 0.5f);
            for (size_t i = 0; i < sequences.size(); i++) {
                EXPECT_TRUE(same_bits(cache.out[i], whole.out[i]))
                    << setting.name() << " chunk " << cut.chunk << " sequence " << i;
            }
        }
        setting.threads = 4;
        Cache cache(setting, heads, KV_BF16, sequences);
        cache.iterate({{0, 0, 560}}, 0.5f);
        for (uint32_t row = 560; row < 600; row++) {
            cache.iterate({{0, row, 1}}, 0.5f);
        }
        EXPECT_TRUE(same_bits(cache.out[0], whole.out[0])) << setting.name() << " decode";
    }
}

// Windows shorter than a tile, than a block, than a span, and longer; their begin crosses spans inside a tile.
TEST(Attention, AWindowHidesWhatLiesBeforeIt) {
#ifdef SANITIZED
    const std::vector<uint32_t> windows = {7, 256};
#else
    const std::vector<uint32_t> windows = {1, 7, 100, 256, 290};
#endif
    for (const Setting &setting : settings_with(2)) {
        Random random(17);
        const Heads heads = std::string(setting.isa) == "scalar" ? Heads{2, 1, 8} : Heads{4, 2, 24};
        const std::vector<Sequence> sequences = sequences_of(random, heads, {560, 30});
        for (uint32_t window : windows) {
            SCOPED_TRACE(setting.name() + " window " + std::to_string(window));
            Cache whole(setting, heads, KV_F16, sequences);
            whole.prefill(560, 0.5f, window);
            for (size_t i = 0; i < sequences.size(); i++) {
                EXPECT_LE(relative_error(whole.out[i], expected(heads, sequences[i], KV_F16, 0.5f, 0, window)), 1e-5);
            }
            Cache chunks(setting, heads, KV_F16, sequences);
            chunks.prefill(13, 0.5f, window);
            for (size_t i = 0; i < sequences.size(); i++) {
                EXPECT_TRUE(same_bits(chunks.out[i], whole.out[i])) << "chunks, sequence " << i;
            }
            Setting alone = setting;
            alone.threads = 1;
            Cache cache(alone, heads, KV_F16, sequences);
            cache.iterate({{0, 0, 540}}, 0.5f, window);
            for (uint32_t row = 540; row < 560; row++) {
                cache.iterate({{0, row, 1}}, 0.5f, window);
            }
            EXPECT_TRUE(same_bits(cache.out[0], whole.out[0])) << "decode";
        }
    }
}

// Keys and values before the window that are not numbers do not reach a row.
TEST(Attention, WhatLiesBeforeTheWindowIsNotSeen) {
    Random random(18);
    const Heads heads = {4, 1, 16};
    const std::vector<Sequence> clean = sequences_of(random, heads, {300});
    std::vector<Sequence> spoilt = clean;
    std::fill(spoilt[0].k.begin(), spoilt[0].k.begin() + 20 * 16, NAN);
    std::fill(spoilt[0].v.begin(), spoilt[0].v.begin() + 20 * 16, INFINITY);
    for (const Setting &setting : settings_with(1)) {
        Cache a(setting, heads, KV_F16, clean), b(setting, heads, KV_F16, spoilt);
        a.prefill(300, 0.5f, 9);
        b.prefill(300, 0.5f, 9);
        a.out[0].erase(a.out[0].begin(), a.out[0].begin() + 28 * 64);
        b.out[0].erase(b.out[0].begin(), b.out[0].begin() + 28 * 64);
        EXPECT_TRUE(same_bits(a.out[0], b.out[0])) << setting.name();
    }
}

// Grouped heads, several spans, and an iteration of decode rows and chunks beside each other.
TEST(Attention, RaggedSegmentsOfLongSequencesShareAnIteration) {
    const struct { uint32_t heads, length; } cases[] = {{1, 1000}, {3, 530}, {8, 300}};
    for (const auto &shape : cases) {
        Random random(18);
        const Heads heads = {shape.heads, 1, 64};
        const std::vector<Sequence> sequences = sequences_of(random, heads, {shape.length, 257, 16});
        for (const Setting &setting : settings_with(2)) {
            if (std::string(setting.isa) == "scalar") {
                continue; // seconds, in plain C
            }
            SCOPED_TRACE(setting.name() + " heads " + std::to_string(shape.heads));
            Cache whole(setting, heads, KV_F16, sequences);
            whole.prefill(shape.length, 0.3f);
            const size_t tail = 3 * heads.query * heads.dim;
            const std::vector<float> last(whole.out[0].end() - tail, whole.out[0].end());
            EXPECT_LE(relative_error(last, expected(heads, sequences[0], KV_F16, 0.3f, shape.length - 3)), 1e-5);
            const std::vector<std::vector<float>> prefilled = whole.out;
            whole.iterate({{0, shape.length - 1, 1}, {1, 240, 17}, {2, 3, 3}}, 0.3f);
            whole.iterate({{2, 15, 1}, {0, 255, 1}, {1, 0, 256}}, 0.3f);
            whole.iterate({{1, 256, 1}, {2, 0, 16}, {0, 250, 40}}, 0.3f);
            for (size_t i = 0; i < sequences.size(); i++) {
                EXPECT_TRUE(same_bits(whole.out[i], prefilled[i])) << "sequence " << i;
            }
        }
    }
}

// Blocks that pass through the device layer by layer give the bits of blocks that lie there.
TEST(Attention, StreamedBlocksAreAsGoodAsOthers) {
    for (enum kv_type type : {KV_F16, KV_BF16}) {
        for (Setting setting : settings_with(1)) {
            for (uint32_t dim : {24, 64, 128, 256}) {
                Random random(19);
                const Heads heads = std::string(setting.isa) == "scalar" ? Heads{2, 1, 8} : Heads{4, 2, dim};
                const std::vector<Sequence> sequences = sequences_of(random, heads, {300, 100});
                Cache whole(setting, heads, type, sequences), streamed(setting, heads, type, sequences);
                whole.prefill(300, 0.5f);
                streamed.iterate({{0, 0, 270}, {1, 0, 64}}, 0.5f);
                streamed.stream(0, 12, 5);
                streamed.stream(1, 4, 3);
                streamed.iterate({{1, 64, 1}, {0, 270, 1}}, 0.5f);
                streamed.iterate({{0, 271, 29}, {1, 65, 35}}, 0.5f);
                for (size_t i = 0; i < sequences.size(); i++) {
                    EXPECT_TRUE(same_bits(streamed.out[i], whole.out[i])) << setting.name() << " sequence " << i;
                }
            }
        }
    }
}

// Keys and values that are not numbers do not reach the rows before them.
TEST(Attention, WhatComesLaterIsNotSeen) {
    Random random(14);
    const Heads heads = {4, 1, 16};
    const std::vector<Sequence> clean = sequences_of(random, heads, {48});
    std::vector<Sequence> spoilt = clean;
    std::fill(spoilt[0].k.begin() + 33 * 16, spoilt[0].k.end(), NAN);
    std::fill(spoilt[0].v.begin() + 33 * 16, spoilt[0].v.end(), INFINITY);
    for (const Setting &setting : settings_with(1)) {
        Cache a(setting, heads, KV_F16, clean), b(setting, heads, KV_F16, spoilt);
        a.prefill(48, 0.5f);
        b.prefill(48, 0.5f);
        a.out[0].resize(33 * 64);
        b.out[0].resize(33 * 64);
        EXPECT_TRUE(same_bits(a.out[0], b.out[0])) << setting.name();
    }
}

// Values that are not finite reach the rows that see them, in their dimensions alone, and no row before; whichever
// kernel takes the rows.
TEST(Attention, ValuesThatAreNotFiniteStayInTheirDimensions) {
    Random random(20);
    for (uint32_t dim : {64, 136, 256}) {
        const Heads heads = {2, 1, dim};
        std::vector<Sequence> sequences = sequences_of(random, heads, {40});
        const uint32_t spoilt = dim - 5, seen = 21; // the last dimensions, from this position on
        for (uint32_t dimension = spoilt; dimension < dim; dimension++) {
            sequences[0].v[seen * dim + dimension] = INFINITY;
        }
        for (const Setting &setting : settings_with(1)) {
            for (uint32_t chunk : {40, 10, 1}) {
                Cache cache(setting, heads, KV_F16, sequences);
                cache.prefill(chunk, 0.5f);
                for (size_t i = 0; i < cache.out[0].size(); i++) {
                    ASSERT_EQ(std::isfinite(cache.out[0][i]), i / (2 * dim) < seen || i % dim < spoilt)
                        << setting.name() << " dim " << dim << " chunk " << chunk << " value " << i;
                }
            }
        }
    }
}

// More query heads to a kv head than one pass holds.
TEST(Attention, ManyQueryHeadsShareAKvHead) {
    Random random(15);
    const Heads heads = {71, 1, 8};
    const std::vector<Sequence> sequences = sequences_of(random, heads, {19});
    for (const Setting &setting : settings_with(2)) {
        Cache cache(setting, heads, KV_F16, sequences);
        cache.prefill(19, 0.5f);
        EXPECT_LE(relative_error(cache.out[0], expected(heads, sequences[0], KV_F16, 0.5f)), 1e-5) << setting.name();
    }
}

// Scores far apart: weights underflow to 0, nothing overflows.
TEST(Attention, LargeScores) {
    Random random(16);
    const Heads heads = {2, 1, 32};
    const std::vector<Sequence> sequences = sequences_of(random, heads, {300});
    for (const Setting &setting : settings_with(1)) {
        Cache cache(setting, heads, KV_F16, sequences);
        cache.prefill(300, 20.0f);
        EXPECT_LE(relative_error(cache.out[0], expected(heads, sequences[0], KV_F16, 20.0f)), 1e-3) << setting.name();
    }
}

} // namespace
