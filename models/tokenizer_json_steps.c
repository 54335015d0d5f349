/* The components of a tokenizer.json: normalizer, pre_tokenizer, decoder and post_processor.
 *
 * Owns: which of Hugging Face's components are built, and what of ours each becomes. One that is not built, or a field
 * that is not understood, is refused by name: a text would become other tokens than the model learned.
 * Threads: any. */
#include "base/log.h"
#include "models/tokenizer_json.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const struct gguf_string empty = {.data = "", .bytes = 0};

/* ---- fields ---- */

const cJSON *json_field(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

struct status json_string_field(const cJSON *object, const char *name, struct gguf_string *out) {
    const cJSON *item = json_field(object, name);
    if (!cJSON_IsString(item)) {
        return status_error(STATUS_INVALID, "%s: expected a string, found %s", name,
                            item ? json_type_name(item) : "nothing");
    }
    *out = (struct gguf_string){.data = item->valuestring, .bytes = strlen(item->valuestring)};
    return STATUS_SUCCESS;
}

struct status json_flag_field(const cJSON *object, const char *name, bool otherwise, bool *out) {
    const cJSON *item = json_field(object, name);
    *out = otherwise;
    if (item && !cJSON_IsBool(item)) {
        return status_error(STATUS_INVALID, "%s: expected true or false, found %s", name, json_type_name(item));
    }
    *out = item ? cJSON_IsTrue(item) : otherwise;
    return STATUS_SUCCESS;
}

struct status json_id(const cJSON *item, uint32_t limit, uint32_t *out) {
    if (!cJSON_IsNumber(item)) {
        return status_error(STATUS_INVALID, "expected an id, found %s", json_type_name(item));
    }
    double value = item->valuedouble;
    if (!(value >= 0 && value < limit) || value != (double)(uint32_t)value) {
        return status_error(STATUS_INVALID, "%.15g is no id below %u", value, limit);
    }
    *out = (uint32_t)value;
    return STATUS_SUCCESS;
}

struct status json_only_fields(const cJSON *object, const char *const *names) {
    uint32_t met = 0;
    for (const cJSON *item = object->child; item; item = item->next) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], item->string) != 0) {
            i++;
        }
        if (!names[i] && !cJSON_IsNull(item)) {
            return status_error(STATUS_UNSUPPORTED, "the field \"%.40s\" is not built", item->string);
        }
        if (names[i] && (met & UINT32_C(1) << i)) {
            return status_error(STATUS_INVALID, "the field \"%.40s\" is there twice", item->string);
        }
        met |= names[i] ? UINT32_C(1) << i : 0;
    }
    return STATUS_SUCCESS;
}

#define ONLY(object, ...) TRY(json_only_fields(object, (const char *const[]){__VA_ARGS__, NULL}))

/* ---- kinds of components ---- */

/* A row for each that is built. */
struct component {
    const char *type;
    struct status (*read)(const cJSON *item, struct json_plan *plan);
};

static struct status read_component(const cJSON *item, const struct component *table, const char *built,
                                    struct json_plan *plan) {
    struct gguf_string type;
    if (!cJSON_IsObject(item)) {
        return status_error(STATUS_INVALID, "expected an object, found %s", json_type_name(item));
    }
    TRY(json_string_field(item, "type", &type));
    for (; table->type; table++) {
        if (strcmp(table->type, type.data) == 0) {
            return status_context(table->read(item, plan), "%s", table->type);
        }
    }
    return status_error(STATUS_UNSUPPORTED, "type is \"%.40s\"; built are %s", type.data, built);
}

/* The components of a Sequence, in the array `field`. */
static struct status read_sequence(const cJSON *item, const char *field,
                                   struct status (*read)(const cJSON *item, struct json_plan *plan),
                                   struct json_plan *plan) {
    ONLY(item, "type", field);
    const cJSON *steps = json_field(item, field);
    if (!cJSON_IsArray(steps)) {
        return status_error(STATUS_INVALID, "%s: expected an array", field);
    }
    size_t index = 0;
    for (const cJSON *step = steps->child; step; step = step->next, index++) {
        TRY(status_context(read(step, plan), "%s[%zu]", field, index));
    }
    return STATUS_SUCCESS;
}

