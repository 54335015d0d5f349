/* A growing run of bytes and the few writers of JSON that responses need.
 *
 * Owns: its buffer. A failure to grow is remembered in `failed` and makes every later append a no-op, so that a
 * writer appends freely and its caller asks once, at the end.
 * Threads: one owner a text. */
#ifndef METRONOME_SERVER_TEXT_H
#define METRONOME_SERVER_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text {
    char *data; /* (capacity), not terminated; NULL while empty */
    size_t bytes, capacity;
    bool failed;
};

void text_free(struct text *text);

/* Empties it and keeps the buffer. */
void text_clear(struct text *text);

void text_add(struct text *text, const char *data, size_t bytes);
void text_adds(struct text *text, const char *string);
void text_addf(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends a JSON string with its quotes; invalid UTF-8 comes out as U+FFFD. */
void text_add_json(struct text *text, const char *data, size_t bytes);
void text_adds_json(struct text *text, const char *string);

/* Appends a JSON number. JSON has no infinities: they come out as -9999 and 9999, as vLLM writes them. */
void text_add_number(struct text *text, double value);

/* Terminates it (the terminator is not counted) and returns the string, or NULL if it had failed. */
const char *text_string(struct text *text);

#endif
