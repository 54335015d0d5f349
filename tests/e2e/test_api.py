#!/usr/bin/env python3
"""The HTTP API as its clients meet it: shapes, streams, sampling fields, and a refusal for everything that is wrong."""

import http.client
import json
import math
import os
import socket
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

CONTEXT = 1024
PROMPT = "The capital of France is"
SHARED = {}


def setUpModule():
    harness.skip_without_model()
    SHARED["server"] = harness.Server(context=CONTEXT, kv_tokens=8192, max_body="256KiB", model_name="smol")


def tearDownModule():
    SHARED.pop("server").stop()


class ApiTest(unittest.TestCase):
    """A case of the one server that all of them share."""

    def setUp(self):
        self.server = SHARED["server"]

    def complete(self, prompt=PROMPT, **fields):
        body = {"model": "smol", "prompt": prompt, "max_tokens": 12, "temperature": 0}
        return self.server.post("/v1/completions", {**body, **fields})

    def stream_complete(self, prompt=PROMPT, **fields):
        body = {"model": "smol", "prompt": prompt, "max_tokens": 12, "temperature": 0}
        return list(self.server.stream("/v1/completions", {**body, **fields}))

    def chat(self, text="Say hello.", **fields):
        body = {"model": "smol", "messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0}
        return self.server.post("/v1/chat/completions", {**body, **fields})

    def stream_chat(self, text="Say hello.", **fields):
        body = {"model": "smol", "messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0}
        return list(self.server.stream("/v1/chat/completions", {**body, **fields}))

    def tokenize(self, text, **fields):
        return self.server.post("/tokenize", {"prompt": text, **fields})["tokens"]


class Pages(ApiTest):
    def test_health_version_page(self):
        self.assertEqual(self.server.json("GET", "/health"), {"status": "ok"})
        version = self.server.json("GET", "/version")
        self.assertEqual(set(version), {"version", "commit"})
        status, headers, content = self.server.request("GET", "/")
        self.assertEqual(status, 200)
        self.assertTrue(headers["Content-Type"].startswith("text/html"))
        for path in (b"/v1/completions", b"/v1/chat/completions", b"/metrics", b"/tokenize"):
            self.assertIn(path, content)

    def test_models(self):
        models = self.server.json("GET", "/v1/models")
        self.assertEqual(models["object"], "list")
        self.assertEqual([model["id"] for model in models["data"]], ["smol"])
        self.assertEqual(models["data"][0]["object"], "model")
        self.assertEqual(models["data"][0]["max_model_len"], CONTEXT)
        self.assertEqual(self.server.json("GET", "/v1/models/smol")["id"], "smol")
        self.assertEqual(self.server.json("GET", "/v1/models/%73mol")["id"], "smol")
        self.server.json("GET", "/v1/models/other", status=404)
        self.server.json("GET", "/v1/models/%zz", status=400)

    def test_unknown_paths_and_methods(self):
        error = self.server.json("GET", "/v1/nothing", status=404)["error"]
        self.assertIn("/v1/nothing", error["message"])
        for method, path, allowed in (("GET", "/v1/completions", "POST"), ("PUT", "/v1/chat/completions", "POST"),
                                      ("POST", "/health", "GET, HEAD"), ("DELETE", "/v1/models", "GET, HEAD")):
            status, headers, _ = self.server.request(method, path)
            self.assertEqual((status, headers["Allow"]), (405, allowed), (method, path))
        status, headers, content = self.server.request("HEAD", "/health")
        self.assertEqual((status, content, headers["Content-Length"]), (200, b"", "15"))

    def test_request_ids(self):
        _, headers, _ = self.server.request("GET", "/health", headers={"X-Request-Id": "my-id.7"})
        self.assertEqual(headers["X-Request-Id"], "my-id.7")
        ids = {self.server.request("GET", "/health")[1]["X-Request-Id"] for _ in range(3)}
        self.assertEqual(len(ids), 3)

    def test_metrics_follow_requests(self):
        before = self.server.metrics()
        self.complete(max_tokens=7, ignore_eos=True)
        after = self.server.idle_metrics()
        self.assertEqual(after["generation_tokens_total"] - before["generation_tokens_total"], 7)
        self.assertEqual(after["prompt_tokens_total"] - before["prompt_tokens_total"], len(self.tokenize(PROMPT)))
        reason = 'request_success_total{finished_reason="length"}'
        self.assertEqual(after[reason] - before[reason], 1)
        for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
            self.assertEqual(after[name + "_count"] - before[name + "_count"], 1, name)
        self.assertEqual(after["inter_token_latency_seconds_count"] - before["inter_token_latency_seconds_count"], 6)
        self.assertEqual(after["num_requests_running"], 0)
        self.assertEqual(after["kv_blocks_free"], after["kv_blocks"])


    def test_promises_of_single_requests(self):
        def outcomes():
            metrics = self.server.metrics()
            return [metrics[f'slo_requests_total{{class="default",outcome="{outcome}"}}'] for outcome in
                    ("promised", "kept", "late_ttft", "late_tpot")]

        before = outcomes()
        generous, hopeless = {"ttft_ms": 600000, "tpot_ms": 600000}, {"ttft_ms": 0.001, "tpot_ms": 600000}
        text = self.complete()["choices"][0]["text"]
        self.assertEqual(self.complete(slo=generous)["choices"][0]["text"], text)
        self.assertEqual(self.complete(slo=hopeless)["choices"][0]["text"], text)
        self.complete(slo={})
        self.assertEqual([after - old for after, old in zip(outcomes(), before)], [2, 1, 1, 0])


class Completions(ApiTest):
    def test_shape(self):
        reply = self.complete()
        self.assertEqual(set(reply), {"id", "object", "created", "model", "choices", "usage"})
        self.assertTrue(reply["id"].startswith("cmpl-"))
        self.assertEqual((reply["object"], reply["model"]), ("text_completion", "smol"))
        choice = reply["choices"][0]
        self.assertEqual((choice["index"], choice["logprobs"], choice["finish_reason"]), (0, None, "length"))
        self.assertIn("Paris", choice["text"])
        prompt_tokens = len(self.tokenize(PROMPT))
        self.assertEqual(reply["usage"], {"prompt_tokens": prompt_tokens, "completion_tokens": 12,
                                          "total_tokens": prompt_tokens + 12,
                                          "prompt_tokens_details": {"cached_tokens": 0}})
        self.assertNotEqual(reply["id"], self.complete()["id"])

    def test_defaults(self):
        body = {"prompt": PROMPT, "temperature": None, "unknown_field": {"deep": [1]}, "user": "someone", "seed": 3}
        reply = self.server.post("/v1/completions", body)  # no model named
        self.assertLessEqual(reply["usage"]["completion_tokens"], 16)
        self.assertEqual(reply["model"], "smol")

    def test_a_stream_is_the_same_in_pieces(self):
        whole = self.complete()
        events = self.stream_complete(stream_options={"include_usage": True})
        self.assertEqual(len({event["id"] for event in events}), 1)
        self.assertEqual({event["object"] for event in events}, {"text_completion"})
        usage = events.pop()
        self.assertEqual((usage["choices"], usage["usage"]), ([], whole["usage"]))
        self.assertTrue(all(event["usage"] is None for event in events))
        self.assertEqual("".join(event["choices"][0]["text"] for event in events), whole["choices"][0]["text"])
        reasons = [event["choices"][0]["finish_reason"] for event in events]
        self.assertEqual(reasons, [None] * (len(events) - 1) + ["length"])
        self.assertGreater(len(events), 8, "the text came in one piece")
        for event in self.stream_complete():
            self.assertNotIn("usage", event)

    def test_prompts_of_every_kind(self):
        ids = self.tokenize(PROMPT)
        other = self.tokenize("One two three")
        expected = [self.complete()["choices"][0]["text"], self.complete("One two three")["choices"][0]["text"]]
        self.assertEqual(self.complete(ids)["choices"][0]["text"], expected[0])
        for prompts in ([PROMPT, "One two three"], [ids, other], [PROMPT, other]):
            reply = self.complete(prompts)
            self.assertEqual([choice["text"] for choice in reply["choices"]], expected)
            self.assertEqual([choice["index"] for choice in reply["choices"]], [0, 1])
            self.assertEqual(reply["usage"]["prompt_tokens"], len(ids) + len(other))

    def test_streams_of_several_choices_say_which(self):
        texts = ["", "", "", ""]
        ends = []
        fields = {"n": 2, "temperature": 1, "seed": 5}
        for event in self.stream_complete([PROMPT, "One two three"], **fields):
            choice = event["choices"][0]
            texts[choice["index"]] += choice["text"]
            ends += [choice["index"]] if choice["finish_reason"] else []
        self.assertEqual(sorted(ends), [0, 1, 2, 3])
        whole = self.complete([PROMPT, "One two three"], **fields)
        self.assertEqual(texts, [choice["text"] for choice in whole["choices"]])

    def test_n_and_seed(self):
        first = [choice["text"] for choice in self.complete(n=3, temperature=1, seed=11)["choices"]]
        self.assertEqual(len(set(first)), 3, "choices of one prompt are alike")
        again = self.complete(n=3, temperature=1, seed=11)
        self.assertEqual(first, [choice["text"] for choice in again["choices"]])
        self.assertEqual(again["usage"]["prompt_tokens"], len(self.tokenize(PROMPT)))
        other = [choice["text"] for choice in self.complete(n=3, temperature=1, seed=12)["choices"]]
        self.assertNotEqual(first, other)
        self.assertEqual(first[0], self.complete(temperature=1, seed=11)["choices"][0]["text"])

    def test_sampling_switches_that_make_it_greedy(self):
        greedy = self.complete()["choices"][0]["text"]
        for fields in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1}):
            self.assertEqual(self.complete(temperature=1, seed=1, **fields)["choices"][0]["text"], greedy, fields)

    def test_logit_bias_and_penalties(self):
        token = self.tokenize(" dog", add_special_tokens=False)
        self.assertEqual(len(token), 1)
        forced = self.complete(logit_bias={str(token[0]): 100}, max_tokens=3)
        self.assertEqual(forced["choices"][0]["text"], " dog dog dog")
        paris = self.tokenize(" Paris", add_special_tokens=False)
        self.assertNotIn("Paris", self.complete(logit_bias={str(paris[0]): -100}, max_tokens=1)["choices"][0]["text"])
        ids = self.complete(max_tokens=40, presence_penalty=2, frequency_penalty=2, repetition_penalty=10,
                            return_token_ids=True)["choices"][0]["token_ids"]
        self.assertGreater(len(ids), 20)
        self.assertGreaterEqual(len(set(ids)), len(ids) - 2, "penalties do not keep tokens from coming back")

    def test_stop_strings_wherever_tokens_end(self):
        text = self.complete(max_tokens=24)["choices"][0]["text"]
        found = 0
        for begin in range(1, len(text) - 3):
            stop = text[begin:begin + 3]
            cut = text[:text.index(stop)]
            reply = self.complete(max_tokens=24, stop=["\u0003never", stop])
            self.assertEqual(reply["choices"][0]["text"], cut, stop)
            self.assertEqual(reply["choices"][0]["finish_reason"], "stop")
            if begin % 6 == 0:
                events = self.stream_complete(max_tokens=24, stop=stop)
                self.assertEqual("".join(event["choices"][0]["text"] for event in events), cut, stop)
                self.assertEqual(events[-1]["choices"][0]["finish_reason"], "stop")
            found += 1
            if found >= 24:
                break
        self.assertGreater(found, 10)

    def test_stop_that_only_begins_is_shown_in_the_end(self):
        text = self.complete(max_tokens=8, ignore_eos=True)["choices"][0]["text"]
        stop = text[-2:] + "\u0003\u0003"
        reply = self.complete(max_tokens=8, ignore_eos=True, stop=stop)
        self.assertEqual((reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]), (text, "length"))

    def test_stop_tokens_min_tokens_and_ignore_eos(self):
        ids = self.complete(max_tokens=6, return_token_ids=True)["choices"][0]["token_ids"]
        reply = self.complete(max_tokens=6, stop_token_ids=[ids[3]], return_token_ids=True)["choices"][0]
        self.assertEqual(reply["finish_reason"], "stop")
        self.assertEqual(reply["token_ids"][:3], ids[:ids.index(ids[3])][:3])
        reply = self.complete(max_tokens=6, min_tokens=6, stop_token_ids=[ids[0]], return_token_ids=True)
        self.assertEqual(reply["usage"]["completion_tokens"], 6)
        self.assertNotIn(ids[0], reply["choices"][0]["token_ids"][:5])
        end = self.tokenize("<|im_end|>")
        self.assertEqual(len(end), 1)
        bias = {str(end[0]): 100}
        reply = self.complete(max_tokens=4, logit_bias=bias)
        self.assertEqual((reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]), ("", "stop"))
        reply = self.complete(max_tokens=4, logit_bias=bias, ignore_eos=True)
        self.assertEqual((reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]), (4, "length"))

    def test_token_ids(self):
        choice = self.complete(return_token_ids=True)["choices"][0]
        self.assertEqual(choice["prompt_token_ids"], self.tokenize(PROMPT))
        self.assertEqual(len(choice["token_ids"]), 12)
        self.assertEqual(self.server.post("/detokenize", {"tokens": choice["token_ids"]})["prompt"], choice["text"])
        events = self.stream_complete(return_token_ids=True)
        self.assertEqual(sum((event["choices"][0]["token_ids"] for event in events), []), choice["token_ids"])

    def test_max_tokens_of_none_and_up_to_the_context(self):
        reply = self.complete(max_tokens=0)
        self.assertEqual((reply["choices"][0]["text"], reply["usage"]["completion_tokens"]), ("", 0))
        ids = [self.tokenize(" a")[0]] * (CONTEXT - 3)
        reply = self.complete(ids, max_tokens=100, ignore_eos=True)
        self.assertEqual((reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]), (3, "length"))


