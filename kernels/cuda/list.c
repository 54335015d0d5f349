/* Work on its way to a stream. Between repeat_begin() and repeat_end() it is put into a list, and the list goes to the
 * GPU as one graph (graph.c) where it has been there before, node by node where not. So an iteration is a call or two
 * of CUDA's instead of one for each kernel, and the GPU does not wait for the host between them.
 *
 * No wait can be missed, and none waits for too much:
 *   - A list is in the order of its stream, and its graph is one chain. What is put on the stream by another way
 *     (cuda_stream_handle()) comes after the list, which goes first.
 *   - An event recorded in a list is not recorded yet as far as CUDA knows. The event says so (`listed`), and whoever
 *     asks about it, a wait of another stream or the host, first has the list go. So a list lasts until the first
 *     work elsewhere that depends on it, and no longer: a copy into a ring slot that a layer of the list releases.
 *   - A wait node waits for the record of its event that is the latest when the graph is launched, and what is meant
 *     is the one that was the latest when the wait was asked for. They are the same: before an event is recorded again
 *     a list that waits for it (`waited_by`) goes.
 *   - A record of the same stream needs no wait: the stream's order is enough.
 *   - A kernel may wait on its GPU for one of another GPU (peer.c). The lists of such streams, a group, go together: no
 *     call that may wait for a GPU, as making a graph or loading a kernel may, comes between the launch of a kernel
 *     that waits and that of the one it waits for, nor can the host wait for the one while it holds back the other.
 *     First all graphs are made and changed, then all are launched; if one cannot, then all go node by node, every node
 *     to rank after rank.
 * Records in a graph may be timed as any other: CUDA records the event at that point at each launch (Runtime API,
 * cudaGraphAddEventRecordNode).
 *
 * Nothing here allocates after cuda_list_create(). Threads: the host's. */
#include "kernels/cuda/list.h"

#include "base/bytes.h"
#include "base/check.h"
#include "kernels/range.h"

#include <stdlib.h>
#include <string.h>

#define ARGUMENT_ALIGNMENT 16
#define LEAST_NODES 3 /* of a graph: fewer are launched as quickly one by one */

struct cuda_list *cuda_list_create(void) {
    struct cuda_list *list = calloc(1, sizeof *list);
    if (list && !(list->graphs = cuda_graphs_create())) {
        free(list);
        return NULL;
    }
    return list;
}

void cuda_list_destroy(struct cuda_list *list) {
    if (list) {
        CHECK(list->count == 0);
        cuda_graphs_destroy(list->graphs);
        free(list);
    }
}

/* ---- node by node ---- */

static void launch_kernel(struct stream *base, const struct cudaKernelNodeParams *params) {
    const cudaLaunchConfig_t config = {.gridDim = params->gridDim,
                                       .blockDim = params->blockDim,
                                       .dynamicSmemBytes = params->sharedMemBytes,
                                       .stream = cuda_stream_of(base)->handle};
    cuda_machine_of(base->device)->launches.kernels++;
    cuda_check(base, cudaLaunchKernelExC(&config, params->func, params->kernelParams), "cudaLaunchKernelExC");
}

/* On a stream that has failed events are recorded and nothing else is done: who waits for one is told. */
static void enqueue(struct cuda_stream *stream, const struct cuda_node *node) {
    struct stream *base = &stream->base;
    if (!cuda_stream_ready(base) && node->kind != CUDA_NODE_RECORD) {
        return;
    }
    switch (node->kind) {
    case CUDA_NODE_KERNEL:
        launch_kernel(base, &node->kernel.params);
        break;
    case CUDA_NODE_COPY:
        cuda_check(
            base,
            cudaMemcpyAsync(node->copy.target, node->copy.source, node->copy.bytes, node->copy.kind, stream->handle),
            "cudaMemcpyAsync");
        break;
    case CUDA_NODE_WAIT:
        cuda_check(base, cudaStreamWaitEvent(stream->handle, node->wait.event->handle, 0), "cudaStreamWaitEvent");
        break;
    case CUDA_NODE_RECORD:
        cuda_check(base, cudaEventRecord(node->record.event->handle, stream->handle), "cudaEventRecord");
        node->record.event->failure = stream->failure;
        break;
    }
}

/* ---- the list ---- */

/* Takes the node; false if there is no room. */
static bool append(struct cuda_stream *stream, const struct cuda_node *node) {
    struct cuda_list *list = stream->list;
    if (list->count == CUDA_LIST_NODES) {
        return false;
    }
    struct cuda_node *own = &list->node[list->count];
    *own = *node;
    if (node->kind == CUDA_NODE_KERNEL) {
        uint32_t bytes = 0;
        for (uint32_t i = 0; i < node->kernel.count; i++) {
            bytes += (uint32_t)bytes_align(node->kernel.sizes[i], ARGUMENT_ALIGNMENT);
        }
        if (bytes > CUDA_LIST_BYTES - list->bytes || node->kernel.count > CUDA_LIST_POINTERS - list->pointers) {
            return false;
        }
        own->kernel.at = list->bytes;
        own->kernel.bytes = bytes;
        own->kernel.params.kernelParams = &list->pointer[list->pointers];
        for (uint32_t i = 0; i < node->kernel.count; i++) {
            uint8_t *at = list->argument + list->bytes;
            const size_t size = node->kernel.sizes[i], aligned = bytes_align(size, ARGUMENT_ALIGNMENT);
            memcpy(at, node->kernel.params.kernelParams[i], size);
            memset(at + size, 0, aligned - size); /* arguments are compared whole */
            list->pointer[list->pointers++] = at;
            list->bytes += (uint32_t)aligned;
        }
    } else if (node->kind == CUDA_NODE_WAIT) {
        node->wait.event->waited_by = stream;
    } else if (node->kind == CUDA_NODE_RECORD) {
        node->record.event->listed = stream;
    }
    list->count++;
    return true;
}

