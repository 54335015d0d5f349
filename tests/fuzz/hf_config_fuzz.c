/* Fuzz target: any bytes as a config.json. What is accepted has a shape that the pass can take, and frequencies that
 * are numbers. */
#include "models/model_internal.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_rope(const struct model_shape *shape, const struct rope_parameters *rope) {
    float frequency[MOST_HEAD_DIM / 2], magnitude;
    struct status status = shape_rope(rope, NULL, shape->rope_pairs, frequency, &magnitude);
    if (status_failed(&status) || isnan(magnitude)) {
        abort();
    }
    for (uint32_t i = 0; i < shape->rope_pairs; i++) {
        if (isnan(frequency[i])) {
            abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const struct family *family = NULL;
    struct model_shape shape;
    struct pass pass;
    struct status status = shape_from_config((const char *)data, bytes, &family, &shape, &pass);
    if (status_failed(&status)) {
        if (status.message[0] == 0) {
            abort(); /* a refusal says why */
        }
    } else {
        if (shape.layers == 0 || shape.width == 0 || shape.kv_heads == 0 || shape.query_heads % shape.kv_heads != 0 ||
            shape.head_dim % 8 != 0 || shape.rope_pairs > shape.head_dim / 2) {
            abort();
        }
        check_rope(&shape, &pass.rope[ROPE_GLOBAL]);
        if (pass.local_rope) {
            check_rope(&shape, &pass.rope[ROPE_LOCAL]);
        }
    }
    free(pass.window);
    return 0;
}
