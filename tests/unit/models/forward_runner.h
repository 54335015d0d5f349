// A model on the cpu device, or on the one that METRONOME_TEST_DEVICE names, with nothing above it: for tests of the
// forward pass.
//
// A Runner owns the device, the offload engine with every layer resident, and the pass. A Piece is a run of tokens
// of one sequence; step() runs any number of pieces as one iteration and returns the logits of the rows wanted.
#ifndef METRONOME_TESTS_FORWARD_RUNNER_H
#define METRONOME_TESTS_FORWARD_RUNNER_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
#include "base/log.h"
#include "models/model.h"
}

struct Piece {
    uint64_t sequence;
    std::vector<uint32_t> tokens;
    std::vector<uint32_t> wanted; // indices into tokens whose logits are wanted, ascending
};

using Logits = std::vector<float>;

class Runner {
  public:
    struct Options {
        enum compute_mode compute = COMPUTE_F32;
        enum kv_type kv = KV_F16;
        uint32_t threads = 1, slabs = 1, ranks = 1;
        const char *isa = "auto";
        bool no_graphs = false; // on cuda
        uint32_t rows = 64, logit_rows = 64, sequences = 16, context = 128, changes = 0;
        bool invariant = true;     // bits are compared
        uint32_t library_rows = 0; // cuda, not invariant: from so many rows on cuBLAS multiplies
    };

