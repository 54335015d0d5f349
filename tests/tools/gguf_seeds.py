#!/usr/bin/env python3
"""Writes the seeds of the GGUF fuzz target to tests/fuzz/corpus/gguf: small files that between them have every kind
of value, every version, and a few lies for the fuzzer to start from. Run it again after changing it; the seeds are
committed."""

import os

import gguf_writer as gguf

OUT = os.path.join(os.path.dirname(__file__), "..", "fuzz", "corpus", "gguf")


def every_value(version):
    writer = gguf.GgufWriter(version)
    for kind, value in ((gguf.U8, 1), (gguf.I8, -1), (gguf.U16, 2), (gguf.I16, -2), (gguf.U32, 3), (gguf.I32, -3),
                        (gguf.F32, 0.5), (gguf.BOOL, 1), (gguf.U64, 4), (gguf.I64, -4), (gguf.F64, 0.25)):
        writer.key(f"v{kind}", kind, value)
        writer.array(f"a{kind}", kind, [value, value])
    writer.key("s", gguf.STRING, "text")
    writer.array("words", gguf.STRING, ["a", "", "bc"])
    return writer


def model(alignment):
    writer = gguf.GgufWriter(3, alignment)
    writer.key("general.architecture", gguf.STRING, "llama")
    writer.key("llama.block_count", gguf.U32, 1)
    writer.tensor("token_embd.weight", gguf.TENSOR_F32, [4, 2], bytes(32))
    writer.tensor("blk.0.attn_q.weight", gguf.TENSOR_Q8_0, [32, 1], bytes(34))
    writer.tensor("half", gguf.TENSOR_F16, [2, 2, 2, 2], bytes(32))
    return writer


def main():
    os.makedirs(OUT, exist_ok=True)
    seeds = {"empty_v2": gguf.GgufWriter(2).bytes(), "values_v2": every_value(2).bytes(),
             "values_v3": every_value(3).bytes(), "model": model(32).bytes(), "model_aligned": model(64).bytes()}
    seeds["many_keys"] = seeds["values_v3"].replace((24).to_bytes(8, "little"), (2**40).to_bytes(8, "little"), 1)
    seeds["huge_extent"] = seeds["model"].replace((4).to_bytes(8, "little") + (2).to_bytes(8, "little"),
                                                  (2**62).to_bytes(8, "little") * 2, 1)
    seeds["truncated"] = seeds["model"][:-20]
    seeds["big_endian"] = b"GGUF" + (3).to_bytes(4, "big") + bytes(16)
    for name, data in seeds.items():
        with open(os.path.join(OUT, name), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
