/* Fuzz target: any bytes as the head of an HTTP request, and as a chunked body. Slices stay inside the bytes; a body
 * cut in two anywhere reads as it does whole. */
#include "server/http_parse.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

static void check_inside(struct http_slice slice, const char *data, size_t bytes) {
    require(slice.bytes == 0 || (slice.data >= data && slice.data + slice.bytes <= data + bytes));
}

static void read_head(const char *data, size_t bytes) {
    static struct http_head head;
    struct http_fault fault = http_parse_head(data, bytes, &head);
    if (fault.code) {
        require(fault.code >= 400 && fault.message && *fault.message);
        return;
    }
    check_inside(head.path, data, bytes);
    check_inside(head.query, data, bytes);
    require(head.path.bytes > 0 && head.path.data[0] == '/');
    require(!(head.chunked && head.content_length > 0));
    for (size_t i = 0; i < head.header_count; i++) {
        check_inside(head.headers[i].name, data, bytes);
        check_inside(head.headers[i].value, data, bytes);
    }
    char path[64];
    size_t length = http_decode_percent(head.path, path, sizeof path);
    require(length == SIZE_MAX || (length < sizeof path && strlen(path) == length));
}

struct decoded {
    char *body;
    size_t bytes, consumed;
    int code;
    enum chunk_state state;
};

/* Decodes what it is given in pieces of `first` bytes and the rest. */
static struct decoded decode(const char *data, size_t bytes, size_t first) {
    struct decoded decoded = {.body = malloc(bytes + 1)};
    struct http_chunks chunks = {0};
    require(decoded.body != NULL);
    while (decoded.consumed < bytes && decoded.code == 0 && chunks.state != CHUNK_DONE) {
        size_t end = decoded.consumed < first ? first : bytes, used;
        struct http_slice payload;
        struct http_fault fault =
            http_chunks_take(&chunks, data + decoded.consumed, end - decoded.consumed, &used, &payload);
        check_inside(payload, data + decoded.consumed, used);
        require(used > 0 || fault.code);
        if (fault.code == 0) {
            memcpy(decoded.body + decoded.bytes, payload.data, payload.bytes);
            decoded.bytes += payload.bytes;
        }
        decoded.consumed += used;
        decoded.code = fault.code;
    }
    decoded.state = chunks.state;
    return decoded;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes == 0) {
        return 0;
    }
    const char *text = (const char *)data + 1;
    size_t rest = bytes - 1, cut = rest ? data[0] % (rest + 1) : 0;
    read_head(text, rest);
    struct decoded whole = decode(text, rest, rest), pieces = decode(text, rest, cut);
    require(whole.code == pieces.code && whole.state == pieces.state && whole.bytes == pieces.bytes);
    require(memcmp(whole.body, pieces.body, whole.bytes) == 0);
    require(whole.consumed == pieces.consumed);
    free(whole.body);
    free(pieces.body);
    return 0;
}
