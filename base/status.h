/* What went wrong, as a value.
 *
 * Owns: the one error type of the house. Everything a user, a file, a peer, a full memory or a driver can do
 * travels up as a `struct status`; bugs in our own code are assertions (base/check.h) instead.
 * Threads: values only, callable from any. */
#ifndef METRONOME_BASE_STATUS_H
#define METRONOME_BASE_STATUS_H

#include <stdbool.h>
#include <stdint.h>

enum status_code {
    STATUS_OK = 0,
    STATUS_INVALID,     /* the caller's input is wrong: HTTP 400, exit 2 */
    STATUS_NOT_FOUND,   /* a named thing does not exist: HTTP 404 */
    STATUS_UNSUPPORTED, /* understood, and not built: names what is supported */
    STATUS_NO_MEMORY,   /* a budget or an allocation is short: says by how much */
    STATUS_BUSY,        /* a bounded queue is full: HTTP 429 with Retry-After */
    STATUS_UNAVAILABLE, /* loading, draining or stopped: HTTP 503 */
    STATUS_IO,          /* the operating system said no: carries strerror */
    STATUS_DEVICE,      /* the accelerator or its driver said no: carries the call's name */
};

/* A code and a message that names the thing, its value and the mend. 256 bytes, returned by value. */
struct status {
    enum status_code code;
    char message[252];
};

/* A status of `code` with a printf-style message; a message that is too long is cut, never lost whole. */
struct status status_error(enum status_code code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `status` with "context: " before its message; STATUS_OK passes through untouched. */
struct status status_context(struct status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The code's lower-case name, for logs and JSON. */
const char *status_code_name(enum status_code code);

#define STATUS_SUCCESS ((struct status){.code = STATUS_OK})

static inline bool status_failed(const struct status *status) {
    return status->code != STATUS_OK;
}

/* Returns from the calling function with the error, if there is one. */
#define TRY(expression)                           \
    do {                                          \
        struct status try_status_ = (expression); \
        if (try_status_.code != STATUS_OK) {      \
            return try_status_;                   \
        }                                         \
    } while (0)

#endif