/* {"String": "..."} or {"Regex": "..."}; of both *string and *regex one has data. */
static struct status read_pattern(const cJSON *item, struct gguf_string *string, struct gguf_string *regex) {
    const cJSON *pattern = json_field(item, "pattern");
    *string = *regex = (struct gguf_string){0};
    if (!cJSON_IsObject(pattern)) {
        return status_error(STATUS_INVALID, "pattern: expected an object with \"String\" or \"Regex\"");
    }
    ONLY(pattern, "String", "Regex");
    return json_field(pattern, "Regex") ? status_context(json_string_field(pattern, "Regex", regex), "pattern")
                                        : status_context(json_string_field(pattern, "String", string), "pattern");
}

/* A Replace of a string by a string. */
static struct status read_replace(const cJSON *item, struct gguf_string *from, struct gguf_string *to) {
    struct gguf_string regex;
    ONLY(item, "type", "pattern", "content");
    TRY(read_pattern(item, from, &regex));
    if (regex.data) {
        return status_error(STATUS_UNSUPPORTED, "pattern: a Regex is not built here, only a String");
    }
    if (from->bytes == 0) {
        return status_error(STATUS_INVALID, "pattern: the String is empty");
    }
    return json_string_field(item, "content", to);
}

/* ---- normalizer ---- */

static struct status normalizer_nfc(const cJSON *item, struct json_plan *plan) {
    ONLY(item, "type");
    return normalizers_add(&plan->tokenizer->normalizers, NORMALIZE_NFC, empty, empty);
}

static struct status normalizer_prepend(const cJSON *item, struct json_plan *plan) {
    struct gguf_string content;
    ONLY(item, "type", "prepend");
    TRY(json_string_field(item, "prepend", &content));
    return normalizers_add(&plan->tokenizer->normalizers, NORMALIZE_PREPEND, empty, content);
}

static struct status normalizer_replace(const cJSON *item, struct json_plan *plan) {
    struct gguf_string from, to;
    TRY(read_replace(item, &from, &to));
    return normalizers_add(&plan->tokenizer->normalizers, NORMALIZE_REPLACE, from, to);
}

static struct status normalizer_sequence(const cJSON *item, struct json_plan *plan) {
    return read_sequence(item, "normalizers", json_read_normalizer, plan);
}

struct status json_read_normalizer(const cJSON *item, struct json_plan *plan) {
    static const struct component table[] = {{"NFC", normalizer_nfc},
                                             {"Prepend", normalizer_prepend},
                                             {"Replace", normalizer_replace},
                                             {"Sequence", normalizer_sequence},
                                             {0}};
    return read_component(item, table, "NFC, Prepend, Replace and Sequence", plan);
}

/* ---- pre_tokenizer ---- */

static struct status new_cut(struct json_plan *plan, enum cut_kind kind, struct cut **out) {
    struct cuts *cuts = &plan->tokenizer->cuts;
    if (cuts->count == MOST_CUTS) {
        return status_error(STATUS_UNSUPPORTED, "more than %d steps of cutting", MOST_CUTS);
    }
    *out = &cuts->steps[cuts->count++];
    **out = (struct cut){.kind = kind};
    return STATUS_SUCCESS;
}

static struct status pre_byte_level(const cJSON *item, struct json_plan *plan) {
    bool prefix, pattern;
    struct cut *cut = NULL;
    ONLY(item, "type", "add_prefix_space", "trim_offsets", "use_regex");
    TRY(json_flag_field(item, "add_prefix_space", true, &prefix));
    TRY(json_flag_field(item, "use_regex", true, &pattern));
    if (prefix) {
        TRY(new_cut(plan, CUT_PREFIX_SPACE, &cut));
    }
    plan->cuts_bytes = true;
    return pattern ? cuts_add_pattern(&plan->tokenizer->cuts, gpt2_pattern, CUT_ISOLATED, false) : STATUS_SUCCESS;
}

