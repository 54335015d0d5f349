/* Fuzz target: any bytes as a description, of hardware and of a model. What is accepted can be calculated with. */
#include "base/check.h"
#include "kernels/sim/cost.h"
#include "models/description.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct hardware hardware;
    struct model_description model;
    struct status status = hardware_parse((const char *)data, bytes, &hardware);
    CHECK(status.code == STATUS_OK || status.message[0]); /* a refusal says why */
    if (status.code == STATUS_OK) {
        struct cost_model cost = cost_model(&hardware, COMPUTE_INT8);
        CHECK(cost_bytes_ns(&cost, 1e12) >= hardware.op_launch_ns);
        CHECK(cost_all_reduce_ns(&cost, 8, 4096, 16384) >= hardware.peer_latency_ns);
        CHECK(cost_copy_ns((size_t)1 << 40, hardware.link_bytes_per_s, hardware.link_latency_ns) < UINT64_MAX);
    }
    status = description_parse((const char *)data, bytes, &model);
    CHECK(status.code == STATUS_OK || status.message[0]);
    if (status.code == STATUS_OK) {
        CHECK(description_slab_bytes(&model, 1) >= description_slab_bytes(&model, 3));
        CHECK(description_global_bytes(&model) > 0);
        CHECK(model.shape.parameters > 0);
    }
    return 0;
}
