#include "server/http_parse.h"

#include <string.h>

#define MAX_CHUNK_LINE 1024

static struct http_fault fault(int code, const char *message) {
    return (struct http_fault){.code = code, .message = message};
}

static const struct http_fault no_fault = {0};

/* A character of RFC 9110's token. */
static bool is_token(char byte) {
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           (byte && strchr("!#$%&'*+-.^_`|~", byte));
}

static char lower(char byte) {
    return byte >= 'A' && byte <= 'Z' ? (char)(byte - 'A' + 'a') : byte;
}

static bool same_folded(struct http_slice slice, const char *text) {
    size_t bytes = strlen(text);
    if (slice.bytes != bytes) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (lower(slice.data[i]) != text[i]) {
            return false;
        }
    }
    return true;
}

bool http_slice_equals(struct http_slice slice, const char *text) {
    return slice.bytes == strlen(text) && memcmp(slice.data, text, slice.bytes) == 0;
}

/* Takes a line without its CRLF from *rest; false if there is none or it has a bare CR or LF. */
static bool take_line(struct http_slice *rest, struct http_slice *line) {
    const char *end = memmem(rest->data, rest->bytes, "\r\n", 2);
    if (!end) {
        return false;
    }
    *line = (struct http_slice){rest->data, (size_t)(end - rest->data)};
    rest->data = end + 2;
    rest->bytes -= line->bytes + 2;
    return !memchr(line->data, '\r', line->bytes) && !memchr(line->data, '\n', line->bytes);
}

/* Takes what comes before the next space; false if that is nothing. */
static bool take_word(struct http_slice *rest, struct http_slice *word) {
    const char *end = memchr(rest->data, ' ', rest->bytes);
    *word = (struct http_slice){rest->data, end ? (size_t)(end - rest->data) : rest->bytes};
    size_t taken = word->bytes + (end != NULL);
    rest->data += taken;
    rest->bytes -= taken;
    return word->bytes > 0;
}

static struct http_fault parse_target(struct http_slice target, struct http_head *head) {
    for (size_t i = 0; i < target.bytes; i++) {
        if ((unsigned char)target.data[i] <= ' ' || target.data[i] == 0x7f) {
            return fault(400, "the request's target has a character that is not allowed");
        }
    }
    if (target.data[0] != '/') { /* the absolute form, which proxies use */
        const char *scheme = memmem(target.data, target.bytes, "://", 3);
        if (!scheme) {
            return fault(400, "the request's target does not begin with '/'");
        }
        size_t skipped = (size_t)(scheme + 3 - target.data);
        const char *path = memchr(scheme + 3, '/', target.bytes - skipped);
        if (!path) {
            return fault(400, "the request's target has no path");
        }
        target.bytes -= (size_t)(path - target.data);
        target.data = path;
    }
    const char *question = memchr(target.data, '?', target.bytes);
    head->path = (struct http_slice){target.data, question ? (size_t)(question - target.data) : target.bytes};
    if (question) {
        head->query = (struct http_slice){question + 1, target.bytes - head->path.bytes - 1};
    }
    return no_fault;
}

