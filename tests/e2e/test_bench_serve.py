#!/usr/bin/env python3
"""`metronome bench serve` against servers that answer well, badly, or not at all, and against our own."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import PROGRAM, Server, run_command  # noqa: E402

STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = STREAM + "Transfer-Encoding: chunked\r\n\r\n"
TO_THE_END = STREAM + "Connection: close\r\n\r\n"
DONE = "data: [DONE]\n\n"


def setUpModule():
    if not os.path.exists(PROGRAM):
        raise unittest.SkipTest(f"there is no program at {PROGRAM}")


def event(**delta):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) + "\n\n"


def finish(reason="length"):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}) + "\n\n"


def usage(prompt, completion):
    return "data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}) + "\n\n"


def chunk(text):
    return f"{len(text.encode()):x}\r\n{text}\r\n"


ROLE = event(role="assistant", content="")
ANSWER = [ROLE, event(content="Hello"), event(content=""), event(content=" world"), finish(), usage(7, 2), DONE]
GOOD = CHUNKED + "".join(chunk(text) for text in ANSWER) + "0\r\n\r\n"


def plain(status, body="{}", headers=""):
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}"


class FakeServer:
    """Answers the n-th request (from 0) with answers[n], the last one for all that follow. An answer is text, and the
    connection is kept; or a function of the connection, which is closed after it."""

    def __init__(self, *answers):
        self.answers = answers
        self.bodies = []
        self.paths = []
        self.heads = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(30)
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        buffered = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffered:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    buffered += piece
                head, buffered = buffered.split(b"\r\n\r\n", 1)
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                while len(buffered) < length:
                    buffered += connection.recv(65536)
                with self.lock:
                    number = len(self.bodies)
                    self.bodies.append(json.loads(buffered[:length] or b"{}"))
                    self.heads.append(head.decode())
                    self.paths.append(head.split(b" ")[1].decode())
                buffered = buffered[length:]
                answer = self.answers[min(number, len(self.answers) - 1)]
                if callable(answer):
                    answer(connection)
                    return
                connection.sendall(answer.encode())
                if TO_THE_END in answer:
                    return
        except OSError:
            pass
        finally:
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self.listener.close()
        self.thread.join(5)
        for connection in self.connections:
            connection.close()


def sends(*pieces, pause=0.0, hold=0.0):
    """An answer in pieces, after which the connection is closed."""

    def answer(connection):
        for piece in pieces:
            connection.sendall(piece.encode() if isinstance(piece, str) else piece)
            time.sleep(pause)
        time.sleep(hold)

    return answer


class BenchTest(unittest.TestCase):
    def bench(self, server, *arguments, requests=2, status=0):
        command = ["bench", "serve", "--url", server.url, "--model", "m", "--prompt", "4", "--output", "2", "--json", "-"]
        if "--trace" not in arguments:
            command += ["--requests", str(requests)]
        result = run_command(*command, *arguments)
        self.assertEqual(result.returncode, status, f"{arguments}: {result.stdout}{result.stderr}")
        report = json.loads(result.stdout)
        ended = sum(report["outcomes"].values())
        self.assertEqual(ended, report["requests"], "every request has an outcome")
        return report

    def test_tokens_and_nothing_else_are_timed(self):
        def slow_first_token(connection):
            connection.sendall((CHUNKED + chunk(ROLE)).encode())
            time.sleep(0.3)
            connection.sendall(chunk(event(content="Hello")).encode())
            time.sleep(0.2)
            connection.sendall(chunk(event(content="")).encode())
            connection.sendall("".join(chunk(text) for text in ANSWER[3:]).encode())
            connection.sendall(b"0\r\n\r\n")

        with FakeServer(slow_first_token) as server:
            report = self.bench(server, requests=1)
        self.assertEqual(report["outcomes"]["ok"], 1)
        self.assertGreaterEqual(report["ttft_ms"]["max"], 300, "a role is no token")
        self.assertGreaterEqual(report["itl_ms"]["max"], 190)  # sleeps of 200, seen by another clock
        self.assertEqual(report["itl_ms"]["count"], 1, "nor is an empty delta")
        self.assertEqual((report["output_tokens"], report["prompt_tokens"]), (2, 7))
        self.assertEqual(report["empty_events"], 4)
        self.assertGreaterEqual(report["e2e_ms"]["max"], report["ttft_ms"]["max"] + 200)

    def test_requests_are_as_asked(self):
        with FakeServer(GOOD) as server:
            report = self.bench(server, "--ignore-eos", "--endpoint", "completions", "--body", '{"seed":7}', requests=5)
            self.assertEqual(report["outcomes"]["ok"], 5)
            self.assertEqual(set(server.paths), {"/v1/completions"})
            for body in server.bodies:
                self.assertEqual((body["model"], body["max_tokens"], body["min_tokens"], body["seed"]), ("m", 2, 2, 7))
                self.assertTrue(body["stream"] and body["ignore_eos"] and body["stream_options"]["include_usage"])
                self.assertEqual(len(body["prompt"].split()), 4)
            self.assertEqual(len({body["prompt"] for body in server.bodies}), 5, "no prompt is another's")
            self.assertEqual(len(server.connections), 2, "one asks whether anybody is there, one is kept")
        with FakeServer(GOOD) as other:
            self.bench(other, "--endpoint", "completions", requests=5)
            self.assertEqual([body["prompt"] for body in other.bodies], [body["prompt"] for body in server.bodies])
        with FakeServer(GOOD) as other:
            self.bench(other, "--endpoint", "completions", "--seed", "1", requests=5)
            self.assertNotEqual([body["prompt"] for body in other.bodies], [body["prompt"] for body in server.bodies])

    def test_a_key_comes_from_the_environment(self):
        with FakeServer(plain("200 OK", '{"data": [{"id": "m"}]}'), GOOD) as server:
            done = subprocess.run([PROGRAM, "bench", "serve", "--url", server.url, "--requests", "1", "--key-env", "SOME_KEY"],
                                  env=dict(os.environ, SOME_KEY="open sesame"), capture_output=True, text=True, timeout=60,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(len(server.heads), 2)
            for head in server.heads:
                self.assertIn("\r\nAuthorization: Bearer open sesame", head)
        with FakeServer(GOOD) as server:
            self.bench(server)
            self.assertNotIn("Authorization", server.heads[0])

    def test_the_model_is_asked_for(self):
        models = plain("200 OK", json.dumps({"object": "list", "data": [{"id": "the-model"}]}))
        with FakeServer(models, GOOD) as server:
            result = run_command("bench", "serve", "--url", server.url + "/v1", "--requests", "1")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("the-model", result.stdout)
            self.assertEqual(server.paths, ["/v1/models", "/v1/chat/completions"])
            self.assertEqual(server.bodies[1]["model"], "the-model")
        for answer in (plain("404 Not Found"), plain("200 OK", '{"data":[]}'), plain("200 OK", "{"), "garbage\r\n\r\n",
                       sends()):
            with FakeServer(answer) as server:
                result = run_command("bench", "serve", "--url", server.url, "--requests", "1")
                self.assertIn(result.returncode, (1, 2), answer)
                self.assertIn("/v1/models", result.stderr, answer)

    def test_bodies_that_end_otherwise(self):
        text = "".join(ANSWER)
        for name, answer in (
                ("until the connection closes", TO_THE_END + text),
                ("of known length", STREAM + f"Content-Length: {len(text)}\r\n\r\n" + text),
                ("in single bytes", CHUNKED + "".join(chunk(byte) for byte in text) + "0\r\n\r\n"),
                ("with CRLF", TO_THE_END + text.replace("\n", "\r\n")),
                ("with comments", TO_THE_END + ": ping\n\n" + text.replace("data:", "id: 1\ndata:")),
                ("without [DONE]", TO_THE_END + text.replace(DONE, "")),
                ("only after a while", sends(CHUNKED + "".join(chunk(piece) for piece in ANSWER), hold=20))):
            with self.subTest(name), FakeServer(answer) as server:
                report = self.bench(server, requests=1)
                self.assertEqual(report["outcomes"]["ok"], 1, report["outcomes"])
                self.assertEqual(report["output_tokens"], 2)
                self.assertEqual(report["itl_ms"]["count"], 1)

    def test_no_usage(self):
        with FakeServer(TO_THE_END + "".join(ANSWER).replace(usage(7, 2), "")) as server:
            report = self.bench(server)
        self.assertEqual((report["outcomes"]["ok"], report["without_usage"], report["output_tokens"]), (2, 2, 4))

    def test_bad_answers_are_counted_by_kind(self):
        begun = CHUNKED + chunk(ROLE) + chunk(event(content="Hello"))
        for kind, answer in (
                ("closed", sends()),
                ("closed", sends(begun)),
                ("closed", sends(begun + "ff\r\ndata: ")),
                ("closed", sends(begun + "0\r\n\r\n")),
                ("closed", sends(STREAM + "Content-Length: 5000\r\n\r\n" + ROLE)),
                ("closed", sends("HTTP/1.1 200 OK\r\nContent-Ty")),
                ("bad_http", sends("garbage\r\n\r\n")),
                ("bad_http", sends("HTTP/1.1 two OK\r\n\r\n")),
                ("bad_http", sends(b"\x16\x03\x01\x00\xff\n\n")),
                ("bad_http", sends("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")),
                ("bad_http", sends("HTTP/1.1 200 OK\r\nX: " + "x" * 200000 + "\r\n\r\n")),
                ("bad_http", sends(begun + "zz\r\ndata: x\r\n")),
                ("not_stream", plain("200 OK", json.dumps({"choices": [{"message": {"content": "Hello"}}]}))),
                ("bad_event", sends(begun + chunk('data: {"choices": [\n\n') + "0\r\n\r\n")),
                ("bad_event", sends(begun + chunk("data: 7\n\n") + chunk(DONE) + "0\r\n\r\n")),
                ("bad_event", TO_THE_END + '{"choices": []}\n'),
                ("bad_event", sends(TO_THE_END + "data: " + "x" * (2 << 20))),
                ("error_event", sends(begun + chunk('data: {"error": {"message": "no room"}}\n\n') + "0\r\n\r\n")),
                ("error_event", sends(begun + chunk('event: error\ndata: no room\n\n'))),
                ("http_429", plain("429 Too Many Requests")),
                ("http_4xx", plain("404 Not Found", '{"error": {"message": "no room"}}')),
                ("http_5xx", plain("503 Service Unavailable")),
                ("http_other", plain("302 Found", "", "Location: /\r\n")),
                ("no_tokens", CHUNKED + chunk(ROLE) + chunk(finish("stop")) + chunk(DONE) + "0\r\n\r\n")):
            with self.subTest(kind=kind, answer=answer), FakeServer(answer) as server:
                report = self.bench(server, status=1)
                self.assertEqual(report["outcomes"][kind], 2, report["outcomes"])
                self.assertEqual(report["ttft_ms"]["count"], 0, "what is not whole is no figure")
                self.assertEqual(report["goodput_per_s"], 0)

    def test_what_takes_too_long(self):
        drip = sends(CHUNKED, *[chunk(": ping\n\n")] * 600, pause=0.05)
        for answer in (sends(hold=30), sends(CHUNKED + chunk(event(content="a")), hold=30), drip):
            with FakeServer(answer) as server:
                report = self.bench(server, "--timeout", "0.5", "--clients", "2", status=1)
                self.assertEqual(report["outcomes"]["timeout"], 2, report["outcomes"])

    def test_nobody_is_there(self):
        with FakeServer(GOOD) as server:
            url = server.url
        result = run_command("bench", "serve", "--url", url)
        self.assertEqual(result.returncode, 1)
        self.assertIn("is a server running there?", result.stderr)

    def test_good_answers_count_beside_bad_ones(self):
        with FakeServer(GOOD, sends(CHUNKED), GOOD, plain("500 Oh"), "garbage\r\n\r\n", GOOD) as server:
            report = self.bench(server, "--slo.ttft_ms", "100000", "--slo.tpot_ms", "100000", requests=8)
        self.assertEqual(report["outcomes"]["ok"], 5, report["outcomes"])
        self.assertEqual([report["outcomes"][kind] for kind in ("closed", "http_5xx", "bad_http")], [1, 1, 1])
        self.assertEqual(report["kept"], 5)
        self.assertEqual(report["ttft_ms"]["count"], 5)

    def test_a_page_says_the_same(self):
        with tempfile.TemporaryDirectory() as folder, FakeServer(GOOD, sends(CHUNKED), GOOD) as server:
            page = os.path.join(folder, "load.html")
            report = self.bench(server, "--slo.ttft_ms", "100000", "--html", page, requests=6)
            with open(page, encoding="utf-8") as file:
                html = file.read()
        self.assertEqual(html.count("<svg"), 2)
        self.assertNotRegex(html, r"(?:src|href)=")  # nothing is fetched
        for kind in ("ok", "closed"):
            self.assertIn(f'<td>{kind}<td class="n">{report["outcomes"][kind]}<td>', html)
        self.assertIn(f'{report["ttft_ms"]["p50"]:.2f}', html)

    def test_a_kept_connection_may_be_closed(self):
        with FakeServer(sends(GOOD)) as server:
            report = self.bench(server, requests=20)
        self.assertEqual(report["outcomes"]["ok"], 20, "a server may close when an answer is whole")
        with FakeServer(GOOD, sends(), GOOD, sends(), sends()) as server:
            report = self.bench(server, requests=4)
        self.assertEqual((report["outcomes"]["ok"], report["outcomes"]["closed"]), (2, 2), report["outcomes"])
        self.assertEqual(report["reconnects"], 2, "once, and it is said")

    def test_told_to_wait(self):
        busy = plain("429 Too Many Requests", "{}", "Retry-After: 0.2\r\n")
        with FakeServer(busy, busy, GOOD) as server:
            report = self.bench(server, "--retries", "2", requests=1)
            self.assertEqual((report["outcomes"]["ok"], report["retries"]), (1, 2))
            self.assertGreaterEqual(report["ttft_ms"]["max"], 400, "the time runs on")
        with FakeServer(busy, busy, GOOD) as server:
            report = self.bench(server, "--retries", "1", requests=2)
            self.assertEqual((report["outcomes"]["http_429"], report["outcomes"]["ok"]), (1, 1))
        with FakeServer(busy, GOOD) as server:
            report = self.bench(server, requests=2)
            self.assertGreaterEqual(report["seconds"], 0.2, "a client waits before its next request")

    def test_open_loops_do_not_wait_for_the_server(self):
        with FakeServer(sends(CHUNKED, "".join(chunk(text) for text in ANSWER) + "0\r\n\r\n", pause=0.5)) as server:
            report = self.bench(server, "--rate", "100", requests=20)
        self.assertEqual(report["outcomes"]["ok"], 20)
        self.assertEqual(len(server.connections), 21, "nobody waited for another")
        self.assertEqual(report["self"]["late_ms"]["count"], 20)

    def test_a_load_of_so_many_seconds(self):
        with FakeServer(GOOD) as server:
            for loop in (("--clients", "2"), ("--rate", "20")):
                command = ["bench", "serve", "--url", server.url, "--model", "m", "--seconds", "0.5", "--json", "-"]
                result = run_command(*command, *loop)
                self.assertEqual(result.returncode, 0, result.stderr)
                report = json.loads(result.stdout)
                self.assertGreater(report["whole"], 0)
                self.assertEqual(report["whole"], report["requests"])

    def test_interrupted(self):
        with FakeServer(GOOD, sends(CHUNKED + chunk(ROLE), hold=60)) as server:
            process = subprocess.Popen([PROGRAM, "bench", "serve", "--url", server.url, "--model", "m", "--clients", "1",
                                        "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                harness.eventually(lambda: len(server.bodies) == 2, what="no second request came")
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
                process.wait()
        self.assertEqual(process.returncode, 0)
        report = json.loads(output)
        self.assertTrue(report["interrupted"])
        self.assertEqual((report["requests"], report["whole"], report["outcomes"]["cancelled"]), (2, 1, 1))

    def test_a_trace_is_played(self):
        with tempfile.TemporaryDirectory() as folder, FakeServer(GOOD) as server:
            trace = os.path.join(folder, "trace.csv")
            with open(trace, "w", encoding="utf-8") as file:
                file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
                for i in range(6):
                    file.write(f"2023-11-16 18:15:{i:02d}.0,{10 + i},{20 + i}\n")
            command = ["bench", "serve", "--url", server.url, "--model", "m", "--endpoint", "completions", "--json", "-",
                       "--trace", trace]
            result = run_command(*command, "--speed", "10", "--limit", "4")
            self.assertEqual(result.returncode, 0, result.stderr)
            report = json.loads(result.stdout)
            self.assertEqual(report["outcomes"]["ok"], 4)
            self.assertGreaterEqual(report["seconds"], 0.3)
            self.assertAlmostEqual(report["load"]["rate_per_s"], 10)
            self.assertEqual([(len(body["prompt"].split()), body["max_tokens"]) for body in server.bodies],
                             [(10 + i, 20 + i) for i in range(4)])
            report = json.loads(run_command(*command, "--rate", "50").stdout)
            self.assertAlmostEqual(report["load"]["rate_per_s"], 50)

    def test_words(self):
        with FakeServer(GOOD, plain("500 Oh", "a\x1b[31m cause"), GOOD) as server:
            result = run_command("bench", "serve", "--url", server.url, "--model", "m", "--requests", "3",
                                 "--slo.ttft_ms", "100000")
            self.assertEqual(result.returncode, 0, result.stderr)
            for words in ("whole    2 of 3", "TTFT", "TPOT", "ITL", "E2E", "goodput", "http_5xx", "cause", "this program"):
                self.assertIn(words, result.stdout)
            self.assertNotIn("\x1b", result.stdout, "what a server says is shown without its control characters")

    def test_refusals(self):
        for arguments, words in (
                (("--url", "127.0.0.1:8080"), "--url"), (("--clients", "0"), "--clients"),
                (("--clients", "2", "--rate", "3"), "--rate"), (("--rate", "0"), "--rate"), (("--speed", "2"), "--trace"),
                (("--burstiness", "2"), "--rate"), (("--prompt", "x"), "--prompt"), (("--endpoint", "edits"), "chat"),
                (("--body", "[]"), "--body"), (("--body", "{"), "--body"), (("--key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY"),
                (("--requests", "1.5"), "whole"), (("--trace", "/nonexistent", "--requests", "5"), "--requests"),
                (("--client", "2"), "--clients"), (("positional",), "--url")):
            result = run_command("bench", "serve", *arguments)
            self.assertEqual(result.returncode, 2, f"{arguments}: {result.stdout}{result.stderr}")
            self.assertIn(words, result.stderr, arguments)
        result = run_command("bench", "serve", "--url", "https://x")
        self.assertEqual(result.returncode, 1)
        self.assertIn("TLS", result.stderr)
        for arguments in ((), ("serv",)):
            result = run_command("bench", *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn("serve", result.stderr)
        self.assertIn("serve", run_command("bench", "--help").stdout)
        self.assertIn("--clients", run_command("bench", "serve", "--help").stdout)


class OwnServerTest(unittest.TestCase):
    def test_our_own_server(self):
        harness.skip_without_model()
        with Server(log_level="warn") as server:
            for endpoint in ("chat", "completions"):
                result = run_command("bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--clients", "3",
                                     "--requests", "6", "--prompt", "8-16", "--output", "4-9", "--ignore-eos", "--warmup",
                                     "1", "--endpoint", endpoint, "--json", "-")
                self.assertEqual(result.returncode, 0, result.stderr)
                report = json.loads(result.stdout)
                self.assertEqual((report["whole"], report["without_usage"]), (6, 0), report["outcomes"])
                self.assertGreaterEqual(report["output_tokens"], 6 * 4)
                self.assertLessEqual(report["output_tokens"], 6 * 9)
                self.assertLessEqual(report["ttft_ms"]["p50"], report["e2e_ms"]["p50"])
            values = server.metrics()
            self.assertEqual(values['request_success_total{finished_reason="length"}'], 14)


if __name__ == "__main__":
    unittest.main()
