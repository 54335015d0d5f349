#!/usr/bin/env python3
"""Compares our tokenizer with Hugging Face's `tokenizers` and with SentencePiece on random and adversarial texts: no
difference is allowed, in the ids or in the text that they give back.

Usage: tests/tools/tokenizer_compare.py [--texts N] [--seed N] [--sweep] [--only PART] [MODEL.gguf...]

For every byte-level vocabulary at hand (gpt-2 and qwen2 in ../shared/data/tokenizers, SmolLM2 in the test model) the
reference is built from the same tokens and merges, and both tokenize the same N texts, plainly and with special tokens.
Patterns that no vocabulary at hand uses (llama-bpe, tekken) run on gpt-2's. Then the same for tokenizers of every built
shape, trained here (tokenizer_cases.py), from their tokenizer.json, and for SentencePiece vocabularies, trained and of
the GGUF files named. --sweep adds one text for every character, --only takes the cases whose name has PART in it.
Texts hold characters that Unicode 14 knows: PCRE2 10.42 sees later ones as unassigned, the reference may not.
Prints a line a vocabulary and "N passed, N failed"; exit status 1 if any failed, 77 if nothing could be compared.
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

import tokenizer_cases

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "..", "shared", "data", "tokenizers")
MODEL = os.environ.get("METRONOME_TEST_MODEL", os.path.join(ROOT, ".cache", "SmolLM2-135M-Instruct.Q4_1.gguf"))
PROGRAM = os.path.join("build", "release", "tools", "tokenize_lines")
SKIP_STATUS = 77
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

# ---- GGUF: what a tokenizer needs of it ----

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
U32, I32, STRING, ARRAY = 4, 5, 8, 9


def read_gguf_keys(path):
    """The keys of a GGUF file, version 2 or 3."""
    with open(path, "rb") as file:
        def number(form):
            return struct.unpack(form, file.read(struct.calcsize(form)))[0]

        def string():
            return file.read(number("<Q")).decode("utf-8", "surrogateescape")

        def value(kind):
            if kind == STRING:
                return string()
            if kind == ARRAY:
                inner, count = number("<I"), number("<Q")
                return [value(inner) for _ in range(count)]
            return number(SCALARS[kind])

        if file.read(4) != b"GGUF" or number("<I") not in (2, 3):
            raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
        number("<Q")
        return {string(): value(number("<I")) for _ in range(number("<Q"))}


def write_gguf(path, vocabulary):
    """A GGUF file with nothing but a vocabulary."""
    def string(text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def strings(texts):
        return struct.pack("<IIQ", ARRAY, STRING, len(texts)) + b"".join(map(string, texts))

    pairs = {
        "tokenizer.ggml.model": struct.pack("<I", STRING) + string("gpt2"),
        "tokenizer.ggml.pre": struct.pack("<I", STRING) + string(vocabulary.pre),
        "tokenizer.ggml.tokens": strings(vocabulary.tokens),
        "tokenizer.ggml.merges": strings(vocabulary.merges),
        "tokenizer.ggml.token_type": struct.pack(f"<IIQ{len(vocabulary.types)}i", ARRAY, I32, len(vocabulary.types),
                                                 *vocabulary.types),
    }
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)))
        for key, value in pairs.items():
            file.write(string(key) + value)


# ---- vocabularies and their references ----

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# Specials that are added to the vocabularies that come without any: prefixes of one another, of white space, and many.
EXTRA_CONTROL = ["<|im_start|>", "<|im_end|>", "<|im_end|>\n", "<|", "<s>", "</s>", "[INST]", "[INST", "é"] + [
    f"<|reserved_{i}|>" for i in range(300)]
EXTRA_USER_DEFINED = ["  ", "    ", "\n\n\n", "<h1>", "<h1><h2>", "日本語", "<|im_start|>system", "ing"]


class Vocabulary:
    """Tokens, types and merges, and the name of the pattern that cuts texts."""

    def __init__(self, name, pre, tokens, types, merges):
        self.name, self.pre, self.tokens, self.types, self.merges = name, pre, tokens, types, merges

    def with_pre(self, pre):
        return Vocabulary(f"{self.name} with {pre}", pre, self.tokens, self.types, self.merges)

    def specials(self):
        return [token for token, kind in zip(self.tokens, self.types) if kind in (CONTROL, USER_DEFINED)]


def from_files(name, pre):
    with open(os.path.join(DATA, f"{name}_vocab.json"), encoding="utf-8") as file:
        ids = json.load(file)
    with open(os.path.join(DATA, f"{name}_merges.txt"), encoding="utf-8") as file:
        merges = [line for line in file.read().split("\n") if line and not line.startswith("#version")]
    tokens = sorted(ids, key=ids.get)
    types = [CONTROL if token == "<|endoftext|>" else NORMAL for token in tokens]
    for extra, kind in ((EXTRA_CONTROL, CONTROL), (EXTRA_USER_DEFINED, USER_DEFINED)):
        for token in extra:
            if token not in ids:
                tokens.append(token)
                types.append(kind)
    return Vocabulary(name, pre, tokens, types, merges)


def from_model(path):
    keys = {key[len("tokenizer.ggml."):]: value for key, value in read_gguf_keys(path).items()
            if key.startswith("tokenizer.ggml.")}
    return Vocabulary(os.path.basename(path), keys["pre"], keys["tokens"], keys["token_type"], keys["merges"])


def vocabularies():
    found = []
    if os.path.exists(os.path.join(DATA, "gpt2_vocab.json")):
        gpt2 = from_files("gpt2", "gpt-2")
        found += [gpt2, from_files("qwen2", "qwen2"), gpt2.with_pre("llama-bpe"), gpt2.with_pre("tekken"),
                  gpt2.with_pre("smollm")]
    if os.path.exists(MODEL):
        found.append(from_model(MODEL))
    return found


def reference(tokenizers, vocabulary, special):
    """Hugging Face's tokenizer of the same parts. Special tokens that come after all others are no part of its model,
    as in the published files, and get their ids from the order in which they are added. Without `special` it does not
    know of control tokens: its own way of ignoring them also loses user-defined tokens that they overlap."""
    pre_tokenizers = tokenizers.pre_tokenizers
    merges = [tuple(merge.split(" ")) for merge in vocabulary.merges]
    end = max(i for i, kind in enumerate(vocabulary.types) if kind == NORMAL) + 1
    ids = {token: i for i, token in enumerate(vocabulary.tokens[:end])}
    model = tokenizers.models.BPE(ids, merges, ignore_merges=vocabulary.pre in ("llama-bpe", "tekken"))
    result = tokenizers.Tokenizer(model)

    def cut(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    result.pre_tokenizer = {
        "gpt-2": lambda: gpt2,
        "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "qwen2": lambda: cut(LLAMA3 % r"\p{N}"),
        "llama-bpe": lambda: cut(LLAMA3 % r"\p{N}{1,3}"),
        "tekken": lambda: cut(TEKKEN),
    }[vocabulary.pre]()
    if vocabulary.pre == "qwen2":
        result.normalizer = tokenizers.normalizers.NFC()
    for i, kind in enumerate(vocabulary.types):
        token = vocabulary.tokens[i]
        if kind == CONTROL and not special:
            token = f"\0 no text has control token {i}"  # keeps the ids of those that follow
        if kind != NORMAL and (i >= end or special or kind == USER_DEFINED):
            result.add_tokens([tokenizers.AddedToken(token, normalized=False)])
            assert result.token_to_id(token) == i
    return result


# ---- texts ----


def known_characters():
    """Every character that Unicode 14 assigns, private use and the noncharacters of old included."""
    database = unicodedata if unicodedata.unidata_version.split(".")[0] == "14" else unicodedata.ucd_3_2_0
    return [chr(point) for point in range(0x110000)
            if not 0xD800 <= point < 0xE000 and database.category(chr(point)) != "Cn"] + ["\ufffe", "\uffff", "\ufdd0"]


class Texts:
    """Makes texts of every kind that ever told two tokenizers apart."""

    SPACES = " \t\n\v\f\r\x1c\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
    CONTRACTIONS = ["'s", "'S", "'t", "'re", "'RE", "'Re", "'ve", "'m", "'ll", "'LL", "'d", "'D", "'ſ", "’s", "''s", "'x",
                    "'", "y'all", "I'M", "we'Ve", "don't", "'re're", "'lL"]
    WORDS = """the of and model token Hello HELLO hello World world's iPhone CamelCase snake_case __init__ naïve Zürich
    Führer discards antidisestablishmentarianism supercalifragilistic e.g. i.e. https://example.org/a?b=c&d=%20 x86_64
    (paren) [bracket] {brace} "quoted" 'single' <tag> </tag> C++ C# != == => -> ... !!! ??? ;) :-) $100 €5 50% #1 @name
    été ПРИВЕТ привет мир שלום עולם مرحبا بالعالم नमस्ते สวัสดี 你好世界 こんにちは 안녕하세요 Việt ελληνικά ქართული
    កាន់តែពិសេស తెలుగు ǅungla ŉ ß ﬁ ½ ² Ⅷ ① ٣٤٥ ९८७ 一二三 𝔘𝔫𝔦 𝟘𝟙 🦙 🚀 😶‍🌫️ 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 e\u0301 n\u0303o \u0301 \u200d""".split()

    def __init__(self, seed, specials):
        self.random = random.Random(seed)
        self.characters = known_characters()
        self.specials = specials

    def pieces(self):
        pick = self.random
        word = lambda: pick.choice(self.WORDS)
        return [
            word,
            lambda: " " + word(),
            lambda: word() + pick.choice(self.CONTRACTIONS),
            lambda: pick.choice(self.CONTRACTIONS),
            lambda: "".join(pick.choice(self.SPACES) for _ in range(pick.randint(1, 6))),
            lambda: pick.choice(" \n\t\r\xa0") * pick.randint(1, 40),
            lambda: pick.choice(["\r\n", "\n\n", " \n", "\n ", "\t\n"]) * pick.randint(1, 4),
            lambda: str(pick.randrange(10 ** pick.randint(1, 12))),
            lambda: "".join(pick.choice("0123456789.,-+ ½²٣𝟘") for _ in range(pick.randint(1, 9))),
            lambda: "".join(pick.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(pick.randint(1, 8))),
            lambda: "".join(chr(pick.randrange(128)) for _ in range(pick.randint(1, 8))),
            lambda: pick.choice(self.characters),
            lambda: "".join(pick.choice(self.characters) for _ in range(pick.randint(1, 6))),
            lambda: pick.choice(self.characters) * pick.randint(2, 20),
            lambda: pick.choice("aAzé1 .\n\u0301🚀日") * pick.choice([2, 3, 7, 31, 64, 129, 500]),
            lambda: "".join(pick.choices("abcdefghijklmnopqrstuvwxyz", k=pick.randint(1, 20))),
            lambda: "".join(pick.choice("aA") for _ in range(pick.randint(2, 30))),
        ]

    def special_piece(self):
        """A special token, a part of one, or one with a character changed."""
        token = self.random.choice(self.specials)
        choice = self.random.randrange(4)
        if choice == 0 and len(token) > 1:
            return token[:self.random.randrange(1, len(token))]
        if choice == 1 and len(token) > 1:
            return token[self.random.randrange(1, len(token)):]
        if choice == 2:
            return token * self.random.randint(1, 3)
        return token

    def make(self, count):
        pieces = self.pieces()
        made = ["", " ", "\n", "'", "\0", "a\0b", "\ufeffa", " " * 1000, "a" * 3000, "1" * 1000, "\n" * 999, "ab" * 2000,
                " a" * 1000, "\u0301" * 500, "🚀" * 500, "'s" * 500, "".join(map(chr, range(256)))]
        while len(made) < count:
            parts = [self.random.choice(pieces)() for _ in range(self.random.randint(1, 8))]
            if self.specials and self.random.randrange(2):
                for _ in range(self.random.randint(1, 4)):
                    parts.insert(self.random.randint(0, len(parts)), self.special_piece())
            made.append("".join(parts))
        return made

    def sweep(self):
        """Each character after a letter, a digit, a space and itself."""
        return [f"a{character}1{character} {character}{character}'{character}\n{character}" for character in self.characters]


# ---- comparing ----


def ours(path, texts, special):
    """For each text (ids or None if it was refused, the bytes that they give back)."""
    data = b"".join(struct.pack("<I", len(text)) + text for text in (text.encode() for text in texts))
    command = [os.path.join(ROOT, PROGRAM)] + (["--special"] if special else []) + [path]
    done = subprocess.run(command, input=data, capture_output=True, timeout=1000, check=False)
    if done.returncode:
        raise ValueError(done.stderr.decode())
    lines = done.stdout.decode().split("\n")
    answers = []
    for ids, decoded in zip(lines[0::2], lines[1::2]):
        answers.append((None if ids.startswith("error") else [int(i) for i in ids.split()], bytes.fromhex(decoded)))
    if len(answers) != len(texts):
        raise ValueError(f"{len(texts)} texts in, {len(answers)} answers out")
    return answers


def compare(path, vocabulary, theirs, texts, special):
    """The texts on which the two differ, or that are not given back although every byte has a token."""
    expected = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    complete = len(set(vocabulary.tokens) & {spelling for spelling in spellings()}) == 256
    differences = []
    for text, (ids, decoded), ids_expected in zip(texts, ours(path, texts, special), expected):
        # What a special token keeps apart is not composed until its text stands beside the rest again.
        whole = theirs.normalizer.normalize_str if theirs.normalizer else str
        if ids != ids_expected or (complete and whole(decoded.decode()) != whole(text)):
            differences.append((text, ids, ids_expected, decoded))
    return differences


def compare_case(path, case, texts, special):
    """The same for a case of tokenizer_cases.py, whose reference also says what ids give back."""
    differences = []
    for text, (ids, decoded), expected in zip(texts, ours(path, texts, special), case.encode(texts)):
        back = case.decode(expected) if ids == expected else None
        if ids != expected or (back is not None and decoded != back.encode() and "\ufffd" not in back):
            differences.append((text, ids, expected, decoded))
    return differences


def spellings():
    """The 256 characters that spell bytes in a byte-level vocabulary."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in seen] + [chr(0x100 + i) for i in range(256 - len(seen))]


