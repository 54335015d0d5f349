#!/usr/bin/env python3
"""What exists of the cuda device, on a real GPU: `make gpu-check`. Prints what it finds and writes it as JSON.

  ops        the op tables, every kernel against its scalar reference, and the device's own tests
  models     the forward pass of every family against Hugging Face transformers; the demo model's logits and tokens
  offload    every shape of the ring up to 48 layers, 48 streamed, 4 slots, with poisoned slots; every offload policy gives
             the tokens of none, for every family
  ranks      where there are several GPUs: sums over them, every family split, and what a sum takes beside copies
  sanitizer  compute-sanitizer's memcheck and racecheck over the kernels' tests
  http       the demo model over HTTP from the release program

Needs a driver, a CUDA toolkit (CUDA_HOME) and what scripts/setup installs. What is not here is counted as skipped and
says why; without a GPU nothing is checked and the status is 1.
Usage: tests/tools/gpu_check.py [FILE]        FILE: docs/results/gpu-check.json
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = "build/release-cuda"
MODEL = ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"
CUDA_HOME = os.environ.get("CUDA_HOME", "/usr/local/cuda")

OPS = ("kernels/cuda_test", "kernels/cuda_graph_test", "kernels/ops_test", "kernels/matmul_test",
       "kernels/matmul_library_test", "kernels/attention_test")
MODELS = ("models/tiny_forward_test", "models/family_test", "models/library_test", "models/forward_test")
OFFLOAD = ("offload/pipeline_test", "scheduler/family_offload_test")
RANKS = {"kernels/team_test": "*", "models/shard_test": "Ranks*", "scheduler/ranks_test": "Ranks*Alike"}
START_SECONDS = 60


def run(command, limit, **environment):
    """(exit status, output, seconds); the status is None if it ran past its limit."""
    begin = time.monotonic()
    try:
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace", timeout=limit, check=False,
                               env=dict(os.environ, **environment))
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


def gtest(program, limit=300, cases="*"):
    status, output, seconds = run([f"{BUILD}/tests/{program}", "--gtest_color=no", f"--gtest_filter={cases}"], limit,
                                  METRONOME_TEST_DEVICE="cuda", METRONOME_TEST_MODEL=os.path.join(ROOT, MODEL))
    passed = re.search(r"\[  PASSED  \] (\d+) test", output)
    if status != 0 or not passed:
        failed = re.findall(r"\[  FAILED  \] (\S+)", output)
        return outcome(program, "failed", seconds, ", ".join(sorted(set(failed))) or output[-300:])
    if int(passed.group(1)) == 0:
        return outcome(program, "skipped", seconds, "every case of it")
    return outcome(program, "passed", seconds, f"{passed.group(1)} cases")


def sanitize(tool, program, cases):
    sanitizer = os.path.join(CUDA_HOME, "bin", "compute-sanitizer")
    name = f"{tool} {program}"
    if not os.path.exists(sanitizer):
        return outcome(name, "skipped", 0, f"there is no {sanitizer}")
    status, output, seconds = run([sanitizer, "--tool", tool, "--error-exitcode", "9", f"{BUILD}/tests/{program}",
                                   f"--gtest_filter={cases}", "--gtest_color=no"], 300, METRONOME_TEST_DEVICE="cuda")
    summary = re.findall(r"ERROR SUMMARY: (.*)|RACECHECK SUMMARY: (.*)", output)
    detail = " ".join("".join(match) for match in summary) or output[-300:]
    return outcome(name, "passed" if status == 0 else "failed", seconds, detail)


def ranks(count):
    if count < 2:
        return [outcome(program, "skipped", 0, "there is one GPU") for program in RANKS]
    outcomes = [gtest(program, 300, cases) for program, cases in RANKS.items()]
    for size in (size for size in (2, 4, 8) if size <= count):
        status, output, seconds = run([f"{BUILD}/ranks-bench", "cuda", str(size)], 120)
        print(output)
        outcomes.append(outcome(f"ranks-bench cuda {size}", "passed" if status == 0 else "failed", seconds, output))
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
    with subprocess.Popen([f"{BUILD}/metronome", "serve", "--device", "cuda", "--model", MODEL, "--port", str(port)],
                          cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as server:
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


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "docs", "results", "gpu-check.json")
    found = gpus()
    if not found:
        print("gpu-check: there is no GPU here (nvidia-smi finds none); nothing was checked")
        return 1
    print("\n".join(found))
    programs = [f"{BUILD}/tests/{program}" for program in (*OPS, *MODELS, *OFFLOAD, *RANKS)] + [f"{BUILD}/ranks-bench"]
    status, output, seconds = run(["make", f"-j{os.cpu_count()}", "CUDA=1", "all", *programs], 1800)
    if status != 0:
        print(output[-3000:])
        return 1
    results = [outcome("make CUDA=1", "passed", seconds)]
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
