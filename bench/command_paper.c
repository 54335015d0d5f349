/* `metronome bench paper`. Threads: main's. */
#include "bench/about.h"
#include "bench/commands.h"
#include "bench/output.h"
#include "bench/paper.h"
#include "server/command.h"

#include <stdlib.h>

static const struct flag flags[] = {
    {"hardware", "NAME", "a description of the paper's machine; a10 if not given"},
    OUTPUT_FLAGS,
};
enum { HARDWARE, OUTPUT };
#define FLAGS (sizeof flags / sizeof flags[0])

static void show_help(FILE *file) {
    fprintf(file, "usage: metronome bench paper [--hardware NAME] [--json FILE] [--html FILE] [--markdown FILE]\n\n"
                  "The figures of the Select-N paper (arXiv 2502.08182) on its hardware, simulated: the paper's, those "
                  "of the\npolicy select-n here, and metronome's. The same command gives the same figures.\n\n");
    arguments_help(file, flags, FLAGS, false);
}

static struct status write_paper(const struct arguments *arguments, struct book *book) {
    struct paper *paper = malloc(sizeof *paper);
    if (!paper) {
        return status_error(STATUS_NO_MEMORY, "no memory for the paper's cases");
    }
    const char *hardware = arguments->values[HARDWARE] ? arguments->values[HARDWARE] : "a10";
    struct status status = paper_compute(hardware, paper);
    if (!status_failed(&status)) {
        about_write(hardware, 0, book); /* nothing is drawn at random */
        paper_write(paper, book);
    }
    free(paper);
    return status;
}

int bench_paper(int argc, const char **argv) {
    return output_run(argc, argv, flags, FLAGS, OUTPUT, show_help, "The Select-N paper, again", write_paper);
}
