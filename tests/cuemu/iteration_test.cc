// An iteration on the emulated device: as graphs it gives the bits that it gives kernel by kernel, for every family and
// with weights that are streamed, and it takes as few calls of CUDA's as it should. Operations are late at random.
#include "tests/cuemu/include/cuemu.h"
#include "tests/unit/models/family_model.h"
#include "tests/unit/models/forward_runner.h"
#include "tests/unit/models/tiny_model.h"
#include "tests/unit/scheduler/running_engine.h"

namespace {

class Iteration : public ::testing::Test {
  protected:
    void SetUp() override {
        setenv("METRONOME_TEST_DEVICE", "cuda", 1); // for Runner
    }
    void TearDown() override {
        cuemu_set_seed(0);
        cuemu_set_delay_us(0);
        cuemu_set_machine(machine);
    }
    const struct cuemu_machine machine = cuemu_machine();
};

// ---- families ----

// A prompt in chunks of three, then a few tokens one by one: all logits.
std::vector<Logits> pass(struct model *model, const FamilyModel &family, bool no_graphs, uint64_t *graphs) {
    Runner::Options options;
    options.compute = COMPUTE_INT8;
    options.no_graphs = no_graphs;
    Runner runner(model, options);
    const size_t chunked = family.ids.size() - 4;
    std::vector<Logits> all;
    for (size_t at = 0; at < family.ids.size();) {
        const size_t end = at < chunked ? std::min(chunked, at + 3) : at + 1;
        const std::vector<uint32_t> ids(family.ids.begin() + static_cast<long>(at),
                                        family.ids.begin() + static_cast<long>(end));
        all.push_back(runner.step({{1, ids, {static_cast<uint32_t>(ids.size() - 1)}}}).at(0));
        at = end;
    }
    *graphs = device_launch_count(runner.device()).graphs;
    return all;
}

TEST_F(Iteration, OfEveryFamilyIsTheSameAsGraphs) {
    for (const FamilyModel &family : FamilyModel::read()) {
        SCOPED_TRACE(family.name + " " + family.dtype);
        Folder folder;
        family.write_directory(folder);
        struct model_options options = {QUANTIZE_NONE, true};
        struct model *model = nullptr;
        Engine::check(model_open_with(folder.path.c_str(), &options, &model));
        uint64_t graphs, none;
        cuemu_set_delay_us(20);
        EXPECT_EQ(pass(model, family, false, &graphs), pass(model, family, true, &none));
        EXPECT_GE(graphs, 5u);
        EXPECT_EQ(none, 0u);
        model_close(model);
    }
}

// ---- engines ----

constexpr uint32_t CONTEXT = 96, REQUESTS = 3;

// A model of `layers` layers, on disk as long as the test runs, and what its iterations cost, measured once.
class Model {
  public:
    explicit Model(uint32_t layers) {
        tiny_.layers = layers;
        tiny_.context = CONTEXT;
        tiny_.type = TENSOR_Q8_0;
        tiny_.feed_forward = 128;
        tiny_.make();
        options.weights = tiny_.write();
        options.device = "cuda";
        options.context = CONTEXT;
        options.max_sequences = 4;
        options.kv_tokens = 4 * CONTEXT;
    }
    // To be called while an engine of it lives.
    void keep_record(const Engine &engine) {
        if (engine_record(engine.engine)) {
            record_ = *engine_record(engine.engine);
            options.record = &record_;
        }
    }
    Options options;

  private:
    TinyModel tiny_;
    struct record record_ = {};
};

std::vector<std::unique_ptr<Request>> submit(Engine &engine, uint32_t tokens) {
    std::vector<std::unique_ptr<Request>> requests;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        std::vector<uint32_t> prompt;
        for (uint32_t j = 0; j < 8 + 3 * i; j++) {
            prompt.push_back((7 * i + 3 * j + 1) % 80);
        }
        requests.push_back(std::make_unique<Request>(prompt, tokens));
        requests.back()->request.sampling.ignore_eos = true;
        requests.back()->request.sampling.logprobs = true;
        requests.back()->request.arrival_ns = device_now_ns(engine.device);
        Engine::check(engine_submit(engine.engine, &requests.back()->request));
    }
    return requests;
}

struct Given {
    std::vector<std::vector<uint32_t>> tokens;
    std::vector<std::vector<float>> logprobs;
    struct engine_stats stats = {};
    struct launch_count count = {};
};

Given generate(Model &model) {
    Engine engine(model.options);
    model.keep_record(engine);
    std::vector<std::unique_ptr<Request>> requests = submit(engine, 24);
    run_until_idle(engine);
    Given given;
    for (const auto &request : requests) {
        EXPECT_EQ(request->outcome.finish, FINISH_LENGTH);
        given.tokens.push_back(request->outcome.tokens);
        given.logprobs.push_back(request->outcome.logprobs);
    }
    engine_stats(engine.engine, &given.stats);
    given.count = device_launch_count(engine.device);
    return given;
}

// A quarter, half and three quarters of every layer come through the ring.
TEST_F(Iteration, WithStreamedWeightsIsTheSameAsGraphs) {
    Model model(6);
    model.options.no_graphs = true;
    const Given want = generate(model);
    EXPECT_EQ(want.count.graphs, 0u);
    model.options.no_graphs = false;
    model.options.policy = "flexgen";
    model.options.slabs = 4;
    for (double percent : {25.0, 50.0, 75.0}) {
        SCOPED_TRACE(percent);
        model.options.policy_options.percent = percent;
        cuemu_set_seed(static_cast<uint64_t>(percent));
        cuemu_set_delay_us(50);
        const Given got = generate(model);
        EXPECT_EQ(got.tokens, want.tokens);
        EXPECT_EQ(got.logprobs, want.logprobs);
        EXPECT_GT(got.stats.offload.total_bytes_streamed, 0u) << "a test of offloading with nothing offloaded";
        EXPECT_GT(got.count.graphs, 0u);
    }
}

