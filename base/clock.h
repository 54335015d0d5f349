/* The real clock. Code that must run on virtual time takes its time from a device (kernels/device.h) instead.
 * Threads: any. */
#ifndef METRONOME_BASE_CLOCK_H
#define METRONOME_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* Monotonic nanoseconds; only differences mean anything. */
uint64_t clock_now_ns(void);

/* Sleeps until clock_now_ns() >= deadline_ns (at once if it is past). */
void clock_sleep_until_ns(uint64_t deadline_ns);

/* Seconds since 1970, for the `created` fields of the API. */
int64_t clock_unix_s(void);

#endif