static struct status pre_digits(const cJSON *item, struct json_plan *plan) {
    bool individual;
    ONLY(item, "type", "individual_digits");
    TRY(json_flag_field(item, "individual_digits", false, &individual));
    return cuts_add_pattern(&plan->tokenizer->cuts, individual ? "\\p{N}" : "\\p{N}+", CUT_ISOLATED, false);
}

/* Files have had the prefix as a flag, then as a scheme, then as both. */
static struct status read_metaspace(const cJSON *item, struct gguf_string *mark, enum cut_prefix *prefix,
                                    bool *splits) {
    static const char *const schemes[] = {"always", "first", "never"};
    struct gguf_string scheme;
    bool flag;
    ONLY(item, "type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split");
    TRY(json_string_field(item, "replacement", mark));
    TRY(json_flag_field(item, "add_prefix_space", true, &flag));
    TRY(json_flag_field(item, "split", true, splits));
    if (mark->bytes == 0 || mark->bytes > 4) {
        return status_error(STATUS_INVALID, "replacement: expected one character");
    }
    *prefix = flag ? PREFIX_ALWAYS : PREFIX_NEVER;
    if (!json_field(item, "prepend_scheme")) {
        return STATUS_SUCCESS;
    }
    TRY(json_string_field(item, "prepend_scheme", &scheme));
    for (int i = 0; i < 3; i++) {
        if (strcmp(schemes[i], scheme.data) == 0) {
            *prefix = (enum cut_prefix)i;
            return STATUS_SUCCESS;
        }
    }
    return status_error(STATUS_INVALID, "prepend_scheme is \"%.20s\"; it can be always, first or never", scheme.data);
}

static struct status pre_metaspace(const cJSON *item, struct json_plan *plan) {
    struct gguf_string mark;
    enum cut_prefix prefix = PREFIX_ALWAYS;
    bool splits = true;
    struct cut *cut = NULL;
    TRY(read_metaspace(item, &mark, &prefix, &splits));
    TRY(new_cut(plan, CUT_METASPACE, &cut));
    memcpy(cut->mark, mark.data, mark.bytes); /* new, so it ends in zeros */
    cut->prefix = prefix;
    cut->splits = splits;
    return STATUS_SUCCESS;
}

/* A pattern that is a string stands for itself. */
static struct status quote(struct gguf_string string, struct text_buffer *out) {
    for (size_t i = 0; i < string.bytes; i++) {
        if (ispunct((unsigned char)string.data[i])) {
            TRY(text_buffer_add(out, "\\", 1));
        }
        TRY(text_buffer_add(out, string.data + i, 1));
    }
    return text_buffer_add(out, "", 1);
}

static struct status read_behavior(const cJSON *item, enum cut_behavior *out) {
    static const char *const names[] = {[CUT_ISOLATED] = "Isolated",
                                        [CUT_REMOVED] = "Removed",
                                        [CUT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [CUT_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [CUT_CONTIGUOUS] = "Contiguous"};
    struct gguf_string behavior;
    TRY(json_string_field(item, "behavior", &behavior));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], behavior.data) == 0) {
            *out = (enum cut_behavior)i;
            return STATUS_SUCCESS;
        }
    }
    return status_error(STATUS_UNSUPPORTED,
                        "behavior is \"%.40s\"; built are Isolated, Removed, MergedWithPrevious, MergedWithNext and "
                        "Contiguous",
                        behavior.data);
}

