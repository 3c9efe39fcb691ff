#!/usr/bin/env python3
"""Figures of an XS checkpoint folder, as a table and as JSON.

    eval.py FOLDER [--corpus C] --facts F [--count 400] [--json OUT]      needs torch and, on a GPU, flash-linear-attention
    eval.py --write-items ITEMS --write-documents DOCS --corpus C --facts F     writes the small held-out sets kept in the repository

Items are drawn from the held-out split of the generator: other seeds, names, nouns and cities than in training; facts are those of
training, once in phrasings seen in training (facts) and once in phrasings kept back (facts_new_phrasing).
"""

import argparse
import json
import lzma
import random

from generate import Generator, load_facts, split_answer

TASKS = ["copy", "sort", "count", "reverse", "sums3", "problem", "world", "fact", "facts_new_phrasing", "option", "unknown", "tool"]
NEEDLES = [("needle_1k", 3000, 4000), ("needle_2k", 6000, 7500), ("needle_4k", 12500, 14500), ("needle_8k", 25500, 29000)]
DOCUMENT_BYTES = 4000  # of one held-out document


def heldout_texts(corpus, limit=2_000_000):
    """Held-out documents, cut at DOCUMENT_BYTES."""
    out = []
    with lzma.open(corpus, "rt", encoding="utf-8") as file:
        for line in file:
            if '"heldout"' in line:
                entry = json.loads(line)
                if entry["split"] == "heldout" and len(entry["text"]) >= 200:
                    out.append({"kind": entry["kind"], "text": entry["text"][:DOCUMENT_BYTES]})
    random.Random(5).shuffle(out)
    total = 0
    for i, entry in enumerate(out):
        total += len(entry["text"])
        if total > limit:
            return out[:i]
    return out


def heldout_paragraphs(texts):
    """Haystack of the held-out documents."""
    return [p for t in texts for p in t["text"].split("\n\n") if 60 <= len(p) <= 1200]


def task_item(generator, rng, task):
    import gen_chat
    import gen_tasks
    if task == "sums3":
        return gen_tasks.sums(rng, generator.stock, steps=3)
    if task in ("fact", "facts_new_phrasing", "option"):
        fact = rng.choice([f for f in generator.facts if (f["kind"] == "option") == (task == "option")])
        ask, answer = gen_chat.fact_pair(rng, fact, heldout=task == "facts_new_phrasing")
        return {"kind": task, "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
    made = generator.makers[task](rng, generator.stock)
    while made["kind"] != task or (task == "tool" and made["messages"][-2]["role"] == "system"):
        made = generator.makers[task](rng, generator.stock)
    return made


def items_of(generator, seed, count, needle_count):
    """Items per task; each is drawn from a generator seeded by (seed, task, number)."""
    out = []
    for task in TASKS:
        for i in range(count):
            made = task_item(generator, random.Random(f"{seed}/{task}/{i}"), task)
            _, prompt, answer = split_answer(made)
            out.append({"task": task, "prompt": prompt, "answer": answer})
    for task, low, high in NEEDLES:
        for i in range(needle_count):
            _, prompt, answer = split_answer(generator.long_item(random.Random(f"{seed}/{task}/{i}"), low, high))
            out.append({"task": task, "prompt": prompt, "answer": answer})
    return out


def write_sets(options):
    texts = heldout_texts(options.corpus)
    generator = Generator(load_facts(options.facts), heldout_paragraphs(texts), heldout=True)
    items = items_of(generator, "kept", 32, 0)
    for task, low, high in NEEDLES:
        few = {"needle_1k": 6, "needle_2k": 5, "needle_4k": 3, "needle_8k": 2}[task]
        for i in range(few):
            _, prompt, answer = split_answer(generator.long_item(random.Random(f"kept/{task}/{i}"), low, high))
            items.append({"task": task, "prompt": prompt, "answer": answer})
    write_lines(options.write_items, items)
    kept, total = [], 0
    for entry in texts:
        if total + len(entry["text"]) < 180_000:
            kept.append(entry)
            total += len(entry["text"])
    write_lines(options.write_documents, kept)


def write_lines(path, entries):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(e) + "\n" for e in entries)


def task_table(model, prepared, tokenizer, items, device):
    import evaluate
    out, nats, size = {}, 0.0, 0
    for task in dict.fromkeys(i["task"] for i in items):
        chosen = [i for i in items if i["task"] == task]
        right, n, s = evaluate.exact(model, prepared, tokenizer, chosen, device)
        out[task] = {"right": sum(right), "of": len(right)}
        nats, size = nats + n, size + s
    return out, evaluate.bits(nats, size)


