#!/usr/bin/env python3
"""Synthetic training and held-out items for weir-xs, in the chat format of FORMAT.md.

    generate.py --bytes N --seed S --out FILE [--split train|heldout] [--facts F] [--corpus C] [--jobs J] [--long SHARE]

Writes one JSON object per line: kind, text (the rendered conversation), prompt and answer (the last turn), for every item.
Same arguments, same bytes, whatever --jobs is. The held-out split draws other seeds and other names, nouns and cities.
"""

import argparse
import json
import lzma
import multiprocessing
import random

import gen_chat
import gen_needle
import gen_story
import gen_tasks
from chatml import IM_END, render
from gen_words import Stock, WideStock, common_words

PART_BYTES = 1 << 20  # one part of the output is made by one seed of its own, so that --jobs does not change it
FALLBACK_FACTS = [{"kind": "command", "name": "tar", "fact": "an archiving utility"}, {"kind": "command", "name": "ls", "fact": "list directory contents"},
                  {"kind": "option", "name": "ls -l", "fact": "use a long listing format"}]
SHORT_MAKERS = [gen_tasks.copy, gen_tasks.sort, gen_tasks.count, gen_tasks.sums, gen_tasks.pick, gen_tasks.reverse, gen_tasks.compare,
                gen_chat.small_talk, gen_chat.unknown]


class Generator:
    """Draws items of one split. Long items (needles in 2k to 8k tokens) are drawn apart: see long_item."""

    def __init__(self, facts=None, paragraphs=None, heldout=False, words=None):
        self.stock = Stock(heldout)
        self.wide = WideStock(words) if words and not heldout else self.stock
        self.facts = facts or FALLBACK_FACTS
        self.haystack = gen_needle.Haystack(paragraphs)
        # Odds by item, chosen so that the shares by token are about: facts 0.3, needles 0.18, sums 0.13, lists 0.14, stories 0.16.
        self.weights = {
            "copy": 26, "reverse": 8, "pick": 3, "sort": 40, "count": 9, "sums": 36, "problem": 17, "compare": 3, "spell": 14,
            "needle": 7, "quote": 1, "world": 18, "story": 12, "story_question": 2, "fact": 62, "fact_name": 8, "how_to": 10, "unknown": 7, "talk": 6,
            "tool": 5, "several": 9}
        self.makers = {
            "copy": gen_tasks.copy, "reverse": gen_tasks.reverse, "pick": gen_tasks.pick, "sort": gen_tasks.sort, "count": gen_tasks.count,
            "sums": gen_tasks.sums, "problem": gen_tasks.word_problem, "compare": gen_tasks.compare, "spell": gen_tasks.spell,
            "needle": lambda rng, stock: gen_needle.needle(rng, stock, self.haystack, rng.randint(300, 5200)),
            "quote": lambda rng, stock: gen_needle.document_question(rng, stock, self.haystack, rng.randint(600, 4000)),
            "world": gen_story.world_question, "story": gen_story.short_story, "story_question": gen_story.story_question,
            "fact": lambda rng, stock: gen_chat.fact(rng, stock, self.facts),
            "fact_name": lambda rng, stock: gen_chat.which_command(rng, stock, self.facts),
            "how_to": lambda rng, stock: gen_chat.how_to(rng, stock, self.facts),
            "unknown": gen_chat.unknown, "talk": gen_chat.small_talk, "tool": gen_chat.tool_call,
            "several": lambda rng, stock: gen_chat.several(rng, stock, SHORT_MAKERS)}
        self.kinds, self.odds = list(self.weights), list(self.weights.values())

    def item(self, rng, kind=None):
        kind = kind or rng.choices(self.kinds, self.odds)[0]
        made = self.makers[kind](rng, self.choose(rng, kind))
        if rng.random() < 0.12:
            made = gen_chat.with_system(rng, self.stock, made)
        return made

    def choose(self, rng, kind):
        """Stories keep to words that make sense in them; of the others, two in three draw on the wide stock."""
        return self.stock if kind in ("story", "story_question") or rng.random() < 0.33 else self.wide

    def long_item(self, rng, low=6000, high=29000):
        """A needle item of `low` to `high` bytes; 29,000 bytes are about 8k tokens."""
        return gen_needle.needle(rng, self.choose(rng, "needle"), self.haystack, rng.randint(low, high))


def split_answer(made):
    """The rendered text, the prompt that ends with the generation prompt, and the text of the last turn."""
    messages = made["messages"]
    text = render(messages, made.get("tools"))
    thinking = bool(messages[-1].get("reasoning"))
    prompt = render(messages[:-1], made.get("tools"), generation_prompt=True, thinking=thinking)
    if not text.startswith(prompt):
        raise AssertionError("the prompt is not a prefix of the conversation")
    return text, prompt, text[len(prompt):].removesuffix("\n").removesuffix(IM_END)


def load_facts(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def load_paragraphs(path, limit=60_000_000):
    """Paragraphs of 60 to 1200 bytes from the prose part of the corpus, at most `limit` bytes of them, in corpus order."""
    out, total = [], 0
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if entry["kind"] in ("gloss", "app") or entry["split"] != "train":
                continue
            for paragraph in entry["text"].split("\n\n"):
                if 60 <= len(paragraph) <= 1200:
                    out.append(paragraph)
                    total += len(paragraph)
            if total > limit:
                break
    return out


GENERATOR = None
LONG_SHARE = 0.0


def part(argument):
    seed, index, size = argument
    rng = random.Random(f"{seed}/{index}")
    lines, total = [], 0
    while total < size:
        made = GENERATOR.long_item(rng) if rng.random() < LONG_SHARE else GENERATOR.item(rng)
        text, prompt, answer = split_answer(made)
        total += len(text)
        lines.append(json.dumps({"kind": made["kind"], "text": text, "prompt": prompt, "answer": answer}))
    return "\n".join(lines) + "\n"


def main():
    global GENERATOR, LONG_SHARE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, required=True, help="bytes of rendered text, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True)
    parser.add_argument("--split", choices=["train", "heldout"], default="train")
    parser.add_argument("--facts")
    parser.add_argument("--corpus", help="corpus whose paragraphs make the haystacks")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--long", type=float, default=0.0, help="share of items that are long needles")
    options = parser.parse_args()
    LONG_SHARE = options.long
    paragraphs = load_paragraphs(options.corpus) if options.corpus else None
    GENERATOR = Generator(load_facts(options.facts) if options.facts else None, paragraphs, options.split == "heldout",
                          common_words(paragraphs) if paragraphs else None)
    seed = f"{options.split}-{options.seed}"
    parts = [(seed, i, min(PART_BYTES, options.bytes - i * PART_BYTES)) for i in range((options.bytes + PART_BYTES - 1) // PART_BYTES)]
    with open(options.out, "w", encoding="utf-8") as out:
        if options.jobs > 1:
            with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
                out.writelines(pool.imap(part, parts))
        else:
            out.writelines(map(part, parts))


if __name__ == "__main__":
    main()
