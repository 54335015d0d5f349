/* The bus of the `sim` device: copies in progress share its bandwidth equally (processor sharing), exactly, event by
 * event.
 *
 * Owns: the bandwidth over time and the copies on the bus. Its clock is behind the host's: everything before
 * `time_ns` is settled, and nothing after it is touched until the caller says how far time has certainly come. Both
 * directions share, as they do on the paced link of the cpu device; a full-duplex link carries at least as much.
 * Threads: the device's. */
#ifndef METRONOME_KERNELS_SIM_BUS_H
#define METRONOME_KERNELS_SIM_BUS_H

#include "kernels/sim/sim.h"

#include <stdint.h>

/* A copy on the bus; the caller's to keep, one for each stream. */
struct bus_copy {
    struct bus_copy *next;
    uint32_t order;    /* among copies that end at once: the lowest first */
    uint64_t begin_ns; /* its first byte moves */
    double remaining_bytes;
};

struct bus {
    double bytes_per_s;
    uint64_t time_ns;
    struct bus_copy *copies;           /* by order */
    const struct sim_link_step *steps; /* (step_count) those to come; the caller's */
    uint32_t step_count;
};

/* Puts a copy on the bus. It begins at `begin_ns` >= bus->time_ns. */
void bus_begin(struct bus *bus, struct bus_copy *copy, uint64_t begin_ns, uint64_t bytes);

/* Takes the next copy that ends off the bus, if it ends by `limit_ns`; it ended at bus->time_ns. NULL if none does.
 * Copies not yet begun on the bus must not be able to begin before that one ends. */
struct bus_copy *bus_next(struct bus *bus, uint64_t limit_ns);

/* Sets the bandwidth from `now_ns` on, with `count` changes to come at ascending times. No copy may end before. */
void bus_set_pace(struct bus *bus, uint64_t now_ns, double bytes_per_s, const struct sim_link_step *steps,
                  uint32_t count);

#endif
