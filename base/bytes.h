/* Byte sizes: parsing "40GiB", printing "1.25 GiB", and arithmetic that cannot wrap. Threads: any. */
#ifndef METRONOME_BASE_BYTES_H
#define METRONOME_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads "1048576", "512MiB", "1.5 GiB", "40GB" (kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024).
 * False if the text is anything else, negative, or does not fit 64 bits. */
bool bytes_parse(const char *text, uint64_t *bytes);

/* Writes "1.25 GiB" (binary units, at most 2 decimals) and returns `buffer`. 16 bytes suffice. */
const char *bytes_format(uint64_t bytes, char *buffer, size_t size);

/* *result = a * b or a + b; false, with *result untouched, if it does not fit. */
bool bytes_multiply(size_t a, size_t b, size_t *result);
bool bytes_add(size_t a, size_t b, size_t *result);

/* `value` rounded up to a multiple of `alignment`, a power of two. */
static inline size_t bytes_align(size_t value, size_t alignment) {
    return (value + alignment - 1) & ~(alignment - 1);
}

#endif
