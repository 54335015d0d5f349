"""Tokenizers for tokenizer_compare.py: trained here on the repository's own text, in the shapes that models have, and
SentencePiece models made from a GGUF vocabulary, so that each has an independent implementation beside it."""

import glob
import io
import json
import os
import struct

import gguf_writer as gguf

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def corpus():
    """Enough text to learn from: this repository's."""
    paths = sorted(path for kind in ("*.md", "docs/*.md", "models/*.c", "server/*.c", "tests/tools/*.py")
                   for path in glob.glob(os.path.join(ROOT, kind)))
    return paths[:60]


# ---- tokenizer.json ----


class JsonCase:
    """A tokenizer of Hugging Face's `tokenizers` and its file."""

    def __init__(self, name, tokenizer, decodes=True):
        self.name, self.tokenizer, self.decodes = name, tokenizer, decodes

    def specials(self):
        return [token["content"] for token in json.loads(self.tokenizer.to_str())["added_tokens"]]

    def write(self, folder):
        path = os.path.join(folder, "model")
        os.makedirs(path, exist_ok=True)
        self.tokenizer.save(os.path.join(path, "tokenizer.json"))
        return path

    def encode(self, texts):
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False) if self.decodes else None

    @staticmethod
    def fits(_text):
        return True

    def without_control(self, tokenizers):
        """The same tokenizer as it sees a text in which no special token is meant."""
        data = json.loads(self.tokenizer.to_str())
        vocabulary, kept = data["model"]["vocab"], []
        for token in data["added_tokens"]:
            if token["special"] and token["content"] not in vocabulary:
                token = {**token, "content": f"\0 no text has control token {token['id']}", "normalized": False}
            elif token["special"]:
                continue
            kept.append(token)
        data["added_tokens"] = kept
        return JsonCase(self.name, tokenizers.Tokenizer.from_str(json.dumps(data)), self.decodes)


def changed(tokenizers, tokenizer, **parts):
    """A copy with other parts: a component, JSON for the model's fields, or added tokens."""
    data = json.loads(tokenizer.to_str())
    for name, part in parts.items():
        if name == "model":
            data["model"].update(part)
        elif name == "added":
            data["added_tokens"] += part
        else:
            data[name] = None
    copy = tokenizers.Tokenizer.from_str(json.dumps(data))
    for name, part in parts.items():
        if name not in ("model", "added") and part is not None:
            setattr(copy, name, part)
    return copy


def byte_level_cases(tokenizers):
    pre, Split = tokenizers.pre_tokenizers, tokenizers.pre_tokenizers.Split
    base = tokenizers.Tokenizer(tokenizers.models.BPE())
    base.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    base.decoder = tokenizers.decoders.ByteLevel()
    base.train(corpus(), tokenizers.trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=pre.ByteLevel.alphabet(), special_tokens=["<s>", "</s>"],
        show_progress=False))

    def cut(name, *steps):
        last = pre.ByteLevel(add_prefix_space=False, use_regex=False)
        return JsonCase(f"byte level, {name}", changed(tokenizers, base, pre_tokenizer=pre.Sequence([*steps, last])))

    def split(pattern, behavior="isolated", invert=False):
        return Split(tokenizers.Regex(pattern), behavior, invert)

    added = changed(tokenizers, base, normalizer=tokenizers.normalizers.NFC())
    added.add_tokens([tokenizers.AddedToken("ab", normalized=True, single_word=True),
                      tokenizers.AddedToken(" zz", lstrip=True), tokenizers.AddedToken("été", normalized=True)])
    added.add_special_tokens([tokenizers.AddedToken("<|x|>", rstrip=True, lstrip=True),
                              tokenizers.AddedToken("<|y", normalized=True), "<|y|>"])
    yield JsonCase("byte level", base)
    yield JsonCase("byte level, a space before", changed(tokenizers, base, pre_tokenizer=pre.ByteLevel(True)))
    yield JsonCase("byte level, composed, with added tokens", added)
    yield JsonCase("byte level, ignore_merges", changed(tokenizers, base, model={"ignore_merges": True}))
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            yield cut(f"{behavior}{', inverted' if invert else ''}", split(r"\s|\d{2}|[aeiou]+", behavior, invert))
    yield cut("digits, then a string", pre.Digits(individual_digits=False), Split(".-", "merged_with_next"))
    yield cut("DeepSeek's first", split(r"[\r\n]"), split("\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+"),
              split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"), pre.Digits(True))
    yield cut("DeepSeek's third", split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"))


def character_cases(tokenizers):
    decoders, normalizers = tokenizers.decoders, tokenizers.normalizers
    base = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    base.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    base.train(corpus()[:25], tokenizers.trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False))
    data = json.loads(base.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in BYTES]
    base = tokenizers.Tokenizer.from_str(json.dumps(data))
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            # The reference's decoder drops spaces inside a first token; only one that was not split has any.
            yield JsonCase(f"metaspace {scheme}{'' if split else ', not split'}", changed(
                tokenizers, base, pre_tokenizer=tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split),
                decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])), split)
    llama = changed(tokenizers, base, pre_tokenizer=None,
                    normalizer=normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]),
                    decoder=decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                               decoders.Strip(" ", 1, 0)]))
    yield JsonCase("Llama 2's", llama)
    yield JsonCase("Llama 2's, unknown characters", changed(tokenizers, llama, model={"byte_fallback": False}))
    yield JsonCase("Llama 2's, each unknown character",
                   changed(tokenizers, llama, model={"byte_fallback": False, "fuse_unk": False}))
    data = json.loads(llama.to_str())
    for token in data["added_tokens"]:
        token["normalized"] = True  # the reference shows such tokens normalized, with the space
    yield JsonCase("Llama 2's, older", tokenizers.Tokenizer.from_str(json.dumps(data)), decodes=False)
    yield JsonCase("Gemma's", changed(
        tokenizers, llama, normalizer=normalizers.Replace(" ", SPACE),
        decoder=decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])))