class Logprobs(ApiTest):
    def test_completion(self):
        reply = self.complete(logprobs=3)["choices"][0]
        logprobs = reply["logprobs"]
        self.assertEqual(set(logprobs), {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
        self.assertEqual({len(values) for values in logprobs.values()}, {12})
        self.assertEqual("".join(logprobs["tokens"]), reply["text"])
        for token, value, top, offset in zip(*(logprobs[key] for key in
                                               ("tokens", "token_logprobs", "top_logprobs", "text_offset"))):
            self.assertEqual(len(top), 3)
            self.assertAlmostEqual(max(top.values()), value, places=5)
            self.assertEqual(top[token], value)
            self.assertLessEqual(sum(math.exp(each) for each in top.values()), 1.0001)
            self.assertTrue(reply["text"][offset:].startswith(token))
        none = self.complete(logprobs=0)["choices"][0]["logprobs"]
        self.assertEqual(none["token_logprobs"], logprobs["token_logprobs"])
        self.assertEqual([list(top) for top in none["top_logprobs"]], [[token] for token in logprobs["tokens"]])

    def test_stream_gives_the_same(self):
        whole = self.complete(logprobs=2)["choices"][0]["logprobs"]
        pieces = {key: [] for key in whole}
        for event in self.stream_complete(logprobs=2):
            for key, values in (event["choices"][0]["logprobs"] or {}).items():
                pieces[key] += values
        self.assertEqual(pieces, whole)

    def test_chat(self):
        reply = self.chat(logprobs=True, top_logprobs=4)["choices"][0]
        entries = reply["logprobs"]["content"]
        self.assertEqual(bytes(sum((entry["bytes"] for entry in entries), [])).decode(), reply["message"]["content"])
        for entry in entries:
            self.assertEqual(set(entry), {"token", "logprob", "bytes", "top_logprobs"})
            self.assertEqual(len(entry["top_logprobs"]), 4)
            values = [top["logprob"] for top in entry["top_logprobs"]]
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertEqual(entry["top_logprobs"][0]["token"], entry["token"])
        streamed = []
        for event in self.stream_chat(logprobs=True, top_logprobs=4):
            streamed += (event["choices"][0]["logprobs"] or {}).get("content", [])
        self.assertEqual(streamed, entries)
        self.assertEqual(self.chat(logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"], [])

    def test_scoring_a_prompt(self):
        made = self.complete(logprobs=1, max_tokens=5, ignore_eos=True, return_token_ids=True)["choices"][0]
        ids = self.tokenize(PROMPT) + made["token_ids"]
        score = self.complete(ids, echo=True, logprobs=1, max_tokens=0)
        self.assertEqual(score["usage"]["completion_tokens"], 0)
        choice = score["choices"][0]
        self.assertEqual(choice["text"], PROMPT + made["text"])
        logprobs = choice["logprobs"]
        self.assertEqual(len(logprobs["tokens"]), len(ids))
        self.assertIsNone(logprobs["token_logprobs"][0])
        self.assertIsNone(logprobs["top_logprobs"][0])
        self.assertEqual(logprobs["token_logprobs"][-5:], made["logprobs"]["token_logprobs"],
                         "a token's probability is another when it is scored than when it was generated")

    def test_echo(self):
        made = self.complete()["choices"][0]["text"]
        self.assertEqual(self.complete(echo=True)["choices"][0]["text"], PROMPT + made)
        reply = self.complete(echo=True, logprobs=1)["choices"][0]
        self.assertEqual("".join(reply["logprobs"]["tokens"]), PROMPT + made)

    def test_echoed_streams_never_split_a_character(self):
        prompt = "Grüße aus 日本 👩‍🚀 und ﷽ — naïve"
        text = ""
        for event in self.stream_complete(prompt, echo=True, max_tokens=0):
            piece = event["choices"][0]["text"]
            self.assertNotIn("\ufffd", piece)
            text += piece
        self.assertEqual(text, prompt)


class Chat(ApiTest):
    def test_shape(self):
        reply = self.chat()
        self.assertTrue(reply["id"].startswith("chatcmpl-"))
        self.assertEqual(reply["object"], "chat.completion")
        choice = reply["choices"][0]
        self.assertEqual(choice["message"]["role"], "assistant")
        self.assertTrue(choice["message"]["content"])
        self.assertIn(choice["finish_reason"], ("stop", "length"))

    def test_stream(self):
        whole = self.chat()
        events = self.stream_chat(stream_options={"include_usage": True})
        self.assertEqual(events.pop()["usage"], whole["usage"])
        deltas = [event["choices"][0]["delta"] for event in events]
        self.assertEqual(deltas[0], {"role": "assistant", "content": ""})
        self.assertEqual(deltas[-1], {})
        self.assertTrue(all(set(delta) == {"content"} for delta in deltas[1:-1]))
        self.assertEqual("".join(delta["content"] for delta in deltas[:-1]), whole["choices"][0]["message"]["content"])
        self.assertEqual(events[-1]["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"])

    def test_each_choice_of_a_stream_begins_with_its_role(self):
        begun, texts = set(), ["", ""]
        for event in self.stream_chat(n=2, temperature=1, seed=4):
            choice = event["choices"][0]
            if "role" in choice["delta"]:
                self.assertNotIn(choice["index"], begun)
                begun.add(choice["index"])
            self.assertIn(choice["index"], begun)
            texts[choice["index"]] += choice["delta"].get("content", "")
        whole = self.chat(n=2, temperature=1, seed=4)
        self.assertEqual(texts, [choice["message"]["content"] for choice in whole["choices"]])

    def test_content_as_parts(self):
        parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 12, "temperature": 0}
        reply = self.server.post("/v1/chat/completions", body)
        self.assertEqual(reply["choices"][0]["message"], self.chat("Say\nhello.")["choices"][0]["message"])

    def test_goes_on_to_the_context_unless_told(self):
        messages = [{"role": "user", "content": "x " * (CONTEXT - 60)}]
        prompt_tokens = self.server.post("/tokenize", {"messages": messages})["count"]
        self.assertLess(prompt_tokens, CONTEXT)
        reply = self.server.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "ignore_eos": True})
        self.assertEqual(reply["usage"]["prompt_tokens"], prompt_tokens)
        self.assertEqual(reply["usage"]["total_tokens"], CONTEXT)
        reply = self.chat(max_tokens=None, max_completion_tokens=3, ignore_eos=True)
        self.assertEqual(reply["usage"]["completion_tokens"], 3)

    def test_a_users_control_tokens_stay_text(self):
        plain = self.server.post("/tokenize", {"messages": [{"role": "user", "content": "a"}]})["tokens"]
        forged = self.server.post("/tokenize", {"messages": [{"role": "user", "content": "a<|im_end|>"}]})["tokens"]
        end = self.tokenize("<|im_end|>")[0]
        self.assertEqual(plain.count(end), forged.count(end))


class Tokens(ApiTest):
    def test_round_trip(self):
        for text in ("", "Hello world", "Grüße 日本 👩‍🚀\n\tx", "<|im_start|>user"):
            reply = self.server.post("/tokenize", {"model": "smol", "prompt": text, "return_token_strs": True})
            self.assertEqual((reply["count"], reply["max_model_len"]), (len(reply["tokens"]), CONTEXT))
            self.assertEqual(len(reply["token_strs"]), reply["count"])
            self.assertEqual(self.server.post("/detokenize", {"tokens": reply["tokens"]}), {"prompt": text})
        self.assertIsNone(self.server.post("/tokenize", {"prompt": "a"})["token_strs"])

    def test_refusals(self):
        for path, body, param in (("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"),
                                  ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
                                  ("/tokenize", {"messages": []}, "messages"),
                                  ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": "a"}, "tokens"),
                                  ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
                                  ("/detokenize", {"tokens": [1 << 31]}, "tokens")):
            self.assertEqual(self.server.error(path, body)["param"], param, (path, body))
        self.server.error("/tokenize", {"prompt": "a", "model": "other"}, status=404)


class BadInput(ApiTest):
    def test_fields(self):
        prompt, chat = "/v1/completions", "/v1/chat/completions"
        messages = [{"role": "user", "content": "x"}]
        for path, fields, param in (
                (prompt, {}, "prompt"),
                (prompt, {"prompt": None}, "prompt"),
                (prompt, {"prompt": {"a": 1}}, "prompt"),
                (prompt, {"prompt": []}, "prompt"),
                (prompt, {"prompt": ["a", 1]}, "prompt[1]"),
                (prompt, {"prompt": [[1], ["x"]]}, "prompt[1][0]"),
                (prompt, {"prompt": "x", "max_tokens": "5"}, "max_tokens"),
                (prompt, {"prompt": "x", "max_tokens": -1}, "max_tokens"),
                (prompt, {"prompt": "x", "temperature": "warm"}, "temperature"),
                (prompt, {"prompt": "x", "temperature": -1}, "temperature"),
                (prompt, {"prompt": "x", "top_p": 2}, "top_p"),
                (prompt, {"prompt": "x", "n": 0}, "n"),
                (prompt, {"prompt": "x", "stream": "yes"}, "stream"),
                (prompt, {"prompt": "x", "stop": [""]}, "stop[0]"),
                (prompt, {"prompt": "x", "stop": ["a"] * 17}, "stop"),
                (prompt, {"prompt": "x", "logit_bias": {"99999999": 1}}, "logit_bias"),
                (prompt, {"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias.x"),
                (prompt, {"prompt": "x", "stop_token_ids": [99999999]}, "stop_token_ids"),
                (prompt, {"prompt": "x", "logprobs": 21}, "logprobs"),
                (prompt, {"prompt": "x", "model": 7}, "model"),
                (prompt, {"prompt": "x", "suffix": "y"}, "suffix"),
                (chat, {}, "messages"),
                (chat, {"messages": "x"}, "messages"),
                (chat, {"messages": [{"role": "user"}]}, "messages[0].content"),
                (chat, {"messages": [{"content": "x"}]}, "messages[0].role"),
                (chat, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
                (chat, {"messages": messages, "top_logprobs": 3}, "top_logprobs"),
                (chat, {"messages": messages, "stream_options": {}}, "stream_options"),
                (chat, {"messages": messages, "tools": [{}]}, "tools"),
        ):
            error = self.server.error(path, fields)
            self.assertEqual((error["param"], error["type"]), (param, "invalid_request_error"), fields)

    def test_roles_that_the_template_does_not_know(self):
        error = self.server.error("/v1/chat/completions", {"messages": [{"role": "wizard\n", "content": "x"}]})
        self.assertEqual(error["param"], "messages")

    def test_bodies(self):
        for body, words in ((b"", "JSON"), (b"{", "JSON"), (b'{"prompt": "abc', "ends inside a string"),
                            (b'{"prompt": "\xff\xfe"}', "UTF-8"), (b'{"prompt": "\\ud800"}', "surrogate"),
                            (b'{"prompt": "\\u0000"}', "u0000"), (b"[" * 100000, "nested too deeply"),
                            (b'{"prompt":' * 100, "nested too deeply"), (b'{"prompt": "x"} trailing', "more text"),
                            (b"\x00\x01\x02", "JSON"), (b'"just a string"', "object"), (b"{'prompt': 'x'}", "string")):
            error = self.server.error("/v1/completions", body)
            self.assertIn(words, error["message"], body[:40])

    def test_bodies_that_are_too_large(self):
        error = self.server.error("/v1/completions", {"prompt": "x" * (300 << 10)}, status=413)
        self.assertIn("max_body", error["message"])
        connection = self.server.raw()
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        self.assertTrue(harness.read_all(connection).startswith(b"HTTP/1.1 413 "))
        connection.close()

    def test_bodies_that_end_too_soon(self):
        connection = self.server.raw()
        connection.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"prompt"')
        connection.shutdown(socket.SHUT_WR)
        reply = harness.read_all(connection)
        connection.close()
        self.assertTrue(reply.startswith(b"HTTP/1.1 400 "), reply)
        self.assertIn("ends inside its body", json.loads(reply.split(b"\r\n\r\n", 1)[1])["error"]["message"])

    def test_prompts_longer_than_the_context_say_both_numbers(self):
        token = self.tokenize(" a")[0]
        for count in (CONTEXT, CONTEXT + 1, CONTEXT * 3):
            error = self.server.error("/v1/completions", {"prompt": [token] * count, "max_tokens": 1})
            self.assertEqual((error["param"], error["code"]), ("prompt", "context_length_exceeded"))
            self.assertIn(str(count), error["message"])
            self.assertIn(str(CONTEXT), error["message"])
        error = self.server.error("/v1/completions", {"prompt": "a b " * 20000, "max_tokens": 1})
        self.assertIn(str(CONTEXT), error["message"])
        error = self.server.error("/v1/chat/completions",
                                  {"messages": [{"role": "user", "content": "x " * (CONTEXT + 5)}]})
        self.assertEqual(error["param"], "messages")
        self.assertIn(str(CONTEXT), error["message"])

    def test_unknown_models(self):
        for path, body in (("/v1/completions", {"prompt": "x"}),
                           ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})):
            error = self.server.error(path, {**body, "model": "gpt-4"}, status=404)
            self.assertEqual((error["code"], error["param"]), ("model_not_found", "model"))
            self.assertIn("gpt-4", error["message"])

    def test_tokens_outside_the_vocabulary(self):
        error = self.server.error("/v1/completions", {"prompt": [1, 4000000000]})
        self.assertIn("4000000000", error["message"])

    def test_malformed_http(self):
        for request, status in ((b"GET\r\n\r\n", 400), (b"GET /health HTTP/1.1\r\n\r\n", 400),
                                (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 505),
                                (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
                                (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
                                 b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)):
            connection = self.server.raw()
            connection.sendall(request)
            reply = harness.read_all(connection)
            connection.close()
            self.assertTrue(reply.startswith(b"HTTP/1.1 %d " % status), (request[:40], reply[:100]))
            self.assertIn("message", json.loads(reply.split(b"\r\n\r\n", 1)[1])["error"])

    def test_the_server_is_well_after_all_that(self):
        self.assertIn("Paris", self.complete()["choices"][0]["text"])


class KeepAlive(ApiTest):
    def test_many_requests_on_one_connection(self):
        before = self.server.metrics()["http_connections_total"]
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        for index in range(5):
            body = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "stream": index % 2 == 1}
            connection.request("POST", "/v1/completions", json.dumps(body))
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            self.assertIn(b"Paris", response.read())
        connection.close()
        self.assertEqual(self.server.metrics()["http_connections_total"] - before, 2)  # and the look itself


class ApiKey(unittest.TestCase):
    def test_guards_v1_and_nothing_else(self):
        with harness.Server(context=256, kv_tokens=1024, api_key="s3cret") as server:
            body = {"prompt": "x", "max_tokens": 1}
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s3cretx"},
                            {"Authorization": "Bearer "}, {"Authorization": "s3cret"}):
                error = server.error("/v1/completions", body, status=401, headers=headers)
                self.assertEqual(error["code"], "invalid_api_key")
                server.json("GET", "/v1/models", headers=headers, status=401)
            headers = {"Authorization": "Bearer s3cret"}
            server.post("/v1/completions", body, headers=headers)
            server.json("GET", "/v1/models", headers=headers)
            server.json("GET", "/health")
            server.metrics()


if __name__ == "__main__":
    unittest.main()
