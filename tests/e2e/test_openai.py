#!/usr/bin/env python3
"""OpenAI's own Python client against the server. Skipped, visibly, where the package is not installed."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

try:
    import openai
except ImportError:
    openai = None

SHARED = {}
PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "Name the capital of France."}]


def setUpModule():
    if openai is None:
        raise unittest.SkipTest("the Python package openai is not installed")
    harness.skip_without_model()
    SHARED["server"] = harness.Server(context=1024, kv_tokens=8192, model_name="smol", api_key="key",
                                      max_sequences=4, max_queue=4)


def tearDownModule():
    SHARED.pop("server").stop()


class OpenAiClient(unittest.TestCase):
    def setUp(self):
        base = f"http://127.0.0.1:{SHARED['server'].port}/v1"
        self.client = openai.OpenAI(base_url=base, api_key="key", max_retries=0, timeout=120)
        self.addCleanup(self.client.close)

    def complete(self, **fields):
        return self.client.completions.create(**{"model": "smol", "prompt": PROMPT, "max_tokens": 8, "temperature": 0,
                                                 **fields})

    def chat(self, **fields):
        return self.client.chat.completions.create(**{"model": "smol", "messages": MESSAGES, "max_tokens": 8,
                                                      "temperature": 0, **fields})

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["smol"])
        self.assertEqual(self.client.models.retrieve("smol").owned_by, "metronome")

    def test_completion(self):
        reply = self.complete()
        self.assertIn("Paris", reply.choices[0].text)
        self.assertEqual(reply.usage.completion_tokens, 8)
        self.assertEqual(reply.usage.prompt_tokens_details.cached_tokens, 0)

    def test_completion_stream(self):
        text = "".join(chunk.choices[0].text for chunk in self.complete(stream=True))
        self.assertEqual(text, self.complete().choices[0].text)

    def test_chat(self):
        reply = self.chat()
        self.assertEqual(reply.choices[0].message.role, "assistant")
        self.assertTrue(reply.choices[0].message.content)

    def test_chat_stream_with_usage(self):
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        whole = self.chat()
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[-1].usage.total_tokens, whole.usage.total_tokens)
        self.assertEqual(chunks[-2].choices[0].finish_reason, whole.choices[0].finish_reason)

    def test_logprobs(self):
        logprobs = self.complete(logprobs=2).choices[0].logprobs
        self.assertEqual(len(logprobs.tokens), 8)
        self.assertEqual(len(logprobs.top_logprobs[0]), 2)
        entries = self.chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content
        self.assertEqual(len(entries[0].top_logprobs), 2)
        self.assertEqual(entries[0].top_logprobs[0].token, entries[0].token)

    def test_n(self):
        reply = self.chat(n=2, temperature=1, seed=7)
        self.assertEqual([choice.index for choice in reply.choices], [0, 1])
        self.assertNotEqual(reply.choices[0].message.content, reply.choices[1].message.content)

    def test_stop(self):
        text = self.complete().choices[0].text
        reply = self.complete(stop=[text[3:7]])
        self.assertEqual((reply.choices[0].text, reply.choices[0].finish_reason), (text[:3], "stop"))

    def test_extra_fields(self):
        reply = self.complete(extra_body={"top_k": 1, "min_p": 0.1, "ignore_eos": True, "repetition_penalty": 1.1})
        self.assertEqual(reply.usage.completion_tokens, 8)

    def test_closing_a_stream_frees_it(self):
        server = SHARED["server"]
        stream = self.complete(stream=True, max_tokens=900, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        harness.eventually(lambda: server.metrics()["num_requests_running"] == 0, 5)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.complete(temperature=-1)
        self.assertEqual((caught.exception.param, caught.exception.type), ("temperature", "invalid_request_error"))
        with self.assertRaises(openai.NotFoundError) as caught:
            self.complete(model="gpt-4")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model="smol", input="x")
        stranger = openai.OpenAI(base_url=self.client.base_url, api_key="wrong", max_retries=0)
        self.addCleanup(stranger.close)
        with self.assertRaises(openai.AuthenticationError):
            stranger.models.list()

    def test_a_full_queue_is_a_rate_limit_and_a_retry_gets_through(self):
        streams = []
        with self.assertRaises(openai.RateLimitError):
            for _ in range(9):  # 4 run, 4 wait
                streams.append(self.complete(stream=True, max_tokens=900, extra_body={"ignore_eos": True}))
        self.assertGreaterEqual(len(streams), 4)
        patient = self.client.with_options(max_retries=5)
        for stream in streams:
            stream.close()
        self.assertIn("Paris", patient.completions.create(model="smol", prompt=PROMPT, max_tokens=2,
                                                          temperature=0).choices[0].text)


if __name__ == "__main__":
    unittest.main()
