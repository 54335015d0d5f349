/* The bus coordinator: engines that share a link agree on who streams how much.
 *
 * Owns: this process's seat at one bus, a small file in shared memory that every engine on the bus maps. There is no
 * server: whoever changes something works the new grants out (grant.h), under a lock that survives its holder's death.
 * Streams nothing and enforces nothing: a member keeps to what it is granted. Threads: one at a time per seat.
 *
 * A grant that shrinks binds at once; one that grows waits until those who must give way have done so, so that what is
 * in use never exceeds the link. A seat is held by a file lock, which the kernel gives back when its process dies,
 * however it dies; the others see it within BUS_LOOK_NS of iterating, and share its grant out again. (A process that
 * forks without exec shares its seat with the child: the seat is free when both are gone.) */
#ifndef METRONOME_OFFLOAD_BUS_H
#define METRONOME_OFFLOAD_BUS_H

#include "base/status.h"
#include "offload/grant.h"

#include <stdbool.h>
#include <stdint.h>

#define BUS_LOOK_NS UINT64_C(20000000) /* how often a member looks whether the others live */

struct bus;

struct bus_config {
    const char *directory;     /* NULL: $XDG_RUNTIME_DIR, or /dev/shm without it */
    const char *name;          /* of the link: letters, digits, '.', ':', '-', '_'; a PCI address, say */
    uint64_t link_bytes_per_s; /* what the link carries; if members disagree, the least counts */
};

/* Takes a seat. STATUS_BUSY: all GRANT_MAX_MEMBERS are taken; STATUS_IO, STATUS_UNSUPPORTED: the file cannot be used,
 * and why. */
struct status bus_join(const struct bus_config *config, struct bus **out);
void bus_leave(struct bus *bus); /* NULL is allowed */

/* States what this member could do with: candidates that each keep its promises, 1 .. GRANT_MAX_CANDIDATES of them.
 * To be called when they change, and with a candidate that needs nothing when the engine falls idle. */
struct status bus_state(struct bus *bus, const struct grant_candidate *candidates, uint32_t count);

struct bus_grant {
    uint32_t candidate; /* of those stated, the one to keep to; GRANT_NONE: none yet, wait for the others to give way */
    uint64_t bytes_per_s; /* what may be used of the link until the next call */
    bool kept;            /* false: not everybody's least need fits the link, and those who came first come first:
                             `candidate` is the least, and bytes_per_s what is left of the link for it */
    uint32_t members;
    uint64_t link_bytes_per_s;
};
#define GRANT_NONE UINT32_MAX

/* Once an iteration: what to keep to from now on. Says at the same time that what the call before granted is what the
 * iteration in between has kept to. Never blocks: while another member works the grants out, it repeats the last one.
 * `now_ns` is any clock that does not stand still. */
struct bus_grant bus_poll(struct bus *bus, uint64_t now_ns);

#endif
