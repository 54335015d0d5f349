/* The graphs of a stream: of the lists that came before, those that came twice are kept as instantiated graphs, to be
 * launched again with what has changed in them.
 *
 * Which graph is a list's says its shape, the kinds of its nodes, their kernels and the directions of copies, and its
 * place among the lists since repeat_begin(): so lists of one shape that follow each other, as those of layers do, each
 * have their own, in which little changes from one iteration to the next. A shape that comes for the first time is
 * only noted, for it may never come again and instantiating takes longer than launching does. Both are bounded, by
 * number and by nodes; the one unused for the longest goes first. Nodes of noted shapes count, too, or shapes that are
 * more than there is room for would be instantiated and thrown away in turn.
 *
 * An update touches launches to come only (Runtime API, cudaGraphExecKernelNodeSetParams), so that none waits for the
 * GPU. A graph that CUDA would not make or change is given up, and its list is launched node by node: that is logged
 * once a stream, and counted. Allocates when a shape is instantiated, and never else. Threads: the host's. */
#include "kernels/cuda/list.h"

#include "base/check.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define GRAPHS 256
#define MOST_NODES 16384 /* of all of them */

struct graph {
    uint64_t used; /* when, in launches */
    uint32_t nodes, bytes;
    bool refused; /* by CUDA: launched node by node as long as it is known */
    cudaGraph_t graph;
    cudaGraphExec_t exec;    /* NULL: the shape is noted */
    cudaGraphNode_t *handle; /* (nodes) */
    struct cuda_node *node;  /* (nodes) as they are in exec */
    uint8_t *argument;       /* (bytes) */
};

struct cuda_graphs {
    uint64_t shape[GRAPHS]; /* 0: free */
    struct graph graph[GRAPHS];
    struct graph *ready; /* to be launched */
    uint64_t now;
    uint32_t nodes; /* of all */
    bool warned;
};

struct cuda_graphs *cuda_graphs_create(void) {
    return calloc(1, sizeof(struct cuda_graphs));
}

/* What of it there is. Its last launch is past: a graph lasts until it has long been unused, or its stream is idle. */
static void destroy_graph(struct graph *graph) {
    if (graph->exec) {
        cudaGraphExecDestroy(graph->exec);
    }
    if (graph->graph) {
        cudaGraphDestroy(graph->graph);
    }
    free(graph->handle);
    free(graph->node);
    free(graph->argument);
    graph->exec = NULL;
    graph->graph = NULL;
    graph->handle = NULL;
    graph->node = NULL;
    graph->argument = NULL;
}

void cuda_graphs_destroy(struct cuda_graphs *graphs) {
    for (uint32_t i = 0; i < GRAPHS; i++) {
        destroy_graph(&graphs->graph[i]);
    }
    free(graphs);
}

/* ---- shapes ---- */

/* What an update cannot change. */
static uint64_t node_shape(const struct cuda_node *node) {
    return (uint64_t)node->kind << 56 ^ (node->kind == CUDA_NODE_KERNEL ? (uint64_t)(uintptr_t)node->kernel.params.func
                                         : node->kind == CUDA_NODE_COPY ? (uint64_t)node->copy.kind
                                                                        : 0);
}

static uint64_t list_shape(const struct cuda_list *list) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325) + list->place;
    for (uint32_t i = 0; i < list->count; i++) {
        hash = (hash ^ node_shape(&list->node[i])) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    return hash | 1; /* 0 is nobody's */
}

static bool is_of_shape(const struct graph *graph, const struct cuda_list *list) {
    if (graph->nodes != list->count || graph->bytes != list->bytes) {
        return false;
    }
    for (uint32_t i = 0; graph->exec && i < list->count; i++) {
        if (node_shape(&graph->node[i]) != node_shape(&list->node[i])) {
            return false;
        }
    }
    return true;
}

/* ---- room ---- */

static void forget(struct cuda_graphs *graphs, uint32_t i) {
    destroy_graph(&graphs->graph[i]);
    graphs->nodes -= graphs->graph[i].nodes;
    graphs->graph[i] = (struct graph){0};
    graphs->shape[i] = 0;
}

static void forget_oldest(struct cuda_graphs *graphs) {
    uint32_t oldest = GRAPHS;
    for (uint32_t i = 0; i < GRAPHS; i++) {
        if (graphs->shape[i] && (oldest == GRAPHS || graphs->graph[i].used < graphs->graph[oldest].used)) {
            oldest = i;
        }
    }
    CHECK(oldest < GRAPHS);
    forget(graphs, oldest);
}

