#include "base/json.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

/* cJSON copies a number's characters to a buffer of 64. */
#define MAX_NUMBER_BYTES 63

/* Walks the text once. The first thing that is wrong is kept, with its place, and ends the walk. */
struct scanner {
    const char *text;
    size_t bytes, at;
    size_t values, depth;
    const struct json_rules *rules;
    const char *wrong;
};

static bool scan_value(struct scanner *scanner);

static bool refuse(struct scanner *scanner, const char *wrong) {
    if (!scanner->wrong) {
        scanner->wrong = wrong;
    }
    return false;
}

static int peek(const struct scanner *scanner) {
    return scanner->at < scanner->bytes ? (unsigned char)scanner->text[scanner->at] : -1;
}

static void skip_space(struct scanner *scanner) {
    while (scanner->at < scanner->bytes && strchr(" \t\r\n", peek(scanner)) && peek(scanner) != 0) {
        scanner->at++;
    }
}

static bool scan_word(struct scanner *scanner, const char *word) {
    size_t length = strlen(word);
    if (scanner->bytes - scanner->at < length || memcmp(scanner->text + scanner->at, word, length) != 0) {
        return refuse(scanner, "expected a value");
    }
    scanner->at += length;
    return true;
}

static bool is_digit(int byte) {
    return byte >= '0' && byte <= '9';
}

static bool scan_digits(struct scanner *scanner) {
    if (!is_digit(peek(scanner))) {
        return refuse(scanner, "expected a digit");
    }
    while (is_digit(peek(scanner))) {
        scanner->at++;
    }
    return true;
}

static bool scan_number(struct scanner *scanner) {
    size_t begin = scanner->at;
    scanner->at += peek(scanner) == '-';
    if (peek(scanner) == '0') {
        scanner->at++;
        if (is_digit(peek(scanner))) {
            return refuse(scanner, "a number may not begin with 0");
        }
    } else if (!scan_digits(scanner)) {
        return false;
    }
    if (peek(scanner) == '.') {
        scanner->at++;
        if (!scan_digits(scanner)) {
            return false;
        }
    }
    if (peek(scanner) == 'e' || peek(scanner) == 'E') {
        scanner->at++;
        scanner->at += peek(scanner) == '+' || peek(scanner) == '-';
        if (!scan_digits(scanner)) {
            return false;
        }
    }
    if (scanner->at - begin > MAX_NUMBER_BYTES) {
        scanner->at = begin;
        return refuse(scanner, "a number of more than 63 characters");
    }
    return true;
}

/* Four hexadecimal digits, or -1. */
static int scan_hex(struct scanner *scanner) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int byte = peek(scanner);
        int digit = is_digit(byte)               ? byte - '0'
                    : byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                    : byte >= 'A' && byte <= 'F' ? byte - 'A' + 10
                                                 : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
        scanner->at++;
    }
    return value;
}

static bool scan_unicode_escape(struct scanner *scanner) {
    int first = scan_hex(scanner);
    if (first < 0) {
        return refuse(scanner, "expected four hexadecimal digits after \\u");
    }
    if (first == 0) {
        return refuse(scanner, "\\u0000 is not allowed in a string");
    }
    if (first >= 0xdc00 && first < 0xe000) {
        return refuse(scanner, "half of a surrogate pair");
    }
    if (first >= 0xd800 && first < 0xdc00) {
        if (scanner->bytes - scanner->at < 6 || memcmp(scanner->text + scanner->at, "\\u", 2) != 0) {
            return refuse(scanner, "half of a surrogate pair");
        }
        scanner->at += 2;
        int second = scan_hex(scanner);
        if (second < 0xdc00 || second >= 0xe000) {
            return refuse(scanner, "half of a surrogate pair");
        }
    }
    return true;
}

static bool scan_string(struct scanner *scanner) {
    if (peek(scanner) != '"') {
        return refuse(scanner, "expected a string");
    }
    scanner->at++;
    for (;;) {
        int byte = peek(scanner);
        if (byte < 0) {
            return refuse(scanner, "the text ends inside a string");
        }
        if (byte < 0x20) {
            return refuse(scanner, "a control character in a string must be escaped");
        }
        scanner->at++;
        if (byte == '"') {
            return true;
        }
        if (byte == '\\') {
            int escape = peek(scanner);
            if (escape <= 0 || !strchr("\"\\/bfnrtu", escape)) {
                return refuse(scanner, "an unknown escape in a string");
            }
            scanner->at++;
            if (escape == 'u' && !scan_unicode_escape(scanner)) {
                return false;
            }
        }
    }
}

static bool scan_members(struct scanner *scanner, char end, bool keyed) {
    scanner->at++;
    if (++scanner->depth > scanner->rules->depth) {
        return refuse(scanner, "arrays and objects are nested too deeply");
    }
    skip_space(scanner);
    if (peek(scanner) == end) {
        scanner->at++;
        scanner->depth--;
        return true;
    }
    for (;;) {
        skip_space(scanner);
        if (keyed) {
            if (!scan_string(scanner)) {
                return false;
            }
            skip_space(scanner);
            if (peek(scanner) != ':') {
                return refuse(scanner, "expected ':' after a key");
            }
            scanner->at++;
            skip_space(scanner);
        }
        if (!scan_value(scanner)) {
            return false;
        }
        skip_space(scanner);
        if (peek(scanner) == end) {
            scanner->at++;
            scanner->depth--;
            return true;
        }
        if (peek(scanner) != ',') {
            return refuse(scanner, keyed ? "expected ',' or '}'" : "expected ',' or ']'");
        }
        scanner->at++;
    }
}

