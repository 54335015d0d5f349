#include "offload/bus.h"

#include "base/check.h"
#include "offload/bus_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_BYTES (UINT64_C(1) << 56) /* of a candidate: sums of eight cannot wrap */

struct bus {
    int fd;
    uint32_t seat;
    bool seated; /* the seat is ours, in the file's content too */
    struct bus_file *file;
    struct grant_scratch *scratch;
    uint64_t looked_ns;
    bool looked;
    struct bus_grant last; /* what the last call of bus_poll() said */
};

/* ---- file locks: who is alive ---- */

static bool lock_byte(int fd, int command, off_t byte, short type) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int result;
    do {
        result = fcntl(fd, command, &lock);
    } while (result < 0 && errno == EINTR);
    return result == 0;
}

/* Is a seat held through another open of the file than ours? */
static bool seat_held(int fd, uint32_t seat) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = BUS_LOCK_SEAT + seat, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK; /* in doubt it lives */
}

/* ---- the grants; under the lock ---- */

static uint32_t least_candidate(const struct grant_member *member) {
    uint32_t least = 0;
    for (uint32_t i = 1; i < member->count; i++) {
        if (member->candidate[i].bytes_per_s < member->candidate[least].bytes_per_s) {
            least = i;
        }
    }
    return least;
}

/* The seats of members that have stated something, those who came first first. Returns how many. */
static uint32_t by_seniority(const struct bus_file *file, uint32_t *seats) {
    uint32_t count = 0;
    for (uint32_t seat = 0; seat < GRANT_MAX_MEMBERS; seat++) {
        if (file->seat[seat].joined == 0 || file->seat[seat].stated.count == 0) {
            continue;
        }
        uint32_t at = count++;
        for (; at > 0 && file->seat[seats[at - 1]].joined > file->seat[seat].joined; at--) {
            seats[at] = seats[at - 1];
        }
        seats[at] = seat;
    }
    return count;
}

/* Works out everybody's grant. If not all least needs fit, the last to come give way, one after another, until the
 * rest do; they share what is left. */
static void share_out(struct bus *bus) {
    struct bus_file *file = bus->file;
    uint32_t seats[GRANT_MAX_MEMBERS], granted[GRANT_MAX_MEMBERS], count = by_seniority(file, seats), kept = count;
    struct grant_member members[GRANT_MAX_MEMBERS];
    file->link_bytes_per_s = UINT64_MAX;
    for (uint32_t seat = 0; seat < GRANT_MAX_MEMBERS; seat++) {
        if (file->seat[seat].joined != 0 && file->seat[seat].link_bytes_per_s < file->link_bytes_per_s) {
            file->link_bytes_per_s = file->seat[seat].link_bytes_per_s;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        members[i] = file->seat[seats[i]].stated;
    }
    while (!grant_solve(bus->scratch, members, kept, file->link_bytes_per_s, granted)) {
        kept--;
    }
    uint64_t left = file->link_bytes_per_s;
    for (uint32_t i = 0; i < count; i++) {
        struct bus_seat *seat = &file->seat[seats[i]];
        seat->kept = i < kept;
        seat->granted = i < kept ? granted[i] : least_candidate(&seat->stated);
        seat->granted_bytes_per_s = i < kept ? seat->stated.candidate[seat->granted].bytes_per_s : left / (count - i);
        left -= seat->granted_bytes_per_s;
    }
}

/* Clears the seats of members that are gone; while we join, of whoever had ours. Returns whether there were any. */
static bool clear_the_dead(struct bus *bus) {
    bool any = false;
    for (uint32_t seat = 0; seat < GRANT_MAX_MEMBERS; seat++) {
        bool ours = bus->seated && seat == bus->seat;
        if (!ours && bus->file->seat[seat].joined != 0 && !seat_held(bus->fd, seat)) {
            bus->file->seat[seat] = (struct bus_seat){.granted = GRANT_NONE};
            any = true;
        }
    }
    return any;
}

/* ---- the lock ---- */

/* Takes up what a member left that died holding the lock. Only its own seat can be half written, and that goes with
 * it; the grants may be, and are worked out anew. */
static void recover(struct bus *bus) {
    pthread_mutex_consistent(&bus->file->lock);
    clear_the_dead(bus);
    share_out(bus);
}

static void take_lock(struct bus *bus) {
    int result = pthread_mutex_lock(&bus->file->lock);
    if (result == EOWNERDEAD) {
        recover(bus);
        result = 0;
    }
    CHECK(result == 0);
}

static bool try_lock(struct bus *bus) {
    int result = pthread_mutex_trylock(&bus->file->lock);
    if (result == EOWNERDEAD) {
        recover(bus);
        result = 0;
    }
    CHECK(result == 0 || result == EBUSY);
    return result == 0;
}

static void drop_lock(struct bus *bus) {
    pthread_mutex_unlock(&bus->file->lock);
}

/* ---- joining ---- */

static struct status file_path(const struct bus_config *config, char *path, size_t size) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    const char *directory = config->directory ? config->directory : runtime && *runtime ? runtime : "/dev/shm";
    size_t length = strlen(config->name);
    for (const char *c = config->name; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr(".:-_", *c)) {
            length = 0;
        }
    }
    if (length == 0 || length > 64) {
        return status_error(STATUS_INVALID, "bus name \"%.70s\": it takes 1 to 64 letters, digits and any of . : - _",
                            config->name);
    }
    int written = snprintf(path, size, "%s/metronome-bus-%u-%s", directory, (unsigned)geteuid(), config->name);
    if (written < 0 || (size_t)written >= size) {
        return status_error(STATUS_INVALID, "bus directory \"%.80s\" has too long a path", directory);
    }
    return STATUS_SUCCESS;
}

