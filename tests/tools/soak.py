#!/usr/bin/env python3
"""A server under more load than it bears, for as long as is asked for, and clients of which many leave midway.

    python3 tests/tools/soak.py [--seconds N] [--clients N] [--seed N]

First an hour of it on simulated hardware, in seconds. Then the demo model with a KV cache for a few sequences, so that KV parks and sequences are preempted, and promises of every
kind; requests streamed, paced and whole, refused for a full queue, cancelled by leaving. In the end every block of the
KV cache is free, nothing runs or waits, the server counted the ends that its clients saw, memory has stopped growing,
and the server drains. Status 0, or 1 and what is wrong."""

import argparse
import http.client
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import harness  # noqa: E402

WORDS = "time clock river seven under glass tower light count wheel stone paper north early minute".split()
GROWTH_BYTES = 48 << 20  # that memory may still grow by once half of the time has passed


class Client(threading.Thread):
    """Sends requests one after another until it is told to end."""

    def __init__(self, port, seed, until):
        super().__init__(daemon=True)
        self.port, self.until = port, until
        self.random = random.Random(seed)
        self.counts = {"whole": 0, "left": 0, "busy": 0, "refused": 0}
        self.wrong = None

    def body(self):
        draw = self.random
        body = {"prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, 80))), "max_tokens": draw.randint(1, 40),
                "temperature": draw.choice((0, 1)), "ignore_eos": True, "stream": draw.random() < 0.8}
        promise = draw.choice((None, {}, {"ttft_ms": 2000, "tpot_ms": 100}, {"tpot_ms": 50}, {"ttft_ms": 50}))
        if promise is not None:
            body["slo"] = promise
        if body["stream"] and promise and "tpot_ms" in promise and draw.random() < 0.3:
            body["pace"] = True
        if draw.random() < 0.2:
            body["n"] = draw.randint(2, 3)
        return body

    def one(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            body = self.body()
            connection.request("POST", "/v1/completions", json.dumps(body))
            if not body["stream"] and self.random.random() < 0.2:
                time.sleep(self.random.random() / 4)
                self.counts["left"] += 1
                return
            response = connection.getresponse()
            if response.status != 200:
                text = response.read()
                if response.status not in (429, 400, 503) or response.status == 503 and time.monotonic() < self.until:
                    raise AssertionError(f"HTTP {response.status}: {text[:300]!r}")
                self.counts["busy" if response.status == 429 else "refused"] += 1
                time.sleep(0.05)
                return
            if body["stream"] and self.random.random() < 0.4:
                response.read(self.random.randint(1, 4000))
                self.counts["left"] += 1
                return
            if body["stream"]:
                events = list(harness.read_events(response))
                ends = [choice["finish_reason"] for event in events for choice in event["choices"]]
                assert len([end for end in ends if end]) == body.get("n", 1), ends
            else:
                choices = json.loads(response.read())["choices"]
                assert [choice["finish_reason"] for choice in choices] == ["length"] * body.get("n", 1), choices
            self.counts["whole"] += body.get("n", 1)
        finally:
            connection.close()

    def run(self):
        try:
            while time.monotonic() < self.until:
                self.one()
        except Exception as error:  # whatever it is, it is the soak's result
            self.wrong = error


def ends(metrics):
    return {name.split('"')[1]: int(value) for name, value in metrics.items() if name.startswith("request_success_total")}


def soak(seconds, clients, seed, say=lambda line: None):
    """Runs it; raises AssertionError."""
    with harness.Server(context=320, kv_tokens=768, max_sequences=8, max_queue=12, log_level="warn",
                        slo={"ttft_ms": 5000, "tpot_ms": 1000}) as server:
        before = ends(server.metrics())
        begin = time.monotonic()
        threads = [Client(server.port, seed * 1000 + i, begin + seconds) for i in range(clients)]
        for thread in threads:
            thread.start()
        middle, last = None, begin
        while time.monotonic() < begin + seconds and not any(thread.wrong for thread in threads):
            time.sleep(min(1, seconds / 20))
            now = time.monotonic()
            if middle is None and now > begin + seconds / 2:
                middle = server.metrics()["resident_memory_bytes"]
            if now > last + 30:
                metrics, last = server.metrics(), now
                say(f"{now - begin:6.0f} s: {metrics['resident_memory_bytes'] / 2**20:.1f} MiB, {ends(metrics)}, "
                    f"{metrics['num_preemptions_total']:.0f} preempted")
        for thread in threads:
            thread.join(300)
            if thread.wrong:
                raise AssertionError(f"a client: {thread.wrong!r}") from thread.wrong
            assert not thread.is_alive(), "a client still waits"
        harness.eventually(lambda: server.metrics()["num_requests_running"] +
                           server.metrics()["num_requests_waiting"] == 0, 60, "requests without clients go on")
        metrics = server.metrics()
        counts = {name: sum(thread.counts[name] for thread in threads) for name in threads[0].counts}
        ended = {reason: count - before.get(reason, 0) for reason, count in ends(metrics).items()}
        say(f"clients: {counts}; the server: {ended}, {metrics['num_preemptions_total']:.0f} preempted, "
            f"memory {middle / 2**20:.1f} MiB at half the time, {metrics['resident_memory_bytes'] / 2**20:.1f} MiB now")
        assert metrics["kv_blocks_free"] == metrics["kv_blocks"], "KV blocks are lost"
        assert counts["whole"] <= ended["length"] + ended["stop"], (counts, ended)
        assert ended["error"] == 0, ended
        assert counts["whole"] > 0 and counts["left"] > 0 and ended["abort"] > 0, "the soak shows nothing"
        grown = metrics["resident_memory_bytes"] - middle
        assert grown < GROWTH_BYTES, f"memory grew by {grown / 2**20:.1f} MiB in the second half"
        return counts


def hour():
    """An hour of requests on simulated hardware, thirty times what it bears: all are refused or end."""
    requests = 7200
    result = harness.run_command(
        "simulate", "--hardware", "a10", "--model", "opt-13b", "--slo.ttft_ms", "5000", "--slo.tpot_ms", "500",
        "--rate", "2", "--requests", str(requests), "--prompt", "400", "--output", "200", "--json", "-", seconds=600)
    assert result.returncode == 0, result.stderr
    run = json.loads(result.stdout)["runs"][0]
    counts = {name: run[name] for name in ("requests", "refused", "failed", "kept", "preemptions", "seconds")}
    assert run["failed"] == 0 and run["requests"] == requests, counts
    assert 0 < run["kept"] < requests - run["refused"] and run["preemptions"] > 0, counts
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        os.chdir(harness.ROOT)
        print(f"simulated: {hour()}")
        soak(options.seconds, options.clients, options.seed, print)
    except AssertionError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
