#include "scheduler/prefix.h"

#include "base/check.h"
#include "base/random.h"
#include "kernels/ops.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Neighbours in the list of the idle ones of a place, a ring; the last two entries are the rings' own. */
struct links {
    uint32_t older, newer;
};

#define MAY_LOOK 64 /* links of a bucket that prefix_may_know() follows: it may be changed meanwhile */

/* The blocks of a bucket, one after the other. Apart from the entries, which lie in no cache: a search looks at those
 * alone whose hash begins alike. These and the buckets are written by the engine's thread and read by any. */
struct chain {
    uint32_t next, begin; /* of the hash */
};

struct entry {
    uint32_t holders, pins; /* pins are of holders */
    enum prefix_place place;
    uint32_t depth;
    uint64_t serial, parent; /* names, never used twice: of the entered block, and of the one that it continues; 0: it
                                is not entered, it continues none */
    uint64_t key;            /* the hash of the whole beginning */
    uint32_t tokens[KV_BLOCK_TOKENS];
};

struct prefix {
    uint32_t handles;
    struct entry *entries;    /* (handles) */
    struct cache_salt *salts; /* (handles) of those that begin */
    struct links *links;      /* (handles + 2) of idle ones */
    struct chain *chains;     /* (handles) of entered ones */
    uint32_t *buckets;        /* (mask + 1) the first of each */
    uint32_t mask;
    uint64_t seed, last_serial, version;
    uint32_t idle[2];
    uint32_t loose;
};

struct status prefix_create(uint32_t handles, struct prefix **out) {
    struct prefix *prefix = calloc(1, sizeof *prefix);
    uint32_t buckets = 1;
    while (buckets < handles) {
        buckets *= 2;
    }
    if (prefix) {
        *prefix = (struct prefix){.handles = handles,
                                  .entries = calloc((size_t)handles + 1, sizeof *prefix->entries),
                                  .salts = calloc((size_t)handles + 1, sizeof *prefix->salts),
                                  .links = malloc(((size_t)handles + 2) * sizeof *prefix->links),
                                  .chains = calloc((size_t)handles + 1, sizeof *prefix->chains),
                                  .buckets = malloc(buckets * sizeof *prefix->buckets),
                                  .mask = buckets - 1};
    }
    if (!prefix || !prefix->entries || !prefix->salts || !prefix->links || !prefix->chains || !prefix->buckets) {
        prefix_destroy(prefix);
        return status_error(STATUS_NO_MEMORY, "no memory for the index of %u KV blocks", handles);
    }
    /* Nobody outside can tell which prompts meet in a bucket. Nothing depends on it but how long a search is. */
    if (getrandom(&prefix->seed, sizeof prefix->seed, GRND_NONBLOCK) != (ssize_t)sizeof prefix->seed) {
        prefix->seed = (uint64_t)(uintptr_t)prefix;
    }
    for (uint32_t place = 0; place < 2; place++) {
        prefix->links[handles + place] = (struct links){handles + place, handles + place};
    }
    for (uint32_t i = 0; i < buckets; i++) {
        prefix->buckets[i] = PREFIX_NOBODY;
    }
    *out = prefix;
    return STATUS_SUCCESS;
}

void prefix_destroy(struct prefix *prefix) {
    if (prefix) {
        free(prefix->entries);
        free(prefix->salts);
        free(prefix->links);
        free(prefix->chains);
        free(prefix->buckets);
        free(prefix);
    }
}

static struct entry *entry_of(const struct prefix *prefix, uint32_t handle) {
    CHECK(handle < prefix->handles);
    return &prefix->entries[handle];
}

/* ---- lists of the idle ---- */

static bool is_idle(const struct entry *entry) {
    return entry->holders == 0 && entry->serial != 0;
}

static void append(struct prefix *prefix, uint32_t handle) {
    enum prefix_place place = prefix->entries[handle].place;
    uint32_t ring = prefix->handles + place, newest = prefix->links[ring].older;
    prefix->links[handle] = (struct links){.older = newest, .newer = ring};
    prefix->links[newest].newer = prefix->links[ring].older = handle;
    prefix->idle[place]++;
}

static void take_out(struct prefix *prefix, uint32_t handle) {
    struct links links = prefix->links[handle];
    prefix->links[links.older].newer = links.newer;
    prefix->links[links.newer].older = links.older;
    prefix->idle[prefix->entries[handle].place]--;
}

