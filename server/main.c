/* The program: which subcommand it is. Threads: main's. */
#include "bench/bench.h"
#include "server/command.h"
#include "server/suggest.h"
#include "server/version.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, const char **argv);
    const char *help;
};

static int show_version(int argc, const char **argv);
static int show_help(int argc, const char **argv);

static const struct command commands[] = {
    {"serve", command_serve, "serves a model over HTTP, as OpenAI's API has it"},
    {"generate", command_generate, "continues a prompt on the terminal"},
    {"tokenize", command_tokenize, "shows a text's tokens"},
    {"plan", command_plan, "what offloading would do for a model on hardware, from descriptions"},
    {"simulate", command_simulate, "which promises a trace of requests would see kept, on described hardware"},
    {"explain", command_explain, "why promises were missed, and what helps"},
    {"profile", command_profile, "measures what iterations of a model cost here"},
    {"bench", command_bench, "measures servers under load, and offloading"},
    {"config", command_config, "lists every option; --check FILE reads a configuration"},
    {"version", show_version, "which Metronome this is"},
    {"help", show_help, "this"},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static void print_usage(FILE *file) {
    fprintf(file, "usage: metronome COMMAND [OPTION]...\n\n");
    for (size_t i = 0; i < COMMANDS; i++) {
        fprintf(file, "  %-10s %s\n", commands[i].name, commands[i].help);
    }
    fprintf(file, "\nmetronome COMMAND --help says more.\n");
}

static int show_help(int argc, const char **argv) {
    (void)argc;
    (void)argv;
    print_usage(stdout);
    return EXIT_DONE;
}

static int show_version(int argc, const char **argv) {
    (void)argc;
    (void)argv;
    printf("metronome %s (%s)\n", version_text(), version_commit());
    return EXIT_DONE;
}

static const struct command *find_command(const char *name) {
    if (strcmp(name, "--version") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        name = strcmp(name, "--version") == 0 ? "version" : "help";
    }
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int unknown_command(const char *name) {
    struct suggestion nearest = suggestion_for(name);
    for (size_t i = 0; i < COMMANDS; i++) {
        suggestion_offer(&nearest, commands[i].name);
    }
    fprintf(stderr, "metronome: there is no command \"%s\"%s%s%s\n\n", name, nearest.best ? "; did you mean " : "",
            nearest.best ? nearest.best : "", nearest.best ? "?" : "");
    print_usage(stderr);
    return EXIT_USAGE;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    const struct command *command = find_command(argv[1]);
    return command ? command->run(argc - 2, (const char **)argv + 2) : unknown_command(argv[1]);
}
