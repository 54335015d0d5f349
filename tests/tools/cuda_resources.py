#!/usr/bin/env python3
"""What every CUDA kernel takes of a multiprocessor, for every architecture: docs/cuda-resources.md.

Reads what ptxas said when `make CUDA=1` compiled them. A kernel that spills registers is slow, and none may. One that
keeps an array on a stack of its own because it is indexed at run time is slow too; only those in STACK_ALLOWED may.

Usage: tests/tools/cuda_resources.py FOLDER [--write]     FOLDER: build/release-cuda/kernels/cuda
Without --write the committed table is checked: exit status 1, with what differs, if it is out of date, and 77 if there
is none. The compiler's version is part of the table; with another one only stacks are checked.
"""

import glob
import os
import re
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TABLE = os.path.join(ROOT, "docs", "cuda-resources.md")
CUDA_HOME = os.environ.get("CUDA_HOME", "/usr/local/cuda")

# Kernels that may use a stack, and why.
STACK_ALLOWED = {
    "rope_angles_kernel": "sincosf() reduces large angles with a table of its own; it runs once an iteration",
}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def short_name(name):
    """'void (anonymous namespace)::norm_kernel<(bool)1>(float *, unsigned int)' is 'norm_kernel<1>'."""
    name = re.sub(r"_GLOBAL__N__\w+::|\(anonymous namespace\)::|<unnamed>::", "", name)
    name = re.sub(r"\((?:bool|int|unsigned int|tensor_type|kv_type|rope_style|activation)\)", "", name)
    depth, begin = 0, 0
    for i, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if depth == 0 and character == " ":
            begin = i + 1
        elif depth == 0 and character == "(":
            return name[begin:i]
    return name[begin:]


def read_resources(folder):
    """{(file, kernel): {architecture: {"registers", "stack", "spilled", "shared"}}}"""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.ptxas"))):
        source = os.path.basename(path)[:-len(".ptxas")] + ".cu"
        if not os.path.exists(os.path.join(ROOT, "kernels", "cuda", source)):
            continue  # of a file that is no more
        with open(path, encoding="utf-8") as file:
            text = subprocess.run(["c++filt"], input=file.read(), capture_output=True, text=True, check=True).stdout
        use = None
        for line in text.split("\n"):
            if match := re.search(r"Compiling entry function '(.+)' for '(sm_\d+)'", line):
                use = found.setdefault((source, short_name(match.group(1))), {}).setdefault(match.group(2), {})
            elif use is None:
                continue
            elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
                use.setdefault("stack", int(match.group(1)))  # the first is the kernel's, others are its callees'
                use["spilled"] = use.get("spilled", 0) + int(match.group(2))
            elif match := re.search(r"Used (\d+) registers", line):
                shared = re.search(r"(\d+) bytes smem", line)
                use.update(registers=int(match.group(1)), shared=int(shared.group(1)) if shared else 0)
                use = None
    return found


def compiler():
    return re.search(r"V(\d+\.\d+)\.", run(os.path.join(CUDA_HOME, "bin", "nvcc"), "--version")).group(1)


def table(found):
    architectures = sorted({arch for row in found.values() for arch in row})
    lines = [
        "# What the CUDA kernels take",
        "",
        "Registers of a thread and static shared memory of a block in bytes, for each architecture; dynamic shared memory",
        "is asked for at the launch and not in here. No kernel spills registers, and none uses a stack but those marked.",
        "",
        f"Compiled by nvcc {compiler()}. `make cuda-resources` writes this page; the suite `cuda` of tests/run.py checks it.",
        "",
        f"{len(found)} kernels.",
        "",
        "| file | kernel | " + " | ".join(f"{arch} registers" for arch in architectures) + " | shared |",
        "|---|---|" + "---|" * (len(architectures) + 1),
    ]
    for (source, kernel), row in sorted(found.items()):
        cells = [describe(row[arch]) if arch in row else "" for arch in architectures]
        shared = max(use["shared"] for use in row.values())
        lines.append(f"| {source} | `{kernel}` | " + " | ".join(cells) + f" | {shared} |")
    if STACK_ALLOWED:
        lines += ["", "Stacks that are meant:", ""]
        lines += [f"- `{kernel}`: {reason}" for kernel, reason in sorted(STACK_ALLOWED.items())]
    return "\n".join(lines) + "\n"


def describe(use):
    stack = f" + {use['stack']} B of stack" if use["stack"] else ""
    return f"{use['registers']}{stack}"


def stacks(found):
    """The kernels that spill, those that have a stack and may not, and those that may and have none any more."""
    having = [(source, kernel, arch, use) for (source, kernel), row in sorted(found.items())
              for arch, use in sorted(row.items()) if use["stack"] or use["spilled"]]
    faults = [f"{source}: {kernel} spills {use['spilled']} bytes and has {use['stack']} of stack on {arch}"
              for source, kernel, arch, use in having if kernel not in STACK_ALLOWED or use["spilled"]]
    return faults + [f"{kernel} may have a stack and has none: STACK_ALLOWED names it no longer"
                     for kernel in sorted(STACK_ALLOWED) if kernel not in {row[1] for row in having}]


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    if len(arguments) != 1:
        print(__doc__)
        return 2
    found = read_resources(arguments[0])
    if not found:
        print(f"no kernels in {arguments[0]}: make CUDA=1 builds them")
        return 1
    text, faults = table(found), stacks(found)
    if "--write" in sys.argv:
        with open(TABLE, "w", encoding="utf-8") as file:
            file.write(text)
        print(text, end="")
    elif not os.path.exists(TABLE):
        print("\n".join(faults) or "docs/cuda-resources.md is not written yet: make cuda-resources")
        return 1 if faults else 77
    else:
        with open(TABLE, encoding="utf-8") as file:
            committed = file.read()
        if f"nvcc {compiler()}." not in committed:
            print(f"note: the table is of another compiler than nvcc {compiler()}; only stacks are checked")
        elif committed != text:
            old, new = set(committed.split("\n")), set(text.split("\n"))
            faults += [f"gone: {line}" for line in sorted(old - new)] + [f"new: {line}" for line in sorted(new - old)]
            faults.append("the table is out of date: make cuda-resources writes it")
    print("\n".join(faults) or f"{len(found)} kernels, none with a stack but those that are meant")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
