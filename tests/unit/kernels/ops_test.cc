// Every simple op on every device against its scalar reference, on random ragged shapes with poisoned outputs; and the
// promise of invariance: a row's bits depend on neither the batch, the threads nor the instruction set.
// A new op is a row in the table at the end of the first part. (matmul and attention have files of their own.)
extern "C" {
#include "kernels/reference/reference.h"
}
#include "tests/unit/kernels/kernel_test.h"
#include <functional>
#include <limits>

namespace {

// One random problem of `rows` rows.
struct Problem {
    std::string shape;
    uint32_t rows = 0;
    // What the op gives for rows [first, first + count) when it is given these rows alone.
    std::function<std::vector<float>(Bench &bench, uint32_t first, uint32_t count)> run;
    std::function<std::vector<float>()> reference;
};

struct Op {
    const char *name;
    double tolerance; // of ||out - reference|| / ||reference||
    Problem (*draw)(Random &random);
};

std::vector<float> rows_of(const std::vector<float> &all, size_t width, uint32_t first, uint32_t count) {
    return std::vector<float>(all.begin() + first * width, all.begin() + (first + count) * width);
}

uint32_t draw_rows(Random &random) {
    return random.below(3) == 0 ? 1 : 1 + random.below(80);
}

uint32_t draw_width(Random &random) {
    return random.below(2) ? random.pick({1, 15, 16, 17, 63, 64, 65, 576, 1536, 4096}) : 1 + random.below(3000);
}

std::string shape(std::initializer_list<uint32_t> sizes) {
    std::string text;
    for (uint32_t size : sizes) {
        text += (text.empty() ? "" : " x ") + std::to_string(size);
    }
    return text;
}

Problem draw_rmsnorm(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random);
    float scale = (float)random.pick({1, 100, 10000}) / 100;
    auto x = random.normals((size_t)n * dim, scale), gain = random.normals(dim);
    const float epsilon = 1e-5f;
    bool in_place = random.below(2);
    p.shape = shape({n, dim}) + (in_place ? ", in place" : "");
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> in(bench, rows_of(x, dim, first, count)), g(bench, gain), out(bench, (size_t)count * dim);
        Buffer<float> &to = in_place ? in : out;
        op_rmsnorm(bench.stream, to.at(), in.at(), g.at(), epsilon, count, dim);
        return to.read();
    };
    p.reference = [=] {
        std::vector<float> out(x.size());
        ref_rmsnorm(out.data(), x.data(), gain.data(), epsilon, n, dim);
        return out;
    };
    return p;
}

Problem draw_rmsnorm_add(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random);
    float scale = (float)random.pick({1, 100, 10000}) / 100;
    auto x = random.normals((size_t)n * dim, scale), gain = random.normals(dim), into = random.normals((size_t)n * dim);
    const float epsilon = 1e-6f;
    p.shape = shape({n, dim});
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> in(bench, rows_of(x, dim, first, count)), g(bench, gain);
        Buffer<float> out(bench, rows_of(into, dim, first, count));
        op_rmsnorm_add(bench.stream, out.at(), in.at(), g.at(), epsilon, count, dim);
        return out.read();
    };
    p.reference = [=] {
        std::vector<float> out = into;
        ref_rmsnorm_add(out.data(), x.data(), gain.data(), epsilon, n, dim);
        return out;
    };
    return p;
}

// The mean may lie far from the values' spread.
Problem draw_layernorm(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = 2 + draw_width(random);
    auto x = random.normals((size_t)n * dim), gain = random.normals(dim), bias = random.normals(dim);
    const float centre = (float)random.pick({0, 1, 10}), epsilon = 1e-5f;
    for (float &value : x) {
        value += centre;
    }
    bool in_place = random.below(2);
    p.shape = shape({n, dim}) + " about " + std::to_string(centre) + (in_place ? ", in place" : "");
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> in(bench, rows_of(x, dim, first, count)), g(bench, gain), b(bench, bias);
        Buffer<float> out(bench, (size_t)count * dim);
        Buffer<float> &to = in_place ? in : out;
        op_layernorm(bench.stream, to.at(), in.at(), g.at(), b.at(), epsilon, count, dim);
        return to.read();
    };
    p.reference = [=] {
        std::vector<float> out(x.size());
        ref_layernorm(out.data(), x.data(), gain.data(), bias.data(), epsilon, n, dim);
        return out;
    };
    return p;
}