static struct status pre_split(const cJSON *item, struct json_plan *plan) {
    struct gguf_string string, regex;
    enum cut_behavior behavior = CUT_ISOLATED;
    bool invert;
    ONLY(item, "type", "pattern", "behavior", "invert");
    TRY(read_pattern(item, &string, &regex));
    TRY(read_behavior(item, &behavior));
    TRY(json_flag_field(item, "invert", false, &invert));
    struct text_buffer quoted = {0};
    char *pattern = NULL;
    struct status status = regex.data ? pattern_translate(regex, &pattern) : quote(string, &quoted);
    if (!status_failed(&status)) {
        status = cuts_add_pattern(&plan->tokenizer->cuts, regex.data ? pattern : quoted.data, behavior, invert);
    }
    free(pattern);
    free(quoted.data);
    return status_context(status, "pattern");
}

static struct status pre_sequence(const cJSON *item, struct json_plan *plan) {
    return read_sequence(item, "pretokenizers", json_read_pre_tokenizer, plan);
}

struct status json_read_pre_tokenizer(const cJSON *item, struct json_plan *plan) {
    static const struct component table[] = {{"ByteLevel", pre_byte_level}, {"Digits", pre_digits},
                                             {"Metaspace", pre_metaspace},  {"Sequence", pre_sequence},
                                             {"Split", pre_split},          {0}};
    if (plan->cuts_bytes) {
        return status_error(STATUS_UNSUPPORTED, "a step after ByteLevel, which spells bytes, is not built");
    }
    return read_component(item, table, "ByteLevel, Digits, Metaspace, Sequence and Split", plan);
}

/* ---- decoder ---- */

static struct status add_replaced(struct json_plan *plan, struct gguf_string from, struct gguf_string to) {
    struct spelling *spelling = &plan->spelling;
    if (to.bytes > from.bytes) {
        return status_error(STATUS_UNSUPPORTED, "content that is longer than the pattern is not built");
    }
    if (spelling->replaced_count == sizeof spelling->replaced / sizeof spelling->replaced[0]) {
        return status_error(STATUS_UNSUPPORTED, "more than %zu replacements are not built", spelling->replaced_count);
    }
    spelling->replaced[spelling->replaced_count].from = from;
    spelling->replaced[spelling->replaced_count++].to = to;
    return STATUS_SUCCESS;
}

static struct status decoder_byte_level(const cJSON *item, struct json_plan *plan) {
    ONLY(item, "type", "add_prefix_space", "trim_offsets", "use_regex");
    plan->spelling.byte_level = true;
    return STATUS_SUCCESS;
}

static struct status decoder_byte_fallback(const cJSON *item, struct json_plan *plan) {
    ONLY(item, "type");
    plan->spelling.byte_fallback = true;
    return STATUS_SUCCESS;
}

static struct status decoder_fuse(const cJSON *item, struct json_plan *plan) {
    ONLY(item, "type");
    plan->fused = true;
    return STATUS_SUCCESS;
}

static struct status decoder_metaspace(const cJSON *item, struct json_plan *plan) {
    struct gguf_string mark;
    enum cut_prefix prefix = PREFIX_ALWAYS;
    bool splits;
    TRY(read_metaspace(item, &mark, &prefix, &splits));
    plan->tokenizer->leading = prefix == PREFIX_NEVER ? LEADING_KEPT : LEADING_SPACES_OF_FIRST_TOKEN;
    return add_replaced(plan, mark, (struct gguf_string){.data = " ", .bytes = 1});
}

static struct status decoder_replace(const cJSON *item, struct json_plan *plan) {
    struct gguf_string from, to;
    TRY(read_replace(item, &from, &to));
    return add_replaced(plan, from, to);
}

static struct status decoder_strip(const cJSON *item, struct json_plan *plan) {
    struct gguf_string content;
    ONLY(item, "type", "content", "start", "stop");
    TRY(json_string_field(item, "content", &content));
    const cJSON *start = json_field(item, "start"), *stop = json_field(item, "stop");
    uint32_t starts = 0, stops = 0;
    TRY(start ? status_context(json_id(start, 2, &starts), "start") : STATUS_SUCCESS);
    TRY(stop ? status_context(json_id(stop, 1, &stops), "stop") : STATUS_SUCCESS);
    if (strcmp(content.data, " ") != 0 || !plan->fused) {
        return status_error(STATUS_UNSUPPORTED, "only a space at the front of the text, after Fuse, is built");
    }
    plan->tokenizer->leading = starts ? LEADING_ONE_SPACE : LEADING_KEPT;
    return STATUS_SUCCESS;
}

