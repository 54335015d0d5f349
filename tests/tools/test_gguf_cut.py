"""tests/tools/gguf_cut.py keeps the first layers, all else as it is, and refuses what it cannot read."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import gguf_cut  # noqa: E402
import gguf_writer as gguf  # noqa: E402


def model(layers, kept):
    """A file whose metadata says `layers` and whose tensors are those of the layers in `kept`."""
    out = gguf.GgufWriter()
    out.key("general.name", gguf.STRING, "made up")
    out.array("tokenizer.ggml.tokens", gguf.STRING, ["a", "bc", ""])
    out.array("tokenizer.ggml.scores", gguf.F32, [0.5, 1, -2])
    out.key("llama.block_count", gguf.U32, layers)
    out.key("llama.context_length", gguf.U32, 64)
    out.tensor("token_embd.weight", gguf.TENSOR_F32, [4, 3], bytes(range(48)))
    for layer in kept:
        out.tensor(f"blk.{layer}.attn_norm.weight", gguf.TENSOR_F32, [5], bytes([layer] * 20))  # padded to 32
        out.tensor(f"blk.{layer}.ffn_up.weight", gguf.TENSOR_F32, [4, 8], bytes([layer + 100] * 128))
    out.tensor("output_norm.weight", gguf.TENSOR_F32, [2], b"12345678")
    return out.bytes()


class Cut(unittest.TestCase):
    def test_the_first_layers_are_kept(self):
        def unpadded(data):
            return data.rstrip(b"\0")  # what lies behind the last tensor
        self.assertEqual(unpadded(gguf_cut.cut(model(12, range(12)), 2)), unpadded(model(2, range(2))))
        self.assertEqual(unpadded(gguf_cut.cut(model(3, range(3)), 3)), unpadded(model(3, range(3))))

    def test_what_cannot_be(self):
        with self.assertRaisesRegex(ValueError, "it has 2 layers"):
            gguf_cut.cut(model(2, range(2)), 3)
        with self.assertRaisesRegex(ValueError, "not a GGUF file"):
            gguf_cut.cut(b"GGML" + bytes(100), 3)

    def test_as_a_command(self):
        with tempfile.TemporaryDirectory() as folder:
            source, target = os.path.join(folder, "in"), os.path.join(folder, "out")
            with open(source, "wb") as file:
                file.write(model(4, range(4)))
            subprocess.run([sys.executable, os.path.join(HERE, "gguf_cut.py"), source, "1", target], check=True)
            with open(target, "rb") as file:
                self.assertEqual(file.read(), gguf_cut.cut(model(4, range(4)), 1))
            self.assertEqual(sorted(os.listdir(folder)), ["in", "out"])


if __name__ == "__main__":
    unittest.main()
