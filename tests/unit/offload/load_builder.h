// Loads for tests: exact ones, random ones, and those of the grid that the bench prints.
#ifndef METRONOME_TESTS_LOAD_BUILDER_H
#define METRONOME_TESTS_LOAD_BUILDER_H

extern "C" {
#include "base/random.h"
#include "offload/plan.h"
}
#include <cstdint>
#include <string>

// The copy of a slab takes exactly slab_ns.
inline plan_load make_load(uint32_t layers, uint32_t slabs, uint64_t layer_ns, uint64_t slab_ns) {
    plan_load load = {};
    load.layers = layers;
    load.slabs = slabs;
    load.slab_bytes = slab_ns;
    load.link_bytes_per_s = 1000000000;
    load.layer_ns = layer_ns;
    return load;
}

class Random {
  public:
    explicit Random(uint64_t seed) {
        random_seed(&state_, seed);
    }
    // least .. most, both included
    uint64_t pick(uint64_t least, uint64_t most) {
        return least + random_below(&state_, most - least + 1);
    }
    bool one_in(uint64_t n) {
        return random_below(&state_, n) == 0;
    }
    double unit() {
        return random_unit(&state_);
    }

  private:
    random_state state_;
};

// Copies about as long as a layer, as a layer's share, or as what balances link and compute stream; small numbers
// half of the time, so that ties and degenerate cases come up.
inline plan_load random_load(Random &random, uint32_t most_layers, uint32_t most_slabs) {
    plan_load load =
        make_load(random.pick(1, random.one_in(4) ? most_layers : (most_layers + 3) / 4),
                  random.one_in(3) ? 1 : random.pick(1, most_slabs), random.pick(0, random.one_in(2) ? 12 : 100000), 1);
    uint64_t compute = load.layers * load.layer_ns;
    switch (random.pick(0, 2)) {
    case 0:
        load.slab_bytes = random.pick(1, 3 * load.layer_ns + 1);
        break;
    case 1:
        load.slab_bytes = random.pick(1, 3 * load.layer_ns / load.slabs + 1);
        break;
    default:
        load.slab_bytes = compute / random.pick(1, load.layers * load.slabs) + random.pick(1, 3);
    }
    load.copy_ns = random.one_in(2) ? random.pick(0, load.layer_ns) : 0;
    load.before_ns = random.one_in(2) ? random.pick(0, 3 * load.layer_ns) : 0;
    load.after_ns = random.one_in(2) ? random.pick(0, random.one_in(4) ? compute : 3 * load.layer_ns) : 0;
    return load;
}

inline std::string describe(const plan_load &load) {
    return "L " + std::to_string(load.layers) + " u " + std::to_string(load.slabs) + " layer " +
           std::to_string(load.layer_ns) + " slab " + std::to_string(load.slab_bytes) + "+" +
           std::to_string(load.copy_ns) + " before " + std::to_string(load.before_ns) + " after " +
           std::to_string(load.after_ns);
}

inline std::string describe(const plan_load &load, const plan &plan) {
    std::string text = describe(load) + " K " + std::to_string(plan.streamed_slabs) + " s " +
                       std::to_string(plan.staging) + " prefetch " + std::to_string(plan.prefetch_layers) + " streamed";
    for (uint32_t layer = 0; layer < plan.layers; layer++) {
        text += " " + std::to_string(plan.streamed[layer]);
    }
    return text;
}

#endif
