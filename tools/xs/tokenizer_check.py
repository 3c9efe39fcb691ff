#!/usr/bin/env python3
"""Figures of the tokenizer on held-out text: bytes per token by kind, and that every text and every byte comes back.

    python3 tools/xs/tokenizer_check.py --tokenizer share/weir-xs/tokenizer.json --corpus .xs/corpus.jsonl.xz
"""
import argparse
import collections
import json
import lzma
import random
import sys

from tokenizers import Tokenizer

# A chat opening has to be exactly these pieces: names of roles and the blank think block are what every request pays for.
OPENING = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
OPENING_PIECES = 13


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--corpus", required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(args.tokenizer)
    size = collections.defaultdict(lambda: [0, 0])
    wrong = 0
    with lzma.open(args.corpus, "rt", encoding="ascii") as source:
        for line in source:
            entry = json.loads(line)
            if entry["split"] != "heldout":
                continue
            ids = tokenizer.encode(entry["text"], add_special_tokens=False).ids
            wrong += tokenizer.decode(ids, skip_special_tokens=False) != entry["text"]
            for kind in (entry["kind"], "all"):
                size[kind][0] += len(entry["text"])
                size[kind][1] += len(ids)
    for kind, (count, tokens) in size.items():
        print(f"{kind:<12} {count:>9} bytes {tokens:>8} tokens {count / tokens:>6.2f} bytes/token")
    draw = random.Random(1)
    for _ in range(20_000):
        # NFC changes some sequences of marks, so the random texts are built from what NFC leaves alone.
        text = "".join(chr(draw.choice((draw.randrange(32, 127), draw.randrange(0x4e00, 0x9fff), draw.randrange(0x1f300, 0x1f600), 10)))
                       for _ in range(draw.randrange(1, 40)))
        wrong += tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) != text
    pieces = tokenizer.encode(OPENING, add_special_tokens=False).ids
    wrong += len(pieces) != OPENING_PIECES
    print(f"{tokenizer.get_vocab_size()} ids; chat opening {pieces}; {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