class Tally:
    """Counts texts, and prints a line a case and the first differences."""

    def __init__(self):
        self.passed = self.failed = 0

    def add(self, name, texts, differences):
        self.passed += len(texts) - len(differences)
        self.failed += len(differences)
        print(f"{name}: {len(texts)} texts, {len(differences)} differences", flush=True)
        for text, ids, expected, decoded in differences[:5]:
            print(f"  {text!r}\n    ours      {ids}\n    reference {expected}\n    given back: {decoded}")


def compare_vocabulary(tokenizers, vocabulary, options, folder, tally):
    """In both ways, and once more from the tokenizer.json that the reference writes."""
    path = os.path.join(folder, "vocabulary.gguf")
    write_gguf(path, vocabulary)
    generator = Texts(options.seed, vocabulary.specials())
    for special in (False, True):
        theirs = reference(tokenizers, vocabulary, special)
        texts = generator.make(options.texts) + (generator.sweep() if options.sweep and special else [])
        way = "with special tokens" if special else "plain"
        tally.add(f"{vocabulary.name}, {way}", texts, compare(path, vocabulary, theirs, texts, special))
    theirs.decoder = tokenizers.decoders.ByteLevel()
    saved = tokenizer_cases.JsonCase(vocabulary.name, theirs).write(folder)
    texts = generator.make(options.texts)
    tally.add(f"{vocabulary.name}, tokenizer.json", texts, compare(saved, vocabulary, theirs, texts, True))


