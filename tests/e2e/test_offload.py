#!/usr/bin/env python3
"""Offloading as the server's clients meet it: the same text, and numbers that say what was streamed."""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

SMALL = {"context": 512, "kv_tokens": 1024, "max_sequences": 4, "max_batch_tokens": 64}
HALF = "88MiB"  # of device memory hold about half of the demo model's layers, beside everything else
REQUEST = {"prompt": "Clocks were first built", "max_tokens": 20, "temperature": 0, "ignore_eos": True}
HEADER = "X-Metronome-Offload"


def setUpModule():
    harness.skip_without_model()


def weight_bytes(server, place):
    return server.metrics()[f'weight_bytes{{place="{place}"}}']


def ask(server, asked=True, **fields):
    """(text or None if it is streamed, the header's fields or None)"""
    status, headers, content = server.request("POST", "/v1/completions", dict(REQUEST, **fields),
                                              {HEADER: "1"} if asked else None)
    assert status == 200, content
    told = dict(field.split("=") for field in headers[HEADER].split(", ")) if headers[HEADER] else None
    return harness.json.loads(content)["choices"][0]["text"] if not fields.get("stream") else None, told


class Offloaded(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with harness.Server(**SMALL) as whole:
            cls.text, cls.told = ask(whole)
            cls.weights = weight_bytes(whole, "device")
        # The link slows, to what the promise can still be kept with, while the tests run.
        cls.server = harness.Server(**SMALL, device_memory=HALF, link_gbps=8, link_schedule="0.3:4",
                                    offload={"policy": "metronome"}, slo={"tpot_ms": 400})

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_without_offloading_nothing_is_in_host_memory(self):
        self.assertEqual((self.told["policy"], self.told["layers_host"], self.told["bytes_streamed"]),
                         ("none", "0.000", "0"))

    def test_same_text(self):
        for _ in range(3):
            self.assertEqual(ask(self.server)[0], self.text)

    def test_half_of_the_weights_are_in_host_memory(self):
        host, device = weight_bytes(self.server, "host"), weight_bytes(self.server, "device")
        self.assertGreater(host, 0.4 * self.weights)
        self.assertAlmostEqual((host + device) / self.weights, 1, delta=0.03)  # slabs are padded

    def test_what_was_streamed_is_told(self):
        before = self.server.metrics()
        ask(self.server)
        after = self.server.metrics()
        iterations = after["iterations_total"] - before["iterations_total"]
        streamed = after["offload_streamed_bytes_total"] - before["offload_streamed_bytes_total"]
        link = 'link_bytes_total{direction="host_to_device"}'
        self.assertEqual(iterations, REQUEST["max_tokens"])
        self.assertGreater(streamed, iterations * 0.4 * self.weights)
        # The link carried that, and beside it no more than the iterations' inputs.
        self.assertGreaterEqual(after[link] - before[link], streamed)
        self.assertLess(after[link] - before[link], streamed + iterations * 65536)

    def test_header(self):
        self.assertIsNone(ask(self.server, asked=False)[1])
        _, told = ask(self.server)
        self.assertEqual((told["policy"], told["layers"], told["deadline_ms"]), ("metronome", "30", "400.000"))
        self.assertIn(told["why"], ("slo", "memory"))
        self.assertAlmostEqual(float(told["interval"]), 30 / float(told["layers_host"]), places=2)
        self.assertGreater(int(told["bytes_host"]), 0.4 * self.weights)
        self.assertGreater(int(told["bytes_streamed"]), 0.4 * self.weights)
        for name in ("predicted_ms", "measured_ms"):
            self.assertGreater(float(told[name]), 0, name)
        _, streamed = ask(self.server, stream=True)
        self.assertEqual(set(streamed), set(told))

    def test_link_schedule(self):
        deadline = time.monotonic() + 20
        while not any("link_schedule" in line for line in self.server.log):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        # Where others take the processor, a copy that begins late catches up, and looks faster than the link for once.
        rate = 8e9
        while rate >= 4.4e9:
            self.assertLess(time.monotonic(), deadline, rate)
            ask(self.server)
            rate = self.server.metrics()["link_bytes_per_second"]


class Refused(unittest.TestCase):
    def test_a_schedule_that_is_none(self):
        result = harness.run_command("serve", "--model", harness.MODEL, "--link_schedule", "10:1,5:2")
        self.assertEqual(result.returncode, 2)
        self.assertIn("link_schedule", result.stderr)


if __name__ == "__main__":
    unittest.main()
