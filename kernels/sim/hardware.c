#include "kernels/sim/hardware.h"

#include "kernels/sim/figures.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Bounds are wide: from a microcontroller to a rack. They keep every cost inside what 64-bit nanoseconds hold. */
#define PLACE(field) offsetof(struct hardware, field)
static const struct figure figures[] = {
    {"name", FIGURE_TEXT, PLACE(name), 1, sizeof((struct hardware *)0)->name - 1},
    {"bus", FIGURE_TEXT, PLACE(bus), 1, sizeof((struct hardware *)0)->bus - 1},
    {"device_memory_bytes", FIGURE_U64, PLACE(device_memory_bytes), 1 << 20, 0x1p46},
    {"memory_bytes_per_s", FIGURE_F64, PLACE(memory_bytes_per_s), 1e6, 1e15},
    {"f16_flops_per_s", FIGURE_F64, PLACE(f16_flops_per_s), 1e6, 1e18},
    {"int8_ops_per_s", FIGURE_F64, PLACE(int8_ops_per_s), 1e6, 1e18},
    {"f32_flops_per_s", FIGURE_F64, PLACE(f32_flops_per_s), 1e6, 1e18},
    {"compute_efficiency", FIGURE_F64, PLACE(compute_efficiency), 0.01, 1},
    {"bandwidth_efficiency", FIGURE_F64, PLACE(bandwidth_efficiency), 0.01, 1},
    {"op_launch_ns", FIGURE_U64, PLACE(op_launch_ns), 0, 1e9},
    {"host_enqueue_ns", FIGURE_U64, PLACE(host_enqueue_ns), 0, 1e9},
    {"link_nominal_bytes_per_s", FIGURE_F64, PLACE(link_nominal_bytes_per_s), 1e6, 1e13},
    {"link_bytes_per_s", FIGURE_F64, PLACE(link_bytes_per_s), 1e6, 1e13},
    {"link_latency_ns", FIGURE_U64, PLACE(link_latency_ns), 0, 1e9},
    {"peer_bytes_per_s", FIGURE_F64, PLACE(peer_bytes_per_s), 1e6, 1e13},
    {"peer_latency_ns", FIGURE_U64, PLACE(peer_latency_ns), 0, 1e9},
};

static struct status check(const struct hardware *hardware) {
    if (hardware->link_bytes_per_s > hardware->link_nominal_bytes_per_s) {
        return status_error(STATUS_INVALID, "link_bytes_per_s: is %g, more than link_nominal_bytes_per_s, %g",
                            hardware->link_bytes_per_s, hardware->link_nominal_bytes_per_s);
    }
    return STATUS_SUCCESS;
}

struct status hardware_parse(const char *text, size_t bytes, struct hardware *out) {
    struct hardware hardware = {0};
    TRY(figures_parse(text, bytes, figures, COUNT(figures), &hardware));
    TRY(check(&hardware));
    *out = hardware;
    return STATUS_SUCCESS;
}

struct status hardware_load(const char *path, struct hardware *out) {
    struct hardware hardware = {0};
    TRY(figures_load(path, figures, COUNT(figures), &hardware));
    TRY(status_context(check(&hardware), "%s", path));
    *out = hardware;
    return STATUS_SUCCESS;
}
