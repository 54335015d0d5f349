"""tests/tools/cuda_resources.py: a kernel that spills is a fault, on any architecture, and so is leave that nobody takes."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cuda_resources  # noqa: E402

# What ptxas says of a kernel on one architecture.
SAID = """ptxas info    : Compiling entry function '{name}' for '{arch}'
ptxas info    : Function properties for {name}
    {stack} bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 64 bytes smem, 400 bytes cmem[0]
"""


class Resources(unittest.TestCase):
    def read(self, *kernels):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "norm.ptxas"), "w", encoding="utf-8") as file:
                for name, arch, stack, spilled in kernels:
                    file.write(SAID.format(name=name, arch=arch, stack=stack, spilled=spilled, registers=40))
            return cuda_resources.read_resources(folder)

    def setUp(self):
        allowed = cuda_resources.STACK_ALLOWED
        self.addCleanup(setattr, cuda_resources, "STACK_ALLOWED", allowed)
        cuda_resources.STACK_ALLOWED = {"meant": "a reason"}

    def test_kernels_are_read(self):
        found = self.read(("meant", "sm_80", 0, 0), ("meant", "sm_90", 48, 0), ("other", "sm_80", 0, 0))
        self.assertEqual(sorted(found), [("norm.cu", "meant"), ("norm.cu", "other")])
        self.assertEqual(found["norm.cu", "meant"]["sm_90"], {"stack": 48, "spilled": 0, "registers": 40, "shared": 64})

    def test_a_spill_is_a_fault(self):
        faults = cuda_resources.stacks(self.read(("meant", "sm_80", 8, 8), ("other", "sm_80", 0, 0),
                                                 ("other", "sm_86", 16, 24)))
        self.assertEqual(faults, ["norm.cu: meant spills 8 bytes and has 8 of stack on sm_80",
                                  "norm.cu: other spills 24 bytes and has 16 of stack on sm_86"])

    def test_a_stack_is_a_fault_but_where_it_is_meant(self):
        faults = cuda_resources.stacks(self.read(("meant", "sm_80", 8, 0), ("other", "sm_80", 16, 0)))
        self.assertEqual(faults, ["norm.cu: other spills 0 bytes and has 16 of stack on sm_80"])

    def test_leave_that_nobody_takes(self):
        faults = cuda_resources.stacks(self.read(("meant", "sm_80", 0, 0)))
        self.assertEqual(faults, ["meant may have a stack and has none: STACK_ALLOWED names it no longer"])


if __name__ == "__main__":
    unittest.main()
