#!/usr/bin/env python3
"""Classes of promises over HTTP: how a request picks one, and what it is told."""

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


if __name__ == "__main__":
    unittest.main()
