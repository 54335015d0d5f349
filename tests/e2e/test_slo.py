#!/usr/bin/env python3
"""Classes of promises over HTTP: how a request picks one, and what it is told."""

import json
import os
import signal
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


class Reload(unittest.TestCase):
    KEY = {"Authorization": "Bearer secret"}

    def setUp(self):
        self.server = harness.Server(api_key="secret", context=512, kv_tokens=2048, max_sequences=4,
                                     max_batch_tokens=16, slo={"classes": {"a": {"ttft_ms": 60000}}})
        self.addCleanup(self.server.stop)
        with open(self.server.config, encoding="utf-8") as file:
            self.written = json.loads(file.read().split("\n", 1)[1])

    def write(self, **options):
        with open(self.server.config, "w", encoding="utf-8") as file:
            json.dump({**self.written, **options}, file)

    def ask(self, name, status=200):
        return self.server.post("/v1/completions", dict(ASK, slo=name), headers=self.KEY, status=status)

    def reload(self, status=200):
        return self.server.post("/admin/reload", None, headers=self.KEY, status=status)

    def test_endpoint_and_signal_take_what_may_change(self):
        self.assertEqual(self.server.request("POST", "/admin/reload")[0], 401)
        self.ask("b", status=400)
        self.write(slo={"classes": {"b": {"ttft_ms": 70000}}}, max_queue=9)
        self.assertEqual(self.reload(), {"changed": ["slo.classes"], "takes_a_restart": ["max_queue"]})
        self.ask("b")
        self.assertIn("there are default, b", self.ask("a", status=400)["error"]["message"])

        self.write(slo={"classes": {"c": {}}})
        self.server.signal(signal.SIGHUP)
        request = ("POST", "/v1/completions", dict(ASK, slo="c"), self.KEY)
        harness.eventually(lambda: self.server.request(*request)[0] == 200)

    def test_a_bad_file_changes_nothing(self):
        for broken in ({"slo": {"classes": {"b": {"ttft_ms": "soon"}}}}, {"slo": {"classes": {"b": {"tpot_ms": 1e-5}}}},
                       {"pace": "on", "port": "eighty"}):
            self.write(**broken)
            self.assertIn("nothing was changed: ", self.reload(status=400)["error"]["message"])
            self.ask("a")
        self.server.signal(signal.SIGHUP)
        harness.eventually(lambda: sum("reload: nothing was changed: " in line for line in self.server.log) == 4)
        self.ask("a")

    def test_without_a_key_the_door_is_closed(self):
        with harness.Server(context=512, kv_tokens=2048) as server:
            self.assertEqual(server.request("POST", "/admin/reload")[0], 403)


if __name__ == "__main__":
    unittest.main()
