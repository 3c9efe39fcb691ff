"""Training batches: tokenised documents and freshly generated items, packed into rows of 2k, 8k and 16k tokens by worker processes."""

import collections
import json
import lzma
import multiprocessing
import os
import random

import numpy

from generate import Generator, load_facts, load_paragraphs
from chatml import render
from gen_words import common_words

FULL, LIGHT = 100, 10  # loss weights in percent: answers and documents; what a user or the system says

# Share of each kind of document among document tokens, early and in the anneal.
KIND_SHARES = {"man": 30, "description": 17, "howto": 14, "dev": 16, "app": 6, "kernel": 5, "gloss": 7, "narrative": 5}
KIND_ANNEAL = {"man": 30, "description": 22, "howto": 24, "dev": 10, "app": 4, "kernel": 2, "gloss": 4, "narrative": 4}
DOCUMENT_SHARE = 0.36
BUCKETS = [(2048, 0.85), (8192, 0.12), (16384, 0.03)]  # row length, share of batches


def load_tokenizer(path):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer
    return Tokenizer.from_file(str(path))


def encode_lines(argument):
    path, lines = argument
    tokenizer = load_tokenizer(path)
    out = []
    for line in lines:
        entry = json.loads(line)
        ids = tokenizer.encode(entry["text"], add_special_tokens=False).ids
        out.append((entry["kind"], entry["split"], len(entry["text"].encode()), numpy.array(ids, dtype=numpy.uint16)))
    return out


def tokenise_corpus(corpus, tokenizer, folder, jobs):
    """Writes per split and kind: ids (uint16), offsets and byte counts of documents. Returns the token counts."""
    os.makedirs(folder, exist_ok=True)
    with lzma.open(corpus, "rt", encoding="utf-8") as file:
        lines = list(file)
    parts = [(str(tokenizer), lines[i::64 * jobs]) for i in range(64 * jobs)]
    found = collections.defaultdict(list)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for result in pool.imap(encode_lines, parts):
            for kind, split, size, ids in result:
                if len(ids) > 8:
                    found[split, kind].append((size, ids))
    counts = {}
    for (split, kind), documents in found.items():
        ids = numpy.concatenate([d for _, d in documents])
        offsets = numpy.cumsum([0] + [len(d) for _, d in documents])
        numpy.savez(f"{folder}/{split}-{kind}.npz", ids=ids, offsets=offsets, sizes=numpy.array([s for s, _ in documents]))
        counts[f"{split}-{kind}"] = len(ids)
    return counts


class Documents:
    """Random windows of the training documents, by kind."""

    def __init__(self, folder):
        self.kinds = {}
        for file in sorted(os.listdir(folder)):
            if file.startswith("train-"):
                data = numpy.load(f"{folder}/{file}")
                self.kinds[file[6:-4]] = (data["ids"], data["offsets"])

    def window(self, rng, kind, longest):
        """One document, or a stretch of at most `longest` tokens of it. Documents are drawn by length, so every token is as likely."""
        ids, offsets = self.kinds[kind]
        index = numpy.searchsorted(offsets, rng.randrange(len(ids)), side="right") - 1
        begin, end = int(offsets[index]), int(offsets[index + 1])
        if end - begin > longest:
            begin = rng.randint(begin, end - longest)
            end = begin + longest
        return ids[begin:end]


class Weigher:
    """Loss weights of a rendered conversation: FULL inside assistant turns, LIGHT elsewhere."""

    def __init__(self, tokenizer):
        self.start, self.end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
        self.role = tokenizer.encode("assistant\n", add_special_tokens=False).ids

    def weigh(self, ids):
        weights = numpy.full(len(ids), LIGHT, dtype=numpy.uint8)
        n = len(self.role)
        starts = [i for i, token in enumerate(ids) if token == self.start]
        for here, after in zip(starts, starts[1:] + [len(ids)]):
            if ids[here + 1:here + 1 + n] == self.role:
                weights[here + 1 + n:after] = FULL
        return weights


