#!/usr/bin/env python3
"""The daemon's life, and clients that leave, stall, trickle or come in crowds."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import eventually, post_bytes, read_all  # noqa: E402

ENDLESS = {"prompt": "Once upon a time", "max_tokens": 900, "temperature": 0, "ignore_eos": True, "stream": True}
SMALL = {"context": 1024, "kv_tokens": 4096}


def setUpModule():
    harness.skip_without_model()


def begin_stream(server, body=None, **options):
    """Sends a streamed completion and returns its socket once the first text has come."""
    connection = server.raw(**options)
    connection.sendall(post_bytes("/v1/completions", body or ENDLESS))
    content = b""
    while b"data: " not in content:
        piece = connection.recv(4096)
        assert piece, content
        content += piece
    assert content.startswith(b"HTTP/1.1 200 "), content
    return connection


def is_idle(server):
    metrics = server.metrics()
    return (metrics["num_requests_running"] == 0 and metrics["num_requests_waiting"] == 0
            and metrics["kv_blocks_free"] == metrics["kv_blocks"])


def aborts(server):
    return server.metrics()['request_success_total{finished_reason="abort"}']


class Beginning(unittest.TestCase):
    def test_health_says_loading_and_then_ready(self):
        server = harness.Server(wait=False, **SMALL)
        with server:
            status, headers, content = server.request("GET", "/health")
            self.assertEqual((status, headers["Retry-After"]), (503, "1"))
            self.assertEqual(json.loads(content)["error"]["message"], "loading")
            self.assertIn("loaded", server.error("/v1/completions", ENDLESS, status=503)["message"])
            self.assertNotIn("kv_blocks", server.metrics())
            server.wait_until_ready()
            server.json("GET", "/health")
            self.assertEqual(server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})["object"],
                             "text_completion")

    def test_sigterm_while_loading(self):
        server = harness.Server(wait=False, **SMALL)
        self.addCleanup(server.kill)
        server.signal()
        self.assertEqual(server.wait(10), 0)


class Ending(unittest.TestCase):
    def test_sigterm_finishes_what_is_under_way_and_takes_no_more(self):
        server = harness.Server(drain_timeout_s=240, **SMALL)
        self.addCleanup(server.kill)
        stream = begin_stream(server, dict(ENDLESS, max_tokens=200))
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        idle.request("GET", "/health")
        idle.getresponse().read()
        server.signal()
        eventually(lambda: server.request("GET", "/health")[0] == 503)
        self.assertIn("shutting down", server.error("/v1/completions", ENDLESS, status=503)["message"])
        self.assertEqual(idle.sock.recv(1), b"", "an idle connection stays open")
        rest = read_all(stream)
        self.assertIn(b'"finish_reason":"length"', rest)
        self.assertIn(b"data: [DONE]\n\n", rest)
        self.assertEqual(server.wait(), 0)
        stream.close()
        idle.close()

    def test_a_second_sigterm_stops_at_once(self):
        server = harness.Server(**SMALL)
        self.addCleanup(server.kill)
        stream = begin_stream(server)
        whole = server.raw()
        whole.sendall(post_bytes("/v1/completions", dict(ENDLESS, stream=False)))
        eventually(lambda: server.metrics()["num_requests_running"] == 2)
        server.signal()
        eventually(lambda: server.request("GET", "/health")[0] == 503)
        began = time.monotonic()
        server.signal(signal.SIGINT)
        rest = read_all(stream)
        self.assertNotIn(b"[DONE]", rest)
        self.assertIn(b'"error":{"message":"the server stopped', rest)
        self.assertTrue(read_all(whole).startswith(b"HTTP/1.1 503 "))
        self.assertEqual(server.wait(20), 1)
        self.assertLess(time.monotonic() - began, 10)
        stream.close()
        whole.close()

    def test_draining_is_bounded_in_time(self):
        server = harness.Server(drain_timeout_s=0.5, **SMALL)
        self.addCleanup(server.kill)
        stream = begin_stream(server)
        began = time.monotonic()
        server.signal()
        self.assertEqual(server.wait(20), 1)
        self.assertGreater(time.monotonic() - began, 0.4)
        self.assertNotIn(b"[DONE]", read_all(stream))
        stream.close()


class Leaving(unittest.TestCase):
    """Clients that go: whatever they had is free at once."""

    def test_a_quarter_of_64_streams_killed_midway(self):
        with harness.Server(context=512, kv_tokens=4096, max_sequences=64, max_queue=128) as server:
            free = server.metrics()["kv_blocks_free"]
            results = [None] * 64
            gate = threading.Barrier(64)

            def client(index):
                body = dict(ENDLESS, prompt=f"Story number {index}:", max_tokens=48)
                connection = server.raw()
                gate.wait()
                connection.sendall(post_bytes("/v1/completions", body, "Connection: close\r\n"))
                content = b""
                while content.count(b"data: ") < 6:
                    piece = connection.recv(4096)
                    if not piece:
                        break
                    content += piece
                if index % 4 == 0:
                    connection.close()
                    results[index] = "killed"
                else:
                    content += read_all(connection)
                    connection.close()
                    whole = content.startswith(b"HTTP/1.1 200 ") and content.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                    results[index] = content.count(b'"finish_reason":"length"') == 1 and whole

            threads = [threading.Thread(target=client, args=(index,)) for index in range(64)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(200)
            self.assertEqual(results, ["killed" if index % 4 == 0 else True for index in range(64)])
            eventually(lambda: is_idle(server), what="blocks were not free")
            self.assertEqual(server.metrics()["kv_blocks_free"], free)
            self.assertEqual(aborts(server), 16)

    def test_in_the_queue_in_prefill_and_before_the_first_byte(self):
        with harness.Server(max_sequences=1, prefill_chunk=16, max_batch_tokens=16, **SMALL) as server:
            running = begin_stream(server)
            waiting = server.raw()
            waiting.sendall(post_bytes("/v1/completions", ENDLESS))
            eventually(lambda: server.metrics()["num_requests_waiting"] == 1)
            waiting.close()
            eventually(lambda: server.metrics()["num_requests_waiting"] == 0, 5, "it still waits")
            self.assertEqual(server.metrics()["num_requests_running"], 1)
            running.close()
            eventually(lambda: is_idle(server), 5, "a stream outlived its client")

            long = {"prompt": "word " * 900, "max_tokens": 1}  # 57 iterations of prefill
            connection = server.raw()
            connection.sendall(post_bytes("/v1/completions", long))
            eventually(lambda: server.metrics()["num_requests_running"] == 1)
            connection.close()
            eventually(lambda: is_idle(server), 5, "a prefill outlived its client")
            self.assertEqual(aborts(server), 3)
            self.assertEqual(server.metrics()['request_success_total{finished_reason="length"}'], 0)

    def test_all_choices_of_one_request(self):
        with harness.Server(**SMALL) as server:
            connection = server.raw()
            connection.sendall(post_bytes("/v1/completions", dict(ENDLESS, n=4, temperature=1, stream=False)))
            eventually(lambda: server.metrics()["num_requests_running"] == 4)
            connection.close()
            eventually(lambda: is_idle(server), 5, "choices outlived their client")
            self.assertEqual(aborts(server), 4)

    def test_leaving_before_the_body_is_whole(self):
        with harness.Server(**SMALL) as server:
            for _ in range(20):
                connection = server.raw()
                connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
                connection.close()
            eventually(lambda: server.metrics()["http_connections"] == 1)

    def test_by_reset(self):
        with harness.Server(**SMALL) as server:
            connection = begin_stream(server)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
            eventually(lambda: is_idle(server), 5, "a stream outlived its client")


class Stalling(unittest.TestCase):
    def test_a_client_that_does_not_read_loses_its_request_and_nobody_elses(self):
        with harness.Server(context=1024, kv_tokens=8192, stream_buffer="4KiB", idle_timeout_s=60) as server:
            server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
            before = server.metrics()["resident_memory_bytes"]
            body = dict(ENDLESS, logprobs=20, n=4, temperature=1)  # some 3 KB a token: more than the system will hold
            stalled = begin_stream(server, body, receive_buffer=4096)
            reading = begin_stream(server, dict(ENDLESS, max_tokens=100))
            self.assertIn(b"[DONE]", read_until(reading, b"[DONE]"))
            eventually(lambda: server.metrics()["http_slow_readers_total"] == 1, 120, "the client was not dropped")
            eventually(lambda: is_idle(server), 5, "its request lives on")
            self.assertLess(server.metrics()["resident_memory_bytes"] - before, 16 << 20)
            stalled.close()
            reading.close()

    def test_a_request_that_trickles_in_is_cut_off(self):
        with harness.Server(request_timeout_s=0.5, idle_timeout_s=0.5, **SMALL) as server:
            head = server.raw()
            head.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
            body = server.raw()
            body.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            silent = server.raw()
            began = time.monotonic()
            while time.monotonic() - began < 0.4:
                head.sendall(b"X: y\r\n")
                body.sendall(b" ")
                time.sleep(0.05)
            self.assertTrue(read_all(head).startswith(b"HTTP/1.1 408 "))
            self.assertTrue(read_all(body).startswith(b"HTTP/1.1 408 "))
            self.assertEqual(read_all(silent), b"")
            self.assertLess(time.monotonic() - began, 10)
            for connection in (head, body, silent):
                connection.close()
            # A stream may take longer than both limits.
            stream = begin_stream(server, dict(ENDLESS, max_tokens=200))
            self.assertIn(b"[DONE]", read_until(stream, b"[DONE]"))
            stream.close()


def read_until(connection, mark):
    content = b""
    while mark not in content:
        piece = connection.recv(65536)
        if not piece:
            break
        content += piece
    return content


class Crowding(unittest.TestCase):
    def test_a_full_queue_says_to_come_back(self):
        with harness.Server(max_sequences=1, max_queue=2, **SMALL) as server:
            running = begin_stream(server)
            queued = [server.raw() for _ in range(2)]
            for connection in queued:
                connection.sendall(post_bytes("/v1/completions", {"prompt": "x", "max_tokens": 1}, "Connection: close\r\n"))
            eventually(lambda: server.metrics()["num_requests_waiting"] == 2)
            status, headers, content = server.request("POST", "/v1/completions", {"prompt": "x"})
            self.assertEqual((status, headers["Retry-After"]), (429, "1"))
            self.assertEqual(json.loads(content)["error"]["type"], "rate_limit_error")
            self.assertIn("3 choices", server.error("/v1/completions", {"prompt": "x", "n": 3})["message"])
            running.close()
            for connection in queued:
                self.assertTrue(read_all(connection).startswith(b"HTTP/1.1 200 "))
                connection.close()
            server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
            # Of several choices some of which find no room, none is left behind.
            running = begin_stream(server)
            one = server.raw()
            one.sendall(post_bytes("/v1/completions", {"prompt": "x", "max_tokens": 1}))
            eventually(lambda: server.metrics()["num_requests_waiting"] == 1)
            server.error("/v1/completions", {"prompt": "x", "n": 2}, status=429)
            eventually(lambda: server.metrics()["num_requests_waiting"] == 1)
            running.close()
            one.close()
            eventually(lambda: is_idle(server))

    def test_a_response_that_is_not_streamed_is_bounded(self):
        with harness.Server(max_response="16KiB", **SMALL) as server:
            large = dict(ENDLESS, logprobs=20, max_tokens=500)
            error = server.error("/v1/completions", dict(large, stream=False))
            self.assertIn("max_response", error["message"])
            eventually(lambda: is_idle(server), 5, "it goes on")
            self.assertGreater(sum(1 for _ in server.stream("/v1/completions", large)), 400)

    def test_connections_are_bounded(self):
        with harness.Server(max_connections=8, **SMALL) as server:
            held = [server.raw() for _ in range(8)]
            one_more = server.raw()
            self.assertTrue(read_all(one_more).startswith(b"HTTP/1.1 503 "))
            for connection in held + [one_more]:
                connection.close()
            eventually(lambda: server.request("GET", "/health")[0] == 200)
            self.assertGreaterEqual(server.metrics()["http_connections_refused_total"], 1)

    def test_a_thousand_small_requests(self):
        with harness.Server(context=256, kv_tokens=4096, max_queue=1024) as server:
            failures = []

            def client(index):
                for round_number in range(32):
                    tokens = 1 + (index + round_number) % 3
                    try:
                        reply = server.post("/v1/completions", {"prompt": f"{index} {round_number}", "max_tokens": tokens,
                                                                "temperature": 0, "ignore_eos": True})
                        if reply["usage"]["completion_tokens"] != tokens:
                            failures.append(reply)
                    except (AssertionError, OSError) as error:
                        failures.append(error)

            threads = [threading.Thread(target=client, args=(index,)) for index in range(32)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(200)
            self.assertEqual(failures, [])
            metrics = server.metrics()
            self.assertEqual(metrics['request_success_total{finished_reason="length"}'], 1024)
            eventually(lambda: is_idle(server))


if __name__ == "__main__":
    unittest.main()
