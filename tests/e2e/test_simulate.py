#!/usr/bin/env python3
"""`metronome simulate`, which needs neither weights nor the hardware: reports that hang together, searches that end, the
same bytes from the same command, and refusals that name the mend."""

import json
import os
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402
from harness import run_command  # noqa: E402

CASE = ("--hardware", "a10", "--model", "opt-6.7b", "--requests", "60", "--prompt", "128", "--output", "32")
PROMISE = ("--slo.ttft_ms", "400", "--slo.tpot_ms", "200")


def setUpModule():
    if not os.path.exists(harness.PROGRAM):
        raise unittest.SkipTest(f"{harness.PROGRAM} is not built")
    os.chdir(harness.ROOT)


class Simulate(unittest.TestCase):
    def simulate(self, *arguments, status=0):
        result = run_command("simulate", *arguments, "--json", "-")
        self.assertEqual(result.returncode, status, f"{arguments}: {result.stdout}{result.stderr}")
        report = json.loads(result.stdout)
        for run in report["runs"]:
            if "error" not in run:
                self.check(run)
        return report

    def check(self, run):
        """What has to hold of every run."""
        self.assertEqual(run["failed"], 0)
        self.assertLessEqual(run["kept"], min(run["kept_ttft"], run["kept_tpot"]))
        self.assertAlmostEqual(run["attainment"], run["kept"] / run["requests"])
        self.assertLessEqual(run["kept_tokens"], run["output_tokens"])
        for times in ("ttft_ms", "tpot_ms", "e2e_ms"):
            self.assertLessEqual(run[times]["p50"], run[times]["p90"])
            self.assertLessEqual(run[times]["p90"], run[times]["p99"])
        self.assertLessEqual(run["host_bytes_mean"], run["weight_bytes"])

    def test_admission_says_who_was_refused_and_whether_that_was_right(self):
        case = (*CASE, "--slo.ttft_ms", "500", "--slo.tpot_ms", "200", "--rate", "40", "--slo.on_miss", "refuse")
        run = self.simulate(*case)["runs"][0]
        admission = run["admission"]
        refused = sum(admission["refused_" + short] for short in ("ttft", "tpot", "memory", "queue"))
        self.assertGreater(refused, 0)
        self.assertEqual((admission["admitted"] + refused, refused), (60, run["refused"]))
        self.assertLessEqual(admission["first_in_time"], admission["first_tokens"])
        self.assertGreaterEqual(run["kept"], admission["all_kept_otherwise"] / 2)
        self.assertLessEqual(admission["refused_kept_otherwise"], min(refused, admission["all_kept_otherwise"]))

    def test_loads_and_policies(self):
        report = self.simulate(*CASE, *PROMISE, "--rate", "0.5,64", "--policy", "none,metronome,select-n")
        self.assertEqual([(run["policy"], run["rate_per_s"]) for run in report["runs"]],
                         [(policy, rate) for policy in ("none", "metronome", "select-n") for rate in (0.5, 64)])
        calm, full = report["runs"][0], report["runs"][1]
        self.assertEqual(calm["attainment"], 1)
        self.assertEqual(calm["host_bytes_mean"], 0)
        self.assertLess(full["attainment"], 1)
        self.assertGreater(full["ttft_ms"]["p99"], calm["ttft_ms"]["p99"])
        self.assertGreater(report["runs"][2]["host_bytes_mean"], 0)
        self.assertGreater(report["runs"][2]["bytes_streamed"], 0)

    def test_comparison(self):
        arguments = ("simulate", *CASE, *PROMISE, "--rate", "1,40", "--compare", "--searches", "4")
        result = run_command(*arguments, "--json", "-")
        self.assertEqual(result.returncode, 0, result.stderr)
        calm, full = json.loads(result.stdout)["loads"]
        for load in (calm, full):
            for name in ("metronome", "fcfs", "clairvoyant"):
                self.assertAlmostEqual(load[name]["goodput_per_s"], load[name]["kept"] / load["seconds"])
            self.assertGreaterEqual(load["clairvoyant"]["kept"], load["metronome"]["kept"])
            self.assertLessEqual(load["searched"], 4)
        self.assertEqual(calm["metronome"]["attainment"], 1)
        self.assertLess(full["metronome"]["kept"], 60)
        self.assertGreater(full["clairvoyant"]["kept"], full["fcfs"]["kept"])
        table = run_command(*arguments)
        self.assertEqual(table.returncode, 0, table.stderr)
        self.assertIn("metronome of", table.stdout)
        for wrong in (("--find", "rate"), ("--set", "scheduler.order=fcfs"), ("--policy", "none,metronome")):
            self.assertEqual(run_command(*arguments, *wrong).returncode, 2, wrong)

    def test_the_same_command_gives_the_same_bytes(self):
        arguments = ("simulate", *CASE, *PROMISE, "--rate", "2", "--policy", "metronome", "--json", "-")
        first, second = run_command(*arguments), run_command(*arguments)
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertEqual(first.stdout, second.stdout)
        other = run_command(*arguments, "--seed", "7")
        self.assertNotEqual(first.stdout, other.stdout)

    def test_the_highest_rate(self):
        report = self.simulate(*CASE, *PROMISE, "--find", "rate", "--policy", "none", "--attainment", "0.95")
        found = report["found"]["none"]
        self.assertEqual(found, max(run["rate_per_s"] for run in report["runs"] if run["attainment"] >= 0.95))
        above = [run["rate_per_s"] for run in report["runs"] if run["attainment"] < 0.95 and run["rate_per_s"] > found]
        self.assertTrue(above, "nothing above it was looked at")
        self.assertLess(min(above) / found, 1.1)

    def test_the_least_memory(self):
        report = self.simulate(*CASE, "--slo.ttft_ms", "4000", "--slo.tpot_ms", "400", "--find", "memory", "--policy",
                               "none,metronome", "--rate", "0.5")
        none, metronome = report["found"]["none"], report["found"]["metronome"]
        self.assertLess(metronome, 0.8 * none, "offloading saves memory")
        self.assertGreater(none, 2 * 6.6e9, "the weights have to lie somewhere")

    def test_a_trace_file(self):
        with tempfile.TemporaryDirectory() as folder:
            trace, picture = os.path.join(folder, "trace.csv"), os.path.join(folder, "picture.svg")
            with open(trace, "w", encoding="utf-8") as file:
                file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
                for second in range(20):
                    file.write(f"2023-11-16 18:15:{second:02d}.5,{100 + second},{10 + second}\n")
            report = self.simulate("--hardware", "a10", "--model", "llama-2-7b", "--trace", trace, *PROMISE, "--policy",
                                   "none", "--svg", picture)
            run = report["runs"][0]
            self.assertEqual(run["requests"], 20)
            self.assertEqual(run["prompt_tokens"], sum(100 + i for i in range(20)))
            self.assertEqual(run["output_tokens"], sum(10 + i for i in range(20)))
            self.assertAlmostEqual(run["rate_per_s"], 1)
            self.assertGreater(run["seconds"], 19)
            xml.etree.ElementTree.parse(picture)

    def test_a_trace_with_shared_beginnings(self):
        with tempfile.TemporaryDirectory() as folder:
            trace = os.path.join(folder, "trace.jsonl")
            with open(trace, "w", encoding="utf-8") as file:
                for turn in range(4):  # of one conversation, each the one before and a part of its own
                    file.write(json.dumps({"timestamp": 10000 * turn, "input_length": 512 * (turn + 1),
                                           "output_length": 10, "hash_ids": list(range(turn + 1))}) + "\n")
            case = ("--hardware", "a10", "--model", "llama-2-7b", "--trace", trace, *PROMISE, "--policy", "none")
            run = self.simulate(*case)["runs"][0]
            self.assertEqual(run["prefix_queries"], 512 * (1 + 2 + 3 + 4))
            self.assertEqual(run["prefix_hits"], 512 * (1 + 2 + 3))
            off = self.simulate(*case, "--prefix_cache", "off")["runs"][0]
            self.assertEqual(off["prefix_hits"], 0)
            self.assertLess(run["ttft_ms"]["mean"], off["ttft_ms"]["mean"])

    def test_refusals(self):
        for arguments, words, status in (
                (("--hardware", "a10"), "simulate takes --hardware NAME and --model NAME", 2),
                (("--hardware", "a11", "--model", "opt-13b"), "a10", 2),
                (("--hardware", "a10", "--model", "opt-14b"), "opt-13b", 2),
                ((*CASE, "--trace", "/nonexistent"), "--prompt is for drawn requests", 2),
                (("--hardware", "a10", "--model", "opt-13b", "--trace", "/nonexistent"), "/nonexistent", 1),
                ((*CASE, "--rate", "0"), "--rate", 2),
                ((*CASE, "--rate", "1,x"), "--rate", 2),
                ((*CASE, "--policy", "magic"), "zero-inference", 2),
                ((*CASE, "--find", "speed"), "neither rate nor memory", 2),
                ((*CASE, "--find", "rate"), "--slo.ttft_ms", 2),
                ((*CASE, "--requests", "1.5"), "not a whole number", 2),
                ((*CASE, "--policy", "none", "--device_memory", "8GiB"), "short", 1),
                ((*CASE, "--policy", "flexgen", "--device_memory", "8GiB"), "device_memory or offload.percent", 1)):
            result = run_command("simulate", *arguments)
            self.assertEqual(result.returncode, status, f"{arguments}: {result.stdout}{result.stderr}")
            self.assertIn(words, result.stderr, arguments)


if __name__ == "__main__":
    unittest.main()
