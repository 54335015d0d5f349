/* What the benchmarks of offloading share as commands: where a book goes. Threads: main's. */
#ifndef METRONOME_BENCH_OUTPUT_H
#define METRONOME_BENCH_OUTPUT_H

#include "base/log.h"
#include "bench/book.h"
#include "server/arguments.h"

/* The last flags of each command's list, in this order. */
#define OUTPUT_FLAGS                                                                                                \
    {"json", "FILE", "writes the figures as JSON; - is standard output, instead of the text"},                      \
        {"html", "FILE", "writes a page of its own, pictures included"}, {"markdown", "FILE", "writes Markdown"}, { \
        "help", NULL, "this"                                                                                        \
    }

/* Fills the book with what the arguments ask for. */
typedef struct status output_writer(const struct arguments *arguments, struct book *book);

/* Runs a command: `output` is the index of the first of OUTPUT_FLAGS in `flags`. Returns the exit status. */
int output_run(int argc, const char **argv, const struct flag *flags, size_t flag_count, int output,
               void (*show_help)(FILE *file), const char *title, output_writer *write);

/* A bar for what takes its time, and the log silent meanwhile but for errors: engines come and go with lines of their
 * own. The log is as loud as it was by default once the bar has ended. */
void output_progress_begin(struct progress *bar, const char *label, uint64_t total);
void output_progress_end(struct progress *bar);

#endif
