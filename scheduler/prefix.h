/* The index of the prefix cache: which KV block holds the tokens of which beginning, who holds it, and which of those
 * that nobody holds was used least lately.
 *
 * A block whose positions are all computed is entered under the block before it and its own tokens; the first of a
 * chain under a salt, so that who knows another salt finds nothing, by time neither. All of that is compared, not only
 * its hash: two prompts never share what they have not in common. A block has holders (sequences), and of them those
 * that run pin it: what is pinned is not parked. One that is entered and has no holder is idle: it is there for
 * the next that begins so, and gives its place to whoever asks, the one idle for the longest first. Holders let go of a
 * chain from its tail, so that an end is given up before what it continues. Were it the other way about, nothing is
 * found under a block that is gone: what continued it grows old unseen.
 *
 * Owns: numbers alone, an entry for each KV handle. It moves no block; who takes and gives handles tells it (blocks.c,
 * cache.c). Nothing is allocated after prefix_create(). Threads: the engine's, but for prefix_keys() and
 * prefix_may_know(). */
#ifndef METRONOME_SCHEDULER_PREFIX_H
#define METRONOME_SCHEDULER_PREFIX_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

#define CACHE_SALT_BYTES 128 /* most of a salt */
#define PREFIX_NOBODY UINT32_MAX

/* Whose prompts share: those of equal salts. */
struct cache_salt {
    uint32_t bytes; /* 0: none */
    char text[CACHE_SALT_BYTES];
};

enum prefix_place {
    PREFIX_DEVICE,
    PREFIX_HOST,     /* parked */
    PREFIX_STREAMED, /* in host memory, and as ready for use as one on the device; never idle */
};

struct prefix;

/* For handles below `handles`. */
struct status prefix_create(uint32_t handles, struct prefix **out);
void prefix_destroy(struct prefix *prefix); /* NULL is allowed */

/* ---- holders ---- */

/* One more holder. Of a handle that is new: its first; it is on the device and not entered. */
void prefix_hold(struct prefix *prefix, uint32_t handle);
/* One holder less; true if the block is then of no use to anybody: the caller gives the handle back. */
bool prefix_let_go(struct prefix *prefix, uint32_t handle);
uint32_t prefix_holders(const struct prefix *prefix, uint32_t handle);

/* One holder more, or less, that runs. */
void prefix_pin(struct prefix *prefix, uint32_t handle);
void prefix_unpin(struct prefix *prefix, uint32_t handle);
bool prefix_pinned(const struct prefix *prefix, uint32_t handle);

/* ---- finding ---- */

/* The block with `tokens` (KV_BLOCK_TOKENS) that continues `parent`, an entered one, or begins under `salt` with
 * PREFIX_NOBODY. PREFIX_NOBODY if there is none. */
uint32_t prefix_find(const struct prefix *prefix, uint32_t parent, const struct cache_salt *salt,
                     const uint32_t *tokens);
/* Enters a held block; nothing equal may be entered. */
void prefix_enter(struct prefix *prefix, uint32_t handle, uint32_t parent, const struct cache_salt *salt,
                  const uint32_t *tokens);
bool prefix_entered(const struct prefix *prefix, uint32_t handle);
/* Where an entered block stands in its chain, from 0. */
uint32_t prefix_depth(const struct prefix *prefix, uint32_t handle);
/* For guesses, from any thread: the hashes of the beginnings of 1, 2 ... `blocks` blocks of tokens, and whether one
 * with such a hash is entered, as far as can be seen from there. Beginnings are given up from their ends: what is known
 * of a prompt is known up to somewhere. */
void prefix_keys(const struct prefix *prefix, const struct cache_salt *salt, const uint32_t *tokens, uint32_t blocks,
                 uint64_t *keys);
bool prefix_may_know(const struct prefix *prefix, uint64_t key);
/* Grows with whatever changes what can be found. */
uint64_t prefix_version(const struct prefix *prefix);

/* ---- idle blocks ---- */

/* The one idle for the longest of those in a place; PREFIX_NOBODY if there is none. */
uint32_t prefix_oldest(const struct prefix *prefix, enum prefix_place place);
/* Is the newest of its place from now on. */
void prefix_touch(struct prefix *prefix, uint32_t handle);
/* Forgets an idle block: the caller gives the handle back. */
void prefix_forget(struct prefix *prefix, uint32_t handle);
uint32_t prefix_idle(const struct prefix *prefix, enum prefix_place place);

/* ---- places ---- */

/* A block has been copied to another place; an idle one is the newest there. */
void prefix_move(struct prefix *prefix, uint32_t handle, enum prefix_place place);
enum prefix_place prefix_place_of(const struct prefix *prefix, uint32_t handle);
/* Blocks on the device that are not pinned: what can be given up for others. */
uint32_t prefix_loose(const struct prefix *prefix);

#endif
