#!/usr/bin/env python3
"""Converts a model of llama2.c (version 0: stories260K.bin and tok512.bin) to GGUF, with the standard library alone.

    stories_to_gguf.py MODEL.bin TOKENIZER.bin OUT.gguf [--type f32|f16]

The order of rotary pairs is the same in both formats, so the tensors are only cut apart and named."""

import argparse
import os
import struct

import gguf_writer as gguf


class Reader:
    """Reads floats forward through the file's bytes; slices stay bytes."""

    def __init__(self, data, at):
        self.data, self.at = data, at

    def take(self, floats):
        piece = self.data[self.at:self.at + 4 * floats]
        if len(piece) != 4 * floats:
            raise SystemExit(f"the model ends {4 * floats - len(piece)} bytes too soon")
        self.at += 4 * floats
        return piece


def as_f16(data):
    values = struct.unpack(f"<{len(data) // 4}f", data)
    return struct.pack(f"<{len(values)}e", *values)


def read_tokens(path):
    """[(spelling, score)] with spaces as SentencePiece writes them."""
    with open(path, "rb") as file:
        data = file.read()
    at, tokens = 4, []  # past the length of the longest token
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append((data[at + 8:at + 8 + length].replace(b" ", "▁".encode()), score))
        at += 8 + length
    return tokens


def add_vocabulary(writer, tokens):
    types = []
    for index, (text, _) in enumerate(tokens):
        byte = len(text) == 6 and text.startswith(b"<0x")
        types.append(2 if index == 0 else 3 if index in (1, 2) else 6 if byte else 1)
    spellings = [text for text, _ in tokens]
    spellings[:3] = [b"<unk>", b"<s>", b"</s>"]
    writer.key("tokenizer.ggml.model", gguf.STRING, "llama")
    writer.array("tokenizer.ggml.tokens", gguf.STRING, spellings)
    writer.array("tokenizer.ggml.scores", gguf.F32, [score for _, score in tokens])
    writer.array("tokenizer.ggml.token_type", gguf.I32, types)
    writer.key("tokenizer.ggml.bos_token_id", gguf.U32, 1)
    writer.key("tokenizer.ggml.eos_token_id", gguf.U32, 2)


def add_tensors(writer, reader, shape, half):
    width, feed_forward, layers, heads, kv_heads, vocabulary, context = shape
    kv_width = width // heads * kv_heads
    kind, convert = (gguf.TENSOR_F16, as_f16) if half else (gguf.TENSOR_F32, lambda data: data)

    def matrix(name, rows, columns):
        writer.tensor(name, kind, [columns, rows], convert(reader.take(rows * columns)))

    def matrices(name, rows, columns):
        for layer in range(layers):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)

    def norms(name):
        for layer in range(layers):
            writer.tensor(f"blk.{layer}.{name}.weight", gguf.TENSOR_F32, [width], reader.take(width))

    shared = vocabulary > 0  # llama2.c marks a separate head by a negative vocabulary
    vocabulary = abs(vocabulary)
    matrix("token_embd.weight", vocabulary, width)
    norms("attn_norm")
    matrices("attn_q", width, width)
    matrices("attn_k", kv_width, width)
    matrices("attn_v", kv_width, width)
    matrices("attn_output", width, width)
    norms("ffn_norm")
    matrices("ffn_gate", feed_forward, width)
    matrices("ffn_down", width, feed_forward)
    matrices("ffn_up", feed_forward, width)
    writer.tensor("output_norm.weight", gguf.TENSOR_F32, [width], reader.take(width))
    reader.take(context * (width // heads))  # tables of rotary cosines and sines, which everyone computes
    if not shared:
        matrix("output.weight", vocabulary, width)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--type", choices=("f32", "f16"), default="f32")
    options = parser.parse_args()
    with open(options.model, "rb") as file:
        data = file.read()
    shape = struct.unpack_from("<7i", data)
    width, feed_forward, layers, heads, kv_heads, vocabulary, context = shape
    writer = gguf.GgufWriter()
    writer.key("general.architecture", gguf.STRING, "llama")
    writer.key("general.name", gguf.STRING, os.path.splitext(os.path.basename(options.model))[0])
    for name, value in (("block_count", layers), ("context_length", context), ("embedding_length", width),
                        ("feed_forward_length", feed_forward), ("attention.head_count", heads),
                        ("attention.head_count_kv", kv_heads), ("vocab_size", abs(vocabulary)),
                        ("rope.dimension_count", width // heads)):
        writer.key("llama." + name, gguf.U32, value)
    writer.key("llama.rope.freq_base", gguf.F32, 10000.0)
    writer.key("llama.attention.layer_norm_rms_epsilon", gguf.F32, 1e-5)
    add_vocabulary(writer, read_tokens(options.tokenizer))
    add_tensors(writer, Reader(data, 28), shape, options.type == "f16")
    partial = f"{options.out}.{os.getpid()}.partial"  # a test beside this one never sees half a file
    with open(partial, "wb") as file:
        file.write(writer.bytes())
    os.replace(partial, options.out)


if __name__ == "__main__":
    main()
