/* What lies in the bus coordinator's shared file. Only bus.c and its test, which kills members in the middle of a
 * change, read this.
 *
 * All of it is written under `lock`. A member writes its own seat; the grants in all seats are written by whoever
 * works them out, and can be worked out anew from the rest at any time: that is what makes a dead writer harmless. */
#ifndef METRONOME_OFFLOAD_BUS_FILE_H
#define METRONOME_OFFLOAD_BUS_FILE_H

#include "offload/grant.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define BUS_FILE_MAGIC UINT64_C(0x6d6574726f627573) /* "metrobus" */
#define BUS_FILE_VERSION 1

/* Bytes of the file that are locked, in the sense of fcntl(): the first while a process joins, then one a seat. */
#define BUS_LOCK_JOIN 0
#define BUS_LOCK_SEAT 1

struct bus_seat {
    uint64_t joined; /* counts up with every member that joins; 0: the seat is empty */
    uint64_t link_bytes_per_s;
    struct grant_member stated;   /* count 0: nothing yet */
    uint64_t in_use_bytes_per_s;  /* the most that the member may be using now */
    uint32_t granted;             /* index into stated, or GRANT_NONE */
    uint32_t kept;                /* 0 or 1 */
    uint64_t granted_bytes_per_s; /* where it goes as soon as there is room */
};

struct bus_file {
    uint64_t magic;
    uint32_t version, bytes;
    pthread_mutex_t lock;
    uint64_t last_joined;
    uint64_t link_bytes_per_s; /* the least that a member stated */
    struct bus_seat seat[GRANT_MAX_MEMBERS];
};

#endif