Problem draw_add_rows(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random), rows = 1 + random.below(40);
    auto table = random.normals((size_t)rows * dim), into = random.normals((size_t)n * dim);
    std::vector<uint32_t> ids(n);
    for (uint32_t &id : ids) {
        id = random.below(rows);
    }
    p.shape = shape({n, dim}) + " of " + std::to_string(rows);
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> from(bench, table), out(bench, rows_of(into, dim, first, count));
        Buffer<uint32_t> which(bench, std::vector<uint32_t>(&ids[first], &ids[first] + count));
        op_add_rows(bench.stream, out.at(), from.at(), rows, which.at(), count, dim);
        return out.read();
    };
    p.reference = [=] {
        std::vector<float> out = into;
        ref_add_rows(out.data(), table.data(), ids.data(), n, dim);
        return out;
    };
    return p;
}

Problem draw_scale(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random);
    auto x = random.normals((size_t)n * dim);
    const float factor = random.normals(1)[0];
    p.shape = shape({n, dim});
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> values(bench, rows_of(x, dim, first, count));
        op_scale(bench.stream, values.at(), factor, count, dim);
        return values.read();
    };
    p.reference = [=] {
        std::vector<float> out = x;
        ref_scale(out.data(), factor, n, dim);
        return out;
    };
    return p;
}

Problem draw_rope_angles(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), pairs = random.pick({1, 16, 32, 64, 1 + random.below(100)});
    float magnitude = random.below(2) ? 1 : 1.2f;
    std::vector<uint32_t> positions(n);
    for (uint32_t &position : positions) {
        position = random.below(random.pick({10, 2000, 200000}));
    }
    std::vector<float> frequency(pairs);
    for (uint32_t i = 0; i < pairs; i++) {
        frequency[i] = std::pow(10000.0f, -(float)i / (float)pairs);
    }
    p.shape = shape({n, pairs});
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<uint32_t> at(bench, std::vector<uint32_t>(&positions[first], &positions[first] + count));
        Buffer<float> f(bench, frequency), out(bench, (size_t)count * pairs * 2);
        op_rope_angles(bench.stream, out.at(), at.at(), f.at(), magnitude, count, pairs);
        return out.read();
    };
    p.reference = [=] {
        std::vector<float> out((size_t)n * pairs * 2);
        ref_rope_angles(out.data(), positions.data(), frequency.data(), magnitude, n, pairs);
        return out;
    };
    return p;
}

Problem draw_rope(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), heads = 1 + random.below(12);
    uint32_t head_dim = 2 * random.pick({1, 8, 17, 32, 64});
    uint32_t pairs = random.below(3) ? head_dim / 2 : 1 + random.below(head_dim / 2);
    size_t stride = (size_t)heads * head_dim + random.below(3) * 7;
    enum rope_style style = random.below(2) ? ROPE_INTERLEAVED : ROPE_HALVES;
    auto x = random.normals(n * stride), angles = random.normals((size_t)n * pairs * 2);
    p.shape = shape({n, heads, head_dim, pairs, (uint32_t)stride}) + (style == ROPE_HALVES ? " halves" : "");
    // The whole of x is compared: what is not rotated must be as it was.
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> values(bench, rows_of(x, stride, first, count));
        Buffer<float> turns(bench, rows_of(angles, (size_t)pairs * 2, first, count));
        op_rope(bench.stream, values.at(), stride, turns.at(), style, count, heads, head_dim, pairs);
        return values.read();
    };
    p.reference = [=] {
        std::vector<float> out = x;
        ref_rope(out.data(), stride, angles.data(), style, n, heads, head_dim, pairs);
        return out;
    };
    return p;
}

