// kernels/sim/hardware.c and figures.c: descriptions of hardware, and what is refused of them.
#include "tests/unit/kernels/sim_rig.h"

static struct status parse(const std::string &text, struct hardware *out = nullptr) {
    struct hardware hardware = {};
    struct status status = hardware_parse(text.data(), text.size(), &hardware);
    if (out) {
        *out = hardware;
    }
    return status;
}

// The round description with one piece of text in the place of another.
static std::string with(const std::string &from, const std::string &to) {
    std::string text = round_hardware(10, 20);
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

TEST(Hardware, ReadsEveryFigure) {
    struct hardware hardware;
    must(parse(round_hardware(10, 20, 30), &hardware));
    EXPECT_STREQ(hardware.name, "round");
    EXPECT_STREQ(hardware.bus, "test");
    EXPECT_EQ(hardware.device_memory_bytes, uint64_t{16} << 30);
    EXPECT_EQ(hardware.memory_bytes_per_s, 1e12);
    EXPECT_EQ(hardware.f16_flops_per_s, 1e14);
    EXPECT_EQ(hardware.int8_ops_per_s, 2e14);
    EXPECT_EQ(hardware.f32_flops_per_s, 1e13);
    EXPECT_EQ(hardware.compute_efficiency, 1);
    EXPECT_EQ(hardware.bandwidth_efficiency, 1);
    EXPECT_EQ(hardware.op_launch_ns, 20u);
    EXPECT_EQ(hardware.host_enqueue_ns, 30u);
    EXPECT_EQ(hardware.link_nominal_bytes_per_s, 1e9);
    EXPECT_EQ(hardware.link_bytes_per_s, 1e9);
    EXPECT_EQ(hardware.link_latency_ns, 10u);
    EXPECT_EQ(hardware.peer_bytes_per_s, 2e9);
    EXPECT_EQ(hardware.peer_latency_ns, 5u);
}

TEST(Hardware, RefusesWithTheFieldsName) {
    const struct {
        std::string text, message;
    } cases[] = {
        {"", "is not JSON"},
        {"[1, 2]", "expected an object of figures, found an array"},
        {"{}", "name: is missing"},
        {round_hardware(10, 20) + "x", "something follows the description"},
        {std::string(70000, ' '), "is longer than"},
        {with("\"name\": \"round\"", "\"name\": 5"), "name: expected a string, found a number"},
        {with("\"round\"", "\"\""), "name: must be 1 to 63 printable characters, has 0"},
        {with("\"round\"", "\"r\\u0007\""), "name: must be"},
        {with("\"round\"", "\"" + std::string(64, 'x') + "\""), "name: must be 1 to 63"},
        {with("\"name\"", "\"nome\""), "nome: there is no such figure"},
        {with("\"bus\": \"test\"", "\"bus\": \"test\", \"bus\": \"test\""), "bus: is there twice"},
        {with("17179869184", "null"), "device_memory_bytes: expected a number, found null"},
        {with("17179869184", "1048576.5"), "device_memory_bytes: is 1048576.5, must be a whole number"},
        {with("17179869184", "-1"), "device_memory_bytes: is -1, must be 1.04858e+06 to 7.03687e+13"},
        {with("\"memory_bytes_per_s\": 1e12", "\"memory_bytes_per_s\": 1e999"), "memory_bytes_per_s: is inf"},
        {with("\"compute_efficiency\": 1", "\"compute_efficiency\": 1.01"),
         "compute_efficiency: is 1.01, must be 0.01 to 1"},
        {with("\"compute_efficiency\": 1", "\"compute_efficiency\": 0"), "compute_efficiency: is 0"},
        {with("\"link_bytes_per_s\": 1e9", "\"link_bytes_per_s\": 2e9"),
         "link_bytes_per_s: is 2e+09, more than link_nominal_bytes_per_s, 1e+09"},
        {with("{\"all\": \"round figures of a test\"}", "3"), "sources: expected an object"},
        {with("\"all\": \"round figures of a test\"", ""), "sources.device_memory_bytes: is missing"},
        {with("\"all\"", "\"some\""), "sources.some: there is no such figure"},
        {with("\"round figures of a test\"", "\"\""), "sources.all: expected the name of a document"},
        {with("\"all\": ", "\"all\": \"x\", \"all\": "), "sources.all: is there twice"},
        {with("\"sources\": {", "\"sources\": {}, \"sources\": {"), "sources: is there twice"},
    };
    for (const auto &each : cases) {
        struct status status = parse(each.text);
        EXPECT_EQ(status.code, STATUS_INVALID) << each.message;
        EXPECT_NE(std::string(status.message).find(each.message), std::string::npos)
            << status.message << "\nexpected: " << each.message;
    }
}

TEST(Hardware, LoadsFilesAndSaysWhichItCannot) {
    struct hardware hardware;
    for (const char *name : {"a10", "a100-40g", "a100-80g", "h100", "rtx4090", "gh200", "cpu"}) {
        must(hardware_load((std::string("configs/hardware/") + name + ".json").c_str(), &hardware));
        EXPECT_GT(hardware.int8_ops_per_s, hardware.f32_flops_per_s) << name;
        EXPECT_GT(hardware.memory_bytes_per_s, hardware.link_nominal_bytes_per_s) << name;
    }
    must(hardware_load("configs/hardware/a10.json", &hardware));
    EXPECT_EQ(hardware.link_bytes_per_s, 24e9); // as Select-N has it
    EXPECT_EQ(hardware_load("configs/hardware/none.json", &hardware).code, STATUS_NOT_FOUND);
    EXPECT_EQ(hardware_load("configs/hardware", &hardware).code, STATUS_IO);
    TemporaryFile broken(with("1e12", "\"fast\""));
    struct status status = hardware_load(broken.path(), &hardware);
    EXPECT_EQ(std::string(status.message),
              std::string(broken.path()) + ": memory_bytes_per_s: expected a number, found a string");
}
