#!/usr/bin/env python3
"""How many events `metronome bench serve` can take, against a server that computes nothing.

    make load-bench        # or: python3 bench/tools/load_speed.py [--program FILE] [--spray FILE] [--json FILE]

First answers come as fast as the two processes can (events/s is then what one core of load generator takes beside the
sprayer on another); then as from an engine, every stream getting an event every tick: ITL p50 should be the tick, and
what lies above it at p99 is what this machine and the load generator add.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# (clients, events of an answer, tick in us, requests)
POINTS = ((1, 256, 0, 400), (16, 256, 0, 800), (64, 256, 0, 800), (64, 256, 5000, 192), (128, 256, 5000, 384),
          (256, 256, 5000, 768))


def measure(options, folder, clients, events, tick_us, requests):
    port_file = os.path.join(folder, f"port-{clients}-{tick_us}")
    spray = subprocess.Popen([options.spray, port_file, str(events), str(tick_us)], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while not os.path.exists(port_file) or not open(port_file, encoding="utf-8").read().endswith("\n"):
            if spray.poll() is not None or time.monotonic() > deadline:
                sys.exit("load_speed: the sprayer did not start")
            time.sleep(0.01)
        url = f"http://127.0.0.1:{int(open(port_file, encoding='utf-8').read())}"
        done = subprocess.run([options.program, "bench", "serve", "--url", url, "--model", "spray", "--clients", str(clients),
                               "--requests", str(requests), "--prompt", "8", "--output", str(events), "--json", "-"],
                              capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            sys.exit(f"load_speed: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout)
    finally:
        spray.stdin.close()
        spray.wait(20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "metronome"))
    parser.add_argument("--spray", default=os.path.join(ROOT, "build", "release", "tools", "sse_spray"))
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    rows = []
    print(f"{'clients':>7} {'tick, ms':>9} {'events/s':>10} {'% of a core':>12} {'us an event':>12} {'ITL p50':>9} {'ITL p99':>9}"
          f" {'failed':>7} {'load':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for clients, events, tick_us, requests in POINTS:
            report = measure(options, folder, clients, events, tick_us, requests)
            own, load = report["self"], os.getloadavg()[0]
            rows.append({"clients": clients, "tick_us": tick_us, "events_per_s": own["events_per_s"],
                         "cpu_share": own["cpu_share"], "cpu_us_per_event": own["cpu_us_per_event"],
                         "itl_p50_ms": report["itl_ms"]["p50"], "itl_p99_ms": report["itl_ms"]["p99"],
                         "failed": report["requests"] - report["whole"], "load_average": load})
            print(f"{clients:>7} {tick_us / 1000:>9.1f} {own['events_per_s']:>10.0f} {100 * own['cpu_share']:>12.1f}"
                  f" {own['cpu_us_per_event']:>12.2f} {report['itl_ms']['p50']:>9.2f} {report['itl_ms']['p99']:>9.2f}"
                  f" {rows[-1]['failed']:>7} {load:>6.1f}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
