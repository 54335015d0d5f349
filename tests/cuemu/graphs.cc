// The emulator's graphs, made node by node (no capture): kernels, copies, and waits for and records of events.
//
// CUDA's rules: an instantiated graph is a copy, which changes only by cudaGraphExec*Set*(), node by node; a launch
// takes all of it as it is then. It waits for what was on the stream before, and what comes on the stream later waits
// for it. A wait node waits for the record of its event that is the latest at the launch, so one that the same launch
// makes is not it; the launch records the events of record nodes. Nodes run after those that they were added after, in
// an order drawn from the seed where that leaves a choice.
//
// It is stricter than CUDA where that finds mistakes: another kernel in an update, or an event of another GPU, is
// refused. Threads: a graph is one thread's.
#include "tests/cuemu/internal.h"

#include <map>
#include <memory>
#include <set>
#include <vector>

namespace {

enum class Kind { KERNEL, COPY, WAIT, RECORD };

struct Work {
    Kind kind;
    int device = cuemu::current_device();
    cuemu::Launch launch = {};
    void *target = nullptr;
    const void *source = nullptr;
    size_t bytes = 0;
    enum cudaMemcpyKind direction = cudaMemcpyDeviceToDevice;
    cudaEvent_t event = nullptr;
};

} // namespace

struct cuemu_graph_node {
    Work work;
    std::set<cudaGraphNode_t> after;
};

struct cuemu_graph {
    std::vector<std::unique_ptr<cuemu_graph_node>> nodes; // each behind those that it comes after
};

struct cuemu_graph_exec {
    std::vector<Work> works;
    std::vector<std::set<size_t>> after;
    std::map<cudaGraphNode_t, size_t> index; // of the nodes of the graph that it was made from
};

namespace {

// The work that a call's parameters ask for, or why there is none.
struct Asked {
    cudaError_t error;
    Work work;
};

Asked kernel_work(const struct cudaKernelNodeParams *params) {
    Asked asked = {cudaErrorNotSupported, {Kind::KERNEL}};
    if (!params->extra) {
        asked.error = cuemu::make_launch(params->func, params->gridDim, params->blockDim, params->sharedMemBytes,
                                         params->kernelParams, &asked.work.launch);
    }
    return asked;
}

Asked copy_work(void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind) {
    Work work = {Kind::COPY};
    work.target = target;
    work.source = source;
    work.bytes = bytes;
    work.direction = kind;
    const bool can = bytes > 0 && cuemu::can_copy(target, source, bytes, kind, work.device);
    return {can ? cudaSuccess : cudaErrorInvalidValue, std::move(work)};
}

Asked event_work(Kind kind, cudaEvent_t event) {
    Work work = {kind};
    work.event = event;
    const bool ours = event && cuemu::device_of(event) == work.device;
    return {ours ? cudaSuccess : cudaErrorInvalidValue, std::move(work)};
}

cudaError_t add(cudaGraphNode_t *out, cudaGraph_t graph, const cudaGraphNode_t *after, size_t count, Asked asked) {
    REFUSE_UNLESS(asked.error == cudaSuccess, asked.error);
    auto node = std::make_unique<cuemu_graph_node>();
    node->work = std::move(asked.work);
    for (size_t i = 0; i < count; i++) {
        bool ours = false;
        for (const auto &other : graph->nodes) {
            ours = ours || other.get() == after[i];
        }
        REFUSE_UNLESS(ours && node->after.insert(after[i]).second, cudaErrorInvalidValue);
    }
    *out = node.get();
    graph->nodes.push_back(std::move(node));
    return cudaSuccess;
}

cudaError_t set(cudaGraphExec_t exec, cudaGraphNode_t node, Asked asked) {
    REFUSE_UNLESS(asked.error == cudaSuccess, asked.error);
    auto at = exec->index.find(node);
    REFUSE_UNLESS(at != exec->index.end(), cudaErrorInvalidValue);
    Work &old = exec->works[at->second];
    REFUSE_UNLESS(old.kind == asked.work.kind && old.device == asked.work.device &&
                      old.direction == asked.work.direction && old.launch.kernel == asked.work.launch.kernel,
                  cudaErrorInvalidValue);
    old = std::move(asked.work);
    return cudaSuccess;
}

// The nodes in an order that their dependencies allow.
std::vector<size_t> draw_order(const cuemu_graph_exec &exec, uint64_t seed) {
    std::vector<size_t> order, ready;
    std::vector<bool> placed(exec.works.size());
    while (order.size() < exec.works.size()) {
        ready.clear();
        for (size_t i = 0; i < exec.works.size(); i++) {
            bool waits = placed[i];
            for (size_t before : exec.after[i]) {
                waits = waits || !placed[before];
            }
            if (!waits) {
                ready.push_back(i);
            }
        }
        const size_t next = ready[seed ? cuemu::draw(seed) % ready.size() : 0];
        placed[next] = true;
        order.push_back(next);
    }
    return order;
}

} // namespace

