#!/usr/bin/env python3
"""The soak of tests/tools/soak.py, for 20 seconds: an overloaded server whose clients leave midway loses nothing."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))
import soak  # noqa: E402


def setUpModule():
    soak.harness.skip_without_model()


class Soak(unittest.TestCase):
    def test_twenty_seconds(self):
        soak.soak(20, 10, 1)


if __name__ == "__main__":
    unittest.main()