template <enum activation ACTIVATION> Problem draw_gated(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random);
    auto gate = random.normals((size_t)n * dim, (float)random.pick({1, 10})), up = random.normals((size_t)n * dim);
    uint32_t into = random.below(3); // a buffer of its own, gate or up
    p.shape = shape({n, dim}) + ", into " + std::to_string(into);
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> g(bench, rows_of(gate, dim, first, count)), u(bench, rows_of(up, dim, first, count));
        Buffer<float> own(bench, (size_t)count * dim);
        Buffer<float> &out = into == 0 ? own : into == 1 ? g : u;
        op_gated(bench.stream, ACTIVATION, out.at(), g.at(), u.at(), count, dim);
        return out.read();
    };
    p.reference = [=] {
        std::vector<float> out(gate.size());
        ref_gated(ACTIVATION, out.data(), gate.data(), up.data(), n, dim);
        return out;
    };
    return p;
}

template <enum activation ACTIVATION> Problem draw_activate(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random);
    auto x = random.normals((size_t)n * dim, (float)random.pick({1, 10}));
    x[random.below(n) * dim] = 1; // something to compare with, should all be below 0
    bool in_place = random.below(2);
    p.shape = shape({n, dim}) + (in_place ? ", in place" : "");
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> in(bench, rows_of(x, dim, first, count)), own(bench, (size_t)count * dim);
        Buffer<float> &out = in_place ? in : own;
        op_activate(bench.stream, ACTIVATION, out.at(), in.at(), count, dim);
        return out.read();
    };
    p.reference = [=] {
        std::vector<float> out(x.size());
        ref_activate(ACTIVATION, out.data(), x.data(), n, dim);
        return out;
    };
    return p;
}

Problem draw_gather(Random &random) {
    Problem p;
    uint32_t n = p.rows = draw_rows(random), dim = draw_width(random), source = 1 + random.below(40);
    auto x = random.normals((size_t)source * dim);
    std::vector<uint32_t> rows(n);
    for (uint32_t &row : rows) {
        row = random.below(source);
    }
    p.shape = shape({n, dim}) + " of " + std::to_string(source);
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> from(bench, x), out(bench, (size_t)count * dim);
        Buffer<uint32_t> which(bench, std::vector<uint32_t>(&rows[first], &rows[first] + count));
        op_gather(bench.stream, out.at(), from.at(), which.at(), count, dim);
        return out.read();
    };
    p.reference = [=] {
        std::vector<float> out((size_t)n * dim);
        ref_gather(out.data(), x.data(), rows.data(), n, dim);
        return out;
    };
    return p;
}

// Few distinct values, so that ties abound, and some NaN and infinities.
Problem draw_argmax(Random &random) {
    Problem p;
    uint32_t n = p.rows = 1 + random.below(20), vocabulary = random.pick({1, 2, 513, 1024, 1 + random.below(9000)});
    std::vector<float> logits((size_t)n * vocabulary);
    uint32_t values = random.pick({2, 10, 1000000});
    for (float &logit : logits) {
        uint32_t odd = random.below(50);
        logit = odd == 0   ? std::numeric_limits<float>::quiet_NaN()
                : odd == 1 ? -std::numeric_limits<float>::infinity()
                           : (float)random.below(values) - (float)values;
    }
    p.shape = shape({n, vocabulary}) + " of " + std::to_string(values) + " values";
    p.run = [=](Bench &bench, uint32_t first, uint32_t count) {
        Buffer<float> in(bench, rows_of(logits, vocabulary, first, count));
        Buffer<uint32_t> out(bench, count);
        op_argmax(bench.stream, out.at(), in.at(), count, vocabulary);
        std::vector<uint32_t> indices = out.read();
        return std::vector<float>(indices.begin(), indices.end());
    };
    p.reference = [=] {
        std::vector<uint32_t> out(n);
        ref_argmax(out.data(), logits.data(), n, vocabulary);
        return std::vector<float>(out.begin(), out.end());
    };
    return p;
}

