/* The benchmarks that `metronome bench` runs: each takes its arguments and returns the exit status of server/command.h.
 * Threads: main's. */
#ifndef METRONOME_BENCH_COMMANDS_H
#define METRONOME_BENCH_COMMANDS_H

int bench_counts(int argc, const char **argv);
int bench_link(int argc, const char **argv);
int bench_offload(int argc, const char **argv);
int bench_ops(int argc, const char **argv);
int bench_paper(int argc, const char **argv);
int bench_serve(int argc, const char **argv);

#endif