// ---- graphs ----

cudaError_t cudaGraphCreate(cudaGraph_t *out, unsigned flags) {
    ENTER("cudaGraphCreate");
    REFUSE_UNLESS(flags == 0, cudaErrorInvalidValue);
    *out = new cuemu_graph;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    ENTER("cudaGraphDestroy");
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *out, cudaGraph_t graph, const cudaGraphNode_t *after, size_t count,
                                   const struct cudaKernelNodeParams *params) {
    ENTER("cudaGraphAddKernelNode");
    return add(out, graph, after, count, kernel_work(params));
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t *out, cudaGraph_t graph, const cudaGraphNode_t *after,
                                     size_t count, void *target, const void *source, size_t bytes,
                                     enum cudaMemcpyKind kind) {
    ENTER("cudaGraphAddMemcpyNode1D");
    return add(out, graph, after, count, copy_work(target, source, bytes, kind));
}

cudaError_t cudaGraphAddEventWaitNode(cudaGraphNode_t *out, cudaGraph_t graph, const cudaGraphNode_t *after,
                                      size_t count, cudaEvent_t event) {
    ENTER("cudaGraphAddEventWaitNode");
    return add(out, graph, after, count, event_work(Kind::WAIT, event));
}

cudaError_t cudaGraphAddEventRecordNode(cudaGraphNode_t *out, cudaGraph_t graph, const cudaGraphNode_t *after,
                                        size_t count, cudaEvent_t event) {
    ENTER("cudaGraphAddEventRecordNode");
    return add(out, graph, after, count, event_work(Kind::RECORD, event));
}

// ---- instantiated ----

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags) {
    ENTER("cudaGraphInstantiate");
    REFUSE_UNLESS(flags == 0, cudaErrorInvalidValue);
    auto exec = std::make_unique<cuemu_graph_exec>();
    for (const auto &node : graph->nodes) {
        exec->index[node.get()] = exec->works.size();
        exec->works.push_back(node->work);
        exec->after.emplace_back();
        for (cudaGraphNode_t before : node->after) {
            exec->after.back().insert(exec->index[before]);
        }
    }
    *out = exec.release();
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
    ENTER("cudaGraphUpload");
    REFUSE_UNLESS(exec && stream, cudaErrorInvalidValue);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    ENTER("cudaGraphExecDestroy");
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const struct cudaKernelNodeParams *params) {
    ENTER("cudaGraphExecKernelNodeSetParams");
    return set(exec, node, kernel_work(params));
}

cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node, void *target,
                                               const void *source, size_t bytes, enum cudaMemcpyKind kind) {
    ENTER("cudaGraphExecMemcpyNodeSetParams1D");
    return set(exec, node, copy_work(target, source, bytes, kind));
}

cudaError_t cudaGraphExecEventWaitNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node, cudaEvent_t event) {
    ENTER("cudaGraphExecEventWaitNodeSetEvent");
    return set(exec, node, event_work(Kind::WAIT, event));
}

cudaError_t cudaGraphExecEventRecordNodeSetEvent(cudaGraphExec_t exec, cudaGraphNode_t node, cudaEvent_t event) {
    ENTER("cudaGraphExecEventRecordNodeSetEvent");
    return set(exec, node, event_work(Kind::RECORD, event));
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    ENTER("cudaGraphLaunch");
    std::map<size_t, std::function<void()>> waits;
    for (size_t i = 0; i < exec->works.size(); i++) {
        REFUSE_UNLESS(exec->works[i].device == cuemu::device_of(stream), cudaErrorInvalidValue);
        if (exec->works[i].kind == Kind::WAIT) {
            waits[i] = cuemu::wait_for(exec->works[i].event);
        }
    }
    for (size_t i : draw_order(*exec, cuemu::seed())) {
        const Work &work = exec->works[i];
        switch (work.kind) {
        case Kind::KERNEL:
            cuemu::enqueue(stream, work.launch);
            break;
        case Kind::COPY:
            cuemu::enqueue(stream, [target = work.target, source = work.source, bytes = work.bytes] {
                memmove(target, source, bytes);
            });
            break;
        case Kind::WAIT:
            cuemu::enqueue(stream, std::move(waits[i]));
            break;
        case Kind::RECORD:
            cuemu::enqueue_record(stream, work.event);
            break;
        }
    }
    return cudaSuccess;
}
