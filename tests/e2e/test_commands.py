#!/usr/bin/env python3
"""The subcommands: what they print, and the exit status and the words when they cannot do their job."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import MODEL, run_command  # noqa: E402

SMALL = ("--context", "256", "--kv_tokens", "256")


def setUpModule():
    if not os.path.exists(harness.PROGRAM):
        raise unittest.SkipTest(f"{harness.PROGRAM} is not built")


class CommandTest(unittest.TestCase):
    def expect(self, *arguments, status=0, stdin=""):
        result = run_command(*arguments, stdin=stdin)
        self.assertEqual(result.returncode, status, f"{arguments}: {result.stdout}{result.stderr}")
        return result

    def refuse(self, *arguments, status=2, words=()):
        result = self.expect(*arguments, status=status)
        for word in words:
            self.assertIn(word, result.stderr, arguments)
        return result

    def write(self, text):
        file = tempfile.NamedTemporaryFile("w", suffix=".json", delete=False)
        self.addCleanup(os.unlink, file.name)
        with file:
            file.write(text)
        return file.name


class Program(CommandTest):
    def test_help_and_version(self):
        self.assertIn("serve", self.expect("help").stdout)
        self.assertIn("serve", self.expect("--help").stdout)
        self.assertRegex(self.expect("version").stdout, r"^metronome \d+\.\d+\.\d+ \(\w+\)\n$")
        for command in ("serve", "config", "tokenize", "generate"):
            self.assertIn(f"usage: metronome {command}", self.expect(command, "--help").stdout)

    def test_unknown_commands_and_options(self):
        self.refuse(words=["usage:"])
        self.refuse("srve", words=['there is no command "srve"; did you mean serve?', "usage:"])
        self.refuse("serve", "--prot", "1", words=["--prot; did you mean --port?"])
        self.refuse("serve", "extra", words=["--model FILE"])
        self.refuse("config", "--chek", "x", words=["--check"])
        self.refuse("tokenize", words=["TEXT"])
        self.refuse("generate", words=["--prompt"])


class Config(CommandTest):
    def test_lists_every_option(self):
        text = self.expect("config").stdout
        options = json.loads(self.expect("config", "--json", "-").stdout)["options"]
        self.assertGreater(len(options), 30)
        for option in options:
            self.assertIn(option["name"], text)
            self.assertTrue(option["help"])
            self.assertIn(option["type"], ("string", "path", "choice", "int", "float", "bytes", "object"))
        names = {option["name"]: option for option in options}
        self.assertEqual(names["port"]["default"], 8080)
        self.assertEqual((names["port"]["minimum"], names["port"]["maximum"]), (0, 65535))
        self.assertEqual(names["device"]["choices"], ["cpu", "cuda", "sim"])
        self.assertEqual(names["slo.tpot_ms"]["unit"], "ms")

    def test_checks_files(self):
        good = self.write('{"port": 1, /* c */ "device_memory": "2GiB"} // end')
        self.assertIn("2 GiB", self.expect("config", "--check", good).stdout)
        self.expect("config", "--check", os.path.join(harness.ROOT, "configs", "default.json"))
        for text, words in (('{"prot": 1}', "there is no option prot; did you mean port?"),
                            ('{"port": 70000}', "port: 70000 is out of range; allowed are 0 to 65535"),
                            ('{"slo": {"tpot": 1}}', "slo.tpot; did you mean slo.tpot_ms?"),
                            ('{"port": 1', "line 1, column 11")):
            path = self.write(text)
            self.refuse("config", "--check", path, words=[path, words])
        self.refuse("config", "--check", self.write('{"offload": {"policy": "prefetch-group"}}'),
                    words=["offload.group 0"])
        self.refuse("config", "--check", "/no/such/file", status=1, words=["/no/such/file: No such file"])
        self.refuse("config", "--json", "/no/such/folder/x", status=1, words=["No such file"])


class Refusals(CommandTest):
    """A server that cannot start says why, and what to change."""

    def setUp(self):
        harness.skip_without_model()

    def test_models_that_are_not_there_or_not_models(self):
        self.refuse("serve", words=["--model FILE"])
        self.refuse("serve", "--model", "/no/such.gguf", "--port", "0", words=["/no/such.gguf"])
        self.refuse("serve", "--model", self.write("not a model"), "--port", "0", words=["magic"])
        with open(MODEL, "rb") as file:
            begin = file.read(1 << 20)
        cut = self.write("")
        with open(cut, "wb") as file:
            file.write(begin)
        self.assertEqual(run_command("serve", "--model", cut, "--port", "0").returncode, 2)

    def test_options_that_do_not_fit(self):
        self.refuse("serve", "--model", MODEL, "--device", "gpu", words=['device: "gpu" is not one of cpu, cuda, sim'])
        self.refuse("serve", "--model", MODEL, "--offload.policy", "x", words=["offload.policy", "select-n"])
        self.refuse("serve", "--model", MODEL, "--port", "0", "--offload.policy", "metronome", "--context", "512",
                    "--slo.tpot_ms", "0.001", words=["slo.tpot_ms", "short"])
        self.refuse("serve", "--model", MODEL, "--port", "0", "--context", "999999", words=["context 999999"])
        self.refuse("serve", "--model", MODEL, "--port", "0", "--chat_template", "nonsense", words=["chat_template"])
        result = self.refuse("serve", "--model", MODEL, "--port", "0", "--device_memory", "80MiB", status=1,
                             words=["device_memory"])
        self.assertRegex(result.stderr, r"\d MiB")

    def test_a_port_that_is_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.refuse("serve", "--model", MODEL, "--port", port, status=1, words=[port, "Address already in use"])

    def test_key_files(self):
        self.refuse("serve", "--model", MODEL, "--port", "0", "--api_key_file", "/no/such", status=1, words=["/no/such"])
        self.refuse("serve", "--model", MODEL, "--port", "0", "--api_key_file", self.write("\n"), words=["empty"])


class Tokenize(CommandTest):
    def setUp(self):
        harness.skip_without_model()

    def test_ids_and_pieces(self):
        report = json.loads(self.expect("tokenize", "--model", MODEL, "Hello world", "--json", "-").stdout)
        self.assertEqual("".join(report["pieces"]), "Hello world")
        self.assertEqual(report["count"], len(report["tokens"]))
        text = self.expect("tokenize", "--model", MODEL, "Hello world").stdout
        for token in report["tokens"]:
            self.assertIn(str(token), text)
        piped = self.expect("tokenize", "--model", MODEL, "-", "--json", "-", stdin="Hello world").stdout
        self.assertEqual(json.loads(piped), report)
        special = json.loads(self.expect("tokenize", "--model", MODEL, "<|im_end|>", "--json", "-").stdout)
        plain = json.loads(self.expect("tokenize", "--model", MODEL, "<|im_end|>", "--plain", "--json", "-").stdout)
        self.assertEqual((special["count"], "".join(plain["pieces"])), (1, "<|im_end|>"))
        self.assertGreater(plain["count"], 1)


class Generate(CommandTest):
    def setUp(self):
        harness.skip_without_model()

    def test_text_and_times(self):
        arguments = ("generate", "--model", MODEL, "--prompt", "The capital of France is", "--max-tokens", "6", *SMALL)
        shown = self.expect(*arguments)
        self.assertIn("Paris", shown.stdout)
        self.assertRegex(shown.stderr, r"TTFT [\d.]+ ms, TPOT [\d.]+ ms, [\d.]+ tok/s")
        report = json.loads(self.expect(*arguments, "--json", "-").stdout)
        self.assertEqual(report["text"] + "\n", shown.stdout)
        self.assertEqual((report["completion_tokens"], report["finish_reason"]), (6, "length"))
        self.assertGreater(report["ttft_ms"], 0)
        chat = self.expect("generate", "--model", MODEL, "--chat", "--prompt", "-", "--max-tokens", "6", *SMALL,
                           stdin="Say hi.")
        self.assertTrue(chat.stdout.strip())

    def test_draws_are_repeated_by_their_seed(self):
        def draw(seed):
            return self.expect("generate", "--model", MODEL, "--prompt", "x", "--max-tokens", "8", "--temperature", "1",
                               "--seed", seed, *SMALL).stdout

        self.assertEqual(draw("1"), draw("1"))
        self.assertNotEqual(draw("1"), draw("2"))

    def test_ranks_give_the_text_of_one(self):
        arguments = ("generate", "--model", MODEL, "--prompt", "The capital of France is", "--max-tokens", "6", *SMALL)
        split = self.expect(*arguments, "--tensor-parallel-size", "3")
        self.assertEqual(split.stdout, self.expect(*arguments).stdout)
        self.refuse(*arguments, "--tensor-parallel-size", "2", words=["tensor_parallel_size 2", "1, 3, 9"])

    def test_refusals(self):
        self.refuse("generate", "--model", MODEL, "--prompt", "x", "--max-tokens", "many", words=["--max-tokens"])
        self.refuse("generate", "--model", MODEL, "--prompt", "x " * 300, *SMALL, words=["256"])
        self.refuse("generate", "--model", MODEL, "--prompt", "", *SMALL, words=["empty"])


class BenchOps(CommandTest):
    def test_every_form_says_the_same(self):
        page = self.write("")
        text = self.expect("bench", "ops", "--quick", "--seed", "5", "--html", page).stdout
        self.assertIn("of the limit %", text)
        with open(page, encoding="utf-8") as file:
            html = file.read()
        self.assertIn("<svg", html)
        self.assertIn("<h2>Every op</h2>", html)
        self.assertNotRegex(html, r"(?:src|href)=")  # nothing is fetched
        report = json.loads(self.expect("bench", "ops", "--quick", "--seed", "5", "--threads", "1", "--isa", "scalar",
                                        "--compute", "f32", "--type", "Q8_0", "--json", "-").stdout)
        self.assertEqual(report["about"][0]["seed"], 5)
        self.assertEqual((report["config"][0]["type"], report["config"][0]["quantized weights as"]), ("Q8_0", "f32"))
        self.assertIn("scalar, 1 thread", report["config"][0]["device"])
        self.assertGreater(len(report["ops"]), 60)
        self.assertLessEqual({row["limit"] for row in report["ops"]}, {"memory", "arithmetic", "launch"})
        for row in report["ops"]:
            self.assertLessEqual(row["us"], row["median us"])
            self.assertAlmostEqual(row["GB/s"] * row["us"], row["KB"], delta=1e-6 * row["KB"])

    def test_refusals(self):
        self.refuse("bench", "ops", "--device", "sim", status=1, words=["sim"])
        self.refuse("bench", "ops", "--compute", "f16", words=["int8 nor f32"])
        self.refuse("bench", "ops", "--type", "Q9_9", words=["Q9_9"])
        self.refuse("bench", "ops", "--model", "no-such", words=["no-such"])
        self.refuse("bench", "ops", "--threads", "0", words=["--threads"])
        self.refuse("bench", "ops", "extra", words=["extra"])
        self.refuse("bench", "offload", "--device", "cpu", "--share", "40", words=["none of 30, 50 and 70"])
        self.refuse("bench", "offload", "--device", "cpu", "--weights", "/no/such.gguf", words=["/no/such.gguf"])
        self.refuse("bench", "opps", words=["did you mean ops?"])

    def test_a_demo_model_that_is_not_here(self):
        with tempfile.TemporaryDirectory() as folder:
            result = subprocess.run([os.path.abspath(harness.PROGRAM), "bench", "offload", "--device", "cpu", "--quick"],
                                    capture_output=True, text=True, timeout=60, check=False, cwd=folder)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("sh scripts/setup demo", result.stderr)


if __name__ == "__main__":
    unittest.main()
