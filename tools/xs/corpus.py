#!/usr/bin/env python3
"""Build the training corpus of weir-xs from Debian packages: one command, nothing installed.

    python3 tools/xs/corpus.py --work /tmp/weir-corpus --out .xs

writes OUT/corpus.jsonl.xz, one object a line: {"source", "kind", "split", "text"}; OUT/facts.jsonl (corpus_facts.py);
and prints sizes by kind. Needs Debian 12 with apt, groff and xz, about 4 GB below WORK and network access to the
configured Debian archive. Every step is stored below WORK and done once.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import corpus_clean
import corpus_facts
import corpus_fetch
import corpus_man
import corpus_read

HERE = pathlib.Path(__file__).resolve().parent
HELDOUT_IN = 100          # one document in a hundred is held out, chosen by the hash of its name
DOCUMENT_MIN = 200        # characters; shorter documents are dropped ...
DESCRIPTION_MIN = 60      # ... except descriptions and glosses, which are short by nature
DOCUMENT_MAX = 60_000     # longer ones are cut at a paragraph into several, about 16k tokens each
# Package families whose descriptions are one template with another name in it.
TEMPLATED = re.compile(r"^librust-|-l10n-|^hunspell-|^myspell-|^aspell-|^task-|-dbgsym$|-dbg$|^libreoffice-help-|^firefox-esr-l10n"
                       r"|^thunderbird-l10n|^golang-.*-dev$|^linux-(image|headers|modules)-|^node-|^ghc-|^libghc-.*-(prof|doc)$"
                       r"|^elpa-|^r-cran-|^r-bioc-|^fonts-|^manpages-..(-dev)?$|^kde-l10n|^gcc-\d+-.*-linux-gnu|^lib\w+-\w+-cross$|-cross$")
# Order of deduplication: where two sources share a paragraph, the earlier kind keeps it.
KIND_ORDER = ["narrative", "howto", "man", "description", "dev", "app", "gloss", "kernel"]


def split_of(source):
    digest = hashlib.sha1(source.encode()).digest()
    return "heldout" if int.from_bytes(digest[:4], "big") % HELDOUT_IN == 0 else "train"


def descriptions(indexes):
    """(package, short line, paragraphs) for every package of apt's English index, in order of name."""
    found = {}
    for index in indexes:
        for stanza in corpus_fetch.read_index(index).split("\n\n"):
            name = re.search(r"^Package: (\S+)", stanza, re.M)
            body = re.search(r"^Description-en: (.*?)(?=^\S|\Z)", stanza, re.M | re.S)
            if name and body and name.group(1) not in found:
                short, _, long = body.group(1).partition("\n")
                found[name.group(1)] = (short.strip(), description_paragraphs(long))
    return sorted((name, *value) for name, value in found.items())


def description_paragraphs(body):
    """Debian's control-file form: ' .' is an empty line, two leading spaces mean verbatim."""
    paragraphs, current = [], []
    for line in [*body.split("\n"), " ."]:
        text = line[1:]
        if text.strip() in (".", ""):
            if current:
                paragraphs.append("\n".join(current))
            current = []
        elif text.startswith(" ") or not current or re.match(r"[*-] ", text) or current[-1].startswith((" ", "* ", "- ")):
            current.append(text.rstrip())
        else:
            current[-1] += " " + text.strip()
    return paragraphs


def raw_documents(config, work, jobs):
    """(kind, source, paragraphs) of every package, kind by kind in KIND_ORDER, sources in a fixed order."""
    root, rendered = work / "root", work / "man"
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        for kind in KIND_ORDER:
            if kind == config["index"]["kind"]:
                for name, short, body in descriptions(corpus_fetch.fetch_descriptions(work)):
                    if not TEMPLATED.search(name):
                        yield kind, f"description/{name}", [f"{name}: {short}", *body]
            tasks = []
            for group in config["group"]:
                if group["kind"] != kind:
                    continue
                for name in sorted(group["packages"]):
                    if group["reader"] == "man":
                        task = pool.submit(corpus_man.package_documents, root, name, group, rendered)
                    else:
                        task = pool.submit(corpus_read.package_documents, root, name, group)
                    tasks.append((name, task))
            for name, task in tasks:
                for title, paragraphs in chosen(name, task.result(), config["cap"]):
                    yield kind, f"{name}/{title}", ([title, *paragraphs] if kind == "man" else paragraphs)


def chosen(name, documents, cap):
    """The documents of a package, thinned by the hash of their titles when their raw text is larger than its cap."""
    size = sum(len(text) for _, paragraphs in documents for text in paragraphs)
    share = cap.get(name, cap["default"]) / max(1, size)
    for title, paragraphs in documents:
        digest = hashlib.sha1(f"{name}:{title}".encode()).digest()
        if int.from_bytes(digest[:4], "big") < share * 2 ** 32:
            yield title, paragraphs


