#!/usr/bin/env python3
"""Runs the tests and sums them up; the last line is always "N passed, N failed, N skipped".

Usage: tests/run.py [--minutes N] [--fuzz-seconds N] [SUITE...]      no names: all, in this order

  house    directions of includes and the other ways of the house (tests/tools/house.py)
  format   clang-format finds nothing to change
  unit     tests/unit with GoogleTest, as released
  asan     the same under the address and undefined-behaviour sanitizers
  tsan     those of them that start threads under the thread sanitizer
  cuemu    the cuda device on the emulator of tests/cuemu: every kernel, every op, failing machines
  cuda     nvcc compiles the cuda device for every architecture; no kernel spills, and what kernels take is as
           docs/cuda-resources.md says
  fuzz     every target in tests/fuzz: its committed seeds, then new inputs for a fixed time
  tools    tests of the scripts in tests/tools
  compare  tests/tools/*_compare.py: we and an independent implementation give the same
  e2e      tests/e2e: the program as its users meet it
  tidy     clang-tidy finds nothing

A GoogleTest or unittest case counts as one test; so does house, format, tidy, a comparison, a fuzz target, and a
build that fails. What cannot run here is counted as skipped and says why. Needs Python's standard library alone. Before
the last line it says what took longest.
Every process runs in its own process group, with a limit, and what it leaves behind is killed. Logs: build/log/.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, "build", "log")
VENV_PYTHON = os.path.join(ROOT, ".cache", "venv", "bin", "python")
MODEL = os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf")
JOBS = len(os.sched_getaffinity(0))
LLVM = 14  # clang-format and clang-tidy say different things from version to version: this one is the measure
ROOMS = ("base", "kernels", "offload", "models", "scheduler", "bench", "server")  # from the ground up
THREADED_ROOMS = ("kernels", "offload", "scheduler", "server")
# Programs of these rooms that start no thread (the suite unit looks): the thread sanitizer has nothing to say of them.
WITHOUT_THREADS = {
    "kernels": "cuda_graph cuda hardware matmul_library sim sim_time tensor",
    "offload": "bus choose grant kv_groups plan policy prediction record_json record tuner",
    "scheduler": "admission clairvoyant deadlines prefix property replay sampler timeline trace",
    "server": "api arguments explain http_parse json metrics openai options pacing reply slo_config slo_log",
}
WITHOUT_THREADS = {f"{room}/{name}_test" for room, names in WITHOUT_THREADS.items() for name in names.split()}
# Whole engines take minutes under the sanitizers, whatever the number of layers: there the demo model has its first few.
SHORT_ENGINES = ("scheduler/engine_test", "scheduler/offload_test")
SHORT_LAYERS = 4
SKIP_STATUS = 77
FUZZ_TOTAL_SECONDS = 120
SHOWN_LINES = 40
LONGEST = 12  # processes that the end names


class Outcome:
    """What a suite's tests came to."""

    def __init__(self):
        self.passed = 0
        self.failures = []  # (name, text)
        self.skips = []  # (name, reason)
        self.notes = []

    def add(self, other):
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips
        return self

    @staticmethod
    def one(name, ok, text=""):
        outcome = Outcome()
        if ok:
            outcome.passed = 1
        else:
            outcome.failures.append((name, text))
        return outcome

    @staticmethod
    def skip(name, reason):
        outcome = Outcome()
        outcome.skips.append((name, reason))
        return outcome


