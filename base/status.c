#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct status status_error(enum status_code code, const char *format, ...) {
    struct status status = {.code = code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(status.message, sizeof status.message, format, arguments);
    va_end(arguments);
    return status;
}

/* Copies `text` to `at`, cut so that it ends with a zero before `end`, and returns where that zero stands. */
static char *append(char *at, const char *end, const char *text) {
    while (*text != 0 && at + 1 < end) {
        *at++ = *text++;
    }
    *at = 0;
    return at;
}

struct status status_context(struct status status, const char *format, ...) {
    if (status.code == STATUS_OK) {
        return status;
    }
    struct status outer = {.code = status.code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(outer.message, sizeof outer.message, format, arguments);
    va_end(arguments);
    char *at = append(outer.message + strlen(outer.message), outer.message + sizeof outer.message, ": ");
    append(at, outer.message + sizeof outer.message, status.message);
    return outer;
}

const char *status_code_name(enum status_code code) {
    switch (code) {
    case STATUS_OK:
        return "ok";
    case STATUS_INVALID:
        return "invalid";
    case STATUS_NOT_FOUND:
        return "not_found";
    case STATUS_UNSUPPORTED:
        return "unsupported";
    case STATUS_NO_MEMORY:
        return "no_memory";
    case STATUS_BUSY:
        return "busy";
    case STATUS_UNAVAILABLE:
        return "unavailable";
    case STATUS_IO:
        return "io";
    case STATUS_DEVICE:
        return "device";
    }
    return "unknown";
}
