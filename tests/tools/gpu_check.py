#!/usr/bin/env python3
"""What exists of the cuda device, on a real GPU: `make gpu-check`. Prints what it finds and writes it as JSON.

  ops        the op tables, every kernel against its scalar reference, and the device's own tests
  models     the forward pass of every family against Hugging Face transformers; the demo model's logits and tokens
  offload    every shape of the ring up to 48 layers, 48 streamed, 4 slots, with poisoned slots; every offload policy gives
             the tokens of none, for every family
  ranks      where there are several GPUs: sums over them, over peer memory and by NCCL, every family split, and what a
             sum takes either way, alone and beside copies
  sanitizer  compute-sanitizer's memcheck and racecheck over the kernels' tests
  http       the demo model over HTTP from the release program

Needs a driver, a CUDA toolkit (CUDA_HOME) and what scripts/setup installs. What is not here is counted as skipped and
says why; without a GPU nothing is checked and the status is 1.

Usage: tests/tools/gpu_check.py [FILE]                     FILE: docs/results/gpu-check.json
       tests/tools/gpu_check.py --pack PACK.tar.xz         with nvcc, without a GPU: builds the programs and packs them
                                                           with the libraries they need
       tests/tools/gpu_check.py --packed PACK.tar.xz [FILE]   with a GPU and this source tree: checks with those, and needs
                                                           the driver, CUDA and Python; no compiler and no network.
                                                           They are unpacked to build/gpu-pack.
"""

import argparse
import json
import lzma
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = "build/release-cuda"
PROGRAMS = BUILD  # the folder of the programs that are run
ENVIRONMENT = {}  # what they need of it
MODEL = ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"
CUDA_HOME = os.environ.get("CUDA_HOME", "/usr/local/cuda")

OPS = ("kernels/cuda_test", "kernels/cuda_graph_test", "kernels/ops_test", "kernels/matmul_test",
       "kernels/matmul_library_test", "kernels/attention_test")
MODELS = ("models/tiny_forward_test", "models/family_test", "models/library_test", "models/forward_test")
OFFLOAD = ("offload/pipeline_test", "scheduler/family_offload_test")
# What every Linux has, and what comes with the driver or with CUDA; the rest is packed.
SYSTEM_LIBRARIES = ("linux-vdso", "ld-linux", "libc", "libm", "libdl", "librt", "libpthread", "libcuda", "libcublas",
                    "libcublasLt")
RANKS = {"kernels/team_test": "*", "models/shard_test": "Ranks*", "scheduler/ranks_test": "Ranks*Alike"}
# As the program chooses; over peer memory with every sum shared, and with none; by NCCL.
RANKS_BENCH = ((), ("peer", "shares=1"), ("peer", "shares=4294967295"), ("nccl",))
START_SECONDS = 60


def run(command, limit, **environment):
    """(exit status, output, seconds); the status is None if it ran past its limit."""
    begin = time.monotonic()
    try:
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace", timeout=limit, check=False,
                               env=dict(os.environ, **ENVIRONMENT, **environment))
        return ended.returncode, ended.stdout, time.monotonic() - begin
    except subprocess.TimeoutExpired as late:
        return None, late.stdout or "", time.monotonic() - begin


def gpus():
    """What nvidia-smi says of each GPU, or nothing."""
    if not shutil.which("nvidia-smi"):
        return []
    status, output, _ = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap",
                             "--format=csv,noheader"], 60)
    return [line.strip() for line in output.split("\n") if line.strip()] if status == 0 else []


def outcome(name, state, seconds=0.0, detail=""):
    print(f"{state:<8} {name:<48} {seconds:7.1f} s  {detail}", flush=True)
    return {"name": name, "state": state, "seconds": round(seconds, 1), "detail": detail}


