/* Fuzz target: any bytes as the body of a completion or a chat. The first byte chooses which. What is accepted is
 * within the bounds that the engine relies on; what is refused gets a well-formed error. */
#include "base/json.h"
#include "server/openai.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

static void check_sampling(const struct sampling *sampling) {
    require(sampling->temperature >= 0 && sampling->temperature <= 100);
    require(sampling->top_p >= 0 && sampling->top_p <= 1 && sampling->min_p >= 0 && sampling->min_p <= 1);
    require(sampling->repetition_penalty > 0);
    require(sampling->presence_penalty >= -2 && sampling->presence_penalty <= 2);
    require(sampling->frequency_penalty >= -2 && sampling->frequency_penalty <= 2);
    require(sampling->top_logprobs <= SAMPLING_MAX_LOGPROBS);
    require(sampling->stop_count <= SAMPLING_MAX_STOPS && sampling->stop_token_count <= SAMPLING_MAX_STOP_TOKENS);
    for (uint32_t i = 0; i < sampling->stop_count; i++) {
        require(sampling->stops[i].bytes > 0 && sampling->stops[i].bytes <= SAMPLING_MAX_STOP_BYTES);
    }
    require(sampling->bias_count <= OPENAI_MAX_BIASES);
}

static void check_request(const struct completion_request *request) {
    require(request->n >= 1 && request->n <= OPENAI_MAX_N);
    require(request->api == API_CHAT ? request->message_count > 0 : request->prompt_count > 0);
    for (size_t i = 0; i < request->prompt_count; i++) {
        const struct prompt_source *prompt = &request->prompts[i];
        require((prompt->text != NULL) != (prompt->tokens != NULL));
        require(!prompt->text || strlen(prompt->text) == prompt->bytes);
    }
    for (size_t i = 0; i < request->message_count; i++) {
        const struct chat_message *message = &request->messages[i];
        require(message->role && strlen(message->content) == message->content_bytes);
    }
    check_sampling(&request->sampling);
}

static void check_error(const struct api_error *error) {
    static const struct json_rules rules = {.depth = 8, .values = 64};
    require(error->code == 400 && error->message[0]);
    struct text body = {0};
    cJSON *tree = NULL;
    api_error_write(error, &body);
    struct status status = json_parse(body.data, body.bytes, &rules, &tree);
    require(!status_failed(&status));
    cJSON_Delete(tree);
    text_free(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes == 0) {
        return 0;
    }
    struct completion_request request;
    enum openai_api api = data[0] & 1 ? API_CHAT : API_COMPLETIONS;
    struct api_error error = completion_request_parse(api, (const char *)data + 1, bytes - 1, &request);
    if (error.code) {
        check_error(&error);
    } else {
        check_request(&request);
    }
    completion_request_free(&request);
    return 0;
}