class Runner:
    """Starts processes, each in its own group with a limit, and leaves none behind."""

    def __init__(self, minutes):
        self.deadline = time.monotonic() + minutes * 60
        self.lock = threading.Lock()
        self.groups = set()
        self.stopped = False
        self.seconds = []  # (of a process, its name)
        self.environment = dict(os.environ, LC_ALL="C.UTF-8")
        for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VARIANT", "V"):
            self.environment.pop(name, None)
        if os.path.exists(MODEL):
            self.environment.setdefault("METRONOME_TEST_MODEL", MODEL)

    def run(self, name, command, limit, **environment):
        """Runs `command` from the root for `limit` seconds at most; returns (exit status, output). The status is
        None if it had to be killed. The output is in build/log/NAME.log, too."""
        path = os.path.join(LOGS, name.replace("/", "-").replace(" ", "-") + ".log")
        limit = min(limit, self.deadline - time.monotonic())
        if limit <= 0:
            return None, "not started: the time for all tests is used up"
        with open(path, "wb") as log:
            with self.lock:
                if self.stopped:
                    return None, "not started: interrupted"
                try:
                    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log,
                                               stderr=subprocess.STDOUT, start_new_session=True,
                                               env=dict(self.environment, **environment))
                except OSError as error:
                    return 127, f"cannot start {command[0]}: {error.strerror}"
                self.groups.add(process.pid)
            begun = time.monotonic()
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                kill_group(process.pid)
                process.wait()
                with self.lock:
                    self.groups.discard(process.pid)
                    self.seconds.append((time.monotonic() - begun, name))
        with open(path, encoding="utf-8", errors="replace") as log:
            output = log.read()
        if status is None:
            output += f"\nkilled after {limit:.0f} s"
        return status, output

    def stop(self):
        with self.lock:
            self.stopped = True
            for group in self.groups:
                kill_group(group)


def kill_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def in_parallel(jobs, function, items):
    """The outcomes of function(item), added up in the order of the items."""
    total = Outcome()
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        for outcome in pool.map(function, items):
            total.add(outcome)
    return total


def tail(text, lines=SHOWN_LINES):
    return "\n".join(text.rstrip("\n").split("\n")[-lines:])


def llvm_tool(name):
    """The path of an LLVM tool of the version that is the measure, or None."""
    for candidate in (f"{name}-{LLVM}", name):
        path = shutil.which(candidate)
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            if re.search(rf"version {LLVM}\.", version):
                return path
    return None


def fixed_addresses():
    """A command prefix that turns off address randomization where that is allowed: the sanitizers of these compilers
    cannot map their shadow memory on kernels that randomize many bits."""
    prefix = ["setarch", os.uname().machine, "-R"]
    try:
        works = subprocess.run(prefix + ["true"], capture_output=True, check=False).returncode == 0
    except OSError:
        works = False
    return prefix if works else []


def make(runner, variant, *targets):
    """Builds the targets; None if they are built, else a failed outcome."""
    name = f"VARIANT={variant} {' '.join(targets)}"
    status, output = runner.run(f"build-{name}", ["make", f"-j{JOBS}", "-k", f"VARIANT={variant}", *targets], 900)
    return None if status == 0 else Outcome.one(f"make {name}", False, build_errors(output))


def build_errors(output):
    """A failed build's output without the lines of what went well."""
    lines = [line for line in output.split("\n") if not re.match(r"  (CC|C\+\+|AR|LINK) ", line)]
    return "\n".join(lines[:SHOWN_LINES])


# ---- checks of the text ----


def project_files(*endings):
    listing = subprocess.run([sys.executable, "tests/tools/house.py", "--list"], cwd=ROOT, capture_output=True,
                             text=True, check=True).stdout.split("\n")
    return [path for path in listing if path.endswith(endings)]


def suite_house(runner, _options):
    status, output = runner.run("house", [sys.executable, "tests/tools/house.py"], 60)
    lines = output.split("\n")
    outcome = Outcome.one("house", status == 0, "\n".join(line for line in lines if not line.startswith("note: ")))
    outcome.notes = [line for line in lines if line.startswith("note: ")]
    return outcome


def suite_format(runner, _options):
    tool = llvm_tool("clang-format")
    if not tool:
        return Outcome.skip("format", f"clang-format {LLVM} is not installed (sh scripts/setup test)")
    files = project_files(".c", ".h", ".cc", ".cu", ".cuh")
    status, output = runner.run("format", [tool, "--dry-run", "-Werror"] + files, 120)
    places = [line for line in output.split("\n") if ": error: " in line] or output.split("\n")
    return Outcome.one("format", status == 0, "\n".join(places[:20] + ["make format mends it"]))


