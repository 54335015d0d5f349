#!/usr/bin/env python3
"""Paced streams: tokens come as the user reads them, and never earlier, while the engine runs ahead. Bounds on time are
lower ones only, from when the request was sent: how late a token is on a busy machine says nothing."""

import json
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import eventually, post_bytes, read_all  # noqa: E402

TPOT_MS = 40
BODY = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
PACED = dict(BODY, pace=True, slo={"tpot_ms": TPOT_MS})
SMALL = {"context": 256, "kv_tokens": 2048}


def setUpModule():
    harness.skip_without_model()


def timed(server, body):
    """The events of a stream, each with when it came, in ms since the request was sent."""
    begin = time.monotonic()
    return [((time.monotonic() - begin) * 1000, event) for event in server.stream("/v1/completions", body)]


def is_idle(server):
    metrics = server.metrics()
    return metrics["num_requests_running"] + metrics["num_requests_waiting"] == 0


class Pace(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(**SMALL)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def check_times(self, events, tpot_ms):
        """Token n, one an event, comes no earlier than n times the promise; the end with the last."""
        for index in {choice["index"] for _, event in events for choice in event["choices"]}:
            own = [at for at, event in events for choice in event["choices"] if choice["index"] == index]
            for n, at in enumerate(own[:BODY["max_tokens"]]):
                self.assertGreaterEqual(at, n * tpot_ms, f"token {n} of choice {index}")
            self.assertGreaterEqual(own[-1], (BODY["max_tokens"] - 1) * tpot_ms)

    def test_tokens_are_the_same_and_never_early(self):
        whole = self.server.post("/v1/completions", BODY)
        events = timed(self.server, dict(PACED, stream_options={"include_usage": True}, return_token_ids=True))
        usage = events.pop()[1]["usage"]
        self.assertEqual([usage[name] for name in ("prompt_tokens", "completion_tokens")],
                         [whole["usage"][name] for name in ("prompt_tokens", "completion_tokens")])
        self.assertEqual("".join(event["choices"][0]["text"] for _, event in events), whole["choices"][0]["text"])
        self.assertEqual([event["choices"][0]["finish_reason"] for _, event in events][-1], "length")
        self.assertGreaterEqual(len(events), BODY["max_tokens"])
        self.check_times(events, TPOT_MS)

    def test_choices_are_paced_each(self):
        body = dict(PACED, n=3, temperature=1, seed=5, return_token_ids=True)
        events = timed(self.server, body)
        whole = self.server.post("/v1/completions", {key: body[key] for key in body if key != "pace"})
        texts = ["", "", ""]
        for _, event in events:
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        self.assertEqual(texts, [choice["text"] for choice in whole["choices"]])
        self.check_times(events, TPOT_MS)

    def test_the_engine_runs_ahead(self):
        stream = self.server.stream("/v1/completions", dict(PACED, max_tokens=4, slo={"tpot_ms": 1000}))
        next(stream)
        eventually(lambda: is_idle(self.server), 60)
        held = time.monotonic()
        rest = list(stream)
        self.assertGreaterEqual(len(rest), 2)
        self.assertGreater(time.monotonic() - held, 0.5, "nothing was held back")

    def test_clients_that_leave_what_is_not_due(self):
        for _ in range(3):
            connection = self.server.raw()
            connection.sendall(post_bytes("/v1/completions", dict(PACED, stream=True, slo={"tpot_ms": 60000})))
            connection.recv(1)
            eventually(lambda: is_idle(self.server), 60)
            connection.close()
            eventually(lambda: self.server.metrics()["http_connections"] == 1)
        metrics = self.server.idle_metrics()
        self.assertEqual(metrics["kv_blocks_free"], metrics["kv_blocks"])

    def test_refusals(self):
        for body, words in ((dict(PACED, stream=False), "needs \"stream\": true"),
                            (dict(BODY, pace=True, stream=True), "no time per token is promised"),
                            (dict(BODY, pace=True, stream=True, slo={"ttft_ms": 5}), "no time per token is promised"),
                            (dict(BODY, pace="slow", stream=True), "true or false")):
            error = self.server.error("/v1/completions", body)
            self.assertEqual(error["param"], "pace")
            self.assertIn(words, error["message"])


class ByOption(unittest.TestCase):
    def test_what_is_held_back_is_sent_before_the_end(self):
        server = harness.Server(pace="on", slo={"tpot_ms": 200}, **SMALL)
        self.addCleanup(server.kill)
        unpaced = list(server.stream("/v1/completions", dict(BODY, pace=False)))
        self.assertEqual(list(server.post("/v1/completions", BODY)["choices"][0]["text"]),
                         list("".join(event["choices"][0]["text"] for event in unpaced)))
        begin = time.monotonic()
        connection = server.raw()
        connection.sendall(post_bytes("/v1/completions", dict(BODY, stream=True)))
        first = connection.recv(1)
        server.signal()  # it drains: all of the stream still comes, in its time
        content = (first + read_all(connection)).decode()
        connection.close()
        self.assertGreaterEqual(time.monotonic() - begin, (BODY["max_tokens"] - 1) * 0.2)
        self.assertIn("data: [DONE]", content)
        text = "".join(json.loads(line[len("data: "):])["choices"][0]["text"] for line in content.splitlines()
                       if line.startswith("data: {"))
        self.assertEqual(text, "".join(event["choices"][0]["text"] for event in unpaced))
        self.assertEqual(server.wait(), 0)


if __name__ == "__main__":
    unittest.main()