uint32_t prefix_oldest(const struct prefix *prefix, enum prefix_place place) {
    uint32_t oldest = prefix->links[prefix->handles + place].newer;
    return oldest < prefix->handles ? oldest : PREFIX_NOBODY;
}

void prefix_touch(struct prefix *prefix, uint32_t handle) {
    if (is_idle(entry_of(prefix, handle))) {
        take_out(prefix, handle);
        append(prefix, handle);
    }
}

uint32_t prefix_idle(const struct prefix *prefix, enum prefix_place place) {
    return prefix->idle[place];
}

/* What was entered is found no more. */
static void leave_index(struct prefix *prefix, uint32_t handle) {
    struct entry *entry = &prefix->entries[handle];
    uint32_t *link = &prefix->buckets[entry->key & prefix->mask];
    while (*link != handle) {
        link = &prefix->chains[*link].next;
    }
    __atomic_store_n(link, prefix->chains[handle].next, __ATOMIC_RELAXED);
    entry->serial = 0;
    prefix->version++;
}

/* ---- holders ---- */

static bool is_loose(const struct entry *entry) {
    return entry->place == PREFIX_DEVICE && entry->pins == 0;
}

void prefix_hold(struct prefix *prefix, uint32_t handle) {
    struct entry *entry = entry_of(prefix, handle);
    if (entry->holders++ == 0) {
        if (entry->serial != 0) {
            take_out(prefix, handle);
        } else {
            entry->place = PREFIX_DEVICE;
            prefix->loose++;
        }
    }
}

bool prefix_let_go(struct prefix *prefix, uint32_t handle) {
    struct entry *entry = entry_of(prefix, handle);
    CHECK(entry->holders > entry->pins);
    if (--entry->holders > 0) {
        return false;
    }
    if (entry->serial != 0 && entry->place != PREFIX_STREAMED) {
        append(prefix, handle);
        return false;
    }
    if (entry->serial != 0) {
        leave_index(prefix, handle);
    }
    prefix->loose -= entry->place == PREFIX_DEVICE;
    return true;
}

uint32_t prefix_holders(const struct prefix *prefix, uint32_t handle) {
    return entry_of(prefix, handle)->holders;
}

void prefix_pin(struct prefix *prefix, uint32_t handle) {
    struct entry *entry = entry_of(prefix, handle);
    CHECK(entry->pins < entry->holders && entry->place != PREFIX_HOST);
    prefix->loose -= is_loose(entry);
    entry->pins++;
}

void prefix_unpin(struct prefix *prefix, uint32_t handle) {
    struct entry *entry = entry_of(prefix, handle);
    CHECK(entry->pins > 0);
    entry->pins--;
    prefix->loose += is_loose(entry);
}

bool prefix_pinned(const struct prefix *prefix, uint32_t handle) {
    return entry_of(prefix, handle)->pins > 0;
}

/* ---- finding ---- */

static uint64_t salted(const struct prefix *prefix, const struct cache_salt *salt) {
    uint64_t key = prefix->seed;
    for (uint32_t i = 0; i < salt->bytes; i++) {
        key = random_hash(key, (unsigned char)salt->text[i]);
    }
    return key;
}

static uint64_t continued(uint64_t key, const uint32_t *tokens) {
    for (uint32_t i = 0; i < KV_BLOCK_TOKENS; i += 2) {
        key = random_hash(key, (uint64_t)tokens[i] << 32 | tokens[i + 1]);
    }
    return key;
}

static uint64_t key_of(const struct prefix *prefix, uint32_t parent, const struct cache_salt *salt,
                       const uint32_t *tokens) {
    return continued(parent != PREFIX_NOBODY ? prefix->entries[parent].key : salted(prefix, salt), tokens);
}

void prefix_keys(const struct prefix *prefix, const struct cache_salt *salt, const uint32_t *tokens, uint32_t blocks,
                 uint64_t *keys) {
    uint64_t key = salted(prefix, salt);
    for (uint32_t i = 0; i < blocks; i++) {
        key = keys[i] = continued(key, tokens + (size_t)i * KV_BLOCK_TOKENS);
    }
}

