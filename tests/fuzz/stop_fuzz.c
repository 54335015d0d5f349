/* Fuzz target of scheduler/stop.c: any stop strings, any text, cut anywhere. What is shown must be the text before
 * the first stop string that becomes complete, whatever the pieces. */
#include "base/check.h"
#include "scheduler/stop.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where the first complete stop string begins in text[0..bytes), or bytes. */
static size_t search(const struct stop_string *stops, uint32_t count, const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes; at++) {
        for (uint32_t i = 0; i < count; i++) {
            if (stops[i].bytes > 0 && stops[i].bytes <= bytes - at &&
                memcmp(text + at, stops[i].text, stops[i].bytes) == 0) {
                return at;
            }
        }
    }
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8 || size > 4096) {
        return 0;
    }
    struct stop_string stops[3] = {{0}};
    size_t used = 0;
    for (uint32_t i = 0; i < 3; i++) {
        size_t length = data[used++] % 9;
        length = length < size - used ? length : size - used;
        stops[i].bytes = (uint16_t)length;
        memcpy(stops[i].text, data + used, length);
        used += length;
        if (used >= size) {
            return 0;
        }
    }
    size_t step = 1 + data[used++] % 17;
    const char *text = (const char *)data + used;
    size_t bytes = size - used, fed = 0, shown = 0;
    char held[SAMPLING_MAX_STOP_BYTES + 32];
    char all[4096];
    struct stop_matcher matcher;
    stop_matcher_init(&matcher, stops, 3, held, sizeof held);
    while (fed < bytes && !matcher.matched) {
        size_t piece = step < bytes - fed ? step : bytes - fed;
        stop_matcher_push(&matcher, text + fed, piece, true);
        fed += piece;
        size_t out;
        const char *visible = stop_matcher_text(&matcher, &out);
        CHECK(shown + out <= fed);
        memcpy(all + shown, visible, out);
        shown += out;
    }
    stop_matcher_finish(&matcher);
    size_t out;
    const char *visible = stop_matcher_text(&matcher, &out);
    memcpy(all + shown, visible, out);
    shown += out;
    CHECK(shown == search(stops, 3, text, fed));
    CHECK(memcmp(all, text, shown) == 0);
    return 0;
}
