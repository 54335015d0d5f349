#!/usr/bin/env python3
"""Classes of promises over HTTP: how a request picks one, and what it is told."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

ASK = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
CLASSES = {"interactive": {"ttft_ms": 60000, "tpot_ms": 60000}, "batch": {}}


def setUpModule():
    harness.skip_without_model()


class Choosing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(context=512, kv_tokens=2048,
                                    slo={"classes": CLASSES, "default_class": "batch", "ttft_min_ms": 5})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def promised(self, name):
        metrics = self.server.metrics()
        return (metrics[f'slo_requests_total{{class="{name}",outcome="promised"}}'],
                metrics[f'slo_requests_total{{class="{name}",outcome="kept"}}'],
                metrics[f'slo_time_to_first_token_seconds_count{{class="{name}"}}'])

    def test_body_before_header_before_default(self):
        ask = self.server.post
        before = [self.promised(name) for name in ("interactive", "batch", "default")]
        ask("/v1/completions", dict(ASK, slo="interactive"))
        ask("/v1/completions", dict(ASK, slo={"class": "interactive"}))
        ask("/v1/completions", ASK, headers={"X-Metronome-SLO": "interactive"})
        ask("/v1/completions", dict(ASK, slo="default"), headers={"X-Metronome-SLO": "interactive"})
        ask("/v1/completions", ASK)
        ask("/v1/completions", dict(ASK, slo={"ttft_ms": 50000}))  # of the default class, with a time of its own
        after = [self.promised(name) for name in ("interactive", "batch", "default")]
        grown = [tuple(b - a for a, b in zip(*each)) for each in zip(before, after)]
        self.assertEqual(grown, [(3, 3, 3), (1, 1, 2), (0, 0, 1)])

    def test_what_is_wrong_is_said(self):
        error = self.server.error("/v1/completions", dict(ASK, slo="gold"))
        self.assertEqual(error["param"], "slo")
        self.assertIn('there is no class "gold"; there are default, interactive, batch', error["message"])
        error = self.server.error("/v1/completions", ASK, headers={"X-Metronome-SLO": "gold"})
        self.assertEqual(error["param"], "X-Metronome-SLO")
        error = self.server.error("/v1/completions", dict(ASK, slo={"class": "interactive", "ttft_ms": 4}))
        self.assertIn("4 is out of range; this server allows 5 to", error["message"])
        for wrong in (7, {"class": 7}, {"klass": "interactive"}):
            self.server.error("/v1/completions", dict(ASK, slo=wrong))


class Admission(unittest.TestCase):
    LONG = {"prompt": [100 + i % 50 for i in range(400)], "max_tokens": 2, "temperature": 0}
    CLASSES = {"strict": {"ttft_ms": 2, "on_miss": "refuse"},
               "soft": {"ttft_ms": 2, "on_miss": "downgrade", "downgrade_to": "patient"},
               "hopeful": {"ttft_ms": 2},
               "patient": {"ttft_ms": 100000, "tpot_ms": 100000, "on_miss": "refuse"}}

    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(context=512, kv_tokens=2048, max_sequences=4, max_batch_tokens=16,
                                    slo={"classes": cls.CLASSES})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def ask(self, name, **more):
        status, headers, content = self.server.request("POST", "/v1/completions", dict(self.LONG, slo=name, **more))
        return status, headers, content

    def count(self, labels):
        return self.server.metrics()["slo_admissions_total{" + labels + "}"]

    def test_refused_with_the_numbers(self):
        for more in ({}, {"stream": True}, {"n": 2}):
            status, headers, content = self.ask("strict", **more)
            self.assertEqual(status, 429, content)
            self.assertGreaterEqual(int(headers["Retry-After"]), 1)
            error = json.loads(content)["error"]
            self.assertEqual((error["type"], error["code"]), ("rate_limit_error", "slo_refused"))
            said = error["slo"]
            self.assertEqual((said["class"], said["short"], said["of"], said["promised_ms"]),
                             ("strict", "ttft", "ttft", 2))
            self.assertGreater(said["predicted_ms"], 2)
        self.assertGreaterEqual(self.count('class="strict",outcome="refused",short="ttft"'), 3)

    def test_downgraded_best_effort_and_promised_say_so(self):
        for name, outcome, got in (("soft", "downgraded", "patient"), ("hopeful", "best_effort", "hopeful"),
                                   ("patient", "promised", "patient")):
            status, headers, content = self.ask(name)
            self.assertEqual(status, 200, content)
            said = dict(each.split("=") for each in headers["X-Metronome-SLO"].split(", "))
            self.assertEqual((said["class"], said["outcome"]), (got, outcome), said)
            self.assertEqual(said.get("asked", name), name)
            self.assertGreater(float(said["predicted_ttft_ms"]), 0)
            self.assertGreaterEqual(self.count(f'class="{name}",outcome="{outcome}"'), 1)

    def test_a_stream_says_so_in_its_head(self):
        status, headers, _ = self.ask("soft", stream=True)
        self.assertEqual(status, 200)
        self.assertIn("outcome=downgraded, asked=soft", headers["X-Metronome-SLO"])


if __name__ == "__main__":
    unittest.main()