static uint32_t find(const uint64_t *shapes, uint64_t shape) {
    uint32_t i = 0;
    while (i < GRAPHS && shapes[i] != shape) {
        i++;
    }
    return i;
}

static void note(struct cuda_graphs *graphs, uint64_t shape, const struct cuda_list *list) {
    while (graphs->nodes + list->count > MOST_NODES) {
        forget_oldest(graphs);
    }
    uint32_t i = find(graphs->shape, 0);
    if (i == GRAPHS) {
        forget_oldest(graphs);
        i = find(graphs->shape, 0);
    }
    graphs->shape[i] = shape;
    graphs->graph[i] = (struct graph){.used = graphs->now, .nodes = list->count, .bytes = list->bytes};
    graphs->nodes += list->count;
}

/* ---- CUDA's side ---- */

static const char *const add_call[] = {"cudaGraphAddKernelNode", "cudaGraphAddMemcpyNode1D",
                                       "cudaGraphAddEventWaitNode", "cudaGraphAddEventRecordNode"};
static const char *const set_call[] = {"cudaGraphExecKernelNodeSetParams", "cudaGraphExecMemcpyNodeSetParams1D",
                                       "cudaGraphExecEventWaitNodeSetEvent", "cudaGraphExecEventRecordNodeSetEvent"};

static cudaError_t add_node(cudaGraph_t graph, const cudaGraphNode_t *after, const struct cuda_node *node,
                            cudaGraphNode_t *out) {
    const size_t count = after ? 1 : 0;
    switch (node->kind) {
    case CUDA_NODE_KERNEL:
        return cudaGraphAddKernelNode(out, graph, after, count, &node->kernel.params);
    case CUDA_NODE_COPY:
        return cudaGraphAddMemcpyNode1D(out, graph, after, count, node->copy.target, node->copy.source,
                                        node->copy.bytes, node->copy.kind);
    case CUDA_NODE_WAIT:
        return cudaGraphAddEventWaitNode(out, graph, after, count, node->wait.event->handle);
    default:
        return cudaGraphAddEventRecordNode(out, graph, after, count, node->record.event->handle);
    }
}

static cudaError_t set_node(cudaGraphExec_t exec, cudaGraphNode_t handle, const struct cuda_node *node) {
    switch (node->kind) {
    case CUDA_NODE_KERNEL:
        return cudaGraphExecKernelNodeSetParams(exec, handle, &node->kernel.params);
    case CUDA_NODE_COPY:
        return cudaGraphExecMemcpyNodeSetParams1D(exec, handle, node->copy.target, node->copy.source, node->copy.bytes,
                                                  node->copy.kind);
    case CUDA_NODE_WAIT:
        return cudaGraphExecEventWaitNodeSetEvent(exec, handle, node->wait.event->handle);
    default:
        return cudaGraphExecEventRecordNodeSetEvent(exec, handle, node->record.event->handle);
    }
}

static bool same_size(dim3 a, dim3 b) {
    return a.x == b.x && a.y == b.y && a.z == b.z;
}

/* Is the node in the graph as the list has it? */
static bool same_node(const struct cuda_node *a, const uint8_t *a_arguments, const struct cuda_node *b,
                      const uint8_t *b_arguments) {
    switch (a->kind) {
    case CUDA_NODE_KERNEL:
        return same_size(a->kernel.params.gridDim, b->kernel.params.gridDim) &&
               same_size(a->kernel.params.blockDim, b->kernel.params.blockDim) &&
               a->kernel.params.sharedMemBytes == b->kernel.params.sharedMemBytes &&
               memcmp(a_arguments + a->kernel.at, b_arguments + b->kernel.at, a->kernel.bytes) == 0;
    case CUDA_NODE_COPY:
        return a->copy.target == b->copy.target && a->copy.source == b->copy.source && a->copy.bytes == b->copy.bytes;
    case CUDA_NODE_WAIT:
        return a->wait.serial == b->wait.serial;
    default:
        return a->record.serial == b->record.serial;
    }
}

/* Gives the graph up, and says so the first time. */
static bool refuse(struct cuda_graphs *graphs, struct graph *graph, struct cuda_machine *machine, const char *call,
                   const char *why) {
    destroy_graph(graph);
    graph->refused = true;
    machine->launches.refusals++;
    if (!graphs->warned) {
        graphs->warned = true;
        log_warn("device cuda: %s: %s; %u operations are launched one by one instead of as a graph, which is slower",
                 call, why, graph->nodes);
    }
    return false;
}

