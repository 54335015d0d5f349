#include "scheduler/clairvoyant.h"

#include "base/check.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHARES = 10, /* of the requests, the cheapest so many tenths of them ... */
    REFINED = 4, /* ... and then to so many requests */
};

struct search {
    const struct clairvoyant_config *config;
    uint32_t *order;                /* (count) the cheapest first */
    bool *best_kept, *best_dropped; /* (count) of the best run, the caller's */
    bool *kept, *dropped;           /* (count) of the run being made */
    uint32_t *others;               /* (count) dropped ones, in the order in which they come back */
    uint32_t best, runs;            /* kept in the best run; runs made */
};

static uint32_t count_true(const bool *flags, uint32_t count) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum += flags[i];
    }
    return sum;
}

static bool has_runs(const struct search *search) {
    return search->runs < search->config->runs;
}

/* Runs with `dropped`; if more are kept than ever, that is the best. */
static struct status attempt(struct search *search, bool *better) {
    const uint32_t count = search->config->count;
    search->runs++;
    memset(search->kept, 0, count * sizeof *search->kept);
    TRY(search->config->run(search->config->context, search->dropped, search->kept));
    uint32_t kept = count_true(search->kept, count);
    *better = kept > search->best;
    if (*better) {
        search->best = kept;
        memcpy(search->best_kept, search->kept, count * sizeof *search->kept);
        memcpy(search->best_dropped, search->dropped, count * sizeof *search->dropped);
    }
    return STATUS_SUCCESS;
}

/* The cheapest so many. */
static struct status try_cheapest(struct search *search, uint32_t taken, bool *better) {
    for (uint32_t i = 0; i < search->config->count; i++) {
        search->dropped[search->order[i]] = i >= taken;
    }
    return attempt(search, better);
}

/* All, the cheapest nine tenths, eight, ..., and then between the best of these and its neighbours: an overload keeps
 * most where it is taken off the dear ones. */
static struct status try_shares(struct search *search) {
    const uint32_t count = search->config->count;
    uint32_t best_taken = count;
    bool better;
    for (uint32_t share = search->best > 0 ? SHARES - 1 : SHARES; share > 0 && has_runs(search); share--) {
        uint32_t taken = (uint32_t)((uint64_t)count * share / SHARES);
        TRY(try_cheapest(search, taken, &better));
        best_taken = better ? taken : best_taken;
        if (search->best >= taken) { /* fewer cannot keep more */
            break;
        }
    }
    for (uint32_t step = count / SHARES / 2; step >= REFINED && has_runs(search); step /= 2) {
        uint32_t middle = best_taken;
        for (int side = 0; side < 2 && has_runs(search); side++) {
            uint32_t taken = side == 0 ? middle + step : middle - step;
            if (taken <= count && taken > search->best) {
                TRY(try_cheapest(search, taken, &better));
                best_taken = better ? taken : best_taken;
            }
        }
    }
    return STATUS_SUCCESS;
}

/* Who may come back, in which order: in every other round the cheapest first, else at random, so that they come back
 * everywhere along the trace. Returns how many. */
static uint32_t order_others(struct search *search, struct random_state *random, uint32_t round) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < search->config->count; i++) {
        uint32_t index = search->order[i];
        if (!search->best_kept[index]) {
            search->others[count++] = index;
        }
    }
    for (uint32_t i = count; round % 2 == 1 && i > 1; i--) {
        uint32_t other = (uint32_t)random_below(random, i), held = search->others[i - 1];
        search->others[i - 1] = search->others[other];
        search->others[other] = held;
    }
    return count;
}

/* Those that the best run kept, and so many others back: once over all of them, or until the runs are spent. */
static struct status bring_back(struct search *search, struct random_state *random, uint32_t round, uint32_t batch) {
    const uint32_t count = search->config->count;
    uint32_t others = order_others(search, random, round);
    for (uint32_t begin = 0; begin < others && has_runs(search); begin += batch) {
        for (uint32_t i = 0; i < count; i++) {
            search->dropped[i] = !search->best_kept[i];
        }
        for (uint32_t i = begin; i < others && i < begin + batch; i++) {
            search->dropped[search->others[i]] = false;
        }
        bool better;
        TRY(attempt(search, &better));
    }
    return STATUS_SUCCESS;
}

static struct status search_all(struct search *search) {
    const uint32_t count = search->config->count;
    struct random_state random;
    random_seed(&random, search->config->seed);
    TRY(try_shares(search));
    uint32_t batch = (count - search->best + 3) / 4;
    for (uint32_t round = 0; has_runs(search) && search->best < count; round++) {
        uint32_t before = search->best;
        TRY(bring_back(search, &random, round, batch > 0 ? batch : 1));
        if (search->best == before && round % 2 == 1) {
            if (batch <= 1) {
                break; /* none comes back, one by one, in either order */
            }
            batch /= 2;
        }
    }
    return STATUS_SUCCESS;
}

/* Sorts `order` by cost; equal ones as they came. */
static void merge_sort(uint32_t *order, uint32_t *scratch, uint32_t count, const double *cost) {
    for (uint32_t width = 1; width < count; width *= 2) {
        for (uint32_t begin = 0; begin < count; begin += 2 * width) {
            uint32_t middle = begin + width < count ? begin + width : count;
            uint32_t end = begin + 2 * width < count ? begin + 2 * width : count;
            uint32_t left = begin, right = middle;
            for (uint32_t i = begin; i < end; i++) {
                bool from_left = left < middle && (right == end || cost[order[left]] <= cost[order[right]]);
                scratch[i] = from_left ? order[left++] : order[right++];
            }
        }
        memcpy(order, scratch, count * sizeof *order);
    }
}

struct status clairvoyant_search(const struct clairvoyant_config *config, bool *kept, bool *dropped, uint32_t *runs) {
    const uint32_t count = config->count;
    CHECK(count > 0 && count < UINT32_MAX / 4 && config->runs > 0);
    struct search search = {.config = config, .best_kept = kept, .best_dropped = dropped};
    search.order = calloc(count, sizeof *search.order);
    search.others = calloc(count, sizeof *search.others);
    search.kept = calloc(count, sizeof *search.kept);
    search.dropped = calloc(count, sizeof *search.dropped);
    struct status status = status_error(STATUS_NO_MEMORY, "no memory to choose among %u requests", count);
    if (search.order && search.others && search.kept && search.dropped) {
        for (uint32_t i = 0; i < count; i++) {
            search.order[i] = i;
            dropped[i] = false;
        }
        merge_sort(search.order, search.others, count, config->cost);
        search.best = count_true(kept, count);
        status = search_all(&search);
    }
    *runs = search.runs;
    free(search.order);
    free(search.others);
    free(search.kept);
    free(search.dropped);
    return status;
}
