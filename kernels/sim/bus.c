#include "kernels/sim/bus.h"

#include "base/check.h"
#include "kernels/sim/cost.h"

#include <stddef.h>

void bus_begin(struct bus *bus, struct bus_copy *copy, uint64_t begin_ns, uint64_t bytes) {
    CHECK(begin_ns >= bus->time_ns);
    copy->begin_ns = begin_ns;
    copy->remaining_bytes = (double)bytes;
    struct bus_copy **place = &bus->copies;
    while (*place && (*place)->order < copy->order) {
        place = &(*place)->next;
    }
    copy->next = *place;
    *place = copy;
}

static void take_off(struct bus *bus, const struct bus_copy *copy) {
    struct bus_copy **place = &bus->copies;
    while (*place != copy) {
        place = &(*place)->next;
    }
    *place = copy->next;
}

/* How many copies move bytes now, and when the next one begins to. */
static uint32_t count_moving(const struct bus *bus, uint64_t *next_begin_ns) {
    uint32_t moving = 0;
    for (const struct bus_copy *copy = bus->copies; copy; copy = copy->next) {
        if (copy->begin_ns <= bus->time_ns) {
            moving++;
        } else if (copy->begin_ns < *next_begin_ns) {
            *next_begin_ns = copy->begin_ns;
        }
    }
    return moving;
}

static struct bus_copy *least_remaining(const struct bus *bus) {
    struct bus_copy *least = NULL;
    for (struct bus_copy *copy = bus->copies; copy; copy = copy->next) {
        if (copy->begin_ns <= bus->time_ns && (!least || copy->remaining_bytes < least->remaining_bytes)) {
            least = copy;
        }
    }
    return least;
}

/* Moves the clock on; until then nothing changes. */
static void elapse(struct bus *bus, uint64_t to_ns, uint32_t moving) {
    double moved = moving ? bus->bytes_per_s / moving * (double)(to_ns - bus->time_ns) * 1e-9 : 0;
    for (struct bus_copy *copy = bus->copies; moving && copy; copy = copy->next) {
        if (copy->begin_ns <= bus->time_ns) {
            copy->remaining_bytes = copy->remaining_bytes > moved ? copy->remaining_bytes - moved : 0;
        }
    }
    bus->time_ns = to_ns;
}

struct bus_copy *bus_next(struct bus *bus, uint64_t limit_ns) {
    for (;;) {
        uint64_t change_ns = UINT64_MAX;
        while (bus->step_count > 0 && bus->steps->time_ns <= bus->time_ns) {
            bus->bytes_per_s = bus->steps->bytes_per_s;
            bus->steps++;
            bus->step_count--;
        }
        if (bus->step_count > 0) {
            change_ns = bus->steps->time_ns;
        }
        uint32_t moving = count_moving(bus, &change_ns);
        if (moving > 0) {
            struct bus_copy *first = least_remaining(bus);
            uint64_t left_ns = cost_transfer_ns(first->remaining_bytes, bus->bytes_per_s / moving);
            uint64_t end_ns = left_ns > UINT64_MAX - bus->time_ns ? UINT64_MAX : bus->time_ns + left_ns;
            if (end_ns <= change_ns && end_ns <= limit_ns && end_ns != UINT64_MAX) {
                elapse(bus, end_ns, moving);
                take_off(bus, first);
                return first;
            }
        }
        if (change_ns > limit_ns || change_ns == UINT64_MAX) {
            return NULL;
        }
        elapse(bus, change_ns, moving);
    }
}

void bus_set_pace(struct bus *bus, uint64_t now_ns, double bytes_per_s, const struct sim_link_step *steps,
                  uint32_t count) {
    uint64_t next_begin_ns = UINT64_MAX;
    elapse(bus, now_ns, count_moving(bus, &next_begin_ns));
    bus->bytes_per_s = bytes_per_s;
    bus->steps = steps;
    bus->step_count = count;
}
