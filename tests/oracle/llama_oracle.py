#!/usr/bin/env python3
"""An independent forward pass of a llama GGUF in numpy, and the golden numbers made with it.

Weights are dequantized by the `gguf` package, everything after that is float64, with no cache, no batching and no
code of ours: what it prints is the arithmetic of the model. Needs numpy and gguf.

    llama_oracle.py MODEL.gguf --golden OUT.json        the committed numbers of tests/data/smollm2_logits.json
    llama_oracle.py MODEL.gguf --greedy N --ids ID...   N greedy tokens after these ids
"""

import argparse
import json

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize

# Ids of the SmolLM2 vocabulary. The first is "The capital of France is", the second a chat turn, the third is noise.
PROMPTS = {
    "text": [504, 3575, 282, 4649, 314],
    "chat": [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182,
             2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 7158, 47, 2, 198, 1, 520, 9531, 198],
    "noise": [38412, 1187, 12, 49151, 20766, 3, 45110, 907, 15333, 28121, 40000, 512, 17],
}
SAMPLED = 64  # fixed indices of the vocabulary that every position reports
TOP = 16
GREEDY = 30


class Model:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.layers = self.field("llama.block_count")
        self.width = self.field("llama.embedding_length")
        self.heads = self.field("llama.attention.head_count")
        self.kv_heads = self.field("llama.attention.head_count_kv", self.heads)
        self.head_dim = self.field("llama.attention.key_length", self.width // self.heads)
        self.pairs = self.field("llama.rope.dimension_count", self.head_dim) // 2
        self.base = self.field("llama.rope.freq_base", 10000.0)
        self.epsilon = self.field("llama.attention.layer_norm_rms_epsilon")
        if "llama.rope.scaling.type" in self.fields or "rope_freqs.weight" in self.tensors:
            raise SystemExit("the oracle does not scale rotary angles")
        self.cache = {}

    def field(self, name, default=None):
        return self.fields[name].contents() if name in self.fields else default

    def weight(self, name):
        if name not in self.cache:
            tensor = self.tensors[name]
            values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float64)
            self.cache[name] = values.reshape([int(n) for n in reversed(tensor.shape)])
        return self.cache[name]

    def norm(self, x, name):
        return x / numpy.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon) * self.weight(name)

    def rope(self, x):
        """x (tokens, heads, head_dim): rotates the pairs (2i, 2i+1) by position * base^(-i / pairs)."""
        angle = numpy.arange(x.shape[0])[:, None] * self.base ** (-numpy.arange(self.pairs) / self.pairs)
        cos, sin = numpy.cos(angle)[:, None, :], numpy.sin(angle)[:, None, :]
        out = x.copy()
        even, odd = x[..., 0:2 * self.pairs:2], x[..., 1:2 * self.pairs:2]
        out[..., 0:2 * self.pairs:2] = even * cos - odd * sin
        out[..., 1:2 * self.pairs:2] = even * sin + odd * cos
        return out

    def attention(self, x, prefix):
        tokens = x.shape[0]
        q = self.rope((x @ self.weight(prefix + "attn_q.weight").T).reshape(tokens, self.heads, self.head_dim))
        k = self.rope((x @ self.weight(prefix + "attn_k.weight").T).reshape(tokens, self.kv_heads, self.head_dim))
        v = (x @ self.weight(prefix + "attn_v.weight").T).reshape(tokens, self.kv_heads, self.head_dim)
        k, v = (numpy.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
        scores = numpy.einsum("qhd,khd->hqk", q, k) / numpy.sqrt(self.head_dim)
        scores += numpy.triu(numpy.full((tokens, tokens), -numpy.inf), 1)
        scores = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        out = numpy.einsum("hqk,khd->qhd", scores, v).reshape(tokens, self.heads * self.head_dim)
        return out @ self.weight(prefix + "attn_output.weight").T

    def feed_forward(self, x, prefix):
        gate = x @ self.weight(prefix + "ffn_gate.weight").T
        up = x @ self.weight(prefix + "ffn_up.weight").T
        return (gate / (1 + numpy.exp(-gate)) * up) @ self.weight(prefix + "ffn_down.weight").T

    def logits(self, ids):
        """(tokens, vocabulary)"""
        x = self.weight("token_embd.weight")[ids]
        for layer in range(self.layers):
            prefix = f"blk.{layer}."
            x = x + self.attention(self.norm(x, prefix + "attn_norm.weight"), prefix)
            x = x + self.feed_forward(self.norm(x, prefix + "ffn_norm.weight"), prefix)
        head = "output.weight" if "output.weight" in self.tensors else "token_embd.weight"
        return self.norm(x, "output_norm.weight") @ self.weight(head).T

    def greedy(self, ids, count):
        """The next `count` tokens, and the least lead of a chosen token over the next best."""
        ids, lead = list(ids), numpy.inf
        for _ in range(count):
            last = self.logits(ids)[-1]
            second, first = numpy.sort(last)[-2:]
            lead = min(lead, first - second)
            ids.append(int(last.argmax()))
        return ids[-count:], lead


def golden(model):
    vocabulary = model.weight("token_embd.weight").shape[0]
    sampled = numpy.random.default_rng(1).choice(vocabulary, SAMPLED, replace=False).tolist()
    prompts = []
    for name, ids in PROMPTS.items():
        logits = model.logits(ids)
        positions = []
        for position in sorted({0, len(ids) // 2, len(ids) - 1}):
            row = logits[position]
            top = numpy.argsort(-row)[:TOP].tolist()
            positions.append({"position": position, "norm": float(f"{numpy.linalg.norm(row):.7g}"), "top": top,
                              "top_logits": [float(f"{row[i]:.7g}") for i in top],
                              "sampled_logits": [float(f"{row[i]:.7g}") for i in sampled]})
        tokens, lead = model.greedy(ids, GREEDY)
        print(f"{name}: least lead of a greedy token {lead:.4f}")
        prompts.append({"name": name, "ids": ids, "positions": positions, "greedy": tokens})
    return {"sampled": sampled, "prompts": prompts}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--golden", metavar="OUT.json")
    parser.add_argument("--greedy", metavar="N", type=int)
    parser.add_argument("--ids", nargs="+", type=int, default=[])
    options = parser.parse_args()
    model = Model(options.model)
    if options.golden:
        with open(options.golden, "w", encoding="utf-8") as file:
            json.dump(golden(model), file, separators=(",", ":"))
            file.write("\n")
    if options.greedy:
        print(model.greedy(options.ids, options.greedy))


if __name__ == "__main__":
    main()
