#include "bench/load/body.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

/* Words that byte-pair vocabularies have whole, with the space before them. */
static const char *const words[] = {
    "time",    "year",    "people",  "way",    "day",    "man",    "thing",   "world",   "life",     "hand",
    "part",    "child",   "eye",     "woman",  "place",  "work",   "week",    "case",    "point",    "company",
    "number",  "group",   "problem", "fact",   "water",  "room",   "mother",  "area",    "money",    "story",
    "month",   "right",   "study",   "book",   "word",   "issue",  "side",    "kind",    "head",     "house",
    "service", "friend",  "father",  "power",  "hour",   "game",   "line",    "end",     "member",   "law",
    "car",     "city",    "name",    "team",   "minute", "idea",   "body",    "back",    "parent",   "face",
    "level",   "office",  "door",    "health", "person", "art",    "war",     "history", "party",    "result",
    "change",  "morning", "reason",  "girl",   "moment", "air",    "teacher", "force",   "order",    "light",
    "road",    "form",    "music",   "market", "table",  "court",  "paper",   "space",   "ground",   "event",
    "land",    "field",   "method",  "data",   "theory", "nature", "garden",  "window",  "river",    "summer",
    "winter",  "animal",  "color",   "town",   "horse",  "star",   "ship",    "letter",  "mountain", "island",
    "sun",     "fire",    "tree",    "bird",   "forest", "sea",    "wind",    "rock",    "plant",    "machine",
    "bank",    "train",   "wheel",   "heart",  "king",   "stone",  "voice",   "wall",
};
#define WORDS (sizeof words / sizeof words[0])

static struct status add_prompt(const struct trace *trace, uint32_t index, struct text *out) {
    uint32_t count = trace->requests[index].prompt_tokens;
    uint32_t *ids = calloc(count, sizeof *ids);
    if (ids == NULL) {
        return status_error(STATUS_NO_MEMORY, "no memory for a prompt of %u words", count);
    }
    trace_prompt(trace, index, (uint32_t)WORDS, ids);
    for (uint32_t i = 0; i < count; i++) {
        text_adds(out, i > 0 ? " " : "");
        text_adds(out, words[ids[i]]);
    }
    free(ids);
    return text_string(out) ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for a prompt");
}

static bool add_fields(const struct target *target, const char *prompt, uint32_t output_tokens, cJSON *body) {
    bool added = cJSON_AddStringToObject(body, "model", target->model) != NULL;
    if (target->completions) {
        added = added && cJSON_AddStringToObject(body, "prompt", prompt);
    } else {
        cJSON *messages = cJSON_AddArrayToObject(body, "messages"), *message = cJSON_CreateObject();
        added = added && messages && message && cJSON_AddStringToObject(message, "role", "user") &&
                cJSON_AddStringToObject(message, "content", prompt);
        if (!cJSON_AddItemToArray(messages, message)) {
            cJSON_Delete(message);
            added = false;
        }
    }
    added = added && cJSON_AddNumberToObject(body, "max_tokens", output_tokens) &&
            cJSON_AddNumberToObject(body, "temperature", 0) && cJSON_AddTrueToObject(body, "stream");
    cJSON *options = cJSON_AddObjectToObject(body, "stream_options");
    added = added && options && cJSON_AddTrueToObject(options, "include_usage");
    if (target->ignore_eos) {
        added = added && cJSON_AddTrueToObject(body, "ignore_eos") &&
                cJSON_AddNumberToObject(body, "min_tokens", output_tokens);
    }
    return added;
}

static bool add_extra(const struct target *target, cJSON *body) {
    const cJSON *extra;
    cJSON_ArrayForEach(extra, target->extra) {
        cJSON_DeleteItemFromObjectCaseSensitive(body, extra->string);
        if (!cJSON_IsNull(extra)) {
            cJSON *copy = cJSON_Duplicate(extra, true);
            if (!copy || !cJSON_AddItemToObject(body, extra->string, copy)) {
                cJSON_Delete(copy);
                return false;
            }
        }
    }
    return true;
}

struct status body_write(const struct target *target, const struct trace *trace, uint32_t index, struct text *out) {
    struct text prompt = {0};
    struct status status = add_prompt(trace, index, &prompt);
    cJSON *body = cJSON_CreateObject();
    if (status.code == STATUS_OK) {
        bool added = body && add_fields(target, text_string(&prompt), trace->requests[index].output_tokens, body) &&
                     add_extra(target, body);
        char *printed = added ? cJSON_PrintUnformatted(body) : NULL;
        text_adds(out, printed ? printed : "");
        free(printed);
        status = printed && !out->failed ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for a request");
    }
    cJSON_Delete(body);
    text_free(&prompt);
    return status;
}
