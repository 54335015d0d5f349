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

struct status status_context(struct status status, const char *format, ...) {
    if (status.code == STATUS_OK) {
        return status;
    }
    struct status outer = {.code = status.code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(outer.message, sizeof outer.message, format, arguments);
    va_end(arguments);
    size_t used = strlen(outer.message);
    size_t room = sizeof outer.message - used - 1;
    const char *parts[] = {": ", status.message};
    for (size_t i = 0; i < 2; i++) {
        size_t length = strnlen(parts[i], sizeof status.message);
        length = length < room ? length : room;
        memcpy(outer.message + used, parts[i], length);
        used += length;
        room -= length;
    }
    outer.message[used] = 0;
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
