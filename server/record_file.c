#include "server/record_file.h"

#include "base/log.h"
#include "server/version.h"

#include <stdio.h>
#include <string.h>

struct status record_file_key(const struct config *config, const struct model *model, const struct device *device,
                              struct record_key *out) {
    const struct model_shape *shape = model_shape(model);
    const struct device_info info = device_info(device);
    *out = (struct record_key){.parameters = shape->parameters,
                               .model_bytes = model_weight_bytes(model),
                               .link_bytes_per_s = (uint64_t)info.link_bytes_per_s,
                               .rows = (uint32_t)config->max_batch_tokens,
                               .sequences = (uint32_t)config->max_sequences,
                               .context = config->context > 0 ? (uint32_t)config->context : shape->context};
    record_key_text(out->model, sizeof out->model, shape->name);
    record_key_text(out->device, sizeof out->device, info.name);
    record_key_text(out->device_description, sizeof out->device_description, info.description);
    const bool library = strcmp(info.name, "cuda") == 0 && strcmp(config->invariant, "off") == 0;
    char compute[32];
    snprintf(compute, sizeof compute, "%s%s", config->compute, library ? ", cuBLAS" : "");
    record_key_text(out->compute, sizeof out->compute, compute);
    record_key_text(out->kv_type, sizeof out->kv_type, config->kv_type);
    record_key_text(out->build, sizeof out->build, version_commit());
    return STATUS_SUCCESS;
}

struct status record_file_open(const struct config *config, const struct model *model, const struct device *device,
                               struct record_file *out) {
    *out = (struct record_file){.path = config->offload_record};
    if (!*out->path) {
        return STATUS_SUCCESS;
    }
    TRY(record_file_key(config, model, device, &out->key));
    struct status status = record_json_load(out->path, &out->key, &out->record);
    out->found = status.code == STATUS_OK;
    if (status.code == STATUS_NOT_FOUND) {
        log_info("%s; iterations are measured anew, and it is written", status.message);
        return STATUS_SUCCESS;
    }
    return status_context(status, "offload.record");
}

struct status record_file_keep(const struct record_file *file, const struct record *record) {
    if (!*file->path || file->found || !record) {
        return STATUS_SUCCESS;
    }
    return status_context(record_json_save(file->path, &file->key, record), "offload.record");
}
