#!/usr/bin/env python3
"""The ways of the house that a compiler cannot check.

- An include goes down the list of rooms or sideways within a room, never up, and names its file from the root.
- A room's header has its path for a guard, and it opens with a comment that says what it owns; so does a file without a header.
- No accelerator #ifdef outside kernels/.
- Text speaks of the project alone: no issue numbers, no package registries, no paths of one machine.

Prints one line a finding, "path:line: what"; files that have grown long are named, and are no fault.
Usage: tests/tools/house.py [--list] [ROOT]        --list prints the files of the project and checks nothing
"""

import os
import re
import sys

# Height of each room: a file may include what is as high as its own room only if it is in it, and all that is lower.
HEIGHT = {"base": 0, "kernels": 1, "offload": 2, "models": 3, "scheduler": 4, "server": 5, "bench": 6}
# The one door up the stairs: the program's main calls the benchmarks as a subcommand.
DOORS = {("server/main.c", "bench/bench.h")}

LONG_LINES = 600
BODIES = "_kernels.h"  # compiled once for each instruction set, by a file that holds nothing else
SKIPPED_FOLDERS = {".git", ".cache", "build", "__pycache__"}
CODE = (".c", ".h", ".cc", ".cu", ".cuh")
TEXT = CODE + (".py", ".sh", ".md", ".json", ".txt", ".html", ".js", ".css", ".yml")
TEXT_NAMES = {"Makefile", "run", "setup", "demo", "test", ".clang-tidy", ".clang-format", ".gitignore"}

# Written so that this file does not find itself.
UNWANTED = [
    ("an issue number (say what it is about)", r"(?i)\b(?:issues?|tickets?|bugs?|pull requests?) ?#?\d+\b|\bfixes #\d"),
    ("a way of working, not the project", r"(?i)\b(?:this|previous|earlier|another|next) session\b"
     r"|\bcoding[ ](?:assistant|agent)s?\b|\blanguage model wrote\b|\bco-authored[-]by\b"),
    ("a package registry's address (give the package's name)", r"(?i)\bpypi[.]org|pythonhosted[.]org|npmjs[.]com"
     r"|crates[.]io|\bconda[.]io|anaconda[.]org"),
    ("a path of one machine", r"(?<![\w./])/(?:wor[k]|roo[t]|hom[e]|User[s]|mn[t]|tm[p]/w)/"),
    ("a folder beside the project other than ../shared/data", r"\.\./shared/(?!data\b)"),
]
UNWANTED = [(what, re.compile(pattern)) for what, pattern in UNWANTED]
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
BACKEND_IFDEF = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b.*(?:CUDA|NVCC)")


def project_files(root):
    """Paths from the root of every text file that is written by hand."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        inside = os.path.relpath(folder, root)
        if inside.startswith(os.path.join("tests", "fuzz", "corpus")):
            continue  # arbitrary bytes by design
        for name in sorted(names):
            if name.endswith(TEXT) or name in TEXT_NAMES:
                found.append(os.path.normpath(os.path.join(inside, name)))
    return found


def check_include(root, path, target):
    """What is wrong with `path` including `target`, or None."""
    if not os.path.exists(os.path.join(root, target)):
        return f'"{target}" does not exist from the root: includes name their file from there'
    room, target_room = path.split("/")[0], target.split("/")[0]
    if room not in HEIGHT or room == target_room or (path, target) in DOORS:
        return None
    if target_room not in HEIGHT:
        return f'a room may not include "{target}", which is in no room'
    if HEIGHT[target_room] >= HEIGHT[room]:
        return f'{room}/ may not include "{target}": {target_room}/ is not below it'
    return None


def check_file(root, path):
    """Yields (line number, what) for each finding in one file."""
    with open(os.path.join(root, path), encoding="utf-8") as file:
        lines = file.read().split("\n")
    for number, line in enumerate(lines, 1):
        for what, pattern in UNWANTED:
            match = pattern.search(line)
            if match:
                yield number, f'"{match.group(0)}": {what}'
    if not path.endswith(CODE):
        return
    described_by_header = os.path.exists(os.path.join(root, os.path.splitext(path)[0] + ".h"))
    if not lines[0].startswith(("/*", "//")) and (path.endswith(".h") or not described_by_header):
        yield 1, "open the file with a comment: what it owns, what it does not, which thread may call it"
    for number, line in enumerate(lines, 1):
        include = INCLUDE.match(line)
        fault = check_include(root, path, include.group(1)) if include else None
        if fault:
            yield number, fault
        if BACKEND_IFDEF.match(line) and not path.startswith("kernels/"):
            yield number, "an accelerator #ifdef outside kernels/: put the difference behind kernels/device.h"
    if path.endswith(".h") and path.split("/")[0] in HEIGHT and not path.endswith(BODIES):
        guard = "METRONOME_" + re.sub(r"[^A-Z0-9]", "_", path[:-2].upper()) + "_H"
        if f"#ifndef {guard}" not in lines or f"#define {guard}" not in lines:
            yield 1, f"the header's guard is {guard}"


def main():
    arguments = sys.argv[1:]
    listing = "--list" in arguments
    roots = [argument for argument in arguments if argument != "--list"]
    root = roots[0] if roots else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    files = project_files(root)
    if listing:
        print("\n".join(files))
        return 0
    findings = 0
    for path in files:
        for number, what in check_file(root, path):
            print(f"{path}:{number}: {what}")
            findings += 1
    for path in files:
        if path.endswith(CODE + (".py",)):
            with open(os.path.join(root, path), encoding="utf-8") as file:
                lines = file.read().count("\n")
            if lines > LONG_LINES:
                print(f"note: {path} has {lines} lines; is it one thing?")
    print(f"{len(files)} files, {findings} findings")
    return 1 if findings or not files else 0


if __name__ == "__main__":
    sys.exit(main())
