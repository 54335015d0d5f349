#include "scheduler/causes.h"

#include <string.h>

/* A link that gives nine tenths of what it is known to give is not said to be contended, nor a device disturbed that
 * takes a quarter longer than predicted: so much measurements stray by themselves. */
#define LINK_TOLERANCE 0.9
#define DEVICE_TOLERANCE 4

static const char *const names[CAUSES] = {"compute",    "queue",           "prefill_of_others",
                                          "copy_stall", "link_contention", "kv_preemption",
                                          "host_time",  "client_slow",     "device"};

const char *cause_name(enum cause cause) {
    return names[cause];
}

enum cause cause_named(const char *name) {
    int cause = 0;
    while (cause < CAUSES && strcmp(names[cause], name) != 0) {
        cause++;
    }
    return (enum cause)cause;
}

uint64_t spent_total(const struct spent *spent) {
    uint64_t total = spent->planned_ns;
    for (int i = 0; i < CAUSES; i++) {
        total += spent->ns[i];
    }
    return total;
}

void spent_add(struct spent *to, const struct spent *more) {
    to->planned_ns += more->planned_ns;
    for (int i = 0; i < CAUSES; i++) {
        to->ns[i] += more->ns[i];
    }
}

static uint64_t lesser(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* By how much the iteration's copies took longer than on the link as it is known. */
static uint64_t contention_ns(const struct iteration_cost *cost) {
    if (cost->link_bytes == 0 || cost->link_ns == 0 || cost->link_bytes_per_s == 0) {
        return 0;
    }
    double known_ns = (double)cost->link_bytes * 1e9 / (double)cost->link_bytes_per_s;
    if (known_ns > LINK_TOLERANCE * (double)cost->link_ns) {
        return 0;
    }
    return (uint64_t)(((double)cost->link_ns - known_ns) / (double)cost->link_bytes * (double)cost->copied_bytes);
}

/* Of `compute_ns`, what the iteration would have taken without other sequences' prompt rows, and what those took. The
 * rest is more than was predicted. */
static uint64_t own_share(const struct iteration_cost *cost, uint32_t own_rows, uint64_t compute_ns,
                          uint64_t *others_ns) {
    const uint32_t rows = cost->decode_rows + cost->prompt_rows;
    const uint32_t others = cost->prompt_rows - own_rows;
    double whole = (double)compute_ns;
    if (cost->whole_ns > 0) {
        uint64_t most = cost->whole_ns + cost->whole_ns / DEVICE_TOLERANCE;
        whole = (double)lesser(compute_ns, most);
    }
    double share = rows > 0 ? (double)others / rows : 0; /* of the prompts' part, if it can be told apart */
    if (cost->decode_ns > 0 && cost->whole_ns > cost->decode_ns && cost->prompt_rows > 0) {
        share = (1 - (double)cost->decode_ns / (double)cost->whole_ns) * others / cost->prompt_rows;
    }
    *others_ns = (uint64_t)(whole * share);
    return (uint64_t)whole - *others_ns;
}

void causes_of_iteration(const struct iteration_cost *cost, uint32_t own_rows, bool scheduled, bool again,
                         struct spent *spent) {
    if (!scheduled) {
        spent->ns[cost->prompt_rows > 0 ? CAUSE_PREFILL_OF_OTHERS : CAUSE_QUEUE] += cost->device_ns;
        return;
    }
    uint64_t stall_ns = lesser(cost->stall_ns, cost->device_ns);
    uint64_t kv_ns = lesser(cost->kv_stall_ns, cost->device_ns - stall_ns);
    uint64_t compute_ns = cost->device_ns - stall_ns - kv_ns;
    uint64_t contended_ns = lesser(contention_ns(cost), stall_ns);
    spent->ns[CAUSE_LINK_CONTENTION] += contended_ns;
    uint64_t rest_ns = stall_ns - contended_ns;
    uint64_t allowed_ns = 0;
    if (cost->deadline_ns != UINT64_MAX && cost->deadline_ns > compute_ns) {
        allowed_ns = lesser(rest_ns, cost->deadline_ns - compute_ns);
    }
    spent->planned_ns += allowed_ns;
    spent->ns[CAUSE_COPY_STALL] += rest_ns - allowed_ns;
    spent->ns[CAUSE_KV_PREEMPTION] += kv_ns;
    uint64_t others_ns;
    uint64_t own_ns = own_share(cost, own_rows, compute_ns, &others_ns);
    spent->ns[CAUSE_PREFILL_OF_OTHERS] += others_ns;
    spent->ns[again ? CAUSE_KV_PREEMPTION : CAUSE_COMPUTE] += own_ns;
    spent->ns[CAUSE_DEVICE] += compute_ns - own_ns - others_ns;
}

enum cause causes_blame(const struct spent *spent, uint64_t late_ns) {
    uint64_t rest_ns = spent_total(spent) - spent->ns[CAUSE_COMPUTE] - spent->planned_ns;
    if (rest_ns < late_ns) {
        return rest_ns + spent->planned_ns < late_ns ? CAUSE_COMPUTE : CAUSE_COPY_STALL;
    }
    int worst = CAUSE_COMPUTE + 1;
    for (int i = worst + 1; i < CAUSES; i++) {
        worst = spent->ns[i] > spent->ns[worst] ? i : worst;
    }
    return (enum cause)worst;
}

/* ---- what came late ---- */

void late_ring_note(struct late_ring *ring, const struct late_run *token, uint64_t *number) {
    bool there = *number > 0 && *number + LATE_RUNS > ring->count;
    struct late_run *run = there ? &ring->runs[(*number - 1) % LATE_RUNS] : NULL;
    if (!run || run->cause != token->cause) {
        ring->runs[ring->count % LATE_RUNS] = *token;
        *number = ++ring->count;
        return;
    }
    uint32_t first = run->first_token, tokens = run->tokens + 1;
    if (token->late_ns > run->late_ns) {
        *run = *token;
    }
    run->first_token = first;
    run->tokens = tokens;
}

uint32_t late_ring_read(const struct late_ring *ring, struct late_run *out, uint32_t capacity) {
    uint64_t there = ring->count < LATE_RUNS ? ring->count : LATE_RUNS;
    uint32_t count = there < capacity ? (uint32_t)there : capacity;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = ring->runs[(ring->count - 1 - i) % LATE_RUNS];
    }
    return count;
}
