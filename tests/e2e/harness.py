"""Starts the real program for the end-to-end tests, waits for it with a limit, and stops it by its own process id.

Needs Python's standard library alone. A test that needs a model is skipped, and says so, where there is none:
METRONOME_TEST_MODEL, else .cache/SmolLM2-135M-Instruct.Q4_1.gguf under the repository's root. METRONOME_TEST_PROGRAM
names another build of the program.
"""

import http.client
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.environ.get("METRONOME_TEST_PROGRAM", os.path.join(ROOT, "build", "release", "metronome"))
MODEL = os.environ.get("METRONOME_TEST_MODEL", os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf"))
START_SECONDS = 60
STOP_SECONDS = 60
REQUEST_SECONDS = 120


def skip_without_model():
    """Skips, visibly, what cannot run here: call it in setUpModule() or setUp()."""
    for what, path in (("program", PROGRAM), ("model", MODEL)):
        if not os.path.exists(path):
            raise unittest.SkipTest(f"there is no {what} at {path}")


def run_command(*arguments, stdin="", seconds=120):
    """Runs a subcommand to its end; returns the completed process with text output."""
    return subprocess.run([PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=seconds,
                          check=False)


class Server:
    """A daemon on a free port, with a configuration written for it. Use it in a `with`, or call stop()."""

    def __init__(self, wait=True, **options):
        self.folder = tempfile.mkdtemp(prefix="metronome-e2e-")
        self.config = os.path.join(self.folder, "config.json")
        self.port_file = os.path.join(self.folder, "port")
        settings = {"model": MODEL, "port": 0, "port_file": self.port_file, "threads": 2, "log_level": "debug"}
        settings.update(options)
        with open(self.config, "w", encoding="utf-8") as file:
            file.write("// written by a test\n" + json.dumps(settings, indent=1))
        self.process = subprocess.Popen([PROGRAM, "serve", "--config", self.config], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.log = []
        self.readers = [threading.Thread(target=self._read_output, daemon=True),
                        threading.Thread(target=self._read_log, daemon=True)]
        for reader in self.readers:
            reader.start()
        self.port = None
        try:
            self._wait_for_port()
            if wait:
                self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _read_output(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _fail(self, what):
        raise AssertionError(f"{what}; its log:\n" + "".join(self.log[-40:]))

    def _wait_for_port(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with open(self.port_file, encoding="utf-8") as file:
                    text = file.read()
                if text.endswith("\n"):
                    self.port = int(text)
                    return
            except FileNotFoundError:
                pass
            if self.process.poll() is not None:
                self._fail(f"the server ended with status {self.process.returncode} at its start")
            if time.monotonic() > deadline:
                self._fail("the server opened no port in time")
            time.sleep(0.002)

    def wait_until_ready(self):
        """Waits for the ready line and checks it."""
        try:
            line = self.lines.get(timeout=START_SECONDS)
        except queue.Empty:
            self._fail("the server was not ready in time")
        if line is None:
            self._fail("the server ended before it was ready")
        match = re.match(r"metronome: ready on http://127\.0\.0\.1:(\d+) \(model ", line)
        if not match or int(match.group(1)) != self.port:
            self._fail(f"not a ready line: {line!r}")

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds=STOP_SECONDS):
        """Waits for the process to end; returns its status."""
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._fail(f"the server did not end in {seconds} s")
        self._clean_up()
        return status

    def stop(self):
        """SIGTERM, and its end: a server that drains ends with status 0."""
        if self.process.poll() is None:
            self.signal()
        status = self.wait()
        if status != 0:
            self._fail(f"the server ended with status {status}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._clean_up()

    def _clean_up(self):
        for reader in self.readers:
            reader.join(timeout=5)
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.kill()
        else:
            self.stop()

    # ---- requests ----

    def request(self, method, path, body=None, headers=None, seconds=REQUEST_SECONDS):
        """One request on a connection of its own; returns (status, headers, bytes)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None, status=200):
        """The same, checked to have this status and a JSON body, which it returns."""
        got, _, content = self.request(method, path, body, headers)
        if got != status:
            raise AssertionError(f"{method} {path}: HTTP {got}, not {status}: {content[:500]!r}")
        return json.loads(content)

    def post(self, path, body, **rest):
        return self.json("POST", path, body, **rest)

    def error(self, path, body, status=400, headers=None):
        """A POST that must be refused, with OpenAI's error object; returns what is in it."""
        content = self.json("POST", path, body, headers, status=status)
        error = content["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"], error
        return error

    def stream(self, path, body):
        """A streamed POST; yields the JSON of each event, and checks the frame around them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("POST", path, json.dumps(dict(body, stream=True)))
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"HTTP {response.status}: {response.read()[:500]!r}")
            assert response.headers["Content-Type"].startswith("text/event-stream"), response.headers
            yield from read_events(response)
        finally:
            connection.close()

    def metrics(self):
        """{name with labels, less the model's: value}"""
        status, headers, content = self.request("GET", "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), (status, headers)
        values = {}
        for line in content.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = re.sub(r'model_name="[^"]*",?', "", name).replace("{}", "").removeprefix("metronome:")
                values[name] = float(value)
        return values

    def idle_metrics(self):
        """The same once nothing runs: an answer ends a little before the numbers of its last iteration are published."""
        def read():
            values = self.metrics()
            return values if values["num_requests_running"] + values["num_requests_waiting"] == 0 else None
        return eventually(read, what="the server did not come to rest")

    def raw(self, receive_buffer=None):
        """A connected socket."""
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(REQUEST_SECONDS)
        connection.connect(("127.0.0.1", self.port))
        return connection


def read_events(response):
    """The events of a stream up to "[DONE]", which must be its last."""
    done = False
    for line in response:
        line = line.rstrip(b"\n")
        if not line:
            continue
        assert line.startswith(b"data: "), line
        assert not done, "an event after [DONE]"
        if line == b"data: [DONE]":
            done = True
        else:
            yield json.loads(line[len(b"data: "):])
    assert done, "the stream ended without [DONE]"


def read_all(connection):
    """Everything until the server closes."""
    content = b""
    while True:
        piece = connection.recv(65536)
        if not piece:
            return content
        content += piece


def post_bytes(path, body, headers=""):
    """The bytes of a POST."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{headers}\r\n").encode() + body


def eventually(condition, seconds=20, what="it did not happen"):
    """Waits until condition() is true; returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} in {seconds} s")
        time.sleep(0.01)
