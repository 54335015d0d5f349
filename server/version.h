/* Which Metronome this is; the build says. Threads: any. */
#ifndef METRONOME_SERVER_VERSION_H
#define METRONOME_SERVER_VERSION_H

const char *version_text(void);   /* "0.1.0" */
const char *version_commit(void); /* "1a2b3c4d5e6f", or "unknown" */

#endif