def suite_tidy(runner, _options):
    tool = llvm_tool("clang-tidy")
    if not tool:
        return Outcome.skip("tidy", f"clang-tidy {LLVM} is not installed (sh scripts/setup test)")
    status, output = runner.run("compile-commands", [sys.executable, "tests/tools/compile_commands.py",
                                                     "build/compile_commands.json"], 60)
    if status != 0:
        return Outcome.one("tidy", False, output)
    with open(os.path.join(ROOT, "build", "compile_commands.json"), encoding="utf-8") as file:
        sources = [entry["file"] for entry in json.load(file)]

    def check(source):
        result, text = runner.run(f"tidy-{source}", [tool, "-p", "build", "--quiet", "--warnings-as-errors=*", source], 180)
        places = [line for line in text.split("\n") if ": error: " in line] or text.split("\n")
        return Outcome.one(source, result == 0, "\n".join(places))

    checked = in_parallel(JOBS, check, sources)
    places = "\n".join(text for _, text in checked.failures) + "\nthe whole reports are in build/log/tidy-*"
    return Outcome.one("tidy", not checked.failures, places)


# ---- unit tests ----


def read_gtest(name, status, output, report):
    """The outcome of one GoogleTest program from its JSON report, its exit status and what it printed."""
    outcome = Outcome()
    if os.path.exists(report):
        with open(report, encoding="utf-8") as file:
            suites = json.load(file)["testsuites"]
        for test in (test for suite in suites for test in suite["testsuite"]):
            full = f"{test['classname']}.{test['name']}"
            if test.get("failures"):
                text = "\n".join(failure["failure"] for failure in test["failures"])
                outcome.failures.append((f"{name}: {full}", text))
            elif test.get("result") == "SKIPPED" or test.get("status") == "NOTRUN":
                reason = re.search(rf"\[ RUN      \] {re.escape(full)}\n.*: Skipped\n(.*)\n", output)
                outcome.skips.append((f"{name}: {full}", reason.group(1).strip() if reason else "disabled"))
            else:
                outcome.passed += 1
        if status != 0 and not outcome.failures:
            outcome.failures.append((f"{name}: after its tests, exit status {status}", output))
    else:  # it never came to its end: what had passed has passed, and the test in hand failed
        outcome.passed = output.count("[       OK ]")
        begun = re.findall(r"\[ RUN      \] (\S+)", output)
        outcome.failures.append((f"{name}: {begun[-1] if begun else 'start'}: exit status {status}", output))
    if not outcome.passed and not outcome.failures and not outcome.skips:
        outcome.failures.append((name, "runs no test"))
    return outcome


def short_model(runner):
    """The demo model with its first layers, made of it if it is older or not there; None if it cannot be made."""
    path = os.path.join(ROOT, "build", f"demo-{SHORT_LAYERS}-layers.gguf")
    model = runner.environment.get("METRONOME_TEST_MODEL", MODEL)
    if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(model):
        status, _ = runner.run("short-model", [sys.executable, "tests/tools/gguf_cut.py", model, str(SHORT_LAYERS), path], 60)
        return path if status == 0 else None
    return path


def check_threads(program, path, outcome):
    """Adds a failure if a program that is said to start no threads did."""
    if program in WITHOUT_THREADS and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            count = int(file.read())
        if count > 0:
            outcome.failures.append((program, f"starts {count} threads: WITHOUT_THREADS of tests/run.py must not name it"))
    return outcome


