/* Fuzz target: any bytes as a GGUF file. Opens them and reads every key by every getter and every tensor's bytes. */
#include "models/gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What was read, so that the reads are not optimized away. */
static volatile size_t sink;

static void read_bytes(const void *data, size_t bytes) {
    size_t sum = 0;
    for (size_t i = 0; i < bytes; i++) {
        sum += ((const uint8_t *)data)[i];
    }
    sink = sum;
}

static struct status read_string(void *context, size_t index, struct gguf_string string) {
    (void)context;
    (void)index;
    read_bytes(string.data, string.bytes);
    return STATUS_SUCCESS;
}

static void read_array(const struct gguf *gguf, const char *name) {
    enum gguf_type type;
    size_t count;
    struct status status = gguf_get_array(gguf, name, &type, &count);
    if (status_failed(&status)) {
        return;
    }
    float *numbers = malloc(count ? count * sizeof *numbers : 1); /* a count is never more than the file's bytes */
    int32_t *integers = malloc(count ? count * sizeof *integers : 1);
    if (numbers && integers) {
        gguf_copy_f32(gguf, name, numbers, count);
        gguf_copy_i32(gguf, name, integers, count);
    }
    free(numbers);
    free(integers);
    gguf_visit_strings(gguf, name, read_string, NULL);
}

static void read_key(const struct gguf *gguf, const char *name) {
    uint64_t integer;
    double number;
    bool flag;
    struct gguf_string string;
    gguf_get_u64(gguf, name, &integer);
    gguf_get_f64(gguf, name, &number);
    gguf_get_bool(gguf, name, &flag);
    struct status status = gguf_get_string(gguf, name, &string);
    if (!status_failed(&status)) {
        read_bytes(string.data, string.bytes);
    }
    read_array(gguf, name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct gguf *gguf = NULL;
    struct status status = gguf_open_memory(data, bytes, &gguf);
    if (status_failed(&status)) {
        if (status.message[0] == 0) {
            abort(); /* a refusal says why */
        }
        return 0;
    }
    for (size_t i = 0; i < gguf_key_count(gguf); i++) {
        enum gguf_type type;
        struct gguf_string name = gguf_key_at(gguf, i, &type);
        char *copy = strndup(name.data, name.bytes);
        if (copy) {
            if (!gguf_has(gguf, copy)) {
                abort(); /* what is listed can be found */
            }
            read_key(gguf, copy);
        }
        free(copy);
    }
    for (size_t i = 0; i < gguf_tensor_count(gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, i);
        read_bytes(tensor->data, tensor->bytes);
    }
    gguf_close(gguf);
    return 0;
}
