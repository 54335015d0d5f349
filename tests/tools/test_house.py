"""The house's own check finds what it is there to find, and nothing in a house that is in order."""

import os
import subprocess
import sys
import tempfile
import unittest

HOUSE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "house.py")
HEADER = "/* Owns a thing. Threads: any. */\n#ifndef METRONOME_{0}_H\n#define METRONOME_{0}_H\n{1}\n#endif\n"


class House(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.write("base/log.h", HEADER.format("BASE_LOG", ""))
        self.write("kernels/ops.h", HEADER.format("KERNELS_OPS", '#include "base/log.h"'))
        self.write("bench/bench.h", HEADER.format("BENCH_BENCH", '#include "kernels/ops.h"'))
        self.write("server/http.h", HEADER.format("SERVER_HTTP", '#include "kernels/ops.h"'))
        self.write("server/main.c", '/* The door. */\n#include "bench/bench.h"\n#include "server/http.h"\n')

    def write(self, path, text):
        path = os.path.join(self.folder.name, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def check(self):
        done = subprocess.run([sys.executable, HOUSE, self.folder.name], capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout

    def refused(self, path, text, expected):
        self.write(path, text)
        status, output = self.check()
        self.assertEqual(status, 1)
        self.assertIn(f"{path}:{expected}", output)
        self.assertIn("1 findings", output)

    def test_a_house_in_order_passes(self):
        status, output = self.check()
        self.assertEqual((status, output), (0, "5 files, 0 findings\n"))

    def test_no_files_is_a_failure(self):
        with tempfile.TemporaryDirectory() as empty:
            self.assertEqual(subprocess.run([sys.executable, HOUSE, empty], capture_output=True, check=False).returncode, 1)

    def test_include_upward(self):
        self.refused("base/log.c", '#include "kernels/ops.h"\n', '1: base/ may not include "kernels/ops.h"')

    def test_include_across_the_roof(self):
        self.refused("server/http.c", '#include "bench/bench.h"\n', '1: server/ may not include "bench/bench.h"')

    def test_include_from_no_room(self):
        self.write("tests/help.h", HEADER.format("TESTS_HELP", '#include "server/http.h"'))
        self.assertEqual(self.check()[0], 0)
        self.refused("base/log.c", '#include "tests/help.h"\n', "1: a room may not include")

    def test_include_that_does_not_name_its_file_from_the_root(self):
        self.refused("base/log.c", '#include "log.h"\n', '1: "log.h" does not exist from the root')

    def test_guard(self):
        self.refused("base/clock.h", HEADER.format("CLOCK", ""), "1: the header's guard is METRONOME_BASE_CLOCK_H")

    def test_file_without_an_opening_comment(self):
        self.refused("base/alone.c", "int alone(void);\n", "1: open the file with a comment")

    def test_accelerator_ifdef(self):
        self.write("kernels/ops.c", "#ifdef METRONOME_CUDA\n#endif\n")
        self.assertEqual(self.check()[0], 0)
        self.refused("base/log.c", "#if defined(__CUDACC__)\n#endif\n", "1: an accelerator #ifdef outside kernels/")

    def test_text(self):
        unwanted = ["see issue" + " 12", "in the previous" + " session", "a coding" + " assistant", "from py" + "pi.org",
                    "reads /hom" + "e/me/model", "../sha" + "red/design/plan.md"]
        for text in unwanted:
            with self.subTest(text):
                self.refused("docs/page.md", f"# Page\n{text}\n", "2: ")
        wanted = ["an issue of 12 bytes", "a helpful AI assistant", "../shared/data/models", "https://example.com/home/me"]
        self.write("docs/page.md", "\n".join(wanted))
        self.assertEqual(self.check()[0], 0)


if __name__ == "__main__":
    unittest.main()
