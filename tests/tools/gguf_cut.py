#!/usr/bin/env python3
"""Copies a GGUF model of the family llama with its first layers alone: what the sanitizers' runs of whole engines use, for
which a layer is as good as thirty. With the standard library alone.

    gguf_cut.py MODEL.gguf LAYERS OUT.gguf
"""

import os
import re
import struct
import sys

import gguf_writer as gguf


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, code):
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self):
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def skip(self, kind):
        if kind == gguf.STRING:
            self.text()
        elif kind == gguf.ARRAY:
            item, count = self.number("I"), self.number("Q")
            if item in (gguf.STRING, gguf.ARRAY):
                for _ in range(count):
                    self.skip(item)
            else:
                self.at += count * struct.calcsize("<" + gguf.FORMATS[item])
        else:
            self.number(gguf.FORMATS[kind])


def cut(data, layers):
    """The bytes of the model with its first `layers` layers."""
    reader = Reader(data)
    if data[:4] != b"GGUF":
        raise ValueError("not a GGUF file")
    reader.at = 4
    version, tensor_count, key_count = reader.number("I"), reader.number("Q"), reader.number("Q")
    out, tensors = gguf.GgufWriter(version), []
    for _ in range(key_count):
        begin = reader.at
        name = reader.text()
        kind = reader.number("I")
        value_at = reader.at
        reader.skip(kind)
        if name == "general.alignment":
            raise ValueError("alignments of its own are not read")
        if name == "llama.block_count":
            had = struct.unpack_from("<I", data, value_at)[0]
            if had < layers:
                raise ValueError(f"it has {had} layers")
            out.key(name, kind, layers)
        else:
            out.keys.append(data[begin:reader.at])
    for _ in range(tensor_count):
        name = reader.text()
        extent = [reader.number("Q") for _ in range(reader.number("I"))]
        tensors.append((name, extent, reader.number("I"), reader.number("Q")))
    base = (reader.at + out.alignment - 1) // out.alignment * out.alignment
    ends = sorted([offset for *_, offset in tensors] + [len(data) - base])  # what lies between them is padding
    for name, extent, kind, offset in tensors:
        layer = re.match(r"blk\.(\d+)\.", name)
        if not layer or int(layer.group(1)) < layers:
            end = ends[ends.index(offset) + 1]
            out.tensor(name, kind, extent, data[base + offset:base + end])
    return out.bytes()


def main():
    if len(sys.argv) != 4:
        print(__doc__)
        return 2
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    with open(sys.argv[3] + ".part", "wb") as file:
        file.write(cut(data, int(sys.argv[2])))
    os.replace(sys.argv[3] + ".part", sys.argv[3])
    return 0


if __name__ == "__main__":
    sys.exit(main())