def pieces(paragraphs):
    """Cut a long document at paragraph ends."""
    current, size = [], 0
    for text in paragraphs:
        if current and size + len(text) > DOCUMENT_MAX:
            yield current
            current, size = [], 0
        current.append(text)
        size += len(text)
    if current:
        yield current


def build(config, work, out, jobs):
    """Write corpus.jsonl and return {(kind, split): [documents, bytes]} and the packages that gave text."""
    dedup = corpus_clean.Deduplicator()
    count = collections.defaultdict(lambda: [0, 0])
    used = collections.Counter()
    with open(out, "w", encoding="ascii") as sink:
        for kind, source, paragraphs in raw_documents(config, work, jobs):
            least = DESCRIPTION_MIN if kind in ("description", "gloss") else DOCUMENT_MIN
            for number, part in enumerate(pieces(dedup.document(paragraphs))):
                text = "\n\n".join(part) if kind != "gloss" or "wordnet" not in source else "\n".join(part)
                body = sum(len(item) for item in part if not corpus_clean.is_heading(item))
                if len(text) < least or 2 * body < len(text) or (kind != "gloss" and not corpus_clean.is_english(text)):
                    continue
                name = f"{source}#{number}" if number else source
                split = split_of(name)
                sink.write(json.dumps({"source": name, "kind": kind, "split": split, "text": text}) + "\n")
                count[kind, split][0] += 1
                count[kind, split][1] += len(text)
                used[name.split("/")[0]] += len(text)
    return count, used


def report(count):
    print(f"{'kind':<12} {'train docs':>10} {'MB':>8} {'heldout docs':>13} {'MB':>7}")
    total = [0, 0, 0, 0]
    for kind in KIND_ORDER:
        row = [*count[kind, "train"], *count[kind, "heldout"]]
        total = [left + right for left, right in zip(total, row)]
        print(f"{kind:<12} {row[0]:>10} {row[1] / 1e6:>8.2f} {row[2]:>13} {row[3] / 1e6:>7.2f}")
    print(f"{'all':<12} {total[0]:>10} {total[1] / 1e6:>8.2f} {total[2]:>13} {total[3] / 1e6:>7.2f}")


def write_notice(config, work, used, path):
    """NOTICE.md: its fixed head (notice_head.md), then package, version, what was taken, characters, licences."""
    names = sorted({name for group in config["group"] for name in group["packages"]})
    versions = corpus_fetch.available(names)
    what = collections.defaultdict(set)
    for group in config["group"]:
        for name in group["packages"]:
            what[name].add({"man": "manual pages"}.get(group["reader"], f"{group['kind']} text"))
    with open(path, "w", encoding="ascii") as sink:
        sink.write((HERE / "notice_head.md").read_text(encoding="ascii"))
        sink.write("| package | version | taken | characters | licences its copyright file names |\n| --- | --- | --- | --- | --- |\n")
        for name in names:
            if used[name]:
                licence = config["licence"].get(name) or corpus_clean.to_ascii(corpus_fetch.licence_of(work / "root", name)) or "?"
                licence = re.sub(r"\s*\|\s*", " / ", licence)
                sink.write(f"| {name} | {versions.get(name, '?')} | {', '.join(sorted(what[name]))} | {used[name]} | {licence} |\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for downloads and stored steps")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for corpus.jsonl.xz and facts.jsonl")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes for rendering and reading")
    parser.add_argument("--preset", default="9", help="xz preset (default 9)")
    parser.add_argument("--notice", type=pathlib.Path, help="also write NOTICE.md there")
    args = parser.parse_args()
    config = corpus_fetch.read_sources(HERE / "sources.toml")
    names = sorted({name for group in config["group"] for name in group["packages"]})
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    corpus_fetch.download(names, args.work / "debs")
    corpus_fetch.unpack(config["group"], args.work / "debs", args.work / "root", args.jobs)
    plain = args.work / "corpus.jsonl"
    count, used = build(config, args.work, plain, args.jobs)
    report(count)
    corpus_facts.write(config, args.work, descriptions(corpus_fetch.fetch_descriptions(args.work)), args.out / "facts.jsonl")
    if args.notice:
        write_notice(config, args.work, used, args.notice)
    partial = args.out / "corpus.jsonl.xz.part"
    with open(partial, "wb") as sink:
        subprocess.run(["xz", f"-{args.preset}", "-T", str(args.jobs), "-c", str(plain)], stdout=sink, check=True)
    partial.rename(args.out / "corpus.jsonl.xz")
    print(f"corpus.jsonl {plain.stat().st_size / 1e6:.1f} MB, as xz {(args.out / 'corpus.jsonl.xz').stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