static bool refused_by_cuda(struct cuda_graphs *graphs, struct graph *graph, struct cuda_machine *machine,
                            const char *call, cudaError_t error) {
    cudaGetLastError();
    return refuse(graphs, graph, machine, call, cudaGetErrorString(error));
}

/* A chain of the list's nodes. */
static bool instantiate(struct cuda_graphs *graphs, struct graph *graph, const struct cuda_stream *stream,
                        const struct cuda_list *list) {
    struct cuda_machine *machine = cuda_machine_of(stream->base.device);
    graph->handle = malloc(list->count * sizeof(cudaGraphNode_t));
    graph->node = malloc(list->count * sizeof *graph->node);
    graph->argument = malloc(list->bytes + 1);
    if (!graph->handle || !graph->node || !graph->argument) {
        return refuse(graphs, graph, machine, "a graph", "no memory");
    }
    cudaError_t error = cudaGraphCreate(&graph->graph, 0);
    if (error != cudaSuccess) {
        return refused_by_cuda(graphs, graph, machine, "cudaGraphCreate", error);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        error = add_node(graph->graph, i > 0 ? &graph->handle[i - 1] : NULL, &list->node[i], &graph->handle[i]);
        if (error != cudaSuccess) {
            return refused_by_cuda(graphs, graph, machine, add_call[list->node[i].kind], error);
        }
    }
    error = cudaGraphInstantiate(&graph->exec, graph->graph, 0);
    if (error != cudaSuccess) {
        return refused_by_cuda(graphs, graph, machine, "cudaGraphInstantiate", error);
    }
    error = cudaGraphUpload(graph->exec, stream->handle); /* now: the first launch shall have nothing to wait for */
    if (error != cudaSuccess) {
        return refused_by_cuda(graphs, graph, machine, "cudaGraphUpload", error);
    }
    memcpy(graph->node, list->node, list->count * sizeof *graph->node);
    memcpy(graph->argument, list->argument, list->bytes);
    machine->launches.instantiations++;
    log_debug("device cuda: a graph of %u operations", list->count);
    return true;
}

/* Makes the graph what the list is, node by node where they differ. */
static bool update(struct cuda_graphs *graphs, struct graph *graph, struct cuda_machine *machine,
                   const struct cuda_list *list) {
    for (uint32_t i = 0; i < list->count; i++) {
        const struct cuda_node *node = &list->node[i];
        if (same_node(&graph->node[i], graph->argument, node, list->argument)) {
            continue;
        }
        const cudaError_t error = set_node(graph->exec, graph->handle[i], node);
        if (error != cudaSuccess) {
            return refused_by_cuda(graphs, graph, machine, set_call[node->kind], error);
        }
        graph->node[i] = *node;
        if (node->kind == CUDA_NODE_KERNEL) {
            memcpy(graph->argument + node->kernel.at, list->argument + node->kernel.at, node->kernel.bytes);
        }
        machine->launches.updates++;
    }
    return true;
}

bool cuda_graphs_prepare(struct cuda_graphs *graphs, struct cuda_stream *stream, const struct cuda_list *list) {
    struct cuda_machine *machine = cuda_machine_of(stream->base.device);
    if (!cuda_stream_ready(&stream->base)) {
        return false;
    }
    graphs->now++;
    const uint64_t shape = list_shape(list);
    const uint32_t i = find(graphs->shape, shape);
    if (i == GRAPHS) {
        note(graphs, shape, list);
        return false;
    }
    struct graph *graph = &graphs->graph[i];
    graph->used = graphs->now;
    if (graph->refused || !is_of_shape(graph, list)) {
        return false;
    }
    graphs->ready = graph;
    return graph->exec ? update(graphs, graph, machine, list) : instantiate(graphs, graph, stream, list);
}

void cuda_graphs_launch(struct cuda_graphs *graphs, struct cuda_stream *stream) {
    const struct graph *graph = graphs->ready;
    if (cuda_check(&stream->base, cudaGraphLaunch(graph->exec, stream->handle), "cudaGraphLaunch")) {
        cuda_machine_of(stream->base.device)->launches.graphs++;
        cuda_machine_of(stream->base.device)->launches.graph_nodes += graph->nodes;
    }
}