const Op OPS[] = {
    {"rmsnorm", 3e-7, draw_rmsnorm},
    {"rmsnorm_add", 3e-7, draw_rmsnorm_add},
    {"layernorm", 3e-6, draw_layernorm},
    {"add_rows", 1e-7, draw_add_rows},
    {"scale", 1e-7, draw_scale},
    {"rope_angles", 1e-7, draw_rope_angles},
    {"rope", 1e-7, draw_rope},
    {"gated_silu", 3e-7, draw_gated<ACTIVATION_SILU>},
    {"gated_gelu_tanh", 3e-7, draw_gated<ACTIVATION_GELU_TANH>},
    {"gated_relu", 1e-7, draw_gated<ACTIVATION_RELU>},
    {"activate_silu", 3e-7, draw_activate<ACTIVATION_SILU>},
    {"activate_gelu_tanh", 3e-7, draw_activate<ACTIVATION_GELU_TANH>},
    {"activate_relu", 0, draw_activate<ACTIVATION_RELU>},
    {"gather", 0, draw_gather},
    {"argmax", 0, draw_argmax},
};

void PrintTo(const Op &op, std::ostream *out) {
    *out << op.name;
}

class OpTable : public ::testing::TestWithParam<Op> {};

TEST_P(OpTable, AgreeWithTheReferenceAndDoNotVary) {
#ifdef SANITIZED
    const int PROBLEMS = 4;
#else
    const int PROBLEMS = 24;
#endif
    const Op &op = GetParam();
    std::vector<Setting> settings = every_setting();
    ASSERT_GE(settings.size(), 1u);
    std::vector<std::unique_ptr<Bench>> benches;
    for (const Setting &setting : settings) {
        benches.push_back(std::make_unique<Bench>(setting));
    }
    for (uint64_t seed = 1; seed <= PROBLEMS; seed++) {
        Random random(seed);
        Problem problem = op.draw(random);
        SCOPED_TRACE(std::string(op.name) + " " + problem.shape + ", seed " + std::to_string(seed));
        std::vector<float> reference = problem.reference();
        size_t width = reference.size() / problem.rows;
        std::vector<float> first_out;
        for (size_t i = 0; i < benches.size(); i++) {
            SCOPED_TRACE(settings[i].name());
            std::vector<float> out = problem.run(*benches[i], 0, problem.rows);
            ASSERT_LE(relative_error(out, reference), op.tolerance);
            first_out = i == 0 || !settings[i].same_device(settings[i - 1]) ? out : first_out;
            ASSERT_TRUE(same_bits(out, first_out)) << "instruction sets or threads differ";
            uint32_t first = random.below(problem.rows), count = 1 + random.below(problem.rows - first);
            ASSERT_TRUE(same_bits(problem.run(*benches[i], first, 1), rows_of(out, width, first, 1))) << "alone";
            ASSERT_TRUE(same_bits(problem.run(*benches[i], first, count), rows_of(out, width, first, count)))
                << "in a chunk";
        }
    }
}

INSTANTIATE_TEST_SUITE_P(, OpTable, ::testing::ValuesIn(OPS), [](const auto &info) { return info.param.name; });

// ---- what random numbers do not meet ----

TEST(Argmax, TiesGoToTheLowestIndexAndNaNNeverWins) {
    const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
    for (const Setting &setting : every_setting()) {
        SCOPED_TRACE(setting.name());
        Bench bench(setting);
        const uint32_t vocabulary = 2000;
        std::vector<std::vector<float>> rows(6, std::vector<float>(vocabulary, 0));
        rows[0][1999] = 1;                                                   // the last
        rows[1][700] = rows[1][701] = rows[1][1500] = 5;                     // a tie across blocks
        rows[2].assign(vocabulary, nan), rows[2][1234] = -inf;               // the only number
        rows[3].assign(vocabulary, nan);                                     // none
        rows[4].assign(vocabulary, -inf);                                    // all alike
        rows[5].assign(vocabulary, -3), rows[5][0] = nan, rows[5][600] = -2; // below zero: padding must not win
        const std::vector<uint32_t> expected = {1999, 700, 1234, 0, 0, 600};
        std::vector<float> logits;
        for (const auto &row : rows) {
            logits.insert(logits.end(), row.begin(), row.end());
        }
        Buffer<float> in(bench, logits);
        Buffer<uint32_t> out(bench, rows.size());
        op_argmax(bench.stream, out.at(), in.at(), (uint32_t)rows.size(), vocabulary);
        EXPECT_EQ(out.read(), expected);
        std::vector<uint32_t> reference(rows.size());
        ref_argmax(reference.data(), logits.data(), (uint32_t)rows.size(), vocabulary);
        EXPECT_EQ(reference, expected);
    }
}

