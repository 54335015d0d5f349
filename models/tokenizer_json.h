/* Reading tokenizer.json (Hugging Face's `tokenizers`), shared by models/tokenizer_json*.c and tokenizer_directory.c.
 *
 * Errors name the place from the file down to the field: every level puts its own name in front. */
#ifndef METRONOME_MODELS_TOKENIZER_JSON_H
#define METRONOME_MODELS_TOKENIZER_JSON_H

#include "base/json.h"
#include "models/tokenizer_internal.h"

/* ---- fields ---- */

/* A member that is there and not null, else NULL. */
const cJSON *json_field(const cJSON *object, const char *name);

/* STATUS_INVALID if the field is not of its type; a missing string is refused, a missing flag is `otherwise`. */
struct status json_string_field(const cJSON *object, const char *name, struct gguf_string *out);
struct status json_flag_field(const cJSON *object, const char *name, bool otherwise, bool *out);

/* A number that is an id below `limit`. */
struct status json_id(const cJSON *item, uint32_t limit, uint32_t *out);

/* Refuses fields that are set and not among `names` (at most 32, ended by NULL), because what they ask for would be
 * lost, and fields that are there twice. */
struct status json_only_fields(const cJSON *object, const char *const *names);

/* ---- components ---- */

/* What the components of a file ask for, besides the normalizers and the cuts. */
struct json_plan {
    struct tokenizer *tokenizer;
    struct spelling spelling; /* the decoder's */
    bool cuts_bytes;          /* the pre-tokenizer ends in ByteLevel */
    bool fused;               /* while the decoder is read: a Fuse was met */
    const cJSON *prefix;      /* the ids of the template's token before the text; NULL if it has none */
};

struct status json_read_normalizer(const cJSON *item, struct json_plan *plan);
struct status json_read_pre_tokenizer(const cJSON *item, struct json_plan *plan);
struct status json_read_decoder(const cJSON *item, struct json_plan *plan);
struct status json_read_post_processor(const cJSON *item, struct json_plan *plan);

/* ---- files ---- */

/* A tokenizer.json. */
struct status tokenizer_from_json(const char *text, size_t bytes, struct tokenizer **out);

/* The texts of a model directory's files; absent ones have no data. */
struct tokenizer_files {
    struct gguf_string tokenizer, tokenizer_config, special_tokens_map, generation_config, config, chat_template;
    struct gguf_string vocabulary, merges; /* vocab.json and merges.txt, read where there is no tokenizer.json */
};
struct status tokenizer_from_files(const struct tokenizer_files *files, struct tokenizer **out);

/* From vocab.json and merges.txt; without bos and eos. */
struct status tokenizer_from_pair(const struct tokenizer_files *files, struct tokenizer **out);

#endif