static struct http_fault parse_request_line(struct http_slice line, struct http_head *head) {
    struct http_slice method, target, version = {0};
    if (!take_word(&line, &method) || !take_word(&line, &target) || line.bytes == 0) {
        return fault(400, "the request line is not METHOD TARGET VERSION");
    }
    version = line;
    for (size_t i = 0; i < method.bytes; i++) {
        if (!is_token(method.data[i])) {
            return fault(400, "the request's method has a character that is not allowed");
        }
    }
    if (version.bytes != 8 || memcmp(version.data, "HTTP/", 5) != 0) {
        return fault(400, "the request line does not end with an HTTP version");
    }
    if (memcmp(version.data, "HTTP/1.", 7) != 0 || (version.data[7] != '0' && version.data[7] != '1')) {
        return fault(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    }
    head->minor = (unsigned)(version.data[7] - '0');
    head->method = http_slice_equals(method, "GET")    ? HTTP_GET
                   : http_slice_equals(method, "HEAD") ? HTTP_HEAD
                   : http_slice_equals(method, "POST") ? HTTP_POST
                                                       : HTTP_OTHER;
    return parse_target(target, head);
}

static struct http_fault parse_header(struct http_slice line, struct http_header *header) {
    const char *colon = memchr(line.data, ':', line.bytes);
    if (!colon || colon == line.data) {
        return fault(400, "a header line has no name");
    }
    header->name = (struct http_slice){line.data, (size_t)(colon - line.data)};
    for (size_t i = 0; i < header->name.bytes; i++) {
        if (!is_token(header->name.data[i])) { /* a space before the colon, or a folded line, too */
            return fault(400, "a header's name has a character that is not allowed");
        }
    }
    struct http_slice value = {colon + 1, line.bytes - header->name.bytes - 1};
    while (value.bytes > 0 && (value.data[0] == ' ' || value.data[0] == '\t')) {
        value.data++;
        value.bytes--;
    }
    while (value.bytes > 0 && (value.data[value.bytes - 1] == ' ' || value.data[value.bytes - 1] == '\t')) {
        value.bytes--;
    }
    for (size_t i = 0; i < value.bytes; i++) {
        unsigned char byte = (unsigned char)value.data[i];
        if ((byte < ' ' && byte != '\t') || byte == 0x7f) {
            return fault(400, "a header's value has a control character");
        }
    }
    header->value = value;
    return no_fault;
}

static bool parse_length(struct http_slice value, uint64_t *length) {
    if (value.bytes == 0 || value.bytes > 18) {
        return false;
    }
    *length = 0;
    for (size_t i = 0; i < value.bytes; i++) {
        if (value.data[i] < '0' || value.data[i] > '9') {
            return false;
        }
        *length = *length * 10 + (uint64_t)(value.data[i] - '0');
    }
    return true;
}

/* Does a comma-separated list have this word? */
static bool list_has(struct http_slice list, const char *word) {
    while (list.bytes > 0) {
        const char *comma = memchr(list.data, ',', list.bytes);
        struct http_slice item = {list.data, comma ? (size_t)(comma - list.data) : list.bytes};
        list.data += item.bytes + (comma != NULL);
        list.bytes -= item.bytes + (comma != NULL);
        while (item.bytes > 0 && strchr(" \t", item.data[0])) {
            item.data++;
            item.bytes--;
        }
        while (item.bytes > 0 && strchr(" \t", item.data[item.bytes - 1])) {
            item.bytes--;
        }
        if (same_folded(item, word)) {
            return true;
        }
    }
    return false;
}

/* What the headers say about the request as a whole. */
struct framing {
    unsigned lengths, codings, hosts;
    bool close, keep_alive;
};

static struct http_fault note_header(const struct http_header *header, struct http_head *head,
                                     struct framing *framing) {
    if (same_folded(header->name, "content-length")) {
        if (framing->lengths++ > 0 || !parse_length(header->value, &head->content_length)) {
            return fault(400, "Content-Length is not one whole number");
        }
    } else if (same_folded(header->name, "transfer-encoding")) {
        if (framing->codings++ > 0 || !same_folded(header->value, "chunked")) {
            return fault(501, "the only transfer coding that is understood is chunked");
        }
        head->chunked = true;
    } else if (same_folded(header->name, "host")) {
        framing->hosts++;
    } else if (same_folded(header->name, "connection")) {
        framing->close |= list_has(header->value, "close");
        framing->keep_alive |= list_has(header->value, "keep-alive");
    } else if (same_folded(header->name, "expect")) {
        if (!same_folded(header->value, "100-continue")) {
            return fault(417, "the only expectation that is understood is 100-continue");
        }
        head->expects_continue = true;
    }
    return no_fault;
}

static struct http_fault check_framing(const struct framing *framing, struct http_head *head) {
    if (framing->lengths > 0 && framing->codings > 0) {
        return fault(400, "a request may not have both Content-Length and Transfer-Encoding");
    }
    if (framing->codings > 0 && head->minor == 0) {
        return fault(400, "HTTP/1.0 has no transfer codings");
    }
    if (framing->hosts > 1 || (framing->hosts == 0 && head->minor >= 1)) {
        return fault(400, "a request needs one Host header");
    }
    head->keep_alive = !framing->close && (head->minor >= 1 || framing->keep_alive);
    head->expects_continue &= head->minor >= 1;
    return no_fault;
}

struct http_fault http_parse_head(const char *data, size_t bytes, struct http_head *head) {
    *head = (struct http_head){.method = HTTP_OTHER};
    struct http_slice rest = {data, bytes}, line;
    if (!take_line(&rest, &line)) {
        return fault(400, "the request line does not end with CRLF");
    }
    struct http_fault found = parse_request_line(line, head);
    struct framing framing = {0};
    while (found.code == 0) {
        if (!take_line(&rest, &line)) {
            return fault(400, "a header line does not end with CRLF");
        }
        if (line.bytes == 0) {
            return check_framing(&framing, head);
        }
        if (head->header_count == HTTP_MAX_HEADERS) {
            return fault(431, "the request has more than 100 headers");
        }
        struct http_header *header = &head->headers[head->header_count++];
        found = parse_header(line, header);
        if (found.code == 0) {
            found = note_header(header, head, &framing);
        }
    }
    return found;
}

const struct http_slice *http_find_header(const struct http_head *head, const char *name) {
    for (size_t i = 0; i < head->header_count; i++) {
        if (same_folded(head->headers[i].name, name)) {
            return &head->headers[i].value;
        }
    }
    return NULL;
}

static int hex_value(char byte) {
    return byte >= '0' && byte <= '9'                 ? byte - '0'
           : lower(byte) >= 'a' && lower(byte) <= 'f' ? lower(byte) - 'a' + 10
                                                      : -1;
}

size_t http_decode_percent(struct http_slice slice, char *out, size_t capacity) {
    size_t used = 0;
    for (size_t i = 0; i < slice.bytes; i++) {
        if (used + 1 >= capacity) {
            return SIZE_MAX;
        }
        char byte = slice.data[i];
        if (byte == '%') {
            int high = i + 2 < slice.bytes ? hex_value(slice.data[i + 1]) : -1;
            int low = i + 2 < slice.bytes ? hex_value(slice.data[i + 2]) : -1;
            if (high < 0 || low < 0 || high + low == 0) {
                return SIZE_MAX;
            }
            byte = (char)(high * 16 + low);
            i += 2;
        }
        out[used++] = byte;
    }
    out[used] = 0;
    return used;
}

/* ---- the chunked coding ---- */

static struct http_fault take_size_byte(struct http_chunks *chunks, char byte) {
    int digit = hex_value(byte);
    if (!chunks->extension && digit >= 0) {
        if (++chunks->digits > 15) {
            return fault(400, "a chunk's size has too many digits");
        }
        chunks->left = chunks->left * 16 + (uint64_t)digit;
        return no_fault;
    }
    if (chunks->digits == 0 || (!chunks->extension && byte != ';' && byte != '\r')) {
        return fault(400, "a chunk does not begin with its size");
    }
    chunks->extension = true; /* which has no meaning here */
    return no_fault;
}

/* The end of a size line or of a trailer line. */
static void end_line(struct http_chunks *chunks) {
    size_t length = chunks->line_bytes - 2;
    if (chunks->state == CHUNK_SIZE) {
        chunks->state = chunks->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
    } else if (chunks->state == CHUNK_DATA_END) {
        chunks->state = CHUNK_SIZE;
        chunks->left = 0;
    } else if (length == 0) {
        chunks->state = CHUNK_DONE;
    }
    chunks->digits = 0;
    chunks->extension = false;
    chunks->line_bytes = 0;
    chunks->last = 0;
}

static struct http_fault take_line_byte(struct http_chunks *chunks, char byte) {
    if (++chunks->line_bytes > MAX_CHUNK_LINE) {
        return fault(400, "a line of the chunked body is too long");
    }
    bool after_return = chunks->last == '\r';
    chunks->last = (uint8_t)byte;
    if (after_return != (byte == '\n')) {
        return fault(400, "a line of the chunked body does not end with CRLF");
    }
    if (byte == '\n') {
        if (chunks->state == CHUNK_SIZE && chunks->digits == 0) {
            return fault(400, "a chunk does not begin with its size");
        }
        end_line(chunks);
        return no_fault;
    }
    if (chunks->state == CHUNK_DATA_END && byte != '\r') {
        return fault(400, "a chunk is longer than its size");
    }
    return chunks->state == CHUNK_SIZE ? take_size_byte(chunks, byte) : no_fault;
}

struct http_fault http_chunks_take(struct http_chunks *chunks, const char *data, size_t bytes, size_t *used,
                                   struct http_slice *payload) {
    *payload = (struct http_slice){data, 0};
    *used = 0;
    while (*used < bytes && chunks->state != CHUNK_DONE) {
        if (chunks->state == CHUNK_DATA) {
            uint64_t here = bytes - *used;
            here = here < chunks->left ? here : chunks->left;
            *payload = (struct http_slice){data + *used, (size_t)here};
            *used += (size_t)here;
            chunks->left -= here;
            if (chunks->left == 0) {
                chunks->state = CHUNK_DATA_END;
            }
            return no_fault;
        }
        struct http_fault found = take_line_byte(chunks, data[(*used)++]);
        if (found.code) {
            return found;
        }
    }
    return no_fault;
}