    Runner(struct model *model, const Options &options) : model_(model), options_(options) {
        log_set_level(LOG_WARN);
        struct device_config device = {};
        const char *chosen = getenv("METRONOME_TEST_DEVICE"); // cuda, where it is built
        device.name = chosen ? chosen : "cpu";
        device.threads = options.threads;
        device.isa = options.isa;
        device.compute = options.compute;
        device.ranks = options.ranks;
        device.invariant = options.invariant;
        device.library_rows = options.library_rows;
        device.no_graphs = options.no_graphs;
        check(device_open(&device, &device_));
        check(model_split(model, options.ranks));
        struct kv_shape kv = model_kv_shape(model, options.kv);
        struct offload_config offload = {};
        offload.policy = "none";
        offload.layers = model_shape(model)->layers;
        offload.slabs = 1;
        offload.slab_bytes = model_slab_bytes(model, device_, 1);
        offload.kv_block_bytes = kv_block_bytes(&kv);
        offload.kv_blocks_wanted = options.sequences * ((options.context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
        check(offload_create(device_, &offload, &offload_));
        check(model_load(model, device_, offload_));
        struct forward_limits limits = {options.rows, options.logit_rows, options.sequences, options.context,
                                        true,         options.changes};
        check(forward_create(model, device_, offload_, &limits, options.kv, &forward_));
    }
    ~Runner() {
        while (!sequences_.empty()) {
            release(sequences_.begin()->first);
        }
        forward_destroy(forward_);
        model_unload(model_);
        offload_destroy(offload_);
        device_close(device_);
    }
    Runner(const Runner &) = delete;
    Runner &operator=(const Runner &) = delete;

    struct device *device() {
        return device_;
    }
    struct forward *forward() {
        return forward_;
    }

    // One iteration. Logits of every wanted row, piece after piece; `argmax` receives the device's argmax of each.
    std::vector<Logits> step(const std::vector<Piece> &pieces, std::vector<uint32_t> *argmax = nullptr) {
        struct forward_inputs *in = forward_inputs(forward_);
        in->rows = in->segment_count = in->logit_count = 0;
        for (const Piece &piece : pieces) {
            add(in, piece);
        }
        bool wanted[1024];
        std::fill(wanted, wanted + 1024, true);
        forward_run(forward_, wanted);
        check(forward_wait(forward_));
        std::vector<Logits> out;
        for (uint32_t i = 0; i < in->logit_count; i++) {
            const float *logits = forward_logits(forward_, i);
            out.emplace_back(logits, logits + model_shape(model_)->vocabulary);
            if (argmax != nullptr) {
                argmax->push_back(forward_token(forward_, i));
            }
        }
        return out;
    }

    // The logits of the last token of `ids`, run as a new sequence in chunks of at most `chunk` rows.
    Logits prefill(uint64_t sequence, const std::vector<uint32_t> &ids, uint32_t chunk) {
        std::vector<Logits> last;
        for (size_t begin = 0; begin < ids.size(); begin += chunk) {
            size_t end = std::min(ids.size(), begin + chunk);
            std::vector<uint32_t> tokens(ids.begin() + long(begin), ids.begin() + long(end));
            std::vector<uint32_t> wanted;
            if (end == ids.size()) {
                wanted.push_back(uint32_t(tokens.size() - 1));
            }
            last = step({{sequence, tokens, wanted}});
        }
        return last.at(0);
    }

    // `count` greedy tokens after `ids`.
    std::vector<uint32_t> greedy(const std::vector<uint32_t> &ids, size_t count) {
        const uint64_t sequence = UINT64_MAX;
        std::vector<uint32_t> next, out;
        step({{sequence, ids, {uint32_t(ids.size() - 1)}}}, &next);
        while (out.size() < count) {
            out.push_back(next.back());
            if (out.size() < count) {
                step({{sequence, {out.back()}, {0}}}, &next);
            }
        }
        release(sequence);
        return out;
    }

    void release(uint64_t sequence) {
        for (uint32_t block : sequences_[sequence].blocks) {
            offload_kv_give(offload_, block);
        }
        sequences_.erase(sequence);
    }

    static void check(const struct status &status) {
        if (status.code != STATUS_OK) {
            ADD_FAILURE() << status.message;
            throw std::runtime_error(status.message);
        }
    }

  private:
    struct Sequence {
        uint32_t length = 0;
        std::vector<uint32_t> blocks;
    };

    void add(struct forward_inputs *in, const Piece &piece) {
        Sequence &sequence = sequences_[piece.sequence];
        uint32_t rows = uint32_t(piece.tokens.size());
        ASSERT_LE(in->rows + rows, options_.rows);
        ASSERT_LE(sequence.length + rows, options_.context);
        while (sequence.blocks.size() * KV_BLOCK_TOKENS < sequence.length + rows) {
            uint32_t block;
            ASSERT_TRUE(offload_kv_take(offload_, &block));
            sequence.blocks.push_back(block);
        }
        struct kv_segment segment = {};
        segment.sequence = piece.sequence;
        segment.first_row = in->rows;
        segment.rows = rows;
        segment.first_position = sequence.length;
        segment.table = in->segment_count;
        in->segments[in->segment_count] = segment;
        offload_kv_addresses(offload_, sequence.blocks.data(), uint32_t(sequence.blocks.size()),
                             in->block_table + size_t(in->segment_count) * in->table_stride);
        in->segment_count++;
        for (uint32_t wanted : piece.wanted) {
            in->logit_rows[in->logit_count++] = in->rows + wanted;
        }
        for (uint32_t i = 0; i < rows; i++) {
            in->tokens[in->rows + i] = piece.tokens[i];
            in->positions[in->rows + i] = sequence.length + i;
        }
        in->rows += rows;
        sequence.length += rows;
    }

    struct model *model_;
    Options options_;
    struct device *device_ = nullptr;
    struct offload *offload_ = nullptr;
    struct forward *forward_ = nullptr;
    std::map<uint64_t, Sequence> sequences_;
};

// ||ours - reference|| / ||reference||
template <typename A, typename B> double relative_error(const A &ours, const B &reference) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < reference.size(); i++) {
        difference += (double(ours[i]) - double(reference[i])) * (double(ours[i]) - double(reference[i]));
        norm += double(reference[i]) * double(reference[i]);
    }
    return std::sqrt(difference / norm);
}

#endif
