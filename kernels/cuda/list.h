/* How work gets onto a stream of the `cuda` device: at once, or, between repeat_begin() and repeat_end(), by way of a
 * list that goes to the GPU as a graph. For list.c, graph.c and stream.c. Threads: the host's. */
#ifndef METRONOME_KERNELS_CUDA_LIST_H
#define METRONOME_KERNELS_CUDA_LIST_H

#include "kernels/cuda/machine.h"

struct cuda_event {
    struct event base;
    cudaEvent_t handle;
    uint64_t serial; /* no other event of the device had it: a handle may come again */
    bool recorded;
    bool computed;                 /* recorded on a compute stream */
    struct status failure;         /* of the stream when it was recorded */
    struct cuda_stream *listed;    /* its latest record is in this stream's list; NULL: it has been enqueued */
    struct cuda_stream *waited_by; /* this stream's list has a wait for it; NULL: none has */
};

static inline struct cuda_event *cuda_event_of(const struct event *event) {
    return (struct cuda_event *)event;
}

/* What a stream does. */
enum cuda_node_kind { CUDA_NODE_KERNEL, CUDA_NODE_COPY, CUDA_NODE_WAIT, CUDA_NODE_RECORD };

struct cuda_node {
    enum cuda_node_kind kind;
    union {
        struct {
            struct cudaKernelNodeParams params;
            const size_t *sizes; /* (count) bytes of each argument */
            uint32_t count;
            uint32_t at, bytes; /* in a list: its arguments there */
        } kernel;
        struct {
            void *target;
            const void *source;
            size_t bytes;
            enum cudaMemcpyKind kind;
        } copy;
        struct {
            struct cuda_event *event;
            uint64_t serial;
        } wait, record;
    };
};

/* What has been asked of a stream and not been given to it. */
#define CUDA_LIST_NODES 2048
#define CUDA_LIST_POINTERS (16 * CUDA_LIST_NODES)
#define CUDA_LIST_BYTES (1024 * CUDA_LIST_NODES)

struct cuda_list {
    uint32_t count;
    uint32_t pointers, bytes; /* in use */
    uint32_t place;           /* which list it is since repeat_begin(), from 0 */
    bool open;                /* between repeat_begin() and repeat_end() */
    struct cuda_graphs *graphs;
    struct cuda_node node[CUDA_LIST_NODES];
    void *pointer[CUDA_LIST_POINTERS]; /* to arguments of kernels */
    _Alignas(16) uint8_t argument[CUDA_LIST_BYTES];
};

/* ---- list.c ---- */

struct cuda_list *cuda_list_create(void); /* NULL: no memory */
void cuda_list_destroy(struct cuda_list *list);

/* Gives the work to the stream: into its list, if that is open, or at once. */
void cuda_put(struct stream *stream, const struct cuda_node *node);

/* What is in the list goes to the stream now, and with it what is in those of its group. */
void cuda_flush(struct cuda_stream *stream);

/* Before anybody else looks at the event: its record, if it is in a list, is enqueued. */
void cuda_event_settle(struct cuda_event *event);

void cuda_repeat_begin(struct stream *stream);
void cuda_repeat_end(struct stream *stream);

/* ---- graph.c: graphs of lists that came before ---- */

struct cuda_graphs *cuda_graphs_create(void); /* NULL: no memory */
void cuda_graphs_destroy(struct cuda_graphs *graphs);

/* Has a graph of the list ready to be launched next. False if there is none: its shape has not been seen before, CUDA
 * would not make a graph of it (said once, and counted), or the stream has failed. */
bool cuda_graphs_prepare(struct cuda_graphs *graphs, struct cuda_stream *stream, const struct cuda_list *list);

/* Launches it; a launch that CUDA refuses makes the stream fail. */
void cuda_graphs_launch(struct cuda_graphs *graphs, struct cuda_stream *stream);

#endif
