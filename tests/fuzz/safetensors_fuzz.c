/* Fuzz target: any bytes as a safetensors file. Opens them and reads every tensor's bytes. */
#include "models/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What was read, so that the reads are not optimized away. */
static volatile size_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct safetensors *set = NULL;
    struct status status = safetensors_open_memory(data, bytes, &set);
    if (status_failed(&status)) {
        if (status.message[0] == 0) {
            abort(); /* a refusal says why */
        }
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(set); i++) {
        const struct safetensors_tensor *tensor = safetensors_at(set, i);
        if (safetensors_find(set, tensor->name) != tensor) {
            abort(); /* what is listed can be found */
        }
        size_t sum = 0;
        for (size_t at = 0; at < tensor->bytes; at++) {
            sum += tensor->data[at];
        }
        sink = sum;
    }
    safetensors_close(set);
    return 0;
}
