"""scripts/peers.py measures what runs, names what does not with its reason, and says clearly that there is no GPU."""

import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS = os.path.join(ROOT, "scripts", "peers.py")

# Stands for a Python that has the packages: does what the peer's name says, as FAKE has it.
PYTHON = """#!{python}
import json, os, sys
name = os.path.basename(sys.argv[1]).split("_")[0]
kind = json.loads(os.environ["FAKE"]).get(name, "good")
print("loading weights")
if kind == "fails":
    sys.exit("RuntimeError: out of memory")
print(json.dumps(sys.argv[2:]) if kind == "garbage" else
      json.dumps({{"ttft_ms": 100, "tpot_ms": 20, "tokens_per_s": 40.5, "device_peak_bytes": 3 << 30}}))
"""


class Peers(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, stat.S_IRWXU)
        return path

    def run_peers(self, *arguments, path=None, **fake):
        environment = dict(os.environ, FAKE=json.dumps(fake))
        if path is not None:
            environment["PATH"] = path
        return subprocess.run([sys.executable, PEERS, *arguments], capture_output=True, text=True, check=False,
                              env=environment)

    def measured(self, *arguments, **fake):
        report = os.path.join(self.folder.name, "report.json")
        done = self.run_peers("--device", "cpu", "--python", self.write("python", PYTHON.format(python=sys.executable)),
                              "--json", report, *arguments, **fake)
        with open(report, encoding="utf-8") as file:
            return done, json.load(file)["rows"]

    def test_without_a_gpu(self):
        done = self.run_peers(path=self.folder.name)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no NVIDIA GPU", done.stderr)
        self.assertEqual(done.stdout, "")
        self.write("nvidia-smi", "#!/bin/sh\necho 'No devices were found'\nexit 6\n")
        done = self.run_peers(path=self.folder.name)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No devices were found", done.stderr)

    def test_all_are_measured(self):
        done, rows = self.measured()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([row["system"] for row in rows], ["accelerate", "deepspeed", "flexgen"])
        for row in rows:
            self.assertEqual(row["figures"]["tokens_per_s"], 40.5)
        self.assertEqual(done.stdout.count("3.00"), 3, "GiB of the device")

    def test_one_that_fails_does_not_stop_the_others(self):
        done, rows = self.measured(accelerate="fails", deepspeed="garbage")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(rows[0], {"system": "accelerate", "figures": None, "reason": "RuntimeError: out of memory"})
        self.assertIn("no report", rows[1]["reason"])
        self.assertIsNotNone(rows[2]["figures"])
        self.assertIn("out of memory", done.stdout)

    def test_nothing_measured_is_a_failure(self):
        done, rows = self.measured("--peers", "flexgen", flexgen="fails")
        self.assertEqual((done.returncode, len(rows)), (1, 1))
        done = self.run_peers("--device", "cpu", "--peers", "magic")
        self.assertEqual(done.returncode, 1)
        self.assertIn("accelerate", done.stderr)

    def test_metronome_gets_what_a_peer_took(self):
        done, rows = self.measured("--model", self.folder.name, "--peers", "accelerate", "--program", "/nonexistent")
        self.assertEqual(done.returncode, 0)
        self.assertEqual((rows[1]["system"], rows[1]["beside"]), ("metronome", "accelerate"))
        self.assertIn("/nonexistent", rows[1]["reason"])


if __name__ == "__main__":
    unittest.main()
