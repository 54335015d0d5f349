#!/usr/bin/env python3
"""The prefix cache as clients meet it: the turns of a chat, many at once, tenants apart."""

import os
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

SYSTEM = {"role": "system", "content": "You are a clockmaker who answers in one short sentence. " * 3}
QUESTIONS = ["What is a pendulum for?", "And an escapement?", "Who built the first quartz clock?"]


def setUpModule():
    harness.skip_without_model()


def chat(server, messages, **fields):
    return server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 12, "temperature": 0, **fields})


def cached(reply):
    return reply["usage"]["prompt_tokens_details"]["cached_tokens"]


def talk(server, questions, **fields):
    """A conversation; returns its answers, and each turn's usage."""
    messages, answers, usages = [SYSTEM], [], []
    for question in questions:
        messages.append({"role": "user", "content": question})
        reply = chat(server, messages, **fields)
        messages.append(reply["choices"][0]["message"])
        answers.append(messages[-1]["content"])
        usages.append(reply["usage"])
    return answers, usages


class Prefix(unittest.TestCase):
    def test_turns_tenants_and_streams(self):
        with harness.Server(context=512, kv_tokens=4096, prefix_cache="off") as server:
            plain, usages = talk(server, QUESTIONS)
            self.assertEqual([usage["prompt_tokens_details"]["cached_tokens"] for usage in usages], [0, 0, 0])
            self.assertEqual(server.metrics()["prefix_cache_queries_total"], 0)
        with harness.Server(context=512, kv_tokens=4096) as server:
            answers, usages = talk(server, QUESTIONS)
            self.assertEqual(answers, plain)
            hits = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
            self.assertEqual(hits[0], 0)
            for before, usage, hit in zip(usages, usages[1:], hits[1:]):
                # The template may write an answer in other tokens than those that were drawn; a question it does not.
                self.assertGreaterEqual(hit, before["prompt_tokens"] // 16 * 16 - 16)
                self.assertLess(hit, usage["prompt_tokens"])
            metrics = server.idle_metrics()
            self.assertEqual(metrics["kv_blocks_free"], metrics["kv_blocks"])
            self.assertEqual(metrics["prefix_cache_hits_total"], sum(hits))
            self.assertEqual(metrics["prefix_cache_queries_total"], sum(usage["prompt_tokens"] for usage in usages))
            self.assertGreater(metrics['prefix_cache_blocks{place="device"}'], 0)

            # Somebody else's salt finds nothing, one's own does.
            for salt, found in (("tenant a", False), ("tenant b", False), ("tenant a", True)):
                answers, usages = talk(server, QUESTIONS[:1], cache_salt=salt)
                self.assertEqual(answers, plain[:1])
                self.assertEqual(usages[0]["prompt_tokens_details"]["cached_tokens"] > 0, found, salt)

            messages = [SYSTEM, {"role": "user", "content": QUESTIONS[0]}]
            body = {"messages": messages, "max_tokens": 12, "temperature": 0,
                    "stream_options": {"include_usage": True}}
            events = list(server.stream("/v1/chat/completions", body))
            self.assertGreater(cached(events[-1]), 0)

            error = server.error("/v1/completions", {"prompt": "x", "cache_salt": "s" * 129})
            self.assertEqual(error["param"], "cache_salt")

    def test_many_at_once_in_a_small_cache(self):
        """Conversations side by side, that share their beginning and do not all fit."""
        with harness.Server(context=256, kv_tokens=512, max_sequences=4) as server:
            alone = [talk(server, [question])[0] for question in QUESTIONS]
            results = [None] * 6

            def run(index):
                results[index] = talk(server, [QUESTIONS[index % 3]], cache_salt=f"tenant {index % 2}")

            threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for index, result in enumerate(results):
                self.assertEqual(result[0], alone[index % 3])
            metrics = server.idle_metrics()
            self.assertEqual(metrics["kv_blocks_free"], metrics["kv_blocks"])
            self.assertEqual(metrics["kv_parked_blocks"], metrics['prefix_cache_blocks{place="host"}'])


if __name__ == "__main__":
    unittest.main()
