#!/usr/bin/env python3
"""`metronome profile`, and the option offload.record: what is measured, kept, used again, and made anew."""

import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import MODEL, run_command  # noqa: E402

SIM = ("--model", MODEL, "--device", "sim", "--hardware", "configs/hardware/a10.json", "--context", "256")
OFFLOADING = ("--offload.policy", "metronome", "--slo.tpot_ms", "100", "--prompt", "Hello", "--max-tokens", "2",
              "--log_level", "info")
MEASURING = "measuring iterations"


def setUpModule():
    harness.skip_without_model()
    os.chdir(harness.ROOT)


class RecordTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "record.json")

    def run_program(self, *arguments, status=0):
        result = run_command(*arguments)
        self.assertEqual(result.returncode, status, f"{arguments}: {result.stdout}{result.stderr}")
        return result

    def profile(self, *arguments):
        return json.loads(self.run_program("profile", *arguments, "--json", "-").stdout)

    def generate(self, *arguments, status=0):
        """Starts an engine that offloads by the record; returns its log."""
        return self.run_program("generate", *SIM, *OFFLOADING, "--offload.record", self.path, *arguments,
                                status=status).stderr


class Profile(RecordTest):
    def check(self, record):
        rows, contexts = len(record["rows"]), len(record["contexts"])
        self.assertEqual(record["rows"], sorted(set(record["rows"])))
        self.assertEqual(record["contexts"], sorted(set(record["contexts"])))
        for grid in (record["layer_ns"], record["outside_ns"]):
            self.assertEqual([len(line) for line in grid], [contexts] * rows)
        self.assertEqual(record["rows"][-1], record["key"]["rows"])
        # The weights alone: the file has names, keys and a vocabulary beside them.
        self.assertLess(record["key"]["model_bytes"], os.path.getsize(MODEL))
        self.assertGreater(record["key"]["model_bytes"], 0.9 * os.path.getsize(MODEL))
        self.assertGreater(min(min(line) for line in record["layer_ns"]), 0)

    def test_sim_measures_what_its_hardware_says(self):
        record = self.profile(*SIM)
        self.check(record)
        self.assertEqual(record, self.profile(*SIM))
        self.assertEqual((record["key"]["device"], record["key"]["context"]), ("sim", 256))
        self.assertIn("A10", record["key"]["device_description"])
        self.assertEqual(record["copy_ns"] // 1000, 8)
        self.assertAlmostEqual(record["link_bytes_per_s"] / 24e9, 1, places=2)
        layer = [line[0] for line in record["layer_ns"]]
        self.assertEqual(layer, sorted(layer))
        slow = self.profile(*SIM, "--link_gbps", "3")
        self.assertAlmostEqual(slow["link_bytes_per_s"] / 3e9, 1, places=2)
        self.assertEqual(slow["layer_ns"], record["layer_ns"])

    def test_contexts_shorter_than_the_batch(self):
        for arguments in (("--context", "100", "--max_sequences", "1"), ("--context", "30"),
                          ("--context", "250", "--max_sequences", "3", "--max_batch_tokens", "511")):
            record = self.profile(*SIM, *arguments)
            self.assertLessEqual(max(record["contexts"]), int(arguments[1]))

    def test_cpu(self):
        record = self.profile("--model", MODEL, "--threads", "1", "--context", "128", "--max_batch_tokens", "8",
                              "--max_sequences", "4", "--link_gbps", "1")
        self.check(record)
        self.assertLess(record["link_bytes_per_s"], 1.1e9)
        self.assertGreater(record["link_bytes_per_s"], 0.5e9)

    def test_table_and_file(self):
        shown = self.run_program("profile", *SIM, "--json", self.path).stdout
        with open(self.path, encoding="utf-8") as file:
            record = json.load(file)
        for word in ("link:", "GB/s", "positions", str(record["rows"][-1]), record["key"]["device_description"]):
            self.assertIn(word, shown)

    def test_refusals(self):
        self.assertIn("--model PATH", self.run_program("profile", status=2).stderr)
        self.assertIn("extra", self.run_program("profile", "extra", status=2).stderr)
        self.assertIn("usage: metronome profile", self.run_program("profile", "--help").stdout)
        self.run_program("profile", "--model", "/no/such.gguf", status=2)


class Kept(RecordTest):
    def test_made_once_and_used_again(self):
        log = self.generate()
        self.assertIn("No such file", log)
        self.assertIn(MEASURING, log)
        with open(self.path, encoding="utf-8") as file:
            made = file.read()
        self.assertEqual(json.loads(made), self.profile(*SIM))
        log = self.generate()
        self.assertNotIn(MEASURING, log)
        self.assertNotIn("anew", log)

    def test_what_the_record_says_is_what_is_planned_by(self):
        """A record of layers a thousand times as slow cannot keep the promise that the measured one keeps."""
        self.generate()
        with open(self.path, encoding="utf-8") as file:
            record = json.load(file)
        record["layer_ns"] = [[1000 * ns for ns in line] for line in record["layer_ns"]]
        with open(self.path, "w", encoding="utf-8") as file:
            json.dump(record, file)
        self.assertIn("slo.tpot_ms", self.generate(status=2))

    def test_made_anew_for_another_key(self):
        self.generate()
        log = self.generate("--link_gbps", "3")
        self.assertIn("another link_bytes_per_s: 24000000000, not 3000000000", log)
        self.assertIn(MEASURING, log)
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(json.load(file)["key"]["link_bytes_per_s"], 3e9)
        self.assertNotIn(MEASURING, self.generate("--link_gbps", "3"))

    def test_other_files_are_left_alone(self):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write('{"dear": "diary"}')
        self.assertIn("dear: there is no such field", self.generate(status=2))
        with open(self.path, encoding="utf-8") as file:
            self.assertEqual(file.read(), '{"dear": "diary"}')

    def test_a_file_that_cannot_be_written(self):
        self.path = "/no/such/folder/record.json"
        self.assertIn("offload.record: performance record /no/such/folder", self.generate(status=1))

    def test_no_record_without_offloading(self):
        self.generate("--offload.policy", "none")
        self.assertFalse(os.path.exists(self.path))


if __name__ == "__main__":
    unittest.main()
