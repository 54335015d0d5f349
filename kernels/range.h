/* Named ranges of the host's time, for NVIDIA's profilers (NVTX): with `make CUDA=1 NVTX=1`, and else nothing.
 *
 * Ranges nest; each is begun and ended by one thread. `name` is a literal, `number` tells its ranges apart. */
#ifndef METRONOME_KERNELS_RANGE_H
#define METRONOME_KERNELS_RANGE_H

#include <stdint.h>

#ifdef METRONOME_NVTX
#include <nvtx3/nvToolsExt.h>

static inline void range_begin(const char *name, uint32_t number) {
    const nvtxEventAttributes_t attributes = {.version = NVTX_VERSION,
                                              .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
                                              .messageType = NVTX_MESSAGE_TYPE_ASCII,
                                              .message.ascii = name,
                                              .payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT32,
                                              .payload.uiValue = number};
    nvtxRangePushEx(&attributes);
}
static inline void range_end(void) {
    nvtxRangePop();
}
#else
static inline void range_begin(const char *name, uint32_t number) {
    (void)name;
    (void)number;
}
static inline void range_end(void) {
}
#endif

#endif