# ---- SentencePiece ----


def field(number, kind, data):
    """A field of a protocol buffer."""
    if kind == "bytes":
        return varint(number << 3 | 2) + varint(len(data)) + data
    if kind == "float":
        return varint(number << 3 | 5) + struct.pack("<f", data)
    return varint(number << 3) + varint(int(data))


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


class PieceCase:
    """A SentencePiece BPE vocabulary: [(spelling, score, type)], as a model of its own library and as a GGUF file."""

    def __init__(self, name, sentencepiece, pieces, prefix):
        self.name, self.pieces, self.prefix = name, pieces, prefix
        self.model = sentencepiece.SentencePieceProcessor(model_proto=self.proto())
        has_unknown = not any(kind == BYTE for _, _, kind in pieces)
        self.decodes = not has_unknown  # the library shows what is unknown in its own way

    def proto(self):
        parts, ids = [], {kind: [i for i, piece in enumerate(self.pieces) if piece[2] == kind] for kind in range(1, 7)}
        for spelling, score, kind in self.pieces:
            parts.append(field(1, "bytes", field(1, "bytes", spelling.replace(" ", SPACE).encode()) +
                               field(2, "float", score) + field(3, "int", kind)))
        trainer = field(3, "int", 2) + field(35, "int", bool(ids[BYTE]))
        trainer += field(40, "int", ids[UNKNOWN][0]) + b"".join(
            field(number, "bytes", self.pieces[i][0].encode()) for number, i in zip((46, 47), ids[CONTROL]))
        normalizer = field(1, "bytes", b"identity") + field(3, "int", self.prefix)
        normalizer += field(4, "int", 0) + field(5, "int", 1)  # spaces stay, and are escaped
        return b"".join(parts) + field(2, "bytes", trainer) + field(3, "bytes", normalizer)

    def specials(self):
        # The library knows user-defined tokens only. It puts one space before a text and we one before each piece of
        # it, as llama.cpp does: where there are both, the two differ, and no published model has both.
        return [spelling for spelling, _, kind in self.pieces if kind == USER_DEFINED]

    def write(self, folder):
        writer = gguf.GgufWriter()
        writer.key("tokenizer.ggml.model", gguf.STRING, "llama")
        writer.array("tokenizer.ggml.tokens", gguf.STRING, [spelling.encode() for spelling, _, _ in self.pieces])
        writer.array("tokenizer.ggml.scores", gguf.F32, [score for _, score, _ in self.pieces])
        writer.array("tokenizer.ggml.token_type", gguf.I32, [kind for _, _, kind in self.pieces])
        writer.key("tokenizer.ggml.add_space_prefix", gguf.BOOL, self.prefix)
        writer.key("tokenizer.ggml.unknown_token_id", gguf.U32,
                   next(i for i, piece in enumerate(self.pieces) if piece[2] == UNKNOWN))
        path = os.path.join(folder, "pieces.gguf")
        with open(path, "wb") as file:
            file.write(writer.bytes())
        return path

    def encode(self, texts):
        return self.model.encode(texts)

    def decode(self, ids):
        return self.model.decode(ids) if self.decodes else None

    @staticmethod
    def fits(text):
        """The library finds user-defined spaces in the text with marks, we in the text with spaces."""
        return SPACE not in text


def pieces_of_gguf(keys):
    """The vocabulary of a GGUF file. SentencePiece wants an unknown token: Gemma's is a control token there."""
    kinds = list(keys["tokenizer.ggml.token_type"])
    kinds[keys.get("tokenizer.ggml.unknown_token_id", 0)] = UNKNOWN
    return list(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], kinds))


def trained_pieces(sentencepiece, user_defined=(), **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line.rstrip("\n") for path in corpus() for line in open(path, encoding="utf-8")),
        model_writer=model, model_type="bpe", vocab_size=2000, normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, user_defined_symbols=list(user_defined),
        minloglevel=2, num_threads=1, **options)
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = []
    for i in range(trained.get_piece_size()):
        spelling = trained.id_to_piece(i)
        kind = (UNKNOWN if trained.is_unknown(i) else CONTROL if trained.is_control(i) else BYTE if trained.is_byte(i)
                else USER_DEFINED if spelling in user_defined else NORMAL)
        pieces.append((spelling.replace(SPACE, " ") if kind == USER_DEFINED else spelling, trained.get_score(i), kind))
    return pieces


def sentencepiece_cases(sentencepiece):
    llama = trained_pieces(sentencepiece, byte_fallback=True, split_digits=True)
    yield PieceCase("SentencePiece, Llama 2's", sentencepiece, llama, True)
    holes = [piece for i, piece in enumerate(llama) if i % 7 or piece[2] != NORMAL]
    yield PieceCase("SentencePiece, a seventh of the tokens gone", sentencepiece, holes, True)
    ties = [(spelling, round(score / 50), kind) for spelling, score, kind in llama]
    yield PieceCase("SentencePiece, equal scores", sentencepiece, ties, True)
    spaces = [SPACE * 2, SPACE * 4, "\n\n", "<b>", "</b>", "日本", "ing"]
    yield PieceCase("SentencePiece, Gemma's", sentencepiece, trained_pieces(
        sentencepiece, spaces, byte_fallback=True, add_dummy_prefix=False), False)
    yield PieceCase("SentencePiece, unknown characters", sentencepiece, trained_pieces(
        sentencepiece, byte_fallback=False, character_coverage=0.98), True)
