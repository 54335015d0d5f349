#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets tokenizer_gguf and tokenizer_json to tests/fuzz/corpus: small vocabularies of
every shape. Run it again after changing it; the seeds are committed."""

import json
import os

import gguf_writer as gguf

OUT = os.path.join(os.path.dirname(__file__), "..", "fuzz", "corpus")
SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def spellings():
    """The 256 characters that spell bytes in a byte-level vocabulary."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in seen] + [chr(0x100 + i) for i in range(256 - len(seen))]


# ---- GGUF ----


def pieces(extra, **keys):
    """A SentencePiece vocabulary: [(spelling, type)] after the three special tokens, and other keys."""
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *extra]
    writer = gguf.GgufWriter()
    writer.key("tokenizer.ggml.model", gguf.STRING, "llama")
    writer.array("tokenizer.ggml.tokens", gguf.STRING, [token for token, _ in tokens])
    writer.array("tokenizer.ggml.scores", gguf.F32, [-float(i // 2) for i in range(len(tokens))])
    writer.array("tokenizer.ggml.token_type", gguf.I32, [kind for _, kind in tokens])
    for name, (kind, value) in keys.items():
        writer.key(f"tokenizer.ggml.{name}", kind, value)
    return writer.bytes()


def byte_level():
    writer = gguf.GgufWriter()
    writer.key("tokenizer.ggml.model", gguf.STRING, "gpt2")
    writer.key("tokenizer.ggml.pre", gguf.STRING, "qwen2")
    writer.array("tokenizer.ggml.tokens", gguf.STRING, spellings() + ["ab", "<s>", "Ġa"])
    writer.array("tokenizer.ggml.merges", gguf.STRING, ["a b", "Ġ a"])
    writer.array("tokenizer.ggml.token_type", gguf.I32, [NORMAL] * 257 + [CONTROL, NORMAL])
    writer.key("tokenizer.ggml.bos_token_id", gguf.U32, 257)
    writer.key("tokenizer.ggml.add_bos_token", gguf.BOOL, 1)
    return writer.bytes()


def gguf_seeds():
    letters = [(text, NORMAL) for text in (SPACE, "a", "b", "ab", SPACE + "a", "abab", "xyx", "aa", "aaaa")]
    some_bytes = [(f"<0x{byte:02X}>", BYTE) for byte in b"\n\xc3\xa9"]
    return {
        "byte_level": byte_level(),
        "pieces": pieces(letters + some_bytes),
        "gemma": pieces(letters + some_bytes + [("  ", USER_DEFINED), ("\n\n", USER_DEFINED), ("gone", UNUSED)],
                        add_space_prefix=(gguf.BOOL, 0), bos_token_id=(gguf.U32, 2), eot_token_id=(gguf.U32, 1)),
        "no_bytes": pieces(letters, unknown_token_id=(gguf.U32, 0)),
        "wrong_byte": pieces([("a", BYTE)]),
        "t5": pieces(letters).replace(b"\5\0\0\0\0\0\0\0llama", b"\2\0\0\0\0\0\0\0t5"),
    }


# ---- tokenizer.json ----


def added(token, content, **flags):
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": token, "content": content, **{name: flags.get(name, False) for name in names}}


def tokenizer(vocabulary, merges, **parts):
    model = {"type": "BPE", "dropout": None, "vocab": {token: i for i, token in enumerate(vocabulary)},
             "merges": merges, **parts.pop("model", {})}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
            "decoder": {"type": "ByteLevel"}, "model": model, **parts}


def sequence(field, *steps):
    return {"type": "Sequence", field: list(steps)}


def split(pattern, behavior):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}


def json_seeds():
    plain = tokenizer(spellings() + ["ab"], ["a b"], pre_tokenizer=BYTE_LEVEL, added_tokens=[
        added(257, "<|x|>", special=True, lstrip=True), added(258, "cat", single_word=True, rstrip=True),
        added(259, "é", normalized=True)], normalizer={"type": "NFC"})
    steps = tokenizer(spellings(), [], model={"ignore_merges": True}, pre_tokenizer=sequence(
        "pretokenizers", split(r"\p{N}{1,3}|[^\s\p{L}]?\p{L}+|\s+(?!\S)", "Isolated"), split("[ab]", "MergedWithNext"),
        split("-", "Removed"), {"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": False}))
    pieces_list = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", SPACE, "a", "b", "ab", SPACE + "a"]
    merges = [["a", "b"], [SPACE, "a"]]
    flags = {"unk_token": "<unk>", "byte_fallback": True, "fuse_unk": True}
    specials = [added(1, "<s>", special=True), added(2, "</s>", special=True, normalized=True)]
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    llama = tokenizer(
        pieces_list, merges, model=flags, added_tokens=specials, post_processor=TEMPLATE,
        normalizer=sequence("normalizers", {"type": "Prepend", "prepend": SPACE},
                            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}),
        decoder=sequence("decoders", replace, {"type": "ByteFallback"}, {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1, "stop": 0}))
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": True}
    marked = tokenizer(pieces_list, merges, model={"unk_token": "<unk>"}, added_tokens=specials,
                       pre_tokenizer=metaspace, decoder=metaspace)
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True,
              "chat_template": [{"name": "default", "template": "{{ x }}"}]}
    texts = "ab e\u0301 cat <|x|>1234 a-b  é", "<s>ab é </s>  a"
    vocabulary = {token: i for i, token in enumerate(spellings() + ["</s>"])}
    pair = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "add_bos_token": True}
    return {
        "byte_level": (texts[0], plain, {}, {}, {"eos_token_id": [257, 1]}),
        "steps": (texts[0], steps),
        "llama": (texts[1], llama, config, {"eos_token": "</s>"}, {"eos_token_id": 2}, "{{ bos_token }}"),
        "metaspace": (texts[1], marked, config),
        "pair": (texts[0], "", pair, "", "", "", vocabulary, "#version: 0.2\na b\n"),
        "unigram": (texts[1], tokenizer(pieces_list, [], model={"type": "Unigram"})),
    }


def main():
    texts = {name: "\n----\n".join(part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
                                   for part in parts).encode() for name, parts in json_seeds().items()}
    for target, seeds in (("tokenizer_gguf", gguf_seeds()), ("tokenizer_json", texts)):
        os.makedirs(os.path.join(OUT, target), exist_ok=True)
        for name, data in seeds.items():
            with open(os.path.join(OUT, target, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
