#!/usr/bin/env python3
"""Shows two classes of promises under overload with the demo model, over HTTP, and a reload that goes wrong.

Usage: scripts/slo_show.py [--program FILE] [--svg FILE] [--seconds N] [--log FILE]

People ("interactive", refused where their promise would be broken) ask more than this machine can serve beside jobs
("batch", nothing promised) that always have something to do. Said is what the people who were admitted got, what was
refused, and what was left for the jobs. The promise is set by what this machine gives, so that the show is the same on a
slow one. --log keeps what became of every request, for `metronome explain --log FILE`. Needs Python's standard
library, a built program (make) and the demo model (sh scripts/setup demo).
"""

import argparse
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import offload_show  # noqa: E402

WORDS = "clock sun water brass hour wheel spring bell tower sea star quartz".split()
RELAXED = 8  # the promise, in times that a request takes alone


def ask(url, name, max_tokens, words, seed):
    """Streams one answer: (status, seconds to the first text or None, its text pieces, Retry-After, the error)"""
    address = urllib.parse.urlsplit(url)
    draw = random.Random(seed)
    body = {"prompt": " ".join(draw.choice(WORDS) for _ in range(words)), "max_tokens": max_tokens, "stream": True,
            "ignore_eos": True, "temperature": 0, "slo": name}
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    begin = time.monotonic()
    try:
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            return response.status, None, 0, float(response.headers.get("Retry-After", 1)), json.loads(response.read())
        first, pieces = None, 0
        for line in response:
            if line.startswith(b"data: {"):
                first = first or time.monotonic() - begin
                pieces += 1
        return 200, first, pieces, 0, None
    finally:
        connection.close()


def configure(options, classes):
    slo = {"slo": {"classes": classes, "default_class": "batch"}} if classes else {}
    if classes and options.log:
        slo["slo_log"] = os.path.abspath(options.log)
    return offload_show.Server(options, max_sequences=8, kv_tokens=8192, prefix_cache="off", **slo)


class Load:
    """Clients of one class, from `begin` on; what each request got is in `got`: (sent, status, ttft, pieces)"""

    def __init__(self, url, name, end, tokens, words, gap_s, clients):
        self.got, self.refusal, self.begin = [], None, time.monotonic()
        self.threads = [threading.Thread(target=self._run, args=(url, name, end, tokens, words, gap_s, 1000 * i))
                        for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def _run(self, url, name, end, tokens, words, gap_s, seed):
        draw = random.Random(seed)
        while time.monotonic() < end:
            sent, seed = time.monotonic() - self.begin, seed + 1
            status, first, pieces, _, refusal = ask(url, name, tokens, words, seed)
            self.refusal = self.refusal or refusal
            self.got.append((sent, status, first, pieces))
            if gap_s:
                time.sleep(draw.expovariate(1 / gap_s))

    def join(self):
        for thread in self.threads:
            thread.join()
        return sorted(self.got)


def draw(people, jobs, ttft_s, seconds):
    """Times to first token of who was admitted, crosses for who was refused, tokens a second of both classes."""
    width, height, left, top = 860, 220, 60, 30
    scale = (width - left - 20) / seconds
    most = 1.25 * max([ttft_s] + [ttft for _, _, ttft, _ in people if ttft])
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{2 * height + 40}" '
           'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
           f'<text x="{left}" y="20">interactive: time to first token, s (promised: {ttft_s:.2f}); red: refused</text>']
    line = top + height - height * ttft_s / most
    out.append(f'<path d="M{left} {line:.1f}H{width - 20}" stroke="#b3392f" stroke-dasharray="5 3"/>')
    for at, status, ttft, _ in people:
        x = left + at * scale
        if status == 200 and ttft:
            out.append(f'<circle cx="{x:.1f}" cy="{top + height - height * ttft / most:.1f}" r="2.5" fill="#1f5fa8"/>')
        else:
            out.append(f'<path d="M{x:.1f} {top + height}v-8" stroke="#b3392f"/>')
    out.append(f'<path d="M{left} {top}v{height}H{width - 20}" fill="none" stroke="#222"/>')
    below, bins = top + height + 40, [0.0] * (int(seconds) + 1)
    for at, status, _, pieces in jobs:
        if at < seconds and status == 200:
            bins[int(at)] += pieces
    highest = max(bins) or 1
    out.append(f'<text x="{left}" y="{below - 8}">batch: tokens of requests that began in each second</text>')
    for second, value in enumerate(bins):
        bar = (height - 60) * value / highest
        out.append(f'<rect x="{left + second * scale:.1f}" y="{below + height - 60 - bar:.1f}" width="{scale - 1:.1f}" '
                   f'height="{bar:.1f}" fill="#2f7d4f"/>')
    out.append(f'<path d="M{left} {below + height - 60}H{width - 20}" stroke="#222"/></svg>')
    return "\n".join(out) + "\n"


def reload_broken(server):
    """Breaks the file, sends SIGHUP; what the log says of it."""
    path = os.path.join(server.folder.name, "config.json")
    with open(path, encoding="utf-8") as file:
        settings = json.load(file)
    settings["slo"]["classes"]["interactive"]["ttft_ms"] = "soon"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(settings, file)
    server.process.send_signal(signal.SIGHUP)
    for _ in range(500):
        lines = [line for line in server.read_log().splitlines() if "reload:" in line]
        if lines:
            return lines[-1]
        time.sleep(0.02)
    raise RuntimeError("SIGHUP said nothing")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "metronome"))
    parser.add_argument("--svg", default="")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--log", default="")
    options = parser.parse_args()
    with configure(options, None) as server:
        ask(server.url, "default", 8, 100, 1)
        begin = time.monotonic()
        first = ask(server.url, "default", 32, 100, 2)[1]
        tpot = (time.monotonic() - begin - first) / 31
    ttft_s = RELAXED * first
    print(f"alone: {1000 * first:.1f} ms to the first token, {1000 * tpot:.2f} ms a token; promised to interactive: "
          f"{1000 * ttft_s:.1f} ms to the first, {1000 * RELAXED * 2 * tpot:.1f} ms a token")
    classes = {"interactive": {"ttft_ms": 1000 * ttft_s, "tpot_ms": 2000 * RELAXED * tpot, "on_miss": "refuse"},
               "batch": {}}
    with configure(options, classes) as server:
        end = time.monotonic() + options.seconds
        jobs = Load(server.url, "batch", end, 64, 100, 0, 6)
        people = Load(server.url, "interactive", end, 16, 100, first, 12)
        people, jobs, refusal = people.join(), jobs.join(), people.refusal
        print(reload_broken(server))
        still = ask(server.url, "interactive", 4, 20, 9)[0]
        numbers = [each for each in server.metrics()
                   if each[0].startswith(("slo_requests_total", "slo_admissions_total", "slo_first_tokens_total"))]
    admitted = [ttft for _, status, ttft, _ in people if status == 200 and ttft]
    kept = sum(ttft <= ttft_s for ttft in admitted)
    print(f"after that the server answers interactive with HTTP {still}")
    print(f"interactive: {len(people)} asked, {len(admitted)} admitted, {kept} of them had their first token in time by the "
          f"client's clock ({100 * kept / max(1, len(admitted)):.1f} %)")
    print(f"batch: {sum(status == 200 for _, status, _, _ in jobs)} served, "
          f"{sum(pieces for _, _, _, pieces in jobs) / options.seconds:.1f} tokens a second")
    if refusal:
        print("a refusal: " + json.dumps(refusal["error"]))
    for name, value in numbers:
        if value:
            print(f"metronome:{name} {value:g}")
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(draw(people, jobs, ttft_s, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