def cases(tokenizers, sentencepiece, options):
    makers = [tokenizer_cases.byte_level_cases(tokenizers), tokenizer_cases.character_cases(tokenizers)]
    if sentencepiece:
        makers.append(tokenizer_cases.sentencepiece_cases(sentencepiece))
        makers.append(tokenizer_cases.PieceCase(path, sentencepiece, tokenizer_cases.pieces_of_gguf(keys),
                                                keys.get("tokenizer.ggml.add_space_prefix", True))
                      for path, keys in ((path, read_gguf_keys(path)) for path in options.models))
    else:
        print("the Python package sentencepiece is not installed: its cases are left out")
    return (case for maker in makers for case in maker if options.only in case.name)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--texts", type=int, default=1000, help="texts a vocabulary and way")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--sweep", action="store_true", help="one more text for every character")
    arguments.add_argument("--only", default="", help="the cases with this in their name")
    arguments.add_argument("models", nargs="*", help="GGUF files with SentencePiece vocabularies")
    options = arguments.parse_args()
    try:
        import tokenizers
    except ImportError:
        print("the Python package tokenizers is not installed")
        return SKIP_STATUS
    try:
        import sentencepiece
    except ImportError:
        sentencepiece = None
    found = vocabularies()
    subprocess.run(["make", "-s", "-C", ROOT, PROGRAM], check=True, stdout=subprocess.DEVNULL)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary in found:
            if options.only in vocabulary.name:
                compare_vocabulary(tokenizers, vocabulary, options, folder, tally)
        for case in cases(tokenizers, sentencepiece, options):
            generator = Texts(options.seed, case.specials())
            made = list(filter(case.fits, generator.make(options.texts) + (generator.sweep() if options.sweep else [])))
            path = case.write(folder)
            tally.add(case.name, made, compare_case(path, case, made, True))
            if hasattr(case, "without_control"):
                plain = case.without_control(tokenizers)
                tally.add(f"{case.name}, plain", made, compare_case(path, plain, made, False))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