def gtest(program, limit=300, cases="*", all_reduce=None):
    chosen = {"METRONOME_TEST_ALL_REDUCE": all_reduce} if all_reduce else {}
    name = f"{program} {all_reduce}" if all_reduce else program
    status, output, seconds = run([f"{PROGRAMS}/tests/{program}", "--gtest_color=no", f"--gtest_filter={cases}"], limit,
                                  METRONOME_TEST_DEVICE="cuda", METRONOME_TEST_MODEL=os.path.join(ROOT, MODEL), **chosen)
    passed = re.search(r"\[  PASSED  \] (\d+) test", output)
    if status != 0 or not passed:
        failed = re.findall(r"\[  FAILED  \] (\S+)", output)
        return outcome(name, "failed", seconds, ", ".join(sorted(set(failed))) or output[-300:])
    if int(passed.group(1)) == 0:
        return outcome(name, "skipped", seconds, "every case of it")
    return outcome(name, "passed", seconds, f"{passed.group(1)} cases")


def sanitize(tool, program, cases):
    sanitizer = os.path.join(CUDA_HOME, "bin", "compute-sanitizer")
    name = f"{tool} {program}"
    if not os.path.exists(sanitizer):
        return outcome(name, "skipped", 0, f"there is no {sanitizer}")
    status, output, seconds = run([sanitizer, "--tool", tool, "--error-exitcode", "9", f"{PROGRAMS}/tests/{program}",
                                   f"--gtest_filter={cases}", "--gtest_color=no"], 300, METRONOME_TEST_DEVICE="cuda")
    summary = re.findall(r"ERROR SUMMARY: (.*)|RACECHECK SUMMARY: (.*)", output)
    detail = " ".join("".join(match) for match in summary) or output[-300:]
    return outcome(name, "passed" if status == 0 else "failed", seconds, detail)


def ranks(count):
    if count < 2:
        return [outcome(program, "skipped", 0, "there is one GPU") for program in RANKS]
    outcomes = [gtest(program, 300, cases) for program, cases in RANKS.items()]
    _, output, _ = run([f"{PROGRAMS}/ranks-bench", "cuda", "2", "quick", "peer"], 60)
    reach = "has no access to the memory" not in output
    for sums in ("peer", "nccl"):
        outcomes.append(gtest("kernels/team_test", 300, all_reduce=sums) if reach or sums == "nccl" else
                        outcome("kernels/team_test peer", "skipped", 0, output.strip()))
    for size in (size for size in (2, 4, 8) if size <= count):
        for sums in (sums for sums in RANKS_BENCH if reach or "peer" not in sums):
            status, output, seconds = run([f"{PROGRAMS}/ranks-bench", "cuda", str(size), *sums], 120)
            print(output)
            outcomes.append(outcome(" ".join(["ranks-bench cuda", str(size), *sums]),
                                    "passed" if status == 0 else "failed", seconds, output))
    return outcomes


