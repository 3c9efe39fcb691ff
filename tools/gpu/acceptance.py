#!/usr/bin/env python3
"""How many tokens a step gives with drafts, and how many a second, on real text: what follows held-out documents, greedy.

Usage: acceptance.py MODEL [--device cpu] [--documents tools/xs/eval_documents.jsonl] [--drafts 0,1,2,3] [--streams 1]
A document's first 400 characters are the prompt, 128 tokens follow. Prints a line for each number of drafts. The text
must be the same for all of them.
"""
import argparse
import concurrent.futures
import http.client
import json
import pathlib
import sys
import time

import server

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPT_CHARACTERS = 400
OUTPUT_TOKENS = 128


def complete(port, prompt):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = {"prompt": prompt, "max_tokens": OUTPUT_TOKENS, "temperature": 0, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {text}")
    return json.loads(text)["choices"][0]["text"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--documents", default=ROOT / "tools/xs/eval_documents.jsonl")
    parser.add_argument("--drafts", default="0,1,2,3")
    parser.add_argument("--streams", type=int, default=1)
    arguments = parser.parse_args()
    lines = pathlib.Path(arguments.documents).read_text().splitlines()
    prompts = [json.loads(line)["text"][:PROMPT_CHARACTERS] for line in lines]
    first = None
    for drafts in map(int, arguments.drafts.split(",")):
        flags = ["--no-enable-prefix-caching", "--num-speculative-tokens", str(drafts), "--no-adaptive-drafts"]
        with server.Server(arguments.model, arguments.device, flags if drafts else flags[:1]) as running:
            running.wait_until_ready(300)
            complete(running.port, "warm")
            before = running.metrics()
            started = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(arguments.streams) as pool:
                texts = list(pool.map(lambda prompt: complete(running.port, prompt), prompts))
            seconds = time.monotonic() - started
            after = running.metrics()
        first = first or texts
        same = sum(a == b for a, b in zip(first, texts))
        rounds, accepted = (after.get(name, 0) - before.get(name, 0) for name in
                            ("vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_total"))
        steps = f"{1 + accepted / rounds:.2f} tokens a step with drafts, " if rounds else ""
        print(f"{drafts} drafts: {steps}{len(prompts) * OUTPUT_TOKENS / seconds:.0f} tok/s over HTTP with "
              f"{arguments.streams} streams; {same} of {len(texts)} texts the same", flush=True)
        if same != len(texts):
            sys.exit(1)


main()