// On two GPUs, with sums of either kind, and layers that leave graphs where they are released.
TEST_F(Iteration, OfTwoRanksIsTheSameAsGraphs) {
    struct cuemu_machine two = machine;
    two.devices = 2;
    cuemu_set_machine(two);
    Model model(6);
    model.options.ranks = 2;
    model.options.no_graphs = true;
    model.options.all_reduce = ALL_REDUCE_NCCL;
    const Given want = generate(model);
    model.options.no_graphs = false;
    for (enum all_reduce all_reduce : {ALL_REDUCE_NCCL, ALL_REDUCE_PEER}) {
        model.options.all_reduce = all_reduce;
        for (const char *policy : {"none", "flexgen"}) {
            SCOPED_TRACE(policy);
            model.options.policy = policy;
            model.options.slabs = 4;
            model.options.policy_options.percent = 50;
            cuemu_set_seed(static_cast<uint64_t>(all_reduce));
            cuemu_set_delay_us(50);
            const Given got = generate(model);
            EXPECT_EQ(got.tokens, want.tokens);
            EXPECT_EQ(got.logprobs, want.logprobs);
            EXPECT_EQ(got.stats.offload.total_bytes_streamed > 0, strcmp(policy, "flexgen") == 0);
            EXPECT_GT(got.count.graphs, 0u);
        }
    }
}

// ---- calls ----

const char *const CALLS[] = {"cudaLaunchKernelExC",
                             "cudaGraphLaunch",
                             "cudaGraphExecKernelNodeSetParams",
                             "cudaGraphExecMemcpyNodeSetParams1D",
                             "cudaGraphExecEventWaitNodeSetEvent",
                             "cudaGraphExecEventRecordNodeSetEvent",
                             "cudaGraphInstantiate",
                             "ncclAllReduce",
                             "cudaMemcpyAsync",
                             "cudaEventRecord",
                             "cudaStreamWaitEvent",
                             "cudaEventQuery",
                             "cudaEventSynchronize",
                             "cudaEventElapsedTime"};

// CUDA's calls in an iteration that decodes, on average over ten.
std::map<std::string, double> calls_of(Model &model) {
    constexpr uint32_t WARM = 10, ITERATIONS = 10;
    Engine engine(model.options);
    model.keep_record(engine);
    std::vector<std::unique_ptr<Request>> requests = submit(engine, WARM + ITERATIONS + 4);
    std::map<std::string, double> calls;
    for (uint32_t i = 0; i < WARM + ITERATIONS; i++) {
        if (i == WARM) {
            for (const char *call : CALLS) {
                calls[call] = -static_cast<double>(cuemu_calls(call));
            }
            calls["all"] = -static_cast<double>(cuemu_calls(nullptr));
        }
        bool idle = false;
        Engine::check(engine_step(engine.engine, &idle));
        drain_events(engine.engine);
    }
    for (auto &[call, count] : calls) {
        count = (count + static_cast<double>(cuemu_calls(call == "all" ? nullptr : call.c_str()))) / ITERATIONS;
    }
    run_until_idle(engine);
    return calls;
}

// Thirty layers as they are in the demo model, resident and every second one streamed: what docs/design.md says.
// On two GPUs, whose calls are all counted, own sums are in the one graph of each, and NCCL's are not.
TEST_F(Iteration, TakesFewCalls) {
    Model model(30);
    std::vector<std::map<std::string, double>> columns;
    for (const char *policy : {"none", "select-n"}) {
        for (bool no_graphs : {true, false}) {
            model.options.policy = policy;
            model.options.policy_options.interval = 2;
            model.options.no_graphs = no_graphs;
            columns.push_back(calls_of(model));
        }
    }
    struct cuemu_machine two = machine;
    two.devices = 2;
    cuemu_set_machine(two);
    model.options.ranks = 2;
    model.options.policy = "none";
    for (enum all_reduce all_reduce : {ALL_REDUCE_NCCL, ALL_REDUCE_PEER}) {
        model.options.all_reduce = all_reduce;
        columns.push_back(calls_of(model));
    }
    printf("%-38s %9s %9s %9s %9s %9s %9s\n", "an iteration of 30 layers", "resident", "as graphs", "streamed",
           "as graphs", "NCCL, 2", "peers, 2");
    for (const auto &[call, count] : columns[0]) {
        printf("%-38s", call.c_str());
        for (auto &column : columns) {
            printf(" %9.1f", column[call]);
        }
        printf("\n");
    }
    EXPECT_EQ(columns[1]["cudaGraphLaunch"], 1);
    EXPECT_EQ(columns[1]["cudaLaunchKernelExC"], 0);
    EXPECT_LE(columns[3]["cudaGraphLaunch"], 16) << "one for each layer that is streamed, and what follows the last";
    EXPECT_LE(columns[3]["cudaLaunchKernelExC"], 2) << "of what is too short for a graph";
    EXPECT_LT(columns[3]["all"], columns[2]["all"]);
    EXPECT_EQ(columns[4]["ncclAllReduce"], 2 * 2 * 30);
    EXPECT_EQ(columns[5]["cudaGraphLaunch"], 2) << "one a rank";
    EXPECT_EQ(columns[5]["cudaLaunchKernelExC"], 0);
    EXPECT_EQ(columns[5]["cudaGraphExecKernelNodeSetParams"], 0);
}

} // namespace
