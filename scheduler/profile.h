/* Measures the performance record (offload/record.h) with the real forward pass: layer time and time outside layers
 * over (rows, context), and what the link gives alone. Uses KV blocks of the cache and gives them back: before the
 * first request only. Threads: the engine's. */
#ifndef METRONOME_SCHEDULER_PROFILE_H
#define METRONOME_SCHEDULER_PROFILE_H

#include "base/status.h"
#include "models/model.h"
#include "offload/offload.h"
#include "offload/record.h"

/* The shortest context that is measured, tokens; longer ones as far as the KV cache holds them. */
#define PROFILE_SHORTEST 64

/* Shows a progress bar. STATUS_NO_MEMORY if the KV cache cannot hold the shortest context measured. */
struct status profile_measure(struct forward *forward, struct offload *offload, const struct forward_limits *limits,
                              struct record *out);

#endif
