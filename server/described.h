/* Descriptions of hardware and of models by name: `a10` is configs/hardware/a10.json.
 *
 * Owns: where they are looked for: as a path; under configs/ in the working directory; then where `make install` puts
 * them, ../share/metronome/configs from the program's own folder. Threads: any. */
#ifndef METRONOME_SERVER_DESCRIBED_H
#define METRONOME_SERVER_DESCRIBED_H

#include "kernels/sim/hardware.h"
#include "models/description.h"

/* STATUS_NOT_FOUND says where it was looked for, and which names there are. */
struct status described_hardware(const char *name, struct hardware *out);
struct status described_model(const char *name, struct model_description *out);

/* Where the description of hardware of that name lies: what the option `hardware` of sim takes. `path` has PATH_MAX. */
struct status described_hardware_path(const char *name, char *path);

#endif
