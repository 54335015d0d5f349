/* `metronome bench`: measures servers and what offloading keeps of its promises.
 *
 * The door through which the program's main reaches the benchmarks. Threads: main's. */
#ifndef METRONOME_BENCH_BENCH_H
#define METRONOME_BENCH_BENCH_H

/* Runs the benchmark that argv[0] names; returns the exit status, as server/command.h has them. */
int command_bench(int argc, const char **argv);

#endif