static bool scan_value(struct scanner *scanner) {
    if (++scanner->values > scanner->rules->values) {
        return refuse(scanner, "too many values");
    }
    switch (peek(scanner)) {
    case '{':
        return scan_members(scanner, '}', true);
    case '[':
        return scan_members(scanner, ']', false);
    case '"':
        return scan_string(scanner);
    case 't':
        return scan_word(scanner, "true");
    case 'f':
        return scan_word(scanner, "false");
    case 'n':
        return scan_word(scanner, "null");
    case -1:
        return refuse(scanner, "the text ends where a value should be");
    default:
        return peek(scanner) == '-' || is_digit(peek(scanner)) ? scan_number(scanner)
                                                               : refuse(scanner, "expected a value");
    }
}

static struct status refused_at(const char *text, size_t at, const char *wrong) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    return status_error(STATUS_INVALID, "not valid JSON at line %zu, column %zu: %s", line, column, wrong);
}

static struct status check_utf8(const char *text, size_t bytes) {
    if (utf8_valid(text, bytes)) {
        return STATUS_SUCCESS;
    }
    size_t at = 0, used = 1;
    while (at < bytes) {
        uint32_t code_point = utf8_decode(text + at, bytes - at, &used);
        if (code_point == 0xfffd && used == 1) {
            break;
        }
        at += used;
    }
    return refused_at(text, at, "the bytes are not UTF-8");
}

/* Makes comments into spaces, so that places stay what they are. */
static struct status blank_comments(char *text, size_t bytes) {
    bool in_string = false;
    for (size_t at = 0; at < bytes; at++) {
        if (in_string) {
            in_string = text[at] != '"';
            at += text[at] == '\\';
        } else if (text[at] == '"') {
            in_string = true;
        } else if (text[at] == '/' && at + 1 < bytes && text[at + 1] == '/') {
            while (at < bytes && text[at] != '\n') {
                text[at++] = ' ';
            }
        } else if (text[at] == '/' && at + 1 < bytes && text[at + 1] == '*') {
            size_t begin = at;
            const char *end = memmem(text + at + 2, bytes - at - 2, "*/", 2);
            if (!end) {
                return refused_at(text, begin, "a comment that does not end");
            }
            for (; text + at < end + 2; at++) {
                text[at] = text[at] == '\n' ? '\n' : ' ';
            }
            at--;
        }
    }
    return STATUS_SUCCESS;
}

/* The name of a key that an object of the tree has twice, or NULL. Quadratic: for files that a person wrote. */
static const char *find_repeated_key(const cJSON *item) {
    for (const cJSON *child = item->child; child; child = child->next) {
        for (const cJSON *other = child->next; child->string && other; other = other->next) {
            if (strcmp(child->string, other->string) == 0) {
                return child->string;
            }
        }
        const char *repeated = find_repeated_key(child);
        if (repeated) {
            return repeated;
        }
    }
    return NULL;
}

static struct status parse_plain(const char *text, size_t bytes, const struct json_rules *rules, cJSON **out) {
    struct scanner scanner = {.text = text, .bytes = bytes, .rules = rules};
    skip_space(&scanner);
    if (scan_value(&scanner)) {
        skip_space(&scanner);
        if (scanner.at < bytes) {
            refuse(&scanner, "more text after the value");
        }
    }
    if (scanner.wrong) {
        return refused_at(text, scanner.at, scanner.wrong);
    }
    cJSON *tree = cJSON_ParseWithLength(text, bytes);
    if (!tree) {
        return status_error(STATUS_NO_MEMORY, "no memory to read %zu bytes of JSON", bytes);
    }
    const char *repeated = rules->unique ? find_repeated_key(tree) : NULL;
    if (repeated) {
        struct status status = status_error(STATUS_INVALID, "the key \"%s\" is there twice", repeated);
        cJSON_Delete(tree);
        return status;
    }
    *out = tree;
    return STATUS_SUCCESS;
}

struct status json_parse(const char *text, size_t bytes, const struct json_rules *rules, cJSON **out) {
    TRY(check_utf8(text, bytes));
    if (!rules->comments) {
        return parse_plain(text, bytes, rules, out);
    }
    char *copy = malloc(bytes + 1);
    if (!copy) {
        return status_error(STATUS_NO_MEMORY, "no memory to read %zu bytes of JSON", bytes);
    }
    memcpy(copy, text, bytes);
    struct status status = blank_comments(copy, bytes);
    if (status.code == STATUS_OK) {
        status = parse_plain(copy, bytes, rules, out);
    }
    free(copy);
    return status;
}

const char *json_type_name(const cJSON *item) {
    if (cJSON_IsString(item)) {
        return "a string";
    }
    if (cJSON_IsNumber(item)) {
        return "a number";
    }
    if (cJSON_IsBool(item)) {
        return cJSON_IsTrue(item) ? "true" : "false";
    }
    if (cJSON_IsArray(item)) {
        return "an array";
    }
    if (cJSON_IsObject(item)) {
        return "an object";
    }
    return "null";
}
