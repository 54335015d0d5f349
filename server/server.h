/* The daemon's life: listen, load, serve, drain, stop.
 *
 * Owns: the event loop, the loading thread, the signals, the engine's thread. Threads: called from main's, which
 * becomes the event loop's. */
#ifndef METRONOME_SERVER_SERVER_H
#define METRONOME_SERVER_SERVER_H

#include "base/status.h"
#include "server/options.h"

/* Serves until SIGTERM or SIGINT; SIGHUP reads the configuration again, from the arguments that it came from. *clean
 * says whether every request that was under way then had ended by itself; a second signal, or drain_timeout_s, cuts
 * them off. */
struct status server_run(struct config *config, int argc, const char *const *argv, bool *clean);

#endif