static struct status decoder_sequence(const cJSON *item, struct json_plan *plan) {
    return read_sequence(item, "decoders", json_read_decoder, plan);
}

struct status json_read_decoder(const cJSON *item, struct json_plan *plan) {
    static const struct component table[] = {{"ByteFallback", decoder_byte_fallback},
                                             {"ByteLevel", decoder_byte_level},
                                             {"Fuse", decoder_fuse},
                                             {"Metaspace", decoder_metaspace},
                                             {"Replace", decoder_replace},
                                             {"Sequence", decoder_sequence},
                                             {"Strip", decoder_strip},
                                             {0}};
    const cJSON *type = json_field(item, "type");
    bool strips = cJSON_IsString(type) && strcmp(type->valuestring, "Strip") == 0;
    if (plan->fused && !strips) {
        return status_error(STATUS_UNSUPPORTED, "a step after Fuse other than Strip is not built");
    }
    if (plan->spelling.byte_level) {
        return status_error(STATUS_UNSUPPORTED, "a step after ByteLevel is not built");
    }
    return read_component(item, table, "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence and Strip", plan);
}

/* ---- post_processor ---- */

static struct status post_byte_level(const cJSON *item, struct json_plan *plan) {
    (void)plan; /* it trims offsets, which we do not give */
    ONLY(item, "type", "add_prefix_space", "trim_offsets", "use_regex");
    return STATUS_SUCCESS;
}

/* The ids of {"SpecialToken": {"id": name}}, which the template lists by name. */
static struct status find_template_ids(const cJSON *item, const cJSON *piece, const cJSON **ids) {
    struct gguf_string name;
    TRY(json_string_field(json_field(piece, "SpecialToken"), "id", &name));
    *ids = json_field(json_field(json_field(item, "special_tokens"), name.data), "ids");
    if (!cJSON_IsArray(*ids)) {
        return status_error(STATUS_INVALID, "special_tokens has no ids for \"%.40s\"", name.data);
    }
    return STATUS_SUCCESS;
}

/* Only what stands around one text counts. What it puts behind the text is left away: a prompt is a beginning. */
static struct status post_template(const cJSON *item, struct json_plan *plan) {
    ONLY(item, "type", "single", "pair", "special_tokens");
    const cJSON *single = json_field(item, "single");
    if (!cJSON_IsArray(single)) {
        return status_error(STATUS_INVALID, "single: expected an array");
    }
    bool text_met = false;
    for (const cJSON *piece = single->child; piece; piece = piece->next) {
        const cJSON *ids = NULL;
        if (json_field(piece, "Sequence")) {
            text_met = true;
            continue;
        }
        TRY(status_context(find_template_ids(item, piece, &ids), "single"));
        if (text_met) {
            log_info("tokenizer.json: post_processor: what stands behind the text is left away");
        } else if (plan->prefix || cJSON_GetArraySize(ids) != 1) {
            return status_error(STATUS_UNSUPPORTED, "single: more than one token before the text is not built");
        } else {
            plan->prefix = ids->child;
        }
    }
    return text_met ? STATUS_SUCCESS : status_error(STATUS_INVALID, "single has no Sequence");
}

static struct status post_sequence(const cJSON *item, struct json_plan *plan) {
    return read_sequence(item, "processors", json_read_post_processor, plan);
}

struct status json_read_post_processor(const cJSON *item, struct json_plan *plan) {
    static const struct component table[] = {
        {"ByteLevel", post_byte_level}, {"Sequence", post_sequence}, {"TemplateProcessing", post_template}, {0}};
    return read_component(item, table, "ByteLevel, Sequence and TemplateProcessing", plan);
}
