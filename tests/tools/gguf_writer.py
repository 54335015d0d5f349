"""Writes GGUF files with nothing but the standard library: for seeds of the fuzzer and for test models."""

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
TENSOR_F32, TENSOR_F16, TENSOR_Q8_0 = 0, 1, 8


def _text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def _value(kind, value):
    if kind == STRING:
        return _text(value)
    return struct.pack("<" + FORMATS[kind], value)


class GgufWriter:
    def __init__(self, version=3, alignment=32):
        self.version, self.alignment = version, alignment
        self.keys, self.tensors = [], []
        if alignment != 32:
            self.key("general.alignment", U32, alignment)

    def key(self, name, kind, value):
        self.keys.append(_text(name) + struct.pack("<I", kind) + _value(kind, value))

    def array(self, name, kind, values):
        data = b"".join(_value(kind, value) for value in values)
        self.keys.append(_text(name) + struct.pack("<IIQ", ARRAY, kind, len(values)) + data)

    def tensor(self, name, kind, extent, data):
        """`extent` as GGUF has it: the fastest dimension (columns) first. `data` is the tensor's bytes."""
        self.tensors.append((name, kind, extent, data))

    def _aligned(self, size):
        return (size + self.alignment - 1) // self.alignment * self.alignment

    def bytes(self):
        header = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors), len(self.keys)), *self.keys]
        offset = 0
        for name, kind, extent, data in self.tensors:
            header.append(_text(name) + struct.pack(f"<I{len(extent)}QIQ", len(extent), *extent, kind, offset))
            offset = self._aligned(offset + len(data))
        out = bytearray(b"".join(header))
        for _, _, _, data in self.tensors:
            out += bytes(self._aligned(len(out)) - len(out))
            out += data
        return bytes(out)
