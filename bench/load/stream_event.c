#include "bench/load/stream_event.h"

#include "base/json.h"

#include <string.h>

static bool has_text(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) && item->valuestring[0] != 0;
}

static bool has_items(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsArray(item) && item->child != NULL;
}

static uint32_t count_of(const cJSON *object, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= UINT32_MAX
               ? (uint32_t)item->valuedouble
               : 0;
}

static void read_choice(const cJSON *choice, struct stream_event *event) {
    const cJSON *delta = cJSON_GetObjectItemCaseSensitive(choice, "delta");
    bool token = has_text(choice, "text") || has_text(delta, "content") || has_text(delta, "reasoning_content") ||
                 has_text(delta, "reasoning") || has_text(delta, "refusal") || has_items(delta, "tool_calls");
    event->kind = token ? EVENT_TOKEN : EVENT_EMPTY;
    event->finished = has_text(choice, "finish_reason");
}

static void read_chunk(const cJSON *chunk, struct stream_event *event) {
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(chunk, "error");
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(chunk, "choices");
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(chunk, "usage");
    if (error != NULL && !cJSON_IsNull(error)) {
        event->kind = EVENT_ERROR;
        return;
    }
    event->has_usage = cJSON_IsObject(usage);
    event->prompt_tokens = count_of(usage, "prompt_tokens");
    event->completion_tokens = count_of(usage, "completion_tokens");
    if (cJSON_IsArray(choices) && cJSON_IsObject(choices->child)) {
        read_choice(choices->child, event);
    } else if (event->has_usage || (cJSON_IsArray(choices) && choices->child == NULL)) {
        event->kind = EVENT_EMPTY;
    }
}

struct stream_event stream_event_read(const char *data, size_t bytes) {
    static const struct json_rules rules = {.depth = 32, .values = 1U << 16};
    static const char done[] = "[DONE]";
    struct stream_event event = {.kind = EVENT_BROKEN};
    if (bytes == sizeof done - 1 && memcmp(data, done, bytes) == 0) {
        event.kind = EVENT_DONE;
        return event;
    }
    cJSON *chunk = NULL;
    struct status status = json_parse(data, bytes, &rules, &chunk);
    if (!status_failed(&status)) {
        if (cJSON_IsObject(chunk)) {
            read_chunk(chunk, &event);
        }
        cJSON_Delete(chunk);
    }
    return event;
}
