/* HTTP/1.1 requests as bytes: the head, and the chunked coding of a body (RFC 9112).
 *
 * Owns: nothing; slices point into the caller's bytes. Strict where leniency lets two readers of one stream disagree
 * about where a request ends: lines end with CRLF, a length is given once and one way, no folded headers.
 * Threads: any. */
#ifndef METRONOME_SERVER_HTTP_PARSE_H
#define METRONOME_SERVER_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_slice {
    const char *data; /* not terminated */
    size_t bytes;
};

/* What is wrong with a request: the status to answer and the words. code 0: nothing. */
struct http_fault {
    int code;
    const char *message;
};

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OTHER };

#define HTTP_MAX_HEADERS 100

struct http_header {
    struct http_slice name, value;
};

struct http_head {
    enum http_method method;
    struct http_slice path, query; /* as sent, not decoded */
    unsigned minor;                /* of HTTP/1.x */
    struct http_header headers[HTTP_MAX_HEADERS];
    size_t header_count;
    uint64_t content_length; /* 0 if there is no body */
    bool chunked;            /* the body has the chunked coding instead */
    bool keep_alive;
    bool expects_continue;
};

/* Reads a request line and headers, `data` ending with their empty line. 400, 431 (too many headers), 501 (a
 * transfer coding that is not built) or 505 if it cannot be. */
struct http_fault http_parse_head(const char *data, size_t bytes, struct http_head *head);

/* The value of a header by its lower-case name; NULL if it is absent. The first, if there are several. */
const struct http_slice *http_find_header(const struct http_head *head, const char *name);

bool http_slice_equals(struct http_slice slice, const char *text);

/* Decodes %XX. Returns the length, or SIZE_MAX if it is malformed or does not fit `capacity` with its terminator. */
size_t http_decode_percent(struct http_slice slice, char *out, size_t capacity);

/* ---- the chunked coding ---- */

enum chunk_state { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER, CHUNK_DONE };

struct http_chunks {
    enum chunk_state state;
    uint64_t left;     /* of the chunk at hand */
    size_t line_bytes; /* of the size or trailer line at hand, so far */
    uint8_t digits;    /* of the size, so far */
    uint8_t last;      /* the line's last byte */
    bool extension;    /* past the size's digits */
};

/* Advances over `data`; *used says how far. At most one run of the body's bytes comes back in *payload; call again
 * with the rest until *used is all of it or the state is CHUNK_DONE. 400 if it is malformed. */
struct http_fault http_chunks_take(struct http_chunks *chunks, const char *data, size_t bytes, size_t *used,
                                   struct http_slice *payload);

#endif
