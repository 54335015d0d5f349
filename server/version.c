#include "server/version.h"

const char *version_text(void) {
    return METRONOME_VERSION;
}

const char *version_commit(void) {
    return METRONOME_COMMIT;
}
