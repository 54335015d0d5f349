#!/usr/bin/env python3
"""More requests than the KV cache holds, as clients meet it: the same texts, and numbers that say what was parked."""

import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

CLIENTS = 4
SMALL = {"context": 160, "kv_tokens": 256, "max_sequences": CLIENTS}


def setUpModule():
    harness.skip_without_model()


def ask(server, number):
    request = {"prompt": f"Chapter {number}. Once upon a time", "max_tokens": 100, "temperature": 0, "ignore_eos": True}
    status, _, content = server.request("POST", "/v1/completions", request)
    assert status == 200, content
    return harness.json.loads(content)["choices"][0]["text"]


def ask_all_at_once(server):
    texts = [None] * CLIENTS
    threads = [threading.Thread(target=lambda i=i: texts.__setitem__(i, ask(server, i))) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return texts


class Parking(unittest.TestCase):
    def test_same_texts_and_nothing_computed_again(self):
        with harness.Server(**SMALL) as server:
            alone = [ask(server, i) for i in range(CLIENTS)]
            before = server.metrics()
            self.assertEqual(before["num_preemptions_total"], 0)
            self.assertEqual(ask_all_at_once(server), alone)
            after = server.idle_metrics()
            self.assertGreater(after["num_preemptions_total"], 0)
            self.assertGreater(after["preempted_resumed_total"], 0)
            self.assertEqual(after["recomputed_tokens_total"], 0)
            out = after['kv_link_bytes_total{direction="device_to_host"}']
            self.assertGreater(out, 0)
            self.assertLessEqual(after['kv_link_bytes_total{direction="host_to_device"}'], out)
            self.assertEqual(after["kv_parked_blocks"], after['prefix_cache_blocks{place="host"}'])
            self.assertEqual(after["kv_blocks_free"], after["kv_blocks"])

    def test_without_host_memory_it_is_computed_again(self):
        with harness.Server(**SMALL, offload={"kv_host_memory": 0}) as server:
            alone = [ask(server, i) for i in range(CLIENTS)]
            self.assertEqual(ask_all_at_once(server), alone)
            after = server.idle_metrics()
            self.assertGreater(after["num_preemptions_total"], 0)
            self.assertGreater(after["recomputed_tokens_total"], 0)
            self.assertEqual(after["kv_host_blocks"], 0)
            self.assertEqual(after['kv_link_bytes_total{direction="device_to_host"}'], 0)

    def test_what_is_short_is_said(self):
        done = harness.run_command("serve", "--model", harness.MODEL, "--port", "0", "--context", "256", "--kv_tokens", "256",
                                   "--host_memory", "32MiB", "--offload.kv_host_memory", "64MiB")
        self.assertEqual(done.returncode, 1, done.stderr)
        for word in ("host_memory", "offload.kv_host_memory", "short"):
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
