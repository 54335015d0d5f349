#include "bench/bench.h"

#include "bench/commands.h"
#include "server/command.h"
#include "server/suggest.h"

#include <stdio.h>
#include <string.h>

struct benchmark {
    const char *name;
    int (*run)(int argc, const char **argv);
    const char *help;
};

static const struct benchmark benchmarks[] = {
    {"counts", bench_counts, "counts of simulations that must not change unseen"},
    {"link", bench_link, "what the link to the device gives, alone and under compute"},
    {"offload", bench_offload, "every offload policy at its best, and the frontiers, simulated"},
    {"ops", bench_ops, "every op of the decoder's math against this machine's limits"},
    {"paper", bench_paper, "the figures of the Select-N paper, simulated, beside ours"},
    {"serve", bench_serve, "sends load to an OpenAI server and times its tokens"},
};
#define BENCHMARKS (sizeof benchmarks / sizeof benchmarks[0])

static void print_usage(FILE *file) {
    fprintf(file, "usage: metronome bench BENCHMARK [OPTION]...\n\n");
    for (size_t i = 0; i < BENCHMARKS; i++) {
        fprintf(file, "  %-10s %s\n", benchmarks[i].name, benchmarks[i].help);
    }
    fprintf(file, "\nmetronome bench BENCHMARK --help says more.\n");
}

static int unknown_benchmark(const char *name) {
    struct suggestion nearest = suggestion_for(name);
    for (size_t i = 0; i < BENCHMARKS; i++) {
        suggestion_offer(&nearest, benchmarks[i].name);
    }
    fprintf(stderr, "metronome: bench: there is no benchmark \"%.80s\"%s%s%s\n\n", name,
            nearest.best ? "; did you mean " : "", nearest.best ? nearest.best : "", nearest.best ? "?" : "");
    print_usage(stderr);
    return EXIT_USAGE;
}

int command_bench(int argc, const char **argv) {
    if (argc < 1) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0 || strcmp(argv[0], "help") == 0) {
        print_usage(stdout);
        return EXIT_DONE;
    }
    for (size_t i = 0; i < BENCHMARKS; i++) {
        if (strcmp(benchmarks[i].name, argv[0]) == 0) {
            return benchmarks[i].run(argc - 1, argv + 1);
        }
    }
    return unknown_benchmark(argv[0]);
}
