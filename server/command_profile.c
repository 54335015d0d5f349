/* `metronome profile`: measures the performance record of a model on the device at hand, as the server's start does.
 * Threads: main's. */
#include "base/clock.h"
#include "server/command.h"
#include "server/record_file.h"
#include "server/runtime.h"

#include <stdlib.h>
#include <string.h>

static const struct flag flags[] = {
    {"json", "FILE", "writes the record, for offload.record to name; - is standard output, instead of the table"},
    {"help", NULL, "this"},
};
enum { JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome profile --model FILE [--device cpu] [--json FILE] [OPTION]...\n\n"
                  "Measures how long a layer takes, over tokens in an iteration and positions that they attend to, and "
                  "what the\nlink between host and device gives. Give it the options of the server that is to use "
                  "it.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

static void add_table(const struct record_key *key, const struct record *record, struct text *out) {
    text_addf(out, "%s on %s, %s; %s products, %s keys and values\n", key->model, key->device, key->device_description,
              key->compute, key->kv_type);
    text_addf(out, "link: %.3f GB/s, and %.1f us for each copy\n\n", (double)record->link_bytes_per_s / 1e9,
              (double)record->copy_ns / NS_PER_US);
    text_adds(out, "ms for a layer, and for everything outside layers; by tokens in the iteration, and positions that "
                   "each attends to\n");
    text_adds(out, "  tokens");
    for (uint32_t j = 0; j < record->context_count; j++) {
        text_addf(out, "  %12s %8u", "positions", record->contexts[j]);
    }
    for (uint32_t i = 0; i < record->row_count; i++) {
        text_addf(out, "\n%8u", record->rows[i]);
        for (uint32_t j = 0; j < record->context_count; j++) {
            const struct record_cell *cell = &record->cell[i][j];
            text_addf(out, "  %12.4f %8.3f", (double)cell->layer_ns / NS_PER_MS, (double)cell->outside_ns / NS_PER_MS);
        }
    }
}

static struct status add_json(const struct record_key *key, const struct record *record, struct text *out) {
    char *text = record_json_print(key, record);
    if (!text) {
        return status_error(STATUS_NO_MEMORY, "no memory for the record");
    }
    text_add(out, text, strlen(text) - 1); /* the line's end is the report's */
    free(text);
    return STATUS_SUCCESS;
}

static struct status report(const struct arguments *arguments, const struct record_key *key,
                            const struct record *record) {
    const char *path = arguments->values[JSON];
    struct status status = STATUS_SUCCESS;
    struct text text = {0};
    if (!path || strcmp(path, "-") != 0) {
        add_table(key, record, &text);
        status = command_write_report("-", &text);
        text_clear(&text);
    }
    if (status.code == STATUS_OK && path) {
        status = add_json(key, record, &text);
    }
    if (status.code == STATUS_OK && path) {
        status = command_write_report(path, &text);
    }
    text_free(&text);
    return status;
}

/* The engine measures at its start what a policy takes that chooses by it. Nothing is promised meanwhile, for a promise
 * that cannot be kept would be refused. */
static struct status prepare(struct config *config) {
    if (strcmp(config->offload_policy, "none") == 0) {
        TRY(config_set(config, "offload.policy", "metronome", SOURCE_DEFAULT));
    }
    TRY(config_set(config, "offload.record", "", SOURCE_DEFAULT));
    TRY(config_set(config, "slo.ttft_ms", "0", SOURCE_DEFAULT));
    return config_set(config, "slo.tpot_ms", "0", SOURCE_DEFAULT);
}

static struct status profile(struct config *config, const struct arguments *arguments) {
    struct runtime runtime;
    struct record_key key;
    TRY(prepare(config));
    TRY(runtime_open(config, &runtime));
    const struct record *record = engine_record(runtime.engine);
    struct status status =
        record ? record_file_key(config, runtime.model, runtime.device, &key)
               : status_error(STATUS_INVALID, "offload.policy %s: nothing is measured for it", config->offload_policy);
    if (status.code == STATUS_OK) {
        status = report(arguments, &key, record);
    }
    runtime_close(&runtime);
    return status;
}

int command_profile(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    if (status.code == STATUS_OK && !config_is_set(&config, "log_level")) {
        status = config_set(&config, "log_level", "warn", SOURCE_DEFAULT); /* the record is what is wanted here */
    }
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        config_free(&config);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID, "profile takes no \"%.80s\"; a model is named with --model FILE",
                              arguments.positional[0]);
    }
    if (status.code == STATUS_OK) {
        status = config_check(&config);
    }
    if (status.code == STATUS_OK) {
        command_set_log(&config);
        status = profile(&config, &arguments);
    }
    config_free(&config);
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