// Element by element, over the whole range in which exp() matters and beyond. Far below 0 GELU's exponent is large, and
// so is the relative error of a result that is next to nothing.
TEST(Activations, AreAccurateEverywhere) {
    std::vector<float> gate;
    for (int i = -8760; i <= 8760; i++) {
        gate.push_back((float)i * 0.0137f); // -120 to 120
        gate.push_back((float)i * 0.001f);
    }
    for (float x : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e30f, -1e30f, 3e38f, -3e38f}) {
        gate.push_back(x);
    }
    const uint32_t count = (uint32_t)gate.size();
    std::vector<float> up(count, 1), reference(count);
    for (enum activation activation : {ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_RELU}) {
        ref_gated(activation, reference.data(), gate.data(), up.data(), 1, count);
        for (const Setting &setting : every_setting()) {
            SCOPED_TRACE(setting.name());
            Bench bench(setting);
            Buffer<float> g(bench, gate), u(bench, up), out(bench, count), plain(bench, count);
            op_gated(bench.stream, activation, out.at(), g.at(), u.at(), 1, count);
            op_activate(bench.stream, activation, plain.at(), g.at(), 1, count);
            std::vector<float> got = out.read();
            ASSERT_TRUE(same_bits(got, plain.read()));
            for (size_t i = 0; i < count; i++) {
                double relative = activation == ACTIVATION_GELU_TANH && gate[i] < -2 ? 1e-5 : 5e-7;
                ASSERT_NEAR(got[i], reference[i], relative * std::fabs(reference[i]) + 1e-35)
                    << "activation " << activation << " of " << gate[i];
            }
        }
    }
}

TEST(Ops, NaNStaysNaN) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const Setting &setting : every_setting()) {
        SCOPED_TRACE(setting.name());
        Bench bench(setting);
        std::vector<float> x(100, 1), ones(100, 1);
        x[37] = nan;
        Buffer<float> in(bench, x), other(bench, ones), out(bench, x.size());
        for (enum activation activation : {ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_RELU}) {
            op_gated(bench.stream, activation, out.at(), in.at(), other.at(), 1, 100);
            std::vector<float> got = out.read();
            EXPECT_TRUE(std::isnan(got[37])) << activation;
            EXPECT_FALSE(std::isnan(got[36]) || std::isnan(got[38])) << activation;
        }
        op_layernorm(bench.stream, out.at(), in.at(), other.at(), other.at(), 1e-5f, 1, 100);
        EXPECT_TRUE(std::isnan(out.read()[0])) << "a NaN spoils its whole row";
        op_rmsnorm(bench.stream, out.at(), in.at(), other.at(), 1e-5f, 1, 100);
        EXPECT_TRUE(std::isnan(out.read()[0])) << "a NaN spoils its whole row";
    }
}

TEST(Ops, NoRowsIsNoWork) {
    Bench bench(every_setting().front());
    op_rmsnorm(bench.stream, nullptr, nullptr, nullptr, 1e-5f, 0, 64);
    op_rmsnorm_add(bench.stream, nullptr, nullptr, nullptr, 1e-5f, 0, 64);
    op_layernorm(bench.stream, nullptr, nullptr, nullptr, nullptr, 1e-5f, 0, 64);
    op_add_rows(bench.stream, nullptr, nullptr, 0, nullptr, 0, 64);
    op_scale(bench.stream, nullptr, 1, 0, 64);
    op_gated(bench.stream, ACTIVATION_SILU, nullptr, nullptr, nullptr, 0, 64);
    op_activate(bench.stream, ACTIVATION_RELU, nullptr, nullptr, 0, 64);
    op_argmax(bench.stream, nullptr, nullptr, 0, 64);
    op_sample(bench.stream, nullptr, nullptr, nullptr, 0, 64);
    EXPECT_OK(stream_sync(bench.stream));
}

} // namespace