def unit_tests(runner, variant, without, limit, prefix, **environment):
    """Builds and runs the unit tests but those named in `without`. As released, rooms with threads run one program at a
    time, so that times they measure mean something; under the sanitizers times mean nothing, and all cores are used."""
    programs = []
    for path in sorted(glob.glob("tests/unit/**/*_test.cc", root_dir=ROOT, recursive=True)):
        program = path[len("tests/unit/"):-len(".cc")]
        if program not in without and (variant != "tsan" or path.split("/")[2] in THREADED_ROOMS):
            programs.append((path.split("/")[2], program))
    outcome = Outcome()
    if not programs:
        return outcome
    if variant != "release" and "METRONOME_TEST_MODEL" in runner.environment:
        short = short_model(runner)
        if not short:
            outcome.add(Outcome.one(f"the demo model with {SHORT_LAYERS} layers", False, "tests/tools/gguf_cut.py fails"))
    else:
        short = None
    patterns = " ".join(f"build/{variant}/tests/{program}" for _, program in programs)
    status, output = runner.run(f"build-{variant}", ["make", f"-j{JOBS}", "-k", f"VARIANT={variant}", "unit",
                                                     f"TESTS={patterns}"], 900)
    if status != 0:
        outcome.add(Outcome.one(f"build of {variant}", False, build_errors(output)))

    def run(program):
        binary = f"build/{variant}/tests/{program[1]}"
        if status != 0 and not os.path.exists(os.path.join(ROOT, binary)):
            return Outcome.one(program[1], False, "not built")
        report = os.path.join(LOGS, f"{variant}-{program[1].replace('/', '-')}.json")
        if os.path.exists(report):
            os.unlink(report)
        threads = report[:-len(".json")] + ".threads"
        if os.path.exists(threads):
            os.unlink(threads)
        command = prefix + [binary, f"--gtest_output=json:{report}", "--gtest_color=no"]
        own = dict(environment, METRONOME_TEST_THREADS=threads)
        if short and program[1] in SHORT_ENGINES:
            own["METRONOME_TEST_MODEL"] = short
        ended, text = runner.run(f"{variant}-{program[1]}", command, limit, **own)
        return check_threads(program[1], threads, read_gtest(program[1], ended, text, report))

    programs.sort(key=lambda program: ROOMS.index(program[0]), reverse=True)  # the long ones are upstairs
    alone = [program for program in programs if variant == "release" and program[0] in THREADED_ROOMS]
    together = [program for program in programs if program not in alone]
    outcome.add(in_parallel(JOBS, run, together))
    return outcome.add(in_parallel(1, run, alone))


def family_errors(log):
    """What tests/unit/models/family_test.cc found, as a line: how far each family is from Hugging Face transformers."""
    path = os.path.join(LOGS, log)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        errors = re.findall(r"^(\w+) +safetensors \w+: (\S+)$", file.read(), re.MULTILINE)
    return ["relative error of logits to transformers': " + ", ".join(map(" ".join, errors))] if errors else []


def suite_unit(runner, _options):
    failed = make(runner, "release", "all", "benches")
    outcome = unit_tests(runner, "release", (), 120, [])
    outcome.notes += family_errors("release-models-family_test.log")
    return outcome.add(failed) if failed else outcome


