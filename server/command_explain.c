/* `metronome explain`: why promises were missed, asked of a running server. Threads: main's. */
#include "server/command.h"
#include "server/http_get.h"

#include <stdio.h>

static const struct flag flags[] = {
    {"url", "URL", "the server to ask; http://127.0.0.1:8080 if not given"},
    {"json", "FILE", "writes what it says as JSON; - is standard output, instead of the text"},
    {"help", NULL, "this"},
};
enum { URL, JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome explain [--url URL] [--json FILE]\n\n"
                  "Says why tokens came later than was promised: the causes, the most expensive first, with examples, "
                  "and which options\nmay help.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], false);
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

int command_explain(int argc, const char **argv) {
    struct arguments arguments;
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], NULL, &arguments);
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID, "explain takes no \"%.80s\"; a server is named with --url",
                              arguments.positional[0]);
    }
    if (status.code == STATUS_OK) {
        status = explain_server(&arguments);
    }
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
