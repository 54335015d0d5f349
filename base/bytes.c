#include "base/bytes.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool bytes_parse(const char *text, uint64_t *bytes) {
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {
        {"", 1},      {"B", 1},        {"kB", 1e3},       {"KB", 1e3},       {"MB", 1e6},       {"GB", 1e9},
        {"TB", 1e12}, {"KiB", 1024.0}, {"MiB", 0x1.0p20}, {"GiB", 0x1.0p30}, {"TiB", 0x1.0p40},
    };
    if (!isdigit((unsigned char)text[0])) {
        return false; /* strtod would take signs, spaces, "inf" and hexadecimal */
    }
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        return false;
    }
    char *end;
    double number = strtod(text, &end);
    while (*end == ' ') {
        end++;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].suffix) == 0) {
            double value = number * units[i].factor;
            if (!(value >= 0 && value < 0x1.0p63)) {
                return false;
            }
            *bytes = (uint64_t)value;
            return true;
        }
    }
    return false;
}

const char *bytes_format(uint64_t bytes, char *buffer, size_t size) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(buffer, size, unit == 0 || value == floor(value) ? "%.0f %s" : "%.2f %s", value, units[unit]);
    return buffer;
}

bool bytes_multiply(size_t a, size_t b, size_t *result) {
    return !__builtin_mul_overflow(a, b, result);
}

bool bytes_add(size_t a, size_t b, size_t *result) {
    return !__builtin_add_overflow(a, b, result);
}
