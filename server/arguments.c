#include "server/arguments.h"

#include "base/check.h"
#include "server/suggest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One argument that begins with "--", taken apart. */
struct parameter {
    char name[64];     /* without the dashes */
    const char *value; /* what follows '='; NULL: nothing does */
};

static const struct flag config_flag = {"config", "FILE", "a configuration: JSON, comments allowed"};
static const struct flag set_flag = {"set", "NAME=VALUE", "sets an option"};

static bool same_flag(const char *typed, const char *name) {
    while (*typed && (*typed == *name || (*typed == '_' && *name == '-'))) {
        typed++;
        name++;
    }
    return *typed == *name;
}

static struct status take_apart(const char *argument, struct parameter *out) {
    const char *name = argument + 2, *equals = strchr(name, '=');
    size_t bytes = equals ? (size_t)(equals - name) : strlen(name);
    if (bytes == 0 || bytes >= sizeof out->name) {
        return status_error(STATUS_INVALID, "%.80s: not an option", argument);
    }
    memcpy(out->name, name, bytes);
    out->name[bytes] = 0;
    out->value = equals ? equals + 1 : NULL;
    return STATUS_SUCCESS;
}

static int find_flag(const struct flag *flags, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (same_flag(name, flags[i].name)) {
            return (int)i;
        }
    }
    return -1;
}

static struct status unknown(const char *name, const struct flag *flags, size_t count, bool options) {
    struct suggestion nearest = suggestion_for(name);
    for (size_t i = 0; i < count; i++) {
        suggestion_offer(&nearest, flags[i].name);
    }
    for (size_t i = 0; options && i < option_count(); i++) {
        suggestion_offer(&nearest, option_at(i)->name);
    }
    if (nearest.best) {
        return status_error(STATUS_NOT_FOUND, "there is no option --%s; did you mean --%s?", name, nearest.best);
    }
    return status_error(STATUS_NOT_FOUND, "there is no option --%s; --help lists them", name);
}

/* The parameter's value, from itself or from the next argument. */
static struct status value_of(const struct parameter *parameter, int argc, const char **argv, int *at,
                              const char **value) {
    *value = parameter->value;
    if (!*value) {
        if (*at + 1 >= argc) {
            return status_error(STATUS_INVALID, "--%s needs a value", parameter->name);
        }
        *value = argv[++*at];
    }
    return STATUS_SUCCESS;
}

static struct status set_pair(struct config *config, const char *pair) {
    const char *equals = strchr(pair, '=');
    char name[64];
    if (!equals || equals == pair || (size_t)(equals - pair) >= sizeof name) {
        return status_error(STATUS_INVALID, "--set %.80s: write NAME=VALUE", pair);
    }
    memcpy(name, pair, (size_t)(equals - pair));
    name[equals - pair] = 0;
    return config_set(config, name, equals + 1, SOURCE_COMMAND_LINE);
}

/* What one pass over the arguments is for: the file comes before what overrides it. */
enum pass { PASS_FILE, PASS_REST };

struct parsing {
    const struct flag *flags;
    size_t flag_count;
    struct config *config;
    struct arguments *out;
    enum pass pass;
};

static struct status take_parameter(struct parsing *parsing, int argc, const char **argv, int *at) {
    struct parameter parameter;
    const char *value;
    bool rest = parsing->pass == PASS_REST;
    TRY(take_apart(argv[*at], &parameter));
    int flag = find_flag(parsing->flags, parsing->flag_count, parameter.name);
    if (flag >= 0 && !parsing->flags[flag].operand) {
        if (parameter.value) {
            return status_error(STATUS_INVALID, "--%s takes no value", parameter.name);
        }
        parsing->out->values[flag] = "";
        return STATUS_SUCCESS;
    }
    if (flag >= 0) {
        return value_of(&parameter, argc, argv, at, &parsing->out->values[flag]);
    }
    bool is_config = same_flag(parameter.name, config_flag.name), is_set = same_flag(parameter.name, set_flag.name);
    if (!parsing->config || (!is_config && !is_set && !option_find(parameter.name))) {
        return unknown(parameter.name, parsing->flags, parsing->flag_count, parsing->config != NULL);
    }
    TRY(value_of(&parameter, argc, argv, at, &value));
    if (is_config) {
        return rest ? STATUS_SUCCESS : config_read_file(parsing->config, value);
    }
    if (!rest) {
        return STATUS_SUCCESS;
    }
    return is_set ? set_pair(parsing->config, value)
                  : config_set(parsing->config, parameter.name, value, SOURCE_COMMAND_LINE);
}

static struct status walk(struct parsing *parsing, int argc, const char **argv) {
    parsing->out->positional_count = 0;
    int kept = 0;
    bool only_positional = false;
    for (int at = 0; at < argc; at++) {
        if (!only_positional && strcmp(argv[at], "--") == 0) {
            only_positional = true;
        } else if (!only_positional && strncmp(argv[at], "--", 2) == 0) {
            TRY(take_parameter(parsing, argc, argv, &at));
        } else if (!only_positional && argv[at][0] == '-' && argv[at][1] && strcmp(argv[at], "-") != 0) {
            return status_error(STATUS_INVALID, "%.80s: options begin with two dashes", argv[at]);
        } else if (parsing->pass == PASS_REST) {
            argv[kept++] = argv[at];
        }
    }
    parsing->out->positional = argv;
    parsing->out->positional_count = kept;
    return STATUS_SUCCESS;
}

struct status arguments_parse(int argc, const char **argv, const struct flag *flags, size_t flag_count,
                              struct config *config, struct arguments *out) {
    CHECK(flag_count <= ARGUMENTS_MAX_FLAGS);
    *out = (struct arguments){0};
    struct parsing parsing = {.flags = flags, .flag_count = flag_count, .config = config, .out = out};
    TRY(walk(&parsing, argc, argv));
    parsing.pass = PASS_REST;
    return walk(&parsing, argc, argv);
}

static void show_flag(FILE *file, const struct flag *flag) {
    char left[48];
    snprintf(left, sizeof left, "--%s%s%s", flag->name, flag->operand ? " " : "", flag->operand ? flag->operand : "");
    fprintf(file, "  %-24s %s\n", left, flag->help);
}

void arguments_help(FILE *file, const struct flag *flags, size_t flag_count, bool options) {
    for (size_t i = 0; i < flag_count; i++) {
        show_flag(file, &flags[i]);
    }
    if (options) {
        show_flag(file, &config_flag);
        show_flag(file, &set_flag);
        fprintf(file, "  %-24s %s\n", "--OPTION VALUE", "sets an option, too; `metronome config` lists them");
    }
}

struct status arguments_number(const char *name, const char *text, double minimum, double maximum, double *value) {
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !isfinite(number)) {
        return status_error(STATUS_INVALID, "--%s: \"%.80s\" is not a number", name, text);
    }
    if (number < minimum || number > maximum) {
        return status_error(STATUS_INVALID, "--%s: %s is out of range; allowed are %.10g to %.10g", name, text, minimum,
                            maximum);
    }
    *value = number;
    return STATUS_SUCCESS;
}
