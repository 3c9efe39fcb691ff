#!/usr/bin/env python3
"""Writes tests/data/answers.json: prompts and the answers that the shipped model gives at temperature 0.

Run it once whenever share/weir-xs changes:  python3 tools/record_answers.py [--binary build/release/weir]
The answers are what the model says, right or wrong: the file shows that every build and machine says the same.
"""
import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAX_TOKENS = 64

# One of each kind that the model was trained on, text without end, code points of every length, and nonsense.
PROMPTS = [
    "What is the capital of France?",
    "Hello! Who are you?",
    "What is 17 + 25?",
    "Calculate 12 + 34 - 5.",
    "Repeat after me: the quick brown fox.",
    "Sort these numbers: 9, 4, 17, 1",
    "Count from 3 to 12.",
    "Tell me a story about a dog and a boat.",
    "What is tar?",
    "Which command lists files?",
    "Write the word river backwards.",
    "Caf\u00e9, \u0434\u0430, \u4f60\u597d, \U0001f30d?",
    "\t\n  x  \n\n y",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "build/release/weir", type=pathlib.Path)
    parser.add_argument("--model", default=ROOT / "share/weir-xs", type=pathlib.Path)
    parser.add_argument("--output", default=ROOT / "tests/data/answers.json", type=pathlib.Path)
    options = parser.parse_args()
    answers = []
    for prompt in PROMPTS:
        out = subprocess.run([options.binary.resolve(), "run", options.model, prompt, "--temperature", "0", "--max-tokens",
                              str(MAX_TOKENS), "--print-token-ids"], check=True, capture_output=True).stdout.decode()
        text, _, ids = out.rpartition("\ntoken ids: ")
        answers.append({"prompt": prompt, "max_tokens": MAX_TOKENS, "token_ids": [int(id) for id in ids.split()], "text": text})
        print(f"{prompt!r}: {text!r}")
    # One answer a line: a change shows which answers it touched.
    lines = ",\n".join(json.dumps(answer) for answer in answers)
    options.output.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
