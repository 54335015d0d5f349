/* UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF. Threads: any. */
#ifndef METRONOME_BASE_UTF8_H
#define METRONOME_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool utf8_valid(const char *text, size_t bytes);

/* The code point at `text` and its length in *bytes_used (1..4); an invalid byte gives U+FFFD and length 1.
 * `bytes` > 0. */
uint32_t utf8_decode(const char *text, size_t bytes, size_t *bytes_used);

/* Writes 1..4 bytes and returns how many. `code_point` must be a scalar value. */
size_t utf8_encode(uint32_t code_point, char out[4]);

/* How many of the leading `bytes` can be shown now: all of them, less a character at the end that is begun and not
 * finished (at most 3 bytes). Bytes that can never become valid count as showable. */
size_t utf8_complete_prefix(const char *text, size_t bytes);

/* Copies `text` with every invalid byte replaced by U+FFFD, for output that must be valid; returns the bytes
 * written, at most 3 * bytes. */
size_t utf8_sanitize(const char *text, size_t bytes, char *out);

#endif
