/* `metronome config`: what can be set, and whether a file sets it rightly. Threads: main's. */
#include "base/bytes.h"
#include "server/command.h"

#include <stdio.h>
#include <string.h>

static const struct flag flags[] = {
    {"check", "FILE", "reads a configuration and says what is wrong with it, if anything is"},
    {"json", "FILE", "writes the options as JSON; - is standard output"},
    {"help", NULL, "this"},
};
enum { CHECK_FILE, JSON, HELP };

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome config [--json FILE] [--check FILE]\n\n"
                  "Prints every option with its type, default, range and meaning.\n\n");
    arguments_help(file, flags, sizeof flags / sizeof flags[0], false);
}

static bool has_range(const struct option *option) {
    return option->maximum > option->minimum;
}

static void add_range(const struct option *option, struct text *out) {
    char low[16], high[16];
    if (option->choices) {
        for (size_t i = 0; option->choices[i]; i++) {
            text_addf(out, i ? "|%s" : "%s", option->choices[i]);
        }
    } else if (has_range(option) && option->type == OPTION_BYTES) {
        text_addf(out, "%s..%s", bytes_format((uint64_t)option->minimum, low, sizeof low),
                  bytes_format((uint64_t)option->maximum, high, sizeof high));
    } else if (has_range(option)) {
        text_addf(out, "%.10g..%.10g", option->minimum, option->maximum);
    }
}

static void print_table(void) {
    printf("%-20s %-7s %-7s %-10s %-22s %s\n", "option", "type", "unit", "default", "range", "meaning");
    for (size_t i = 0; i < option_count(); i++) {
        const struct option *option = option_at(i);
        struct text range = {0};
        add_range(option, &range);
        printf("%-20s %-7s %-7s %-10s %-22s %s\n", option->name, option_type_name(option->type),
               *option->unit ? option->unit : "-", *option->fallback ? option->fallback : "-",
               range.bytes > 0 ? text_string(&range) : "-", option->help);
        text_free(&range);
    }
}

static void add_json_option(const struct option *option, struct text *out) {
    text_adds(out, "{\"name\":");
    text_adds_json(out, option->name);
    text_addf(out, ",\"type\":\"%s\",\"unit\":", option_type_name(option->type));
    text_adds_json(out, option->unit);
    text_adds(out, ",\"default\":");
    bool number = option->type == OPTION_INT || option->type == OPTION_FLOAT;
    if (number) {
        text_adds(out, option->fallback);
    } else {
        text_adds_json(out, option->fallback);
    }
    if (has_range(option)) {
        text_addf(out, ",\"minimum\":%.17g,\"maximum\":%.17g", option->minimum, option->maximum);
    }
    for (size_t i = 0; option->choices && option->choices[i]; i++) {
        text_adds(out, i ? "," : ",\"choices\":[");
        text_adds_json(out, option->choices[i]);
    }
    text_adds(out, option->choices ? "],\"help\":" : ",\"help\":");
    text_adds_json(out, option->help);
    text_adds(out, "}");
}

static struct status write_json(const char *path) {
    struct text report = {0};
    text_adds(&report, "{\"options\":[");
    for (size_t i = 0; i < option_count(); i++) {
        text_adds(&report, i ? ",\n" : "\n");
        add_json_option(option_at(i), &report);
    }
    text_adds(&report, "\n]}");
    struct status status = command_write_report(path, &report);
    text_free(&report);
    return status;
}

/* Prints what a file changes. */
static struct status check_file(const char *path) {
    struct config config;
    config_init(&config);
    struct status status = config_read_file(&config, path);
    if (status.code == STATUS_OK) {
        status = status_context(config_check(&config), "%s", path);
    }
    for (size_t i = 0; status.code == STATUS_OK && i < option_count(); i++) {
        if (config_is_set(&config, option_at(i)->name)) {
            struct text value = {0};
            config_show(&config, option_at(i), &value);
            printf("%-20s %s\n", option_at(i)->name, text_string(&value));
            text_free(&value);
        }
    }
    config_free(&config);
    return status;
}

int command_config(int argc, const char **argv) {
    struct arguments arguments;
    struct status status = arguments_parse(argc, argv, flags, sizeof flags / sizeof flags[0], NULL, &arguments);
    if (status.code == STATUS_OK && arguments.positional_count > 0) {
        status = status_error(STATUS_INVALID, "config takes no \"%.80s\"", arguments.positional[0]);
    }
    if (status.code == STATUS_OK && arguments.values[HELP]) {
        show_help(stdout);
        return EXIT_DONE;
    }
    if (status.code == STATUS_OK && arguments.values[CHECK_FILE]) {
        status = check_file(arguments.values[CHECK_FILE]);
    } else if (status.code == STATUS_OK && !arguments.values[JSON]) {
        print_table();
    }
    if (status.code == STATUS_OK && arguments.values[JSON]) {
        status = write_json(arguments.values[JSON]);
    }
    return status.code == STATUS_OK ? EXIT_DONE : command_failed(&status);
}