void cuda_put(struct stream *base, const struct cuda_node *node) {
    struct cuda_stream *stream = cuda_stream_of(base);
    if (!stream->list || !stream->list->open || !cuda_stream_ready(base)) {
        cuda_flush(stream);
        enqueue(stream, node);
    } else if (!append(stream, node)) {
        cuda_flush(stream);
        CHECK(append(stream, node));
    }
}

/* What is held back of a stream, or of all streams of its group. */
struct held {
    struct cuda_stream *stream[DEVICE_MOST_RANKS];
    uint32_t streams;
    uint32_t most; /* operations of one of them */
};

static void find_held(struct cuda_stream *stream, struct held *held) {
    const struct cuda_group *group = stream->group;
    for (uint32_t r = 0; r < (group ? group->ranks : 1); r++) {
        struct cuda_stream *own = group ? group->stream[r] : stream;
        if (own && own->list && own->list->count > 0) {
            held->stream[held->streams++] = own;
            held->most = own->list->count > held->most ? own->list->count : held->most;
        }
    }
}

/* A stream that is to be given something: if it is one of several, its GPU becomes the thread's. */
static struct cuda_stream *pick(const struct held *held, uint32_t i) {
    struct cuda_stream *stream = held->stream[i];
    if (stream->group) {
        stream->base.device->backend->select(stream->base.device);
    }
    return stream;
}

static bool prepare_graphs(const struct held *held) {
    bool all = true;
    for (uint32_t i = 0; i < held->streams; i++) {
        struct cuda_stream *stream = pick(held, i);
        struct cuda_list *list = stream->list;
        all = list->count >= LEAST_NODES && cuda_graphs_prepare(list->graphs, stream, list) && all;
    }
    return all;
}

static void empty_list(struct cuda_list *list) {
    for (uint32_t i = 0; i < list->count; i++) {
        const struct cuda_node *node = &list->node[i];
        if (node->kind == CUDA_NODE_WAIT) {
            node->wait.event->waited_by = NULL;
        } else if (node->kind == CUDA_NODE_RECORD) {
            node->record.event->listed = NULL;
        }
    }
    list->count = list->pointers = list->bytes = 0;
    list->place++;
}

/* Node by node goes operation after operation to rank after rank, as it would without lists. Records of a stream that
 * fails at its graph's launch are enqueued: who waits for one is told. */
void cuda_flush(struct cuda_stream *stream) {
    struct held held = {.streams = 0};
    find_held(stream, &held);
    if (held.streams == 0) {
        return;
    }
    range_begin("flush", held.most);
    const bool graphs = prepare_graphs(&held);
    for (uint32_t i = 0; graphs && i < held.streams; i++) {
        struct cuda_stream *own = pick(&held, i);
        cuda_graphs_launch(own->list->graphs, own);
    }
    for (uint32_t node = 0; node < held.most; node++) {
        for (uint32_t i = 0; i < held.streams; i++) {
            const struct cuda_list *list = held.stream[i]->list;
            if (node < list->count && (!graphs || !cuda_stream_ready(&held.stream[i]->base))) {
                enqueue(pick(&held, i), &list->node[node]);
            }
        }
    }
    for (uint32_t i = 0; i < held.streams; i++) {
        empty_list(held.stream[i]->list);
    }
    if (stream->group) {
        stream->base.device->backend->select(stream->base.device);
    }
    range_end();
}

void cuda_event_settle(struct cuda_event *event) {
    if (event->listed) {
        cuda_flush(event->listed);
    }
}

cudaStream_t cuda_stream_handle(struct stream *stream) {
    cuda_flush(cuda_stream_of(stream));
    return cuda_stream_of(stream)->handle;
}

/* ---- repeated work ---- */

void cuda_repeat_begin(struct stream *base) {
    struct cuda_list *list = cuda_stream_of(base)->list;
    if (list) {
        CHECK(!list->open && list->count == 0);
        list->open = true;
        list->place = 0;
    }
}

void cuda_repeat_end(struct stream *base) {
    struct cuda_stream *stream = cuda_stream_of(base);
    if (stream->list) {
        CHECK(stream->list->open);
        cuda_flush(stream);
        stream->list->open = false;
    }
}

void cuda_launch(struct stream *stream, const struct cudaKernelNodeParams *params, const size_t *sizes,
                 uint32_t count) {
    cuda_put(stream, &(struct cuda_node){.kind = CUDA_NODE_KERNEL,
                                         .kernel = {.params = *params, .sizes = sizes, .count = count}});
}