static struct status open_file(const char *path, int *fd) {
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat info;
    if (*fd < 0 || fstat(*fd, &info) < 0) {
        return status_error(STATUS_IO, "bus file %.100s: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
        return status_error(STATUS_IO, "bus file %.100s is not a private file of this user; remove it", path);
    }
    return STATUS_SUCCESS;
}

/* Makes the file's content anew. Nobody else has a seat, and nobody can take one: the join lock is held. */
static struct status initialise(struct bus_file *file) {
    memset(file, 0, sizeof *file);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    int result = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    result = result ? result : pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    result = result ? result : pthread_mutex_init(&file->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (result) {
        return status_error(STATUS_IO, "a lock shared by processes cannot be made: %s", strerror(result));
    }
    for (uint32_t seat = 0; seat < GRANT_MAX_MEMBERS; seat++) {
        file->seat[seat].granted = GRANT_NONE;
    }
    file->version = BUS_FILE_VERSION;
    file->bytes = sizeof *file;
    file->magic = BUS_FILE_MAGIC;
    return STATUS_SUCCESS;
}

/* A seat that nobody holds. *alone says whether nobody holds any. */
static struct status find_seat(struct bus *bus, const char *path, bool *alone) {
    uint32_t free_seats = 0;
    for (uint32_t seat = GRANT_MAX_MEMBERS; seat-- > 0;) {
        if (!seat_held(bus->fd, seat)) {
            bus->seat = seat;
            free_seats++;
        }
    }
    *alone = free_seats == GRANT_MAX_MEMBERS;
    if (free_seats == 0) {
        return status_error(STATUS_BUSY, "bus file %.100s: all %u seats are taken", path, GRANT_MAX_MEMBERS);
    }
    return STATUS_SUCCESS;
}

/* Maps the file; makes its content anew if nobody is there. */
static struct status map_file(struct bus *bus, const char *path, bool alone) {
    struct stat info;
    if ((alone && ftruncate(bus->fd, sizeof(struct bus_file)) < 0) || fstat(bus->fd, &info) < 0) {
        return status_error(STATUS_IO, "bus file %.100s: %s", path, strerror(errno));
    }
    struct bus_file *file = MAP_FAILED;
    if ((uint64_t)info.st_size == sizeof *file) {
        file = mmap(NULL, sizeof *file, PROT_READ | PROT_WRITE, MAP_SHARED, bus->fd, 0);
        if (file == MAP_FAILED) {
            return status_error(STATUS_IO, "bus file %.100s: mmap: %s", path, strerror(errno));
        }
        bus->file = file;
        if (alone) {
            TRY(initialise(file));
        }
    }
    if (file == MAP_FAILED || file->magic != BUS_FILE_MAGIC || file->version != BUS_FILE_VERSION ||
        file->bytes != sizeof *file) {
        return status_error(STATUS_UNSUPPORTED,
                            "bus file %.100s is in use by another version of metronome; stop that one first", path);
    }
    return STATUS_SUCCESS;
}

/* With the join lock held, so that nobody else joins. */
static struct status take_seat(struct bus *bus, const char *path, uint64_t link_bytes_per_s) {
    bool alone;
    TRY(find_seat(bus, path, &alone));
    TRY(map_file(bus, path, alone));
    if (!lock_byte(bus->fd, F_OFD_SETLK, BUS_LOCK_SEAT + (off_t)bus->seat, F_WRLCK)) {
        return status_error(STATUS_IO, "bus file %.100s: %s", path, strerror(errno));
    }
    take_lock(bus);
    clear_the_dead(bus);
    bus->file->seat[bus->seat] = (struct bus_seat){
        .joined = ++bus->file->last_joined, .link_bytes_per_s = link_bytes_per_s, .granted = GRANT_NONE};
    bus->seated = true;
    share_out(bus);
    drop_lock(bus);
    return STATUS_SUCCESS;
}

struct status bus_join(const struct bus_config *config, struct bus **out) {
    char path[256];
    TRY(file_path(config, path, sizeof path));
    struct bus *bus = calloc(1, sizeof *bus);
    struct grant_scratch *scratch = grant_scratch_create();
    if (!bus || !scratch) {
        free(bus);
        grant_scratch_destroy(scratch);
        return status_error(STATUS_NO_MEMORY, "no memory for the bus coordinator");
    }
    *bus = (struct bus){.fd = -1, .scratch = scratch, .last = {.candidate = GRANT_NONE}};
    struct status status = open_file(path, &bus->fd);
    if (!status_failed(&status) && !lock_byte(bus->fd, F_OFD_SETLKW, BUS_LOCK_JOIN, F_WRLCK)) {
        status = status_error(STATUS_IO, "bus file %.100s: %s", path, strerror(errno));
    }
    if (!status_failed(&status)) {
        status = take_seat(bus, path, config->link_bytes_per_s);
        lock_byte(bus->fd, F_OFD_SETLK, BUS_LOCK_JOIN, F_UNLCK);
    }
    if (status_failed(&status)) {
        bus_leave(bus);
        return status;
    }
    *out = bus;
    return STATUS_SUCCESS;
}

void bus_leave(struct bus *bus) {
    if (!bus) {
        return;
    }
    if (bus->seated) {
        take_lock(bus);
        bus->file->seat[bus->seat] = (struct bus_seat){.granted = GRANT_NONE};
        share_out(bus);
        drop_lock(bus);
    }
    if (bus->file) {
        munmap(bus->file, sizeof *bus->file);
    }
    if (bus->fd >= 0) {
        close(bus->fd); /* and with it the seat's lock */
    }
    grant_scratch_destroy(bus->scratch);
    free(bus);
}

/* ---- a member's life ---- */

/* The candidate that keeps the most in host memory of those that need no more than `bytes_per_s`. */
static uint32_t best_within(const struct grant_member *member, uint64_t bytes_per_s) {
    uint32_t best = GRANT_NONE;
    for (uint32_t i = 0; i < member->count; i++) {
        if (member->candidate[i].bytes_per_s <= bytes_per_s &&
            (best == GRANT_NONE || member->candidate[i].host_bytes > member->candidate[best].host_bytes)) {
            best = i;
        }
    }
    return best;
}

struct status bus_state(struct bus *bus, const struct grant_candidate *candidates, uint32_t count) {
    CHECK(count > 0 && count <= GRANT_MAX_CANDIDATES);
    for (uint32_t i = 0; i < count; i++) {
        if (candidates[i].bytes_per_s > MOST_BYTES || candidates[i].host_bytes > MOST_BYTES) {
            return status_error(STATUS_INVALID, "a need of %llu bytes/s for %llu bytes in host memory is out of range",
                                (unsigned long long)candidates[i].bytes_per_s,
                                (unsigned long long)candidates[i].host_bytes);
        }
    }
    take_lock(bus);
    struct grant_member *stated = &bus->file->seat[bus->seat].stated;
    stated->count = count;
    memcpy(stated->candidate, candidates, count * sizeof *candidates);
    bus->last.candidate = best_within(stated, bus->last.bytes_per_s);
    share_out(bus);
    drop_lock(bus);
    return STATUS_SUCCESS;
}

/* Of the link, what the others use or are about to use. */
static uint64_t used_by_others(const struct bus *bus, uint32_t *members) {
    uint64_t used = 0;
    *members = 0;
    for (uint32_t i = 0; i < GRANT_MAX_MEMBERS; i++) {
        const struct bus_seat *seat = &bus->file->seat[i];
        if (seat->joined != 0) {
            ++*members;
            if (i != bus->seat) {
                bool rising = seat->granted_bytes_per_s > seat->in_use_bytes_per_s;
                used += rising ? seat->granted_bytes_per_s : seat->in_use_bytes_per_s;
            }
        }
    }
    return used;
}

struct bus_grant bus_poll(struct bus *bus, uint64_t now_ns) {
    if (!try_lock(bus)) {
        return bus->last;
    }
    if (!bus->looked || now_ns - bus->looked_ns >= BUS_LOOK_NS) {
        bus->looked = true;
        bus->looked_ns = now_ns;
        if (clear_the_dead(bus)) {
            share_out(bus);
        }
    }
    struct bus_seat *seat = &bus->file->seat[bus->seat];
    seat->in_use_bytes_per_s = bus->last.bytes_per_s; /* the iteration since then has kept to it */
    struct bus_grant grant = {.candidate = GRANT_NONE, .link_bytes_per_s = bus->file->link_bytes_per_s};
    uint64_t others = used_by_others(bus, &grant.members), wanted = seat->granted_bytes_per_s;
    bool room = others <= grant.link_bytes_per_s && wanted <= grant.link_bytes_per_s - others;
    if (seat->granted != GRANT_NONE && (wanted <= seat->in_use_bytes_per_s || room)) {
        grant.candidate = seat->granted;
        grant.bytes_per_s = wanted;
        grant.kept = seat->kept;
    } else { /* the others must give way first: what was granted holds, as far as it goes */
        grant.candidate = best_within(&seat->stated, seat->in_use_bytes_per_s);
        grant.bytes_per_s = seat->in_use_bytes_per_s;
        grant.kept = grant.candidate != GRANT_NONE;
    }
    if (grant.bytes_per_s > seat->in_use_bytes_per_s) {
        seat->in_use_bytes_per_s = grant.bytes_per_s;
    }
    drop_lock(bus);
    bus->last = grant;
    return grant;
}
