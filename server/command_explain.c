/* `metronome explain`: why promises were missed, asked of a running server or read from its log. Threads: main's. */
#include "base/log.h"
#include "server/command.h"
#include "server/http_get.h"
#include "server/resimulate.h"

#include <stdio.h>
#include <stdlib.h>

static const struct flag flags[] = {
    {"url", "URL", "the server to ask; http://127.0.0.1:8080 if neither this nor --log is given"},
    {"log", "FILE", "what `serve` or `simulate` wrote with --slo_log, instead of a server"},
    {"json", "FILE", "writes what it says as JSON; - is standard output, instead of the text"},
    {"help", NULL, "this"},
};
enum { URL, LOG, JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome explain [--url URL | --log FILE [--hardware NAME] [OPTION]...] [--json FILE]\n\n"
                  "Says why tokens came later than was promised: the causes, the most expensive first, with examples, "
                  "and which options\nmay help. With a log and hardware to simulate (its own, or --hardware), the same "
                  "requests are sent through the\nscheduler again with each of these options, and it says how many "
                  "promises would have been kept.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

static struct status explain_server(const struct arguments *arguments) {
    const char *url = arguments->values[URL] ? arguments->values[URL] : "http://127.0.0.1:8080";
    const char *json = arguments->values[JSON];
    struct text report = {0};
    struct status status = http_get(url, "/debug/slo", json ? "application/json" : "text/plain", &report);
    if (status.code == STATUS_OK) {
        status = command_write_report(json ? json : "-", &report);
    }
    text_free(&report);
    return status;
}

static void write_form(const void *report, enum report_form form, struct text *out) {
    static void (*const writers[])(const struct explanation *, struct text *) = {
        [REPORT_TEXT] = explain_write_text, [REPORT_JSON] = explain_write_json};
    writers[form](report, out);
}

/* The log's configuration, less what the command line says otherwise. */
static struct status explain_read(const struct arguments *arguments, const struct config *given, struct slo_log *log,
                                  struct explanation *explanation) {
    TRY(config_overlay(&log->config, given));
    TRY(slo_log_explain(log, explanation));
    if (*log->config.hardware && log->count > 0) {
        TRY(resimulate(&log->config, log, explanation));
    }
    return command_write_forms(arguments->values[JSON], NULL, write_form, explanation);
}

static struct status explain_log(const struct arguments *arguments, const struct config *given) {
    struct slo_log log;
    struct explanation *explanation = calloc(1, sizeof *explanation);
    if (!explanation) {
        return status_error(STATUS_NO_MEMORY, "no memory for an explanation");
    }
    struct status status = slo_log_read_file(arguments->values[LOG], &log);
    if (status.code == STATUS_OK) {
        status = explain_read(arguments, given, &log, explanation);
        slo_log_free(&log);
    }
    free(explanation);
    return status;
}

static struct status explain(const struct arguments *arguments, const struct config *given) {
    if (arguments->positional_count > 0) {
        return status_error(STATUS_INVALID,
                            "explain takes no \"%.80s\"; a server is named with --url, a log with --log",
                            arguments->positional[0]);
    }
    if (arguments->values[LOG] && arguments->values[URL]) {
        return status_error(STATUS_INVALID, "explain takes --url or --log, and not both");
    }
    return arguments->values[LOG] ? explain_log(arguments, given) : explain_server(arguments);
}

int command_explain(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        config_free(&config);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && !config_is_set(&config, "log_level")) {
        status = config_set(&config, "log_level", "warn", SOURCE_DEFAULT);
    }
    if (status.code == STATUS_OK) {
        command_set_log(&config);
        status = explain(&arguments, &config);
    }
    config_free(&config);
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
