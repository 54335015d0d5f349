#include "offload/grant.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

#define HALF (GRANT_MAX_MEMBERS / 2)
#define MOST_COMBINATIONS 65536 /* GRANT_MAX_CANDIDATES ^ HALF */
_Static_assert(GRANT_MAX_CANDIDATES == 16 && HALF == 4, "MOST_COMBINATIONS and the packing of picks depend on it");

/* One candidate of each of the first few members of a half. */
struct combination {
    uint64_t bytes_per_s, host_bytes;
    uint32_t picks; /* 4 bits a member */
};

/* Combinations by rising need; each keeps more in host memory than all before it. */
struct frontier {
    uint32_t count;
    struct combination at[MOST_COMBINATIONS];
};

struct grant_scratch {
    struct frontier half[2], old, other;
};

struct grant_scratch *grant_scratch_create(void) {
    return malloc(sizeof(struct grant_scratch));
}

void grant_scratch_destroy(struct grant_scratch *scratch) {
    free(scratch);
}

/* `from` with a candidate of the next member. */
static struct combination with(struct combination from, const struct grant_candidate *candidate, uint32_t index,
                               uint32_t shift) {
    from.bytes_per_s += candidate->bytes_per_s;
    from.host_bytes += candidate->host_bytes;
    from.picks |= index << shift;
    return from;
}

static bool before(const struct combination *a, const struct combination *b) {
    return a->bytes_per_s != b->bytes_per_s ? a->bytes_per_s < b->bytes_per_s : a->host_bytes > b->host_bytes;
}

/* *out = the undominated of `merged` and of `from` extended by one candidate, none above `most`. */
static void merge(const struct frontier *merged, const struct frontier *from, const struct grant_candidate *candidate,
                  uint32_t index, uint32_t shift, uint64_t most, struct frontier *out) {
    uint32_t i = 0, j = 0;
    out->count = 0;
    while (i < merged->count || j < from->count) {
        bool extended = j < from->count;
        struct combination next = extended ? with(from->at[j], candidate, index, shift) : merged->at[i];
        if (extended && i < merged->count && before(&merged->at[i], &next)) {
            next = merged->at[i];
            extended = false;
        }
        i += !extended;
        j += extended;
        if (next.bytes_per_s <= most && (out->count == 0 || next.host_bytes > out->at[out->count - 1].host_bytes)) {
            out->at[out->count++] = next;
        }
    }
}

static uint64_t least_need(const struct grant_member *member) {
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < member->count; i++) {
        uint64_t need = member->candidate[i].bytes_per_s;
        least = need < least ? need : least;
    }
    return least;
}

/* All undominated combinations of `count` members that need at most `most`. Leaves them in *result. */
static void combine(struct grant_scratch *scratch, const struct grant_member *members, uint32_t count, uint64_t most,
                    struct frontier *result) {
    struct frontier *now = result, *next = &scratch->other;
    now->count = 1;
    now->at[0] = (struct combination){0};
    for (uint32_t i = 0; i < count; i++) {
        scratch->old.count = now->count;
        memcpy(scratch->old.at, now->at, now->count * sizeof *now->at);
        now->count = 0;
        for (uint32_t j = 0; j < members[i].count; j++) {
            merge(now, &scratch->old, &members[i].candidate[j], j, 4 * i, most, next);
            struct frontier *swap = now;
            now = next;
            next = swap;
        }
    }
    if (now != result) {
        result->count = now->count;
        memcpy(result->at, now->at, now->count * sizeof *now->at);
    }
}

bool grant_solve(struct grant_scratch *scratch, const struct grant_member *members, uint32_t count,
                 uint64_t link_bytes_per_s, uint32_t *granted) {
    CHECK(count <= GRANT_MAX_MEMBERS);
    uint32_t first = count / 2;
    uint64_t least[2] = {0, 0};
    for (uint32_t i = 0; i < count; i++) {
        CHECK(members[i].count > 0 && members[i].count <= GRANT_MAX_CANDIDATES);
        uint64_t need = least_need(&members[i]), *sum = &least[i >= first];
        if (need > link_bytes_per_s - least[0] - least[1]) {
            return false;
        }
        *sum += need;
    }
    combine(scratch, members, first, link_bytes_per_s - least[1], &scratch->half[0]);
    combine(scratch, members + first, count - first, link_bytes_per_s - least[0], &scratch->half[1]);

    /* The more the one half takes, the less the other may: the first list is read up, the second one down. */
    const struct frontier *a = &scratch->half[0], *b = &scratch->half[1];
    uint64_t best_bytes = 0, best_need = UINT64_MAX;
    uint32_t picks[2] = {0, 0};
    for (uint32_t i = 0, j = b->count; i < a->count; i++) {
        while (j > 0 && b->at[j - 1].bytes_per_s > link_bytes_per_s - a->at[i].bytes_per_s) {
            j--;
        }
        if (j == 0) {
            break;
        }
        uint64_t bytes = a->at[i].host_bytes + b->at[j - 1].host_bytes;
        uint64_t need = a->at[i].bytes_per_s + b->at[j - 1].bytes_per_s;
        if (best_need == UINT64_MAX || bytes > best_bytes || (bytes == best_bytes && need < best_need)) {
            best_bytes = bytes;
            best_need = need;
            picks[0] = a->at[i].picks;
            picks[1] = b->at[j - 1].picks;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        granted[i] = i < first ? picks[0] >> 4 * i & 15 : picks[1] >> 4 * (i - first) & 15;
    }
    return true;
}