def draft_table(model, prepared, tokenizer, texts, items, device):
    import evaluate
    stop = tokenizer.token_to_id("<|im_end|>")
    eot = tokenizer.token_to_id("<|endoftext|>")
    prompts = {"documents": [[eot] + tokenizer.encode(t["text"], add_special_tokens=False).ids[:256] for t in texts if len(t["text"]) > 1500][:64]}
    short = [tokenizer.encode(i["prompt"], add_special_tokens=False).ids for i in items if not i["task"].startswith("needle")]
    random.Random(3).shuffle(short)
    prompts["tasks"] = [p for p in short if len(p) <= 320][:96]
    out = {}
    for name, rows in prompts.items():
        full = evaluate.generate(model, prepared, rows, 128 if name == "documents" else 96, stop, device)
        out[name] = evaluate.acceptance(model, prepared, full, [len(r) for r in rows], stop, device)
    return out


def report(options):
    import torch
    import evaluate
    from data import load_tokenizer
    tokenizer = load_tokenizer(f"{options.folder}/tokenizer.json")
    model, prepared = evaluate.load(options.folder, "fla" if options.device == "cuda" else "chunked", options.device,
                                    torch.bfloat16 if options.device == "cuda" else torch.float32)
    texts = [json.loads(line) for line in open(options.documents)] if options.documents else heldout_texts(options.corpus)
    result = {"bits_per_byte": {}}
    for kind in ["all", *dict.fromkeys(t["kind"] for t in texts)]:
        chosen = [t["text"] for t in texts if kind in ("all", t["kind"])]
        nats, tokens, size, load = evaluate.documents(model, prepared, tokenizer, chosen, options.device)
        result["bits_per_byte"][kind] = round(evaluate.bits(nats, size), 4)
        if kind == "all":
            result.update(nats_per_token=round(nats / tokens, 4), bytes_per_token=round(size / tokens, 3), documents=len(chosen), bytes=size,
                          expert_share_min=round(float(load.min()), 4), expert_share_max=round(float(load.max()), 4))
    if options.items:
        items = [json.loads(line) for line in open(options.items)]
    else:
        kept_out = options.words == "heldout"
        generator = Generator(load_facts(options.facts), heldout_paragraphs(texts), heldout=kept_out)
        items = items_of(generator, "eval" if kept_out else "seen", options.count, max(8, options.count // 4))
    result["tasks"], answer_bits = task_table(model, prepared, tokenizer, items, options.device)
    result["answer_bits_per_byte"] = round(answer_bits, 4)
    if not options.no_drafts:
        result["drafts"] = draft_table(model, prepared, tokenizer, texts, items, options.device)
    return result


def show(result):
    print("bits per byte   " + "  ".join(f"{k} {v:.3f}" for k, v in result["bits_per_byte"].items()))
    print(f"documents       {result['documents']} of {result['bytes']} bytes, {result['nats_per_token']} nats per token, {result['bytes_per_token']} bytes per token")
    print(f"expert share    {result['expert_share_min']} to {result['expert_share_max']} (even: 0.0625)")
    print(f"answers         {result['answer_bits_per_byte']} bits per byte")
    for task, score in result["tasks"].items():
        print(f"{task:20s} {score['right']:4d} of {score['of']:4d}  {100 * score['right'] / score['of']:5.1f} %")
    for name, row in result.get("drafts", {}).items():
        print(f"drafts, {name:10s} accepted by position " + " ".join(f"{x:.3f}" for x in row["conditional"]) + "; tokens per step with 1, 2, 3 drafts "
              + " ".join(f"{x:.2f}" for x in row["tokens_per_step"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--corpus")
    parser.add_argument("--facts")
    parser.add_argument("--items", help="use this file of items instead of fresh ones")
    parser.add_argument("--documents", help="use this file of documents instead of the corpus")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu computes in float32")
    parser.add_argument("--words", default="heldout", choices=["heldout", "train"], help="train: words of training items, new seeds")
    parser.add_argument("--no-drafts", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--write-items")
    parser.add_argument("--write-documents")
    options = parser.parse_args()
    if options.write_items:
        write_sets(options)
        return
    result = report(options)
    show(result)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
