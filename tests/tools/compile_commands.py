#!/usr/bin/env python3
"""Writes the compile commands of every C source as the Makefile has them, for clang-tidy and editors. Those of
kernels/cuda and of its benchmark are the emulator's, which need no CUDA.

Usage: tests/tools/compile_commands.py [FILE]        FILE: compile_commands.json
"""

import json
import os
import re
import shlex
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def compilations(*goals):
    make = ["make", "--dry-run", "--always-make", "--keep-going", "--no-print-directory", "V=1", *goals]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    entries = []
    for line in printed.split("\n"):
        if " -c " not in line:
            continue
        words = shlex.split(line)
        source = words[words.index("-c") + 1]
        entries.append({"directory": os.path.realpath(ROOT), "file": source, "arguments": words})
    return entries


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else "compile_commands.json"
    entries = compilations("all", "benches")
    entries += [entry for entry in compilations("CUDA=emulated", "all", "benches")
                if re.fullmatch(r"kernels/cuda/.*\.c", entry["file"])]
    if not entries:
        print("make compiles nothing")
        return 1
    with open(os.path.join(ROOT, target), "w", encoding="utf-8") as file:
        json.dump(entries, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
