/* `metronome bench counts`. Threads: main's. */
#include "base/log.h"
#include "bench/commands.h"
#include "bench/counts.h"
#include "bench/output.h"

static const struct flag flags[] = {OUTPUT_FLAGS};
#define FLAGS (sizeof flags / sizeof flags[0])

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome bench counts [--json FILE]\n\n"
                  "Plans, bytes, copies and simulated times that must not change unseen: what bench/baseline.json "
                  "holds and a\ntest compares. `make bench-baseline` renews it.\n\n");
    arguments_help(file, flags, FLAGS, false);
}

static struct status write_counts(const struct arguments *arguments, struct book *book) {
    (void)arguments;
    log_set_level(LOG_ERROR);
    return counts_write(book);
}

int bench_counts(int argc, const char **argv) {
    return output_run(argc, argv, flags, FLAGS, 0, show_help, "Counts of simulations", write_counts);
}
