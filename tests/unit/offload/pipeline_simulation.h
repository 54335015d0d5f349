// A discrete-event simulation of the two streams, to hold the model of time
// against: a link that copies one slab at a time into explicit slots, and a
// device that computes a layer when its slabs lie in them. It shares no code
// and no formula with offload/plan.c. A slot that is overwritten too early, or
// read with another slab in it, poisons the run. Threads: any.
#ifndef METRONOME_TESTS_PIPELINE_SIMULATION_H
#define METRONOME_TESTS_PIPELINE_SIMULATION_H

extern "C" {
#include "offload/plan.h"
}
#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

class PipelineSimulation {
  public:
    struct Copy {
        uint64_t in, out;
    };
    bool poisoned = false;
    bool forgets_the_wrap = false;                  // a fault to find: slots are counted anew in each iteration
    std::vector<uint64_t> begins;                   // of each iteration; the last is the end of the last one
    std::vector<uint64_t> layer_starts, layer_ends; // over all iterations
    std::vector<Copy> copies;                       // over all iterations

    // A slab's copy takes slab_ns, the KV that every layer streams behind its slabs kv_ns, copy by copy.
    PipelineSimulation(const plan_load &load, const plan &plan, uint64_t slab_ns,
                       const std::vector<uint64_t> &kv_ns = {})
        : load_(load), plan_(plan), slots_(plan.staging) {
        for (uint32_t layer = 0; layer < plan.layers; layer++) {
            first_slab_.push_back(slab_layer_.size());
            copy_ns_.insert(copy_ns_.end(), plan.streamed[layer], slab_ns);
            copy_ns_.insert(copy_ns_.end(), kv_ns.begin(), kv_ns.end());
            slab_layer_.resize(copy_ns_.size(), layer);
            layer_copies_.push_back(slab_layer_.size() - first_slab_.back());
        }
    }

    void run(size_t iterations) {
        begins.push_back(0);
        at(load_.before_ns, [this] { compute_idle_ = true; });
        while (begins.size() <= iterations && !poisoned) {
            if (events_.empty()) {
                poisoned = true; // nothing can go on
                return;
            }
            now_ = events_.top().time;
            auto action = events_.top().action;
            events_.pop();
            action();
            start_copy();
            start_layer();
            start_copy(); // which may have waited for just this layer
        }
    }

  private:
    struct Event {
        uint64_t time, sequence;
        std::function<void()> action;
        bool operator<(const Event &other) const {
            return time != other.time ? time > other.time : sequence > other.sequence;
        }
    };
    struct Slot {
        enum { EMPTY, FILLING, FULL, READ } state = EMPTY;
        uint64_t copy = 0; // which one it holds
    };

    void at(uint64_t time, std::function<void()> action) {
        events_.push({time, sequence_++, std::move(action)});
    }

    Slot &slot_of(uint64_t copy) {
        return slots_[(forgets_the_wrap ? copy % slab_layer_.size() : copy) % slots_.size()];
    }

    void start_copy() {
        if (link_busy_ || slab_layer_.empty()) {
            return;
        }
        uint64_t copy = copies.size(), iteration = copy / slab_layer_.size();
        uint64_t layer = iteration * plan_.layers + slab_layer_[copy % slab_layer_.size()];
        Slot &slot = slot_of(copy);
        if (forgets_the_wrap) {
            if (copy >= slots_.size() + released_) {
                return; // as many copies back has not been released: in another slot, perhaps
            }
            poisoned |= slot.state != Slot::EMPTY;
        } else if (slot.state != Slot::EMPTY) {
            return; // its last user has not ended
        }
        if (plan_.prefetch_layers && layer >= plan_.prefetch_layers &&
            layer_starts.size() <= layer - plan_.prefetch_layers) {
            return; // too early
        }
        slot.state = Slot::FILLING;
        slot.copy = copy;
        link_busy_ = true;
        const uint64_t ns = copy_ns_[copy % copy_ns_.size()];
        copies.push_back({now_, now_ + ns});
        at(now_ + ns, [this, &slot] {
            poisoned |= slot.state != Slot::FILLING;
            slot.state = Slot::FULL;
            link_busy_ = false;
        });
    }

    void start_layer() {
        if (!compute_idle_) {
            return;
        }
        uint64_t iteration = layer_starts.size() / plan_.layers;
        uint32_t layer = layer_starts.size() % plan_.layers;
        uint64_t first = iteration * slab_layer_.size() + first_slab_[layer];
        for (uint64_t copy = first; copy < first + layer_copies_[layer]; copy++) {
            if (copy >= copies.size()) {
                return; // not even begun
            }
            Slot &slot = slot_of(copy);
            if (slot.copy != copy) {
                poisoned = true;
            }
            if (slot.state != Slot::FULL) {
                return; // on its way
            }
        }
        for (uint64_t copy = first; copy < first + layer_copies_[layer]; copy++) {
            slot_of(copy).state = Slot::READ;
        }
        compute_idle_ = false;
        layer_starts.push_back(now_);
        at(now_ + load_.layer_ns, [this, first, layer] { end_layer(first, layer); });
    }

    void end_layer(uint64_t first, uint32_t layer) {
        layer_ends.push_back(now_);
        for (uint64_t copy = first; copy < first + layer_copies_[layer]; copy++) {
            Slot &slot = slot_of(copy);
            poisoned |= slot.copy != copy || slot.state != Slot::READ;
            slot.state = Slot::EMPTY;
            released_++;
        }
        if (layer + 1 < plan_.layers) {
            compute_idle_ = true;
            return;
        }
        at(now_ + load_.after_ns, [this] {
            begins.push_back(now_);
            at(now_ + load_.before_ns, [this] { compute_idle_ = true; });
        });
    }

    const plan_load load_;
    const plan plan_;
    uint64_t now_ = 0, sequence_ = 0, released_ = 0;
    bool link_busy_ = false, compute_idle_ = false;
    std::priority_queue<Event> events_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> slab_layer_;              // of each slab of an iteration, in the order of the copies
    std::vector<uint64_t> copy_ns_;                 // of each of them
    std::vector<size_t> first_slab_, layer_copies_; // of each layer
};

#endif
