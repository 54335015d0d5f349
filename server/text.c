#include "server/text.h"

#include "base/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_free(struct text *text) {
    free(text->data);
    *text = (struct text){0};
}

void text_clear(struct text *text) {
    text->bytes = 0;
    text->failed = false;
}

/* Room for `bytes` more, or false. */
static bool reserve(struct text *text, size_t bytes) {
    if (text->failed) {
        return false;
    }
    if (text->capacity - text->bytes >= bytes) {
        return true;
    }
    size_t wanted, doubled = text->capacity ? text->capacity : 64;
    if (__builtin_add_overflow(text->bytes, bytes, &wanted)) {
        text->failed = true;
        return false;
    }
    while (doubled < wanted && doubled <= SIZE_MAX / 2) {
        doubled *= 2;
    }
    size_t capacity = doubled < wanted ? wanted : doubled;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void text_add(struct text *text, const char *data, size_t bytes) {
    if (bytes > 0 && reserve(text, bytes)) {
        memcpy(text->data + text->bytes, data, bytes);
        text->bytes += bytes;
    }
}

void text_adds(struct text *text, const char *string) {
    text_add(text, string, strlen(string));
}

void text_addf(struct text *text, const char *format, ...) {
    char line[256];
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int wanted = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (wanted >= 0 && (size_t)wanted < sizeof line) {
        text_add(text, line, (size_t)wanted);
    } else if (wanted >= 0 && reserve(text, (size_t)wanted + 1)) {
        vsnprintf(text->data + text->bytes, (size_t)wanted + 1, format, again);
        text->bytes += (size_t)wanted;
    }
    va_end(again);
}

/* The two-character escape of a byte, or 0 if it has none. */
static char short_escape(unsigned char byte) {
    switch (byte) {
    case '"':
    case '\\':
        return (char)byte;
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    default:
        return 0;
    }
}

void text_add_json(struct text *text, const char *data, size_t bytes) {
    text_add(text, "\"", 1);
    size_t plain = 0; /* start of the run that needs no escape */
    for (size_t at = 0; at < bytes;) {
        unsigned char byte = (unsigned char)data[at];
        size_t used = 1;
        bool valid = byte < 0x80 || utf8_decode(data + at, bytes - at, &used) != 0xfffd || used == 3;
        if (valid && byte >= 0x20 && byte != '"' && byte != '\\' && byte != 0x7f) {
            at += used;
            continue;
        }
        text_add(text, data + plain, at - plain);
        if (!valid) {
            text_adds(text, "\xef\xbf\xbd");
        } else if (short_escape(byte)) {
            text_add(text, (const char[]){'\\', short_escape(byte)}, 2);
        } else {
            text_addf(text, "\\u%04x", byte);
        }
        at += used;
        plain = at;
    }
    text_add(text, data + plain, bytes - plain);
    text_add(text, "\"", 1);
}

void text_adds_json(struct text *text, const char *string) {
    text_add_json(text, string, strlen(string));
}

void text_add_number(struct text *text, double value) {
    if (isnan(value)) {
        text_adds(text, "null");
    } else if (isinf(value)) {
        text_adds(text, value < 0 ? "-9999" : "9999");
    } else {
        text_addf(text, "%.9g", value);
    }
}

const char *text_string(struct text *text) {
    if (!reserve(text, 1)) {
        return NULL;
    }
    text->data[text->bytes] = 0;
    return text->data;
}
