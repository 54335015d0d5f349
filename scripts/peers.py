#!/usr/bin/env python3
"""Other systems that offload weights, on this machine's GPU, and Metronome in the device memory that each of them took.

    make CUDA=1 gpu-bench                                  # OPT-6.7B's shape with random weights: peers alone
    python3 scripts/peers.py --model DIRECTORY             # an OPT of Hugging Face: Metronome, too

  accelerate   Hugging Face accelerate, layers in host memory      deepspeed   ZeRO-Inference
  flexgen      FlexGen, OPT with random weights                    metronome   build/release-cuda/metronome

Installs what the peers need as Python packages into .cache/peers-venv (torch, transformers, accelerate, deepspeed,
flexgen); a peer that does not install, or does not run, is named with the reason, and the others go on. docs/peers.md
has the commands one by one. Status 0: at least one of them was measured.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".cache", "peers-venv")
PACKAGES = {"accelerate": ("torch", "transformers", "accelerate"), "deepspeed": ("torch", "transformers", "deepspeed"),
            "flexgen": ("torch", "transformers", "flexgen")}
START_SECONDS = 600
RUN_SECONDS = 3600


def gpu():
    """(name, None), or (None, why there is none)."""
    if not shutil.which("nvidia-smi"):
        return None, "there is no NVIDIA GPU here, or no driver: nvidia-smi is not found"
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True,
                           text=True, check=False)
    name = asked.stdout.strip().split("\n")[0]
    if asked.returncode != 0 or not name:
        return None, f"nvidia-smi shows no GPU: {(asked.stderr or asked.stdout).strip()[:200]}"
    return name, None


def last_line(text):
    lines = [line for line in text.strip().split("\n") if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def install(python, packages):
    """None, or why the packages cannot be had."""
    if not os.path.exists(python):
        made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            return last_line(made.stdout + made.stderr)
    print(f"installing {', '.join(packages)} into {VENV}", file=sys.stderr, flush=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else last_line(done.stdout + done.stderr)


def run_peer(name, options):
    """({figures}, None), or (None, why there are none)."""
    python = options.python or os.path.join(VENV, "bin", "python")
    reason = None if options.python else install(python, PACKAGES[name])
    if reason:
        return None, f"not installed: {reason}"
    command = [python, os.path.join(ROOT, "bench", "peers", f"{name}_run.py"), "--model", options.shape or options.model,
               "--batch", str(options.batch), "--prompt", str(options.prompt), "--output", str(options.output), "--resident",
               str(options.resident), "--device", options.device]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_SECONDS,
                              check=False)
    except subprocess.TimeoutExpired:
        return None, f"did not end in {RUN_SECONDS} s"
    if done.returncode != 0:
        return None, last_line(done.stderr or done.stdout)
    return read_figures(done.stdout)


def read_figures(text):
    try:
        figures = json.loads(last_line(text))
        return {key: float(figures[key]) for key in ("ttft_ms", "tpot_ms", "tokens_per_s", "device_peak_bytes")}, None
    except (ValueError, KeyError, TypeError) as error:
        return None, f"its last line is no report: {error}"


def wait_for_port(path, server):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if text.endswith("\n"):
                return int(text)
        time.sleep(0.05)
    return None


def run_metronome(options, device_bytes):
    """The same work over HTTP, in so much device memory (0: what it wants)."""
    if options.shape:
        return None, "needs --model DIRECTORY: it has no random weights"
    if not os.path.exists(options.program):
        return None, f"there is no {options.program}: make CUDA=1"
    with tempfile.TemporaryDirectory() as folder:
        port_file, log = os.path.join(folder, "port"), os.path.join(folder, "log")
        command = [options.program, "serve", "--model", options.model, "--device", options.device, "--port", "0", "--port_file",
                   port_file, "--offload.policy", "metronome" if device_bytes else "none"]
        if device_bytes:
            command += ["--device_memory", str(int(device_bytes))]
        with open(log, "wb") as file:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            port = wait_for_port(port_file, server)
            if port is None or not wait_until_ready(port, server):
                with open(log, encoding="utf-8", errors="replace") as file:
                    return None, f"did not start: {last_line(file.read())}"
            done = subprocess.run([options.program, "bench", "serve", "--url", f"http://127.0.0.1:{port}", "--endpoint",
                                   "completions", "--clients", str(options.batch), "--requests", str(options.batch), "--warmup",
                                   "1", "--prompt", str(options.prompt), "--output", str(options.output), "--ignore-eos",
                                   "--timeout", str(RUN_SECONDS), "--json", "-"], capture_output=True, text=True,
                                  timeout=2 * RUN_SECONDS, check=False)
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    if done.returncode != 0:
        return None, last_line(done.stderr)
    report = json.loads(done.stdout)
    return {"ttft_ms": report["ttft_ms"]["p50"], "tpot_ms": report["tpot_ms"]["p50"],
            "tokens_per_s": report["output_tokens_per_s"], "device_peak_bytes": float(device_bytes)}, None


def wait_until_ready(port, server):
    import urllib.error
    import urllib.request
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    return False


def show(name, figures, reason):
    if figures is None:
        print(f"{name:<28} {reason}", flush=True)
        return
    print(f"{name:<28} {figures['tokens_per_s']:>10.1f} {figures['ttft_ms']:>11.1f} {figures['tpot_ms']:>11.2f} "
          f"{figures['device_peak_bytes'] / 2**30:>12.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="opt-6.7b", help="a Hugging Face directory, or opt-6.7b and the like: random weights")
    parser.add_argument("--peers", default=",".join(PACKAGES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--resident", type=float, default=0.5, help="share of the weights that peers keep on the device")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu shows that it runs")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release-cuda", "metronome"))
    parser.add_argument("--python", help="a Python that has the packages: installs nothing")
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    options.shape = None if os.path.isdir(options.model) else options.model
    name, reason = ("cpu", None) if options.device == "cpu" else gpu()
    if reason:
        sys.exit(f"peers: {reason}. The peers take CUDA; nothing was measured (--device cpu shows that they run)")
    unknown = [peer for peer in options.peers.split(",") if peer not in PACKAGES]
    if unknown:
        sys.exit(f"peers: --peers {unknown[0]}: there are {', '.join(PACKAGES)}")
    print(f"{name}: {options.model}, batch {options.batch}, {options.prompt} + {options.output} tokens, "
          f"{100 * options.resident:.0f} % of the weights resident")
    print(f"{'':<28} {'tokens/s':>10} {'TTFT, ms':>11} {'TPOT, ms':>11} {'device, GiB':>12}")
    rows = []
    for peer in options.peers.split(","):
        figures, reason = run_peer(peer, options)
        show(peer, figures, reason)
        rows.append({"system": peer, "figures": figures, "reason": reason})
        if figures and not options.shape:
            ours, reason = run_metronome(options, figures["device_peak_bytes"])
            show("  metronome in as much", ours, reason)
            rows.append({"system": "metronome", "beside": peer, "figures": ours, "reason": reason})
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"gpu": name, "model": options.model, "batch": options.batch, "prompt": options.prompt,
                       "output": options.output, "resident": options.resident, "rows": rows}, file, indent=1)
    return 0 if any(row["figures"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
