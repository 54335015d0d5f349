/* The link of the `cpu` device: a memcpy that takes as long as a real link would.
 *
 * The link carries one piece at a time, whichever stream it comes from. A copy puts its next piece on the link when
 * the last has been carried, so streams that copy at once share it by turns and a change of pace is felt within a
 * piece. Waiting is sleeping: the cores are the device's, for its math. */
#include "kernels/cpu/machine.h"

#include "base/clock.h"

#include <string.h>

#define PIECE_MAX_BYTES ((size_t)256 << 10)
#define PIECE_MIN_BYTES ((size_t)4 << 10)
#define PIECE_NS 1000000 /* of a slow link, no piece takes longer than this, PIECE_MIN_BYTES willing */

/* The middle of a copy may run ahead of the link by this much rather than sleep for less. Its end never does. */
#define AHEAD_NS 50000

/* Sleeps end late, and a busy system takes the core away. A real link would have gone on, so a copy makes up for the
 * lateness of the one before it and its own, but for no more than this: a link that was idle carries nothing afterwards
 * for the time it missed. */
#define MAKE_UP_NS 20000000

void link_init(struct link *link, double bytes_per_s) {
    *link = (struct link){0};
    atomic_store(&link->bytes_per_s, bytes_per_s);
    pthread_mutex_init(&link->lock, NULL);
}

void link_destroy(struct link *link) {
    pthread_mutex_destroy(&link->lock);
}

void link_count(struct link *link, size_t bytes, enum copy_kind kind) {
    if (kind == COPY_HOST_TO_DEVICE) {
        atomic_fetch_add_explicit(&link->host_to_device_bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&link->host_to_device_copies, 1, memory_order_relaxed);
    } else if (kind == COPY_DEVICE_TO_HOST) {
        atomic_fetch_add_explicit(&link->device_to_host_bytes, bytes, memory_order_relaxed);
        atomic_fetch_add_explicit(&link->device_to_host_copies, 1, memory_order_relaxed);
    }
}

static uint64_t later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* A copy this small passes between the pieces of others, as packets do on a real link. If it took the link, from the
 * time at which it was ready, the link would have stood still until then for a copy whose thread is late. */
#define BETWEEN_BYTES PIECE_MIN_BYTES

static uint64_t duration_ns(size_t bytes, double bytes_per_s) {
    return (uint64_t)((double)bytes / bytes_per_s * 1e9);
}

/* Takes the link for `bytes` from `ready_ns` or from when it is free, and returns when it will have carried them. */
static uint64_t reserve(struct link *link, size_t bytes, double bytes_per_s, uint64_t ready_ns) {
    pthread_mutex_lock(&link->lock);
    link->free_at_ns = later(link->free_at_ns, ready_ns) + duration_ns(bytes, bytes_per_s);
    uint64_t due_ns = link->free_at_ns;
    pthread_mutex_unlock(&link->lock);
    return due_ns;
}

static size_t piece_bytes(double bytes_per_s, size_t left) {
    double most = bytes_per_s * PIECE_NS / 1e9;
    size_t piece = most >= (double)PIECE_MAX_BYTES ? PIECE_MAX_BYTES : (size_t)most;
    piece = piece < PIECE_MIN_BYTES ? PIECE_MIN_BYTES : piece;
    return piece < left ? piece : left;
}

uint64_t link_carry(struct link *link, const struct cargo *cargo, uint64_t ready_ns) {
    uint64_t now_ns = clock_now_ns();
    uint64_t due_ns = ready_ns; /* of what is done */
    const size_t bytes = cargo->bytes * cargo->rows;
    for (size_t done = 0; done < bytes;) {
        double bytes_per_s = atomic_load_explicit(&link->bytes_per_s, memory_order_relaxed);
        bool paced = bytes_per_s > 0;
        const size_t row = done / cargo->bytes, in_row = done % cargo->bytes, left = cargo->bytes - in_row;
        size_t piece = paced ? piece_bytes(bytes_per_s, left) : left;
        uint64_t from_ns = later(due_ns, now_ns - MAKE_UP_NS);
        if (paced && bytes <= BETWEEN_BYTES) {
            due_ns = from_ns + duration_ns(piece, bytes_per_s);
        } else if (paced) {
            due_ns = reserve(link, piece, bytes_per_s, from_ns);
        }
        memcpy((char *)cargo->target + done, (const char *)cargo->source + row * cargo->stride + in_row, piece);
        done += piece;
        now_ns = clock_now_ns();
        if (!paced) {
            due_ns = now_ns;
        } else if (due_ns > now_ns && (done == bytes || due_ns - now_ns > AHEAD_NS)) {
            clock_sleep_until_ns(due_ns);
            now_ns = clock_now_ns();
        }
    }
    return due_ns;
}