def suite_asan(runner, _options):
    return unit_tests(runner, "asan", (), 420, fixed_addresses(), UBSAN_OPTIONS="print_stacktrace=1",
                      ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1")


def suite_tsan(runner, _options):
    return unit_tests(runner, "tsan", WITHOUT_THREADS, 420, fixed_addresses(),
                      TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1")


# ---- the cuda device ----

CUEMU = "build/release-cuemu"
# Programs that run on the emulator with cuda alone, the long ones first, and which of their cases; the other cases only
# repeat these for minutes.
CUEMU_PROGRAMS = {
    "tests/cuemu/iteration_test": "*",
    "tests/scheduler/ranks_test": "Ranks*Alike",
    "tests/models/family_test": "-Stories*",
    "tests/models/tiny_forward_test": "*AgreeWith*:*Mixed*:*Bf16*:*/Int8:*Argmax*:*Memory*",
    "tests/kernels/attention_test": "*",
    "tests/kernels/matmul_test": "*",
    "tests/kernels/matmul_library_test": "*",
    "tests/kernels/ops_test": "*",
    "tests/kernels/sample_test": "*",
    "tests/kernels/cuda_test": "*",
    "tests/kernels/cuda_graph_test": "*",
    "tests/kernels/team_test": "*",
    "tests/offload/pipeline_test": "*Placements*:*Groups*:*AChange*",
    "tests/scheduler/sampling_test": "*Batch*:*OnlyTokens*",
    "tests/models/shard_test": "Ranks*/llama:Ranks*/gpt2",
    "tests/models/library_test": "*",
    "tests/cuemu/failure_test": "*",
    "tests/cuemu/library_test": "*",
    "tests/cuemu/emulator_test": "*",
    "tests/cuemu/graph_test": "*",
}
CUEMU_TEAMS = ("tests/kernels/team_test", "tests/kernels/matmul_library_test",  # on several GPUs
               "tests/kernels/cuda_graph_test", "tests/models/library_test", "tests/models/shard_test",
               "tests/scheduler/ranks_test")
CUEMU_APART = ("tests/kernels/team_test", "tests/kernels/cuda_graph_test")  # and again without peer access, by NCCL
CUEMU_LATE = ("tests/kernels/cuda_graph_test",)  # where waits are what is tested


def count_kernels(path):
    """{kernel: [launches, shapes, threads]} of the emulator's report; kernels of the emulator's own tests left out."""
    kernels = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            launches, shapes, threads, name = line.rstrip("\n").split("\t")
            counts = kernels.setdefault(name, [0, 0, 0])
            for i, number in enumerate((launches, shapes, threads)):
                counts[i] += int(number)
    return kernels


def suite_cuemu(runner, _options):
    if os.uname().machine != "x86_64":
        return Outcome.skip("cuemu", "the emulator runs on x86-64 only")
    status, output = runner.run("build-cuemu", ["make", f"-j{JOBS}", "-k", "CUDA=emulated",
                                                *(f"{CUEMU}/{program}" for program in CUEMU_PROGRAMS)], 900)
    if status != 0:
        return Outcome.one("build of the emulated cuda device", False, build_errors(output))
    counts = os.path.join(LOGS, "cuemu-kernels.txt")
    if os.path.exists(counts):
        os.unlink(counts)

    def run(task):
        program, cases, seed, peers = task
        name = f"{program[len('tests/'):]}{f' seed {seed}' if seed else ''}{'' if peers else ' apart'}"
        report = os.path.join(LOGS, f"cuemu-{name.replace('/', '-').replace(' ', '-')}.json")
        if os.path.exists(report):
            os.unlink(report)
        environment = {"METRONOME_TEST_DEVICE": "cuda", "CUEMU_SEED": str(seed)}
        if program in CUEMU_TEAMS:
            environment["CUEMU_DEVICES"] = "8"
        if not peers:
            environment["CUEMU_PEERS"] = "0"
        if program in CUEMU_LATE:
            environment["CUEMU_DELAY_US"] = "100"
        if not program.startswith("tests/cuemu/"):
            environment["CUEMU_REPORT"] = counts
        ended, text = runner.run(f"cuemu-{name}", [f"{CUEMU}/{program}", f"--gtest_output=json:{report}",
                                                   "--gtest_color=no", f"--gtest_filter={cases}"], 240, **environment)
        return read_gtest(name, ended, text, report)

    tasks = [(program, cases, 0, True) for program, cases in CUEMU_PROGRAMS.items()]
    tasks += [(f"tests/kernels/{name}_test", "*", seed, True) for name, seed in (("ops", 5), ("matmul", 6), ("sample", 7))]
    tasks += [(program, "*", 0, False) for program in CUEMU_APART]
    outcome = in_parallel(JOBS, run, tasks)
    if os.path.exists(counts):
        kernels = count_kernels(counts)
        totals = [sum(row[i] for row in kernels.values()) for i in range(3)]
        outcome.notes += family_errors("cuemu-models-family_test.log")
        outcome.notes.append(f"{len(kernels)} kernels in {totals[1]} shapes: {totals[0]} launches, {totals[2]} threads")
    return outcome


def suite_cuda(runner, _options):
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if not os.path.exists(os.path.join(home, "bin", "nvcc")):
        return Outcome.skip("cuda", f"there is no nvcc in {home}/bin (CUDA_HOME says where else)")
    status, output = runner.run("build-cuda", ["make", f"-j{JOBS}", "-k", "CUDA=1", "all"], 900)
    if status != 0:
        return Outcome.one("build of the cuda device", False, build_errors(output))
    outcome = Outcome.one("nvcc, every architecture", True)
    checked, text = runner.run("cuda-resources", [sys.executable, "tests/tools/cuda_resources.py",
                                                  "build/release-cuda/kernels/cuda"], 60)
    if checked == SKIP_STATUS:
        outcome.add(Outcome.skip("what kernels take", tail(text, 1)))
    else:
        outcome.add(Outcome.one("what kernels take", checked == 0, text))
        outcome.notes.append(tail(text, 1))
    return outcome.add(cuda_without_gpu(runner))


def cuda_without_gpu(runner):
    """The program with the cuda device starts where there is no driver, and says what is wrong only when asked for it."""
    if not os.path.exists(MODEL):
        return Outcome.skip("serve --device cuda", "the demo model is not here (sh scripts/setup demo)")
    generate = ["build/release-cuda/metronome", "generate", "--model", MODEL, "--prompt", "Hello", "--max-tokens", "2"]
    served, text = runner.run("cuda-build-on-cpu", generate + ["--device", "cpu"], 60)
    outcome = Outcome.one("the cuda build serves cpu", served == 0, text)
    refused, text = runner.run("cuda-generate", generate + ["--device", "cuda"], 60)
    if refused == 0:
        return outcome.add(Outcome.one("the cuda build serves cuda", True))
    serve = ["build/release-cuda/metronome", "serve", "--model", MODEL, "--port", "0", "--device", "cuda"]
    for name, (status, text) in (("generate", (refused, text)), ("serve", runner.run("cuda-serve", serve, 60))):
        clear = re.search(r"^metronome: device cuda: (there is no NVIDIA driver|the NVIDIA driver is too old|there is a "
                          "driver and no GPU)", text, re.MULTILINE)
        outcome.add(Outcome.one(f"without a GPU {name} --device cuda is refused in clear words",
                                bool(clear) and status == 1, text))
    return outcome


# ---- fuzzing ----


def suite_fuzz(runner, options):
    names = [os.path.basename(path)[:-len("_fuzz.c")] for path in sorted(glob.glob(f"{ROOT}/tests/fuzz/*_fuzz.c"))]
    if not names:
        return Outcome()
    if not shutil.which("clang"):
        outcome = Outcome()
        for name in names:
            outcome.add(Outcome.skip(f"fuzz {name}", "clang is not installed (sh scripts/setup test)"))
        return outcome
    status, output = runner.run("build-fuzz", ["make", f"-j{JOBS}", "-k", "VARIANT=fuzz", "fuzzers"], 600)
    build = output if status != 0 else None
    seconds = options.fuzz_seconds or max(1, min(10, FUZZ_TOTAL_SECONDS // len(names)))
    prefix = fixed_addresses()

    def run(name):
        seeds, found = f"tests/fuzz/corpus/{name}", f"build/fuzz/corpus/{name}"
        if not os.path.exists(f"{ROOT}/build/fuzz/{name}"):
            return Outcome.one(f"fuzz {name}", False, build_errors(build or "not built"))
        if not os.path.isdir(f"{ROOT}/{seeds}") or not os.listdir(f"{ROOT}/{seeds}"):
            return Outcome.one(f"fuzz {name}", False, f"{seeds}/ has no seeds")
        os.makedirs(f"{ROOT}/{found}", exist_ok=True)
        command = prefix + [f"build/fuzz/{name}", f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024",
                            f"-artifact_prefix=build/fuzz/{name}-", "-print_final_stats=1", found, seeds]
        ended, text = runner.run(f"fuzz-{name}", command, seconds + 60, UBSAN_OPTIONS="print_stacktrace=1")
        return Outcome.one(f"fuzz {name}", ended == 0, text)

    return in_parallel(JOBS, run, names)


# ---- tests in Python ----


def python():
    return VENV_PYTHON if os.path.exists(VENV_PYTHON) else sys.executable


def unittest_files(runner, pattern, limit):
    """Runs each file of unittest cases in a process of its own, one after another."""
    outcome = Outcome()
    for path in sorted(glob.glob(pattern, root_dir=ROOT)):
        report = os.path.join(LOGS, path.replace("/", "-") + ".json")
        if os.path.exists(report):
            os.unlink(report)
        status, output = runner.run(path, [python(), "tests/tools/unittest_report.py", path, report], limit)
        if not os.path.exists(report):
            outcome.failures.append((f"{path}: exit status {status}", output))
            continue
        with open(report, encoding="utf-8") as file:
            result = json.load(file)
        outcome.passed += result["passed"]
        outcome.skips += [tuple(skip) for skip in result["skips"]]
        outcome.failures += [tuple(failure) for failure in result["failures"]]
        if not result["passed"] and not result["skips"] and not result["failures"]:
            outcome.failures.append((path, "runs no test"))
    return outcome


def suite_tools(runner, _options):
    return unittest_files(runner, "tests/tools/test_*.py", 60)


def suite_e2e(runner, _options):
    failed = make(runner, "release", "all")
    if failed:
        return failed
    return unittest_files(runner, "tests/e2e/test_*.py", 240)


def suite_compare(runner, _options):
    scripts = sorted(glob.glob("tests/tools/*_compare.py", root_dir=ROOT))
    failed = make(runner, "release", "all") if scripts else None
    if failed:
        return failed
    outcome = Outcome()
    for path in scripts:
        status, output = runner.run(path, [python(), path], 240)
        if status == SKIP_STATUS:
            outcome.add(Outcome.skip(path, tail(output, 1)))
        else:
            outcome.add(Outcome.one(path, status == 0, output))
    return outcome


SUITES = {
    "house": suite_house,
    "format": suite_format,
    "unit": suite_unit,
    "asan": suite_asan,
    "tsan": suite_tsan,
    "cuemu": suite_cuemu,
    "cuda": suite_cuda,
    "fuzz": suite_fuzz,
    "tools": suite_tools,
    "compare": suite_compare,
    "e2e": suite_e2e,
    "tidy": suite_tidy,
}


def times():
    """Seconds on the clock, and seconds that the processes which have ended computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), usage.ru_utime + usage.ru_stime


def report(outcome, seconds, computed):
    print(f"{outcome.passed:5d} passed {len(outcome.failures):4d} failed {len(outcome.skips):4d} skipped "
          f"{seconds:7.1f} s, {computed:7.1f} s of a core")
    for note in outcome.notes:
        print(f"    {note}")
    reasons = {}
    for name, reason in outcome.skips:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        print(f"    skipped: {names[0]}{more}: {reason}")
    for name, text in outcome.failures:
        print(f"    FAILED: {name}")
        for line in tail(text).split("\n"):
            print(f"      | {line}")
    sys.stdout.flush()


def report_longest(runner):
    print("longest, in seconds on the clock:")
    for seconds, name in sorted(runner.seconds, reverse=True)[:LONGEST]:
        name = name if len(name) <= 70 else name[:67] + "..."
        print(f"    {seconds:7.1f} {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="which to run; none: all")
    parser.add_argument("--minutes", type=float, default=60, help="stop, and fail what is left, after this long")
    parser.add_argument("--fuzz-seconds", type=int, default=0, help="time for each fuzz target")
    options = parser.parse_args()
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]}: there are {', '.join(SUITES)}")

    os.makedirs(LOGS, exist_ok=True)
    runner = Runner(options.minutes)
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    total = Outcome()
    try:
        for name in options.suites or SUITES:
            print(f"{name:<8}", end="", flush=True)
            before = times()
            outcome = SUITES[name](runner, options)
            report(outcome, *(after - earlier for after, earlier in zip(times(), before)))
            total.add(outcome)
    except KeyboardInterrupt:
        runner.stop()
        total.failures.append(("interrupted", ""))
        print("\ninterrupted")
    report_longest(runner)
    if not total.passed and not total.failures:
        total.failures.append(("no test ran", ""))
        print("no test ran: that is a failure")
    print(f"{total.passed} passed, {len(total.failures)} failed, {len(total.skips)} skipped", flush=True)
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
