#!/usr/bin/env python3
"""Differential fuzz of the tokenizer against PyPI `tokenizers`: the same ids for random strings, or a non-zero exit.

Usage: tokenizer_fuzz.py DRIVER TOKENIZER_JSON... [--strings N] [--seed S]
DRIVER is the built `tokenizer_driver`. N strings go through each tokenizer; a quarter of them with the text of special
tokens taken as plain text. Ids of every string are decoded by both sides too.  (needs: pip install tokenizers)
"""

import argparse
import array
import ctypes
import random
import struct
import subprocess
import sys
import time

import tokenizers
from tokenizers import Tokenizer

from tokenizer_alphabet import ALPHABET, random_text

BATCH = 20_000


def run_driver(driver, path, mode, payloads):
    data = b"".join(struct.pack("<I", len(payload)) + payload for payload in payloads)
    command = [driver, path] + ([mode] if mode else [])
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def driver_ids(driver, path, plain, texts):
    out = run_driver(driver, path, "plain" if plain else None, [text.encode() for text in texts])
    results, at = [], 0
    for _ in texts:
        (count,) = struct.unpack_from("<i", out, at)
        at += 4
        if count < 0:
            results.append(None)
            continue
        results.append(list(struct.unpack_from(f"<{count}i", out, at)))
        at += 4 * count
    assert at == len(out)
    return results


def driver_texts(driver, path, id_lists):
    out = run_driver(driver, path, "decode", [array.array("i", ids).tobytes() for ids in id_lists])
    results, at = [], 0
    for _ in id_lists:
        (size,) = struct.unpack_from("<I", out, at)
        at += 4
        results.append(out[at : at + size].decode())
        at += size
    assert at == len(out)
    return results


def check_batch(driver, path, oracle, texts, plain, rng):
    oracle.encode_special_tokens = plain
    wanted = [encoding.ids for encoding in oracle.encode_batch(texts, add_special_tokens=False)]
    got = driver_ids(driver, path, plain, texts)
    bad = [(text, a, b) for text, a, b in zip(texts, wanted, got) if a != b]
    # Cutting ids at random makes broken UTF-8 for the decoders.
    cut = [ids[rng.randint(0, len(ids)) :] for ids in wanted]
    # The reference reads added tokens through the byte alphabet too, which garbles one with letters outside ASCII.
    garbled = {i for i, token in oracle.get_added_tokens_decoder().items() if not token.content.isascii()}
    cut = [[i for i in ids if i not in garbled] for ids in cut]
    decoded = oracle.decode_batch(cut, skip_special_tokens=False)
    bad += [(ids, a, b) for ids, a, b in zip(cut, decoded, driver_texts(driver, path, cut)) if a != b]
    return bad, sum(map(len, wanted))


def linked_versions():
    pcre2, utf8proc = ctypes.CDLL("libpcre2-8.so.0"), ctypes.CDLL("libutf8proc.so.2")
    buffer = ctypes.create_string_buffer(64)
    pcre2.pcre2_config_8(10, buffer)
    utf8proc.utf8proc_unicode_version.restype = ctypes.c_char_p
    return buffer.value.decode(), utf8proc.utf8proc_unicode_version().decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("driver")
    parser.add_argument("tokenizers", nargs="+")
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pcre2, utf8proc = linked_versions()
    print(f"oracle: tokenizers {tokenizers.__version__} (categories of Unicode 16.0, NFC of Unicode 9.0)")
    print(f"ours: PCRE2 with Unicode {pcre2} and utf8proc with Unicode {utf8proc}, corrected to the oracle's by tables")
    print(f"alphabet: {ALPHABET}")
    failures = 0
    for path in options.tokenizers:
        rng = random.Random(options.seed)
        oracle = Tokenizer.from_file(path)
        started, done, tokens, mismatches, size = time.monotonic(), 0, 0, 0, 0
        while done < options.strings:
            texts = [random_text(rng) for _ in range(min(BATCH, options.strings - done))]
            bad, count = check_batch(options.driver, path, oracle, texts, rng.random() < 0.25, rng)
            for text, wanted, got in bad[: max(0, 5 - mismatches)]:
                print(f"MISMATCH {path}: {text!r:.300}\n  oracle {wanted!r:.300}\n  ours   {got!r:.300}")
            done, tokens, mismatches = done + len(texts), tokens + count, mismatches + len(bad)
            size += sum(len(text.encode()) for text in texts)
        failures += mismatches
        print(f"{path}: seed {options.seed}, {done} strings, {size} bytes, {tokens} ids, {mismatches} mismatches, "
              f"{time.monotonic() - started:.0f} s", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