bool prefix_may_know(const struct prefix *prefix, uint64_t key) {
    uint32_t handle = __atomic_load_n(&prefix->buckets[key & prefix->mask], __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < MAY_LOOK && handle != PREFIX_NOBODY; i++) {
        if (__atomic_load_n(&prefix->chains[handle].begin, __ATOMIC_RELAXED) == key >> 32) {
            return true;
        }
        handle = __atomic_load_n(&prefix->chains[handle].next, __ATOMIC_RELAXED);
    }
    return false;
}

static bool same_salt(const struct cache_salt *one, const struct cache_salt *other) {
    return one->bytes == other->bytes && memcmp(one->text, other->text, one->bytes) == 0;
}

static uint64_t serial_of(const struct prefix *prefix, uint32_t handle) {
    CHECK(handle == PREFIX_NOBODY || entry_of(prefix, handle)->serial != 0);
    return handle == PREFIX_NOBODY ? 0 : prefix->entries[handle].serial;
}

uint32_t prefix_find(const struct prefix *prefix, uint32_t parent, const struct cache_salt *salt,
                     const uint32_t *tokens) {
    uint64_t serial = serial_of(prefix, parent), key = key_of(prefix, parent, salt, tokens);
    uint32_t handle = prefix->buckets[key & prefix->mask];
    for (; handle != PREFIX_NOBODY; handle = prefix->chains[handle].next) {
        const struct entry *entry = &prefix->entries[handle];
        if (prefix->chains[handle].begin == key >> 32 && entry->key == key && entry->parent == serial &&
            memcmp(entry->tokens, tokens, sizeof entry->tokens) == 0 &&
            (serial != 0 || same_salt(&prefix->salts[handle], salt))) {
            break;
        }
    }
    return handle;
}

void prefix_enter(struct prefix *prefix, uint32_t handle, uint32_t parent, const struct cache_salt *salt,
                  const uint32_t *tokens) {
    struct entry *entry = entry_of(prefix, handle);
    CHECK(entry->holders > 0 && entry->serial == 0);
    entry->key = key_of(prefix, parent, salt, tokens);
    entry->parent = serial_of(prefix, parent);
    entry->serial = ++prefix->last_serial;
    entry->depth = parent == PREFIX_NOBODY ? 0 : prefix->entries[parent].depth + 1;
    memcpy(entry->tokens, tokens, sizeof entry->tokens);
    if (parent == PREFIX_NOBODY) {
        prefix->salts[handle] = *salt;
    }
    uint32_t *bucket = &prefix->buckets[entry->key & prefix->mask];
    __atomic_store_n(&prefix->chains[handle].next, *bucket, __ATOMIC_RELAXED);
    __atomic_store_n(&prefix->chains[handle].begin, (uint32_t)(entry->key >> 32), __ATOMIC_RELAXED);
    __atomic_store_n(bucket, handle, __ATOMIC_RELAXED);
    prefix->version++;
}

void prefix_forget(struct prefix *prefix, uint32_t handle) {
    struct entry *entry = entry_of(prefix, handle);
    CHECK(is_idle(entry));
    take_out(prefix, handle);
    leave_index(prefix, handle);
    prefix->loose -= entry->place == PREFIX_DEVICE;
}

bool prefix_entered(const struct prefix *prefix, uint32_t handle) {
    return entry_of(prefix, handle)->serial != 0;
}

uint32_t prefix_depth(const struct prefix *prefix, uint32_t handle) {
    return entry_of(prefix, handle)->depth;
}

uint64_t prefix_version(const struct prefix *prefix) {
    return prefix->version;
}

/* ---- places ---- */

void prefix_move(struct prefix *prefix, uint32_t handle, enum prefix_place place) {
    struct entry *entry = entry_of(prefix, handle);
    bool idle = is_idle(entry), pinned = entry->pins > 0, host = place == PREFIX_HOST || entry->place == PREFIX_HOST;
    CHECK(entry->place != place && (entry->holders > 0 || entry->serial != 0));
    CHECK(!(pinned && host) && !(idle && (place == PREFIX_STREAMED || entry->place == PREFIX_STREAMED)));
    if (idle) {
        take_out(prefix, handle);
    }
    prefix->loose -= is_loose(entry);
    entry->place = place;
    prefix->loose += is_loose(entry);
    if (idle) {
        append(prefix, handle);
    }
}

enum prefix_place prefix_place_of(const struct prefix *prefix, uint32_t handle) {
    return entry_of(prefix, handle)->place;
}

uint32_t prefix_loose(const struct prefix *prefix) {
    return prefix->loose;
}
