#include "base/utf8.h"

#include <string.h>

/* The length of the character at text[0..bytes), or 0 if it is invalid; *truncated says that more bytes could
 * still make it valid. */
static size_t character_length(const unsigned char *text, size_t bytes, bool *truncated) {
    *truncated = false;
    unsigned char lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if (i >= bytes) {
            *truncated = true;
            return 0;
        }
        unsigned char low = 0x80, high = 0xbf;
        if (i == 1) {
            low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : low;   /* no overlong forms */
            high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : high; /* no surrogates, nothing above U+10FFFF */
        }
        if (text[i] < low || text[i] > high) {
            return 0;
        }
    }
    return length;
}

bool utf8_valid(const char *text, size_t bytes) {
    const unsigned char *at = (const unsigned char *)text;
    for (size_t i = 0; i < bytes;) {
        bool truncated;
        size_t length = character_length(at + i, bytes - i, &truncated);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

uint32_t utf8_decode(const char *text, size_t bytes, size_t *bytes_used) {
    const unsigned char *at = (const unsigned char *)text;
    bool truncated;
    size_t length = character_length(at, bytes, &truncated);
    *bytes_used = length ? length : 1;
    switch (length) {
    case 1:
        return at[0];
    case 2:
        return (at[0] & 0x1fu) << 6 | (at[1] & 0x3fu);
    case 3:
        return (at[0] & 0x0fu) << 12 | (at[1] & 0x3fu) << 6 | (at[2] & 0x3fu);
    case 4:
        return (at[0] & 0x07u) << 18 | (at[1] & 0x3fu) << 12 | (at[2] & 0x3fu) << 6 | (at[3] & 0x3fu);
    default:
        return 0xfffd;
    }
}

size_t utf8_encode(uint32_t code_point, char out[4]) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xc0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xe0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code_point & 0x3f));
    return 4;
}

size_t utf8_complete_prefix(const char *text, size_t bytes) {
    const unsigned char *at = (const unsigned char *)text;
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        unsigned char byte = at[bytes - back];
        if ((byte & 0xc0) == 0x80) {
            continue; /* inside a character: look for its lead */
        }
        bool truncated;
        size_t length = character_length(at + bytes - back, back, &truncated);
        return length == 0 && truncated ? bytes - back : bytes;
    }
    return bytes;
}

size_t utf8_sanitize(const char *text, size_t bytes, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < bytes;) {
        bool truncated;
        size_t length = character_length((const unsigned char *)text + i, bytes - i, &truncated);
        if (length == 0) {
            memcpy(out + written, "\xef\xbf\xbd", 3);
            written += 3;
            i++;
        } else {
            memcpy(out + written, text + i, length);
            written += length;
            i += length;
        }
    }
    return written;
}