def ask(url, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def is_ready(url):
    try:
        ask(url + "/health")
        return True
    except (OSError, ValueError):
        return False


def http():
    name = "the demo model over HTTP"
    if not os.path.exists(os.path.join(ROOT, MODEL)):
        return outcome(name, "skipped", 0, f"{MODEL} is not here (sh scripts/setup demo)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    begin = time.monotonic()
    with subprocess.Popen([f"{PROGRAMS}/metronome", "serve", "--device", "cuda", "--model", MODEL, "--port", str(port)],
                          cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env=dict(os.environ, **ENVIRONMENT)) as server:
        try:
            while not is_ready(url):
                if server.poll() is not None or time.monotonic() - begin > START_SECONDS:
                    server.kill()
                    return outcome(name, "failed", time.monotonic() - begin, server.communicate()[0][-300:])
                time.sleep(0.1)
            answer = ask(url + "/v1/completions", {"prompt": "The capital of France is", "max_tokens": 8,
                                                   "temperature": 0})
            text = answer["choices"][0]["text"]
            state = "passed" if "Paris" in text else "failed"
            return outcome(name, state, time.monotonic() - begin, text.strip())
        except (OSError, ValueError, KeyError) as error:
            return outcome(name, "failed", time.monotonic() - begin, str(error))
        finally:
            server.terminate()


def build():
    """Builds the programs; returns their paths under BUILD and how many seconds it took. Ends if it fails."""
    programs = [f"tests/{program}" for program in (*OPS, *MODELS, *OFFLOAD, *RANKS)]
    programs += ["metronome", "ranks-bench", "engine-bench"]
    status, output, seconds = run(["make", f"-j{os.cpu_count()}", "CUDA=1", *(f"{BUILD}/{name}" for name in programs)],
                                  1800)
    if status != 0:
        sys.exit(output[-3000:])
    return programs, seconds


def libraries(program):
    """The shared libraries that a program loads, {name: path}, less those of the system. Ends if one is not here."""
    status, output, _ = run(["ldd", program], 60)
    if status != 0 or "not found" in output:
        sys.exit(f"gpu-check: ldd {program}: {output}")
    found = dict(re.findall(r"(\S+) => (\S+) \(", output))
    return {name: path for name, path in found.items() if name.split(".so")[0] not in SYSTEM_LIBRARIES}


def pack(path):
    programs, _ = build()
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "lib"))
        for name in programs:
            source, copy = os.path.join(ROOT, BUILD, name), os.path.join(folder, name)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            status, output, _ = run(["strip", "-o", copy, source], 60)
            if status != 0:
                sys.exit(f"gpu-check: strip {name}: {output}")
            for library, found in libraries(source).items():
                shutil.copy(found, os.path.join(folder, "lib", library))
        # The kernels are the most of every program: a window that holds one program keeps them once.
        window = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 96 << 20}]
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with lzma.open(path, "wb", filters=window) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(folder, ".")
        print(f"{len(programs)} programs and {len(os.listdir(os.path.join(folder, 'lib')))} libraries in {path}, "
              f"{os.path.getsize(path) / 2**20:.1f} MiB: gpu_check.py --packed {path} where there is a GPU")
    return 0


def unpack(path):
    """Unpacks to build/gpu-pack and has the programs run from there."""
    global PROGRAMS
    PROGRAMS = os.path.join(ROOT, "build", "gpu-pack")
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    try:
        with tarfile.open(path) as archive:
            archive.extractall(PROGRAMS)
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        sys.exit(f"gpu-check: {path}: {error}; gpu_check.py --pack {path} writes it, where there is nvcc")
    ENVIRONMENT["LD_LIBRARY_PATH"] = os.path.join(PROGRAMS, "lib") + os.pathsep + os.environ.get("LD_LIBRARY_PATH", "")


def main():
    parser = argparse.ArgumentParser(description="What exists of the cuda device, on a real GPU.")
    parser.add_argument("--pack", metavar="PACK.tar.xz", help="build the programs for another machine and pack them")
    parser.add_argument("--packed", metavar="PACK.tar.xz", help="check with the programs of --pack")
    parser.add_argument("file", nargs="?", default=os.path.join(ROOT, "docs", "results", "gpu-check.json"))
    options = parser.parse_args()
    if options.pack:
        return pack(options.pack)
    target = options.file
    if options.packed:
        unpack(options.packed)
    found = gpus()
    if not found:
        print("gpu-check: there is no GPU here (nvidia-smi finds none); nothing was checked")
        return 1
    print("\n".join(found))
    if options.packed:
        results = [outcome("packed programs", "passed", 0, options.packed)]
    else:
        results = [outcome("make CUDA=1", "passed", build()[1])]
    for program in OPS + MODELS + OFFLOAD:
        results.append(gtest(program))
    results += ranks(len(found))
    for tool in ("memcheck", "racecheck"):
        for program, cases in (("kernels/ops_test", "*"), ("kernels/matmul_test", "*int8*:*Embed*"),
                               ("kernels/attention_test", "*MatchesTheReference*")):
            results.append(sanitize(tool, program, cases))
    results.append(http())
    counts = {state: sum(result["state"] == state for result in results) for state in ("passed", "failed", "skipped")}
    commit = run(["git", "rev-parse", "--short=12", "HEAD"], 10)[1].strip()
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w", encoding="utf-8") as file:
        json.dump({"gpus": found, "commit": commit, "date": time.strftime("%Y-%m-%d"), "counts": counts,
                   "results": results}, file, indent=1)
        file.write("\n")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped; {target}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
