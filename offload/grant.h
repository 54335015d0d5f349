/* Who gets how much of a shared link: the arithmetic of the bus coordinator.
 *
 * Owns: an exact answer to a multiple-choice knapsack. Each member names candidates, every one of which keeps its
 * promises: what it needs of the link, and what it then keeps in host memory. One candidate of each member is granted,
 * so that together they fit the link and keep the most in host memory. Pure but for its scratch memory.
 * Threads: one at a time per scratch. */
#ifndef METRONOME_OFFLOAD_GRANT_H
#define METRONOME_OFFLOAD_GRANT_H

#include <stdbool.h>
#include <stdint.h>

#define GRANT_MAX_MEMBERS 8
#define GRANT_MAX_CANDIDATES 16

struct grant_candidate {
    uint64_t bytes_per_s; /* bytes per iteration / deadline */
    uint64_t host_bytes;
};

struct grant_member {
    uint32_t count; /* 1 .. GRANT_MAX_CANDIDATES, in any order */
    struct grant_candidate candidate[GRANT_MAX_CANDIDATES];
};

/* Memory for one grant_solve() after another; NULL if there is none. About 5 MB, touched as far as it is needed. */
struct grant_scratch;
struct grant_scratch *grant_scratch_create(void);
void grant_scratch_destroy(struct grant_scratch *scratch); /* NULL is allowed */

/* Fills granted[i] with the index of member i's candidate. Among combinations that keep as much in host memory the one
 * that needs the least of the link. False, with `granted` untouched, if not even everybody's least need fits.
 *
 * Exact for all inputs: the members are halved, each half's combinations listed without the dominated ones (at most
 * 16^4), and the lists joined. Microseconds as a rule, a few milliseconds at worst. */
bool grant_solve(struct grant_scratch *scratch, const struct grant_member *members, uint32_t count,
                 uint64_t link_bytes_per_s, uint32_t *granted);

#endif
