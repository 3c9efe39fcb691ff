#!/usr/bin/env python3
"""Train the byte-level BPE of weir-xs and write tokenizer.json and tokenizer_config.json.

    python3 tools/xs/tokenizer_train.py --corpus .xs/corpus.jsonl.xz --synthetic FILE.jsonl --out share/weir-xs

Needs PyPI tokenizers 0.22 or 0.23. Same input, same bytes out: nothing here draws a random number. The corpus part is the
training split; the synthetic part comes from `generate.py --bytes N --seed S --out FILE.jsonl`.
"""
import argparse
import hashlib
import json
import lzma
import os
import pathlib
import re
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# The Qwen3.5 split: contractions, letters with marks, single digits, punctuation runs, line ends, spaces.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# 256 bytes and 7,920 merges; with the nine added tokens 8,185 ids. The model has 8,192 rows (a multiple of 128), so seven
# rows have no text: the serving engine's masking of padded ids is exercised by the shipped model.
BASE_VOCABULARY = 8176
# Names, order and `special` flags as in the Qwen files: tags that a reader of the text must see are not special.
ADDED = [("<|endoftext|>", True), ("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False), ("</tool_call>", False),
         ("<tool_response>", False), ("</tool_response>", False), ("<think>", False), ("</think>", False)]
# No merge longer than this: the corpus has rulers of dashes and long runs of spaces that would take places in the vocabulary.
TOKEN_BYTES_MAX = 20
CONTEXT_MAX = 32768


def texts(corpus, synthetic):
    """Training strings in file order. Added tokens are cut out: the trainer must not learn merges across them."""
    added = re.compile("|".join(re.escape(name) for name, _ in ADDED))
    opener = lzma.open if corpus.suffix == ".xz" else open
    with opener(corpus, "rt", encoding="ascii") as source:
        for line in source:
            entry = json.loads(line)
            if entry["split"] == "train":
                yield entry["text"]
    if synthetic:
        with open(synthetic, encoding="utf-8") as source:
            for line in source:
                yield from (part for part in added.split(json.loads(line)["text"]) if part)


def train(corpus, synthetic):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=BASE_VOCABULARY, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=[], max_token_length=TOKEN_BYTES_MAX, show_progress=False)
    tokenizer.train_from_iterator(texts(corpus, synthetic), trainer)
    for name, special in ADDED:
        token = AddedToken(name, single_word=False, lstrip=False, rstrip=False, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


def config_of(tokenizer):
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(tokenizer.token_to_id(name)): {"content": name, **entry, "special": special}
                                 for name, special in ADDED},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": CONTEXT_MAX,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        # Read as the file says. transformers 5 builds Qwen2Tokenizer anew with Qwen2's split, which differs on combining marks.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def write(path, text):
    """Write beside the target and rename, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--synthetic", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not tokenizers.__version__.startswith(("0.22.", "0.23.")):
        print(f"tokenizers {tokenizers.__version__}: this script is pinned to 0.22 and 0.23", file=sys.stderr)
        return 1
    tokenizer = train(args.corpus, args.synthetic)
    base = tokenizer.get_vocab_size(with_added_tokens=False)
    total = tokenizer.get_vocab_size()
    if base != BASE_VOCABULARY or total != BASE_VOCABULARY + len(ADDED):
        print(f"trained {base} base and {total} total ids, wanted {BASE_VOCABULARY} and {BASE_VOCABULARY + len(ADDED)}",
              file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    # Compact: the model ships in 25 MB with its tokenizer, and indentation would be 0.3 of them.
    text = json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":"), ensure_ascii=False) + "\n"
    write(args.out / "tokenizer_config.json", json.dumps(config_of(tokenizer), indent=2) + "\n")
    write(args.out / "tokenizer.json", text)
    print(f"{base} base + {len(ADDED)} added ids, tokenizer.json {len(text)} bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
