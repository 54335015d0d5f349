"""What gpu_check.py says where there is no GPU, and what it makes of packed programs."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import gpu_check  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(HERE))
PATH = os.path.join(HERE, "gpu_check.py")


def check(*arguments):
    """On a machine without any program, nvidia-smi among them."""
    return subprocess.run([sys.executable, PATH, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False, env=dict(os.environ, PATH=""))


class WithoutGpu(unittest.TestCase):
    def test_nothing_is_checked(self):
        result = check()
        self.assertEqual(result.returncode, 1)
        self.assertIn("there is no GPU here", result.stdout)

    def test_a_pack_that_is_none(self):
        with tempfile.NamedTemporaryFile(suffix=".tar.xz") as file:
            file.write(b"no archive")
            file.flush()
            for path in (file.name, file.name + ".not-there"):
                result = check("--packed", path)
                self.assertEqual(result.returncode, 1)
                self.assertIn(f"--pack {path} writes it", result.stderr)

    def test_a_pack_is_unpacked(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "pack.tar.xz")
            with tarfile.open(path, "w:xz") as archive:
                archive.add(PATH, "./metronome")
            result = check("--packed", path)
        self.assertEqual(result.returncode, 1)
        self.assertIn("there is no GPU here", result.stdout)
        self.assertTrue(os.path.exists(os.path.join(ROOT, "build", "gpu-pack", "metronome")))


class Libraries(unittest.TestCase):
    @unittest.skipUnless(shutil.which("ldd"), "there is no ldd")
    def test_those_of_the_system_are_left_out(self):
        found = gpu_check.libraries(sys.executable)
        self.assertFalse([name for name in found if name.startswith(("libc.", "libm.", "ld-linux", "linux-vdso"))])
        for path in found.values():
            self.assertTrue(os.path.exists(path), path)


if __name__ == "__main__":
    unittest.main()
