#!/usr/bin/env python3
"""Shows offloading at work with the demo model, over HTTP: half of the weights in host memory behind a slow link.

Usage: scripts/offload_show.py [--program FILE] [--svg FILE] [half | drop]...      no names: both

  half   the same text as with every layer on the device, the promised time per token kept as the client measures it,
         and what /metrics says
  drop   the link falls to a third for ten seconds and comes back: what lives in host memory follows and returns. Drawn
         as an SVG from /metrics, sampled meanwhile

The promise and the link are set by what a token takes on this machine, so that the show is the same on a slow one. Needs
Python's standard library, a built program (make) and the demo model (sh scripts/setup demo).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
sys.path.insert(0, os.path.join(ROOT, "bench", "tools"))
import chat_client  # noqa: E402
import offload_svg  # noqa: E402

MODEL = os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf")
BESIDE = 79 * 2**20  # bytes that this model takes beside its layers: embedding, head, workspace, ring and 2048 tokens of KV
PROMPT = "Tell me about the history of clocks, from sundials to quartz, in many words."
SHOWN = ("offload_info", "layers", "layers_offloaded", "offload_interval", "weight_bytes", "offload_streamed_bytes",
         "offload_streamed_bytes_total", "iteration_predicted_seconds", "iteration_measured_seconds",
         "iteration_stall_seconds", "iterations_total", "iterations_late_total", "link_bytes_per_second")
RELAXED = 8  # the promise, in times that a token takes with everything on the device
REACH = 0.75  # of the layers' weights that the link carries in that time
BEFORE, SLOW, AFTER = 8, 10, 14  # seconds of the drop


class Server:
    """A server of the demo model on a free port; use it in a `with`."""

    def __init__(self, options, **settings):
        self.folder = tempfile.TemporaryDirectory(prefix="metronome-show-")
        port_file = os.path.join(self.folder.name, "port")
        settings = {"port": 0, "port_file": port_file, "model": MODEL, "context": 2048, "kv_tokens": 2048,
                    "max_sequences": 4, "max_batch_tokens": 64, **settings}
        config = os.path.join(self.folder.name, "config.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump(settings, file)
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen([options.program, "serve", "--config", config], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        while not os.path.exists(port_file) or not open(port_file, encoding="utf-8").read().endswith("\n"):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{self.read_log()}")
            time.sleep(0.02)
        with open(port_file, encoding="utf-8") as file:
            self.url = f"http://127.0.0.1:{int(file.read())}"
        try:
            while True:
                try:
                    chat_client.wait_until_ready(self.url, 1)
                    return
                except chat_client.ChatError:
                    if self.process.poll() is not None:
                        raise RuntimeError(f"the server ended at its start:\n{self.read_log()}") from None
        except BaseException:
            self.process.kill()
            raise

    def read_log(self):
        self.log.flush()
        with open(self.log.name, encoding="utf-8") as file:
            return file.read()

    def metrics(self):
        """What /metrics says, less comments and the model's name: [(name with labels, value)], in order."""
        values = []
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as response:
            for line in response.read().decode().splitlines():
                if not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    name = re.sub(r'model_name="[^"]*",?', "", name).replace("{}", "").removeprefix("metronome:")
                    values.append((name, float(value)))
        return values

    def value(self, name):
        return dict(self.metrics())[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.folder.cleanup()


def ask(server, max_tokens, prompt=PROMPT):
    """(text, milliseconds per token after the first)"""
    pieces = []
    tokens, _, rest = chat_client.chat(server.url, prompt, max_tokens, pieces.append, ignore_eos=True)
    return "".join(pieces), 1000 * rest / (tokens - 1)


def measure(options):
    """What the promise and the link are set by: (text, ms a token, bytes of the layers' weights)"""
    with Server(options) as server:
        ask(server, 16)
        text, tpot = ask(server, 160)
        return text, tpot, server.value('weight_bytes{place="device"}')


def configure(tpot, weights):
    """The settings of a server with half of the layers on the device."""
    promise = RELAXED * tpot
    link = REACH * weights / (promise / 1000) / 1e9
    return promise, link, {"device_memory": int(0.5 * weights + BESIDE), "link_gbps": round(link, 4),
                           "offload": {"policy": "metronome"}, "slo": {"tpot_ms": round(promise, 3)}}


def show_half(options, base):
    text, tpot, weights = base
    promise, link, settings = configure(tpot, weights)
    print(f"everything on the device: {tpot:.2f} ms a token, {weights / 1e6:.1f} MB of layers' weights")
    print(f"promise: {promise:.2f} ms a token; link: {link:.2f} GB/s; device_memory: "
          f"{settings['device_memory'] / 2**20:.1f} MiB")
    with Server(options, **settings) as server:
        ask(server, 32)
        offloaded, measured = ask(server, 160)
        print("\n".join(line for line in server.read_log().splitlines() if "device arena" in line or "policy" in line))
        host = server.value('weight_bytes{place="host"}')
        print(f"in host memory: {host / 1e6:.1f} MB, {100 * host / weights:.0f} % of the layers' weights")
        print(f"same text: {'yes' if offloaded == text else 'NO'} ({len(text)} characters)")
        print(f"time per token, the client's clock: {measured:.2f} ms; promised: {promise:.2f} ms; "
              f"{'kept' if measured <= promise else 'NOT KEPT'}")
        print("of /metrics:")
        for name, value in server.metrics():
            if name.split("{")[0] in SHOWN:
                print(f"    metronome:{name} {value:g}")
    if offloaded != text:
        print(f"without offloading: {text!r}\nwith:               {offloaded!r}", file=sys.stderr)
    return offloaded == text


def keep_asking(server, until, failures):
    """One answer after another, as a client who never leaves."""
    try:
        while time.monotonic() < until:
            ask(server, 400)
    except (chat_client.ChatError, OSError) as error:
        failures.append(error)


def sample(server, began, until, schedule):
    """/metrics ten times a second: a list of samples for the drawing."""
    samples = []
    while time.monotonic() < until:
        values = dict(server.metrics())
        now = time.monotonic() - began
        samples.append({"time_s": now,
                        "interval": values["offload_interval"],
                        "host_mb": values['weight_bytes{place="host"}'] / 1e6,
                        "iteration_ms": 1000 * values["iteration_measured_seconds"],
                        "predicted_ms": 1000 * values["iteration_predicted_seconds"],
                        "link_gbps": values["link_bytes_per_second"] / 1e9,
                        "link_set_gbps": [rate for at, rate in schedule if at <= now][-1],
                        "late": values["iterations_late_total"],
                        "iterations": values["iterations_total"]})
        time.sleep(0.1)
    return samples


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0


def show_drop(options, base):
    _, tpot, weights = base
    promise, link, settings = configure(tpot, weights)
    settings["device_memory"] = 0  # nothing has to leave: all that does leaves because the promise allows it
    schedule = [(0, link), (BEFORE, link / 3), (BEFORE + SLOW, link)]
    settings["link_schedule"] = ",".join(f"{at}:{rate:.4f}" for at, rate in schedule[1:])
    with Server(options, **settings) as server:
        began = time.monotonic()
        until = began + BEFORE + SLOW + AFTER
        failures = []
        client = threading.Thread(target=keep_asking, args=(server, until, failures), daemon=True)
        client.start()
        samples = sample(server, began, until, schedule)
        client.join()
    if failures:
        raise failures[0]
    print(f"promise: {promise:.2f} ms a token; link: {link:.2f} GB/s, {link / 3:.2f} for {SLOW} s")
    print(f"{'':<26}{'in host memory':>15}{'interval':>10}{'iteration':>11}{'late':>12}")
    for name, begin, end in (("before", 3, BEFORE), ("at a third, settled", BEFORE + 1, BEFORE + SLOW),
                             ("after, settled", BEFORE + SLOW + 4, BEFORE + SLOW + AFTER)):
        some = [one for one in samples if begin <= one["time_s"] < end]
        late = some[-1]["late"] - some[0]["late"]
        print(f"{name:<26}{mean(one['host_mb'] for one in some):>12.1f} MB"
              f"{mean(one['interval'] for one in some):>10.2f}{mean(one['iteration_ms'] for one in some):>8.2f} ms"
              f"{late:>5.0f} of {some[-1]['iterations'] - some[0]['iterations']:.0f}")
    print(f"in all {samples[-1]['late']:.0f} of {samples[-1]['iterations']:.0f} iterations were late")
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(offload_svg.draw(samples, promise, (BEFORE, BEFORE + SLOW)))
        print(f"drawn: {options.svg}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "metronome"))
    parser.add_argument("--svg", help="where to draw the drop")
    parser.add_argument("shows", nargs="*", metavar="half | drop")
    options = parser.parse_args()
    shows = {"half": show_half, "drop": show_drop}
    for name in options.shows:
        if name not in shows:
            parser.error(f"there is no show called {name!r}: half, drop")
    for what, path, mend in (("program", options.program, "make"), ("model", MODEL, "sh scripts/setup demo")):
        if not os.path.exists(path):
            print(f"offload_show: there is no {what} at {path}: {mend}", file=sys.stderr)
            return 1
    try:
        load = os.getloadavg()[0]
        print(f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores, load {load:.2f}")
        base = measure(options)
        good = True
        for name in options.shows or shows:
            print(f"\n== {name} ==")
            good = shows[name](options, base) and good
    except (RuntimeError, chat_client.ChatError, OSError) as error:
        print(f"offload_show: {error}", file=sys.stderr)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
