/* The command line: a command's own flags, the options of the table, and what is neither.
 *
 * Owns: the forms --name value, --name=value, --set name=value and --config FILE, and their refusals.
 * Threads: any. */
#ifndef METRONOME_SERVER_ARGUMENTS_H
#define METRONOME_SERVER_ARGUMENTS_H

#include "server/options.h"

#include <stdio.h>

/* A flag of one command. */
struct flag {
    const char *name;    /* "max-tokens": given as --max-tokens */
    const char *operand; /* what it takes, for the help; NULL: it takes nothing */
    const char *help;
};

#define ARGUMENTS_MAX_FLAGS 32

struct arguments {
    const char *values[ARGUMENTS_MAX_FLAGS]; /* of each flag; NULL: not given; "" if it takes nothing */
    const char **positional;                 /* (positional_count) into argv */
    int positional_count;
};

/* Reads `argv` (argc), which is reordered: `positional` points into it. `config` is initialised and gets the options,
 * those of --config first; NULL if the command takes none. */
struct status arguments_parse(int argc, const char **argv, const struct flag *flags, size_t flag_count,
                              struct config *config, struct arguments *out);

/* Prints flags, and that there are options, if the command takes them. */
void arguments_help(FILE *file, const struct flag *flags, size_t flag_count, bool options);

/* A flag's value as a number in a range; STATUS_INVALID names the flag. */
struct status arguments_number(const char *name, const char *text, double minimum, double maximum, double *value);

#endif