class Packer:
    """Endless rows of one worker."""

    def __init__(self, seed, folder, tokenizer_path, facts, paragraphs, words, progress):
        self.rng = random.Random(seed)
        self.tokenizer = load_tokenizer(tokenizer_path)
        self.eot = self.tokenizer.token_to_id("<|endoftext|>")
        self.weigher = Weigher(self.tokenizer)
        self.documents = Documents(folder)
        self.generator = Generator(facts, paragraphs, words=words)
        self.progress = progress
        self.queues = {"short": collections.deque(), "long": collections.deque()}
        self.spent = {"document": 1, "item": 1}

    def refill(self, name):
        made = [self.generator.item(self.rng) if name == "short" else self.generator.long_item(self.rng) for _ in range(128 if name == "short" else 16)]
        texts = [render(m["messages"], m.get("tools")) for m in made]
        for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False):
            self.queues[name].append(encoding.ids)

    def item(self, name, room, whole):
        """The next item that fits into the room left in a row of `whole` tokens, or None. What fits no row is thrown away."""
        queue = self.queues[name]
        if not queue:
            self.refill(name)
        for _ in range(min(4, len(queue))):
            if len(queue[0]) < room:
                return queue.popleft()
            if len(queue[0]) >= whole:
                queue.popleft()
            else:
                queue.rotate(-1)
        return None

    def document(self, room):
        shares = KIND_ANNEAL if self.progress.value > 0.7 else KIND_SHARES
        kinds = [k for k in shares if k in self.documents.kinds]
        kind = self.rng.choices(kinds, [shares[k] for k in kinds])[0]
        return self.documents.window(self.rng, kind, room - 1)

    def row(self, length):
        """length + 2 tokens and weights: the two beyond the row are targets of the last positions."""
        size = length + 2
        ids, weights = numpy.empty(size, numpy.uint16), numpy.empty(size, numpy.uint8)
        used, name = 0, "short" if length <= 2048 else "long"
        share = DOCUMENT_SHARE if length <= 2048 else 0.45
        while used < size:
            room, found = size - used, None
            if self.spent["document"] * (1 - share) > self.spent["item"] * share:
                found = self.item(name, room, size) or (self.item("short", room, size) if name == "long" else None)
            if found is not None:
                values, weight = found, self.weigher.weigh(found)
                self.spent["item"] += len(found)
            else:
                values, weight = self.document(max(room, 16)), numpy.full(size, FULL, numpy.uint8)
                self.spent["document"] += len(values)
            take = min(len(values), room)
            ids[used:used + take] = values[:take]
            weights[used:used + take] = weight[:take]
            used += take
            if used < size:
                ids[used], weights[used] = self.eot, FULL
                used += 1
        return ids, weights

    def batch(self, tokens):
        length = self.rng.choices([b[0] for b in BUCKETS], [b[1] for b in BUCKETS])[0]
        rows = [self.row(length) for _ in range(tokens // length)]
        return numpy.stack([r[0] for r in rows]), numpy.stack([r[1] for r in rows])


def worker(seed, queue, tokens, arguments):
    packer = Packer(seed, *arguments)
    while True:
        queue.put(packer.batch(tokens))


def start_workers(count, tokens, folder, tokenizer_path, facts_path, corpus, seed=1):
    """A queue of batches ([B, T+2] ids, [B, T+2] weights), the shared progress value, and the processes."""
    context = multiprocessing.get_context("fork")
    progress = context.Value("d", 0.0)
    queue = context.Queue(maxsize=48)
    paragraphs = load_paragraphs(corpus)
    arguments = (folder, tokenizer_path, load_facts(facts_path), paragraphs, common_words(paragraphs), progress)
    processes = [context.Process(target=worker, args=(f"{seed}-{i}", queue, tokens, arguments), daemon=True) for i in range(count)]
    for process in processes:
        process.start()
    return queue, progress, processes
