/* `metronome bench offload`: every policy at its best, and the frontiers. Threads: main's. */
#include "base/log.h"
#include "bench/about.h"
#include "bench/commands.h"
#include "bench/frontier.h"
#include "bench/grid_report.h"
#include "bench/measured.h"
#include "bench/output.h"
#include "bench/paper.h"
#include "server/command.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEMO_MODEL ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"

static const struct flag flags[] = {
    {"device", "NAME", "sim if not given; cpu and cuda measure here, with the model of --weights"},
    {"weights", "FILE", "cpu, cuda: a GGUF file; the demo model's if not given"},
    {"hardware", "NAME", "the description to simulate; a10 if not given"},
    {"model", "NAME",
     "the described model that the frontiers are of, opt-13b if not given; elsewhere the description of "
     "--weights, smollm2-135m if not given"},
    {"seed", "N", "of the loads; 1 if not given"},
    {"share", "P",
     "cpu, cuda: the device has room for so many % of the layers' weights, 30, 50 or 70; all three if not given"},
    {"quick", NULL, "two cells of the grid and nothing else, on cpu and cuda one: to see that it runs"},
    {"full", NULL,
     "32 cells of the grid in place of 12: half an hour; elsewhere 15 in place of 9 and more rounds: an hour"},
    {"paper", NULL, "the figures of the Select-N paper first"},
    {"svg", "FOLDER", "writes the frontiers as files, too: frontier-memory.svg and so on"},
    OUTPUT_FLAGS,
};
enum { DEVICE, WEIGHTS, HARDWARE, MODEL, SEED, SHARE, QUICK, FULL, PAPER, SVG, OUTPUT };
#define FLAGS (sizeof flags / sizeof flags[0])

static void show_help(FILE *file) {
    fprintf(
        file,
        "usage: metronome bench offload [--quick] [--paper] [--json FILE] [--html FILE] [--markdown FILE]\n\n"
        "Every offload policy over a grid of models, memories, loads and promises on simulated hardware, each "
        "with\nthe options that are best for it, and the frontiers between promise and memory, throughput "
        "and context.\nThe same command gives the same figures; some minutes. With --device cpu or cuda the policies "
        "are measured in turn,\nwith a real model on this machine, on cpu behind a paced link; forty minutes.\n\n");
    arguments_help(file, flags, FLAGS, false);
}

static struct status write_grid(const char *hardware, uint64_t seed, enum grid_size size, struct book *book) {
    struct grid_cell *cells = calloc(GRID_MOST_CELLS, sizeof *cells);
    struct progress bar;
    struct status status =
        cells ? STATUS_SUCCESS : status_error(STATUS_NO_MEMORY, "no memory for the cells of the grid");
    uint32_t count = cells ? grid_cells(size, cells, GRID_MOST_CELLS) : 0;
    output_progress_begin(&bar, "policies", count);
    for (uint32_t i = 0; i < count && !status_failed(&status); i++) {
        status = status_context(grid_fill(hardware, seed, &cells[i]), "%s", cells[i].model);
        progress_update(&bar, i + 1);
    }
    output_progress_end(&bar);
    if (!status_failed(&status)) {
        grid_report(cells, count, hardware, book);
    }
    free(cells);
    return status;
}

static struct status write_paper(const char *hardware, struct book *book) {
    struct paper *paper = malloc(sizeof *paper);
    if (!paper) {
        return status_error(STATUS_NO_MEMORY, "no memory for the paper's cases");
    }
    struct status status = paper_compute(hardware, paper);
    if (!status_failed(&status)) {
        paper_write(paper, book);
    }
    free(paper);
    return status;
}

static struct status write_all(const struct arguments *arguments, struct book *book) {
    const char *const *values = arguments->values;
    const char *hardware = values[HARDWARE] ? values[HARDWARE] : "a10";
    const enum grid_size size = values[QUICK] ? GRID_QUICK : values[FULL] ? GRID_FULL : GRID_USUAL;
    double seed = 1;
    if (values[SEED]) {
        TRY(arguments_number("seed", values[SEED], 0, 1e15, &seed));
    }
    const char *device = values[DEVICE] ? values[DEVICE] : "sim";
    if (strcmp(device, "cpu") == 0 || strcmp(device, "cuda") == 0) {
        double percent = size == GRID_QUICK ? 50 : 0;
        if (values[SHARE]) {
            TRY(arguments_number("share", values[SHARE], 30, 70, &percent));
        }
        if (percent != 0 && percent != 30 && percent != 50 && percent != 70) {
            return status_error(STATUS_INVALID, "--share: %.40s is none of 30, 50 and 70", values[SHARE]);
        }
        if (!values[WEIGHTS] && access(DEMO_MODEL, R_OK) != 0) {
            return status_error(STATUS_NOT_FOUND,
                                "the demo model is not here (%s): `sh scripts/setup demo` fetches it; or name a model "
                                "with --weights FILE",
                                DEMO_MODEL);
        }
        about_write(NULL, (uint64_t)seed, book);
        return measured_write(device, values[WEIGHTS] ? values[WEIGHTS] : DEMO_MODEL,
                              values[MODEL] ? values[MODEL] : "smollm2-135m", size, percent / 100, (uint64_t)seed,
                              book);
    }
    if (strcmp(device, "sim") != 0) {
        return status_error(STATUS_INVALID, "--device: \"%.40s\" is none of sim, cpu and cuda", device);
    }
    about_write(hardware, (uint64_t)seed, book);
    if (values[PAPER]) {
        TRY(write_paper("a10", book));
    }
    TRY(write_grid(hardware, (uint64_t)seed, size, book));
    return values[QUICK]
               ? STATUS_SUCCESS
               : frontier_write(hardware, values[MODEL] ? values[MODEL] : "opt-13b", (uint64_t)seed, values[SVG], book);
}

int bench_offload(int argc, const char **argv) {
    return output_run(argc, argv, flags, FLAGS, OUTPUT, show_help, "What offloading gives", write_all);
}
