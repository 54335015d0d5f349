/* `metronome serve`. Threads: main's. */
#include "server/command.h"
#include "server/server.h"

static const struct flag flags[] = {{"help", NULL, "this"}};
enum { HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome serve --model FILE [--device cpu] [--port 8080] [OPTION]...\n\n"
                  "Serves a model over HTTP until SIGTERM or SIGINT, which finish what is under way; a second one "
                  "stops at once.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], true);
}

int command_serve(int argc, const char **argv) {
    struct config config;
    struct arguments arguments;
    config_init(&config);
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], &config, &arguments);
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID, "serve takes no \"%.80s\"; a model is named with --model FILE",
                              arguments.positional[0]);
    }
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        config_free(&config);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK) {
        status = config_check(&config);
    }
    if (status.code == STATUS_OK && !*config.model) {
        status = status_error(STATUS_INVALID, "model: name a GGUF file with --model FILE");
    }
    bool clean = true;
    if (status.code == STATUS_OK) {
        command_set_log(&config);
        status = server_run(&config, argc, argv, &clean);
    }
    config_free(&config);
    if (status.code != STATUS_OK) {
        return command_failed(&status);
    }
    return clean ? EXIT_DONE : EXIT_FAILED;
}
