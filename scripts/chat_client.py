#!/usr/bin/env python3
"""Asks a running server one question, shows the answer as it comes, and times it. Python's standard library alone.

Usage: scripts/chat_client.py URL [--max-tokens N] [--wait SECONDS] PROMPT...        URL: http://127.0.0.1:8080

TTFT is from sending the request to the first text; TPOT is the mean time between the tokens after it. Exits with
status 1, and says why, unless the answer came whole.
"""

import argparse
import http.client
import json
import sys
import time
import urllib.parse


class ChatError(Exception):
    pass


def events(response):
    """The JSON objects of a stream of server-sent events, up to and without "[DONE]"."""
    for line in response:
        line = line.decode("utf-8").rstrip("\r\n")
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            event = json.loads(line[len("data: "):])
            if "error" in event:
                raise ChatError(event["error"]["message"])
            yield event
    raise ChatError("the stream ended before it was done")


def wait_until_ready(url, seconds):
    """Returns when the server says that it is healthy; ChatError after `seconds`."""
    address = urllib.parse.urlsplit(url)
    deadline = time.monotonic() + seconds
    while True:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
        try:
            connection.request("GET", "/health")
            answer = f"HTTP {connection.getresponse().status}"
        except OSError as error:
            answer = str(error)
        connection.close()
        if answer == "HTTP 200":
            return
        if time.monotonic() > deadline:
            raise ChatError(f"not ready after {seconds:g} s: {answer}")
        time.sleep(0.05)


def chat(url, prompt, max_tokens, show, **fields):
    """Streams one answer, calling show(text) for each piece; `fields` go into the request, too. Returns (tokens,
    seconds to the first text, seconds from there to the last)."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    sent = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ChatError(f"HTTP {response.status}: {response.read().decode('utf-8', 'replace').strip()}")
    first = last = tokens = None
    for event in events(response):
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            text = choice["delta"].get("content")
            if text:
                last = time.monotonic()
                first = first or last
                show(text)
    connection.close()
    if first is None or not tokens:
        raise ChatError("the answer is empty")
    return tokens, first - sent, last - first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for the server to be ready")
    parser.add_argument("prompt", nargs="+")
    options = parser.parse_args()

    def show(text):
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        if options.wait:
            wait_until_ready(options.url, options.wait)
        tokens, ttft, rest = chat(options.url, " ".join(options.prompt), options.max_tokens, show)
    except (ChatError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
        print(f"\nchat_client: {options.url}: {error or type(error).__name__}", file=sys.stderr)
        return 1
    tpot = f"TPOT {1000 * rest / (tokens - 1):.1f} ms, " if tokens > 1 else ""
    print(f"\n\nTTFT {1000 * ttft:.0f} ms, {tpot}{tokens} tokens, {tokens / (ttft + rest):.0f} tok/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
