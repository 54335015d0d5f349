"""tests/run.py counts what happened: what passed, failed, crashed, hung, was skipped or never ran."""

import glob
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))

CASES = """
import os, subprocess, sys, time, unittest
class Cases(unittest.TestCase):
    def test_passes(self):
        subprocess.Popen(["sleep", "4321.25"])  # left behind in the group
    def test_fails(self):
        self.assertEqual(1, 2)
    def test_subtests(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertEqual(i, 0)
    @unittest.skip("no such device")
    def test_skipped(self):
        pass
"""

# Stands for a GoogleTest program: prints what one prints, and ends as its name says.
PROGRAM = """#!{python}
import json, os, sys
print("[ RUN      ] A.Good\\n[       OK ] A.Good (0 ms)")
print("[ RUN      ] A.Skips\\nx.cc:1: Skipped\\nno model here\\n\\n[  SKIPPED ] A.Skips (0 ms)")
print("[ RUN      ] A.Last", flush=True)
if "{end}" == "crash":
    os.abort()
tests = [{{"classname": "A", "name": "Good", "status": "RUN", "result": "COMPLETED"}},
         {{"classname": "A", "name": "Skips", "status": "RUN", "result": "SKIPPED"}}]
if "{end}" == "fail":
    tests.append({{"classname": "A", "name": "Last", "status": "RUN", "failures": [{{"failure": "1 is not 2"}}]}})
path = [word for word in sys.argv if word.startswith("--gtest_output=json:")][0].split(":", 1)[1]
json.dump({{"testsuites": [{{"testsuite": tests}}]}}, open(path, "w"))
sys.exit("{end}" != "pass")
"""


def running_commands():
    text = b""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                text += file.read()
        except OSError:
            pass  # it has ended
    return text


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        for path in ("tests/run.py", "tests/tools/unittest_report.py"):
            self.write(path, "")
            shutil.copy(os.path.join(HERE, "..", "..", path), os.path.join(self.folder.name, path))
        self.write("Makefile", "all benches unit:\n")

    def write(self, path, text):
        path = os.path.join(self.folder.name, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def program(self, name, end):
        self.write(f"tests/unit/base/{name}_test.cc", "")
        path = self.write(f"build/release/tests/base/{name}_test", PROGRAM.format(python=sys.executable, end=end))
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)

    def run_tests(self, *arguments):
        done = subprocess.run([sys.executable, os.path.join(self.folder.name, "tests/run.py"), *arguments],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout, done.stdout.rstrip("\n").split("\n")[-1]

    def test_unittest_cases(self):
        self.write("tests/e2e/test_cases.py", CASES)
        status, output, last = self.run_tests("e2e")
        self.assertEqual((status, last), (1, "1 passed, 2 failed, 1 skipped"))
        self.assertIn("no such device", output)
        self.assertIn("AssertionError: 1 != 2", output)
        self.assertNotIn(b"4321.25", running_commands())

    def test_a_file_that_cannot_be_imported(self):
        self.write("tests/e2e/test_broken.py", "import no_such_module_anywhere\n")
        status, output, last = self.run_tests("e2e")
        self.assertEqual((status, last), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertIn("no_such_module_anywhere", output)

    def test_a_file_without_cases(self):
        self.write("tests/e2e/test_empty.py", "")
        self.assertEqual(self.run_tests("e2e")[2], "0 passed, 1 failed, 0 skipped")

    def test_a_hanging_test_is_killed(self):
        self.write("tests/e2e/test_hangs.py", "import time\ntime.sleep(1000)\n")
        started = time.monotonic()
        status, output, last = self.run_tests("--minutes", "0.02", "e2e")
        self.assertEqual((status, last), (1, "0 passed, 1 failed, 0 skipped"))
        self.assertIn("killed after", output)
        self.assertLess(time.monotonic() - started, 60)

    def test_programs(self):
        self.program("good", "pass")
        self.assertEqual(self.run_tests("unit")[::2], (0, "1 passed, 0 failed, 1 skipped"))
        self.program("bad", "fail")
        status, output, last = self.run_tests("unit")
        self.assertEqual((status, last), (1, "2 passed, 1 failed, 2 skipped"))
        self.assertIn("base/bad_test: A.Last", output)
        self.assertIn("no model here", output)
        self.program("ugly", "crash")
        status, output, last = self.run_tests("unit")
        self.assertEqual((status, last), (1, "3 passed, 2 failed, 2 skipped"))
        self.assertIn("base/ugly_test: A.Last: exit status -6", output)

    def test_what_families_are_off_by_is_said(self):
        self.write("tests/unit/models/family_test.cc", "")
        path = self.write("build/release/tests/models/family_test", PROGRAM.format(python=sys.executable, end="pass").replace(
            "import json", "print('llama    safetensors F32: 1.4e-06\\nopt      safetensors F32: 4.1e-06\\nopt gguf: 2e-06')\nimport json"))
        os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        self.assertIn("    relative error of logits to transformers': llama 1.4e-06, opt 4.1e-06\n", self.run_tests("unit")[1])

    def test_a_program_that_fails_after_its_tests(self):
        self.program("leaks", "leak")
        self.assertEqual(self.run_tests("unit")[::2], (1, "1 passed, 1 failed, 1 skipped"))

    def test_a_build_that_fails(self):
        self.program("good", "pass")
        self.write("Makefile", "all benches:\nunit:\n\tfalse\n")
        self.assertEqual(self.run_tests("unit")[::2], (1, "1 passed, 1 failed, 1 skipped"))

    def test_what_took_longest_is_named(self):
        self.write("tests/e2e/test_slow.py", CASES.replace("def test_passes(self):", "def test_passes(self):\n        time.sleep(1)"))
        self.write("tests/tools/test_quick.py", CASES)
        output = self.run_tests("tools", "e2e")[1].split("\n")
        named = output[output.index("longest, in seconds on the clock:") + 1:]
        self.assertRegex(named[0], r"^ +[1-9][0-9]*\.[0-9] tests/e2e/test_slow\.py$")

    def test_threads_where_none_are_said_to_be(self):
        self.write("tests/unit/kernels/sim_test.cc", "")
        program = PROGRAM.format(python=sys.executable, end="pass").replace(
            "json.dump", "open(os.environ['METRONOME_TEST_THREADS'], 'w').write('{count}\\n')\njson.dump")
        for count, ends in ((0, "1 passed, 0 failed, 1 skipped"), (3, "1 passed, 1 failed, 1 skipped")):
            path = self.write("build/release/tests/kernels/sim_test", program.replace("{count}", str(count)))
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
            _, output, last = self.run_tests("unit")
            self.assertEqual(last, ends)
            self.assertEqual("starts 3 threads" in output, count == 3)

    def test_nvcc_that_is_not_there(self):
        os.environ["CUDA_HOME"] = self.folder.name
        self.addCleanup(os.environ.pop, "CUDA_HOME")
        self.write("tests/tools/test_quick.py", CASES.replace("1, 2", "1, 1").replace("assertEqual(i, 0)", "assertEqual(i, i)"))
        status, output, last = self.run_tests("tools", "cuda")
        self.assertEqual((status, last), (0, "3 passed, 0 failed, 2 skipped"))
        self.assertIn(f"there is no nvcc in {self.folder.name}/bin (CUDA_HOME says where else)", output)

    def test_no_test_is_a_failure(self):
        self.assertEqual(self.run_tests("tsan")[0], 1)

    def test_unknown_suite(self):
        done = subprocess.run([sys.executable, os.path.join(self.folder.name, "tests/run.py"), "typo"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no suite typo", done.stderr)


if __name__ == "__main__":
    unittest.main()
