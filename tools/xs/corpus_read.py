"""Readers: each turns one unpacked package into documents, (title, [paragraph, ...])."""
import base64
import bz2
import gzip
import lzma
import pathlib
import re
import zlib

import corpus_html

# A folder or file suffix that names another language than English.
OTHER_LANGUAGE = re.compile(r"/(?!en\b|C\b)(?:[a-z]{2}|pt-br|zh-cn|zh-tw)(?:[-_][A-Z]{2})?(?:@\w+)?/"
                            r"|[._](?:fr|de|es|it|pt|ja|zh|ru|pl|nb|id|ko|da|nl|cs|ca|tr|fi|el|sv|vi|ro|hu|pt-br|zh-cn|zh-tw)"
                            r"(?:\.[a-z0-9-]+){0,2}$")
# Two-letter folders that are not languages.
NOT_LANGUAGE = re.compile(r"/(?:os|db|io|ip|vm|mm|fs|pm|mp)/")
SUFFIXES = {"html": (".html", ".htm", ".xhtml", ".page", ".html.gz", ".html.en"), "text": (".txt", ".txt.gz"),
            "rst": (".rst", ".rst.gz")}


def load(path):
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace")


def files_of(package_root, reader, group):
    keep, drop = re.compile(group.get("keep", "")), re.compile(group.get("drop", "$^"))
    for path in sorted(package_root.rglob("*")):
        name = "/" + path.relative_to(package_root).as_posix()
        if not name.endswith(SUFFIXES[reader]) or path.is_symlink() or not path.is_file():
            continue
        foreign = OTHER_LANGUAGE.search(name) and not NOT_LANGUAGE.search(name) and reader == "html"
        foreign = foreign or ("/share/help/" in name and "/help/C/" not in name)
        if keep.search(name) and not drop.search(name) and not foreign:
            yield path


def title_of(path):
    return re.sub(r"(\.gz|\.html|\.htm|\.xhtml|\.page|\.txt|\.rst|\.en)+$", "", path.name)


def read_html(package_root, group):
    for path in files_of(package_root, "html", group):
        yield title_of(path), corpus_html.paragraphs(load(path))


def unwrap(block):
    """Hard-wrapped prose -> one line; a block that looks like a list, table or code keeps its lines."""
    lines = block.split("\n")
    if len(lines) > 1 and all(len(line) > 45 for line in lines[:-1]) and not re.search(r"\S {3,}\S|^\s{4,}|\t", block, re.M):
        return " ".join(line.strip() for line in lines)
    return "\n".join(line.expandtabs(4).rstrip() for line in lines)


def read_text(package_root, group):
    for path in files_of(package_root, "text", group):
        text = re.sub(r"[*|]([A-Za-z0-9_.:'<>+-]+)[*|](?=\s)", r"\1", load(path)) if "vim" in package_root.name else load(path)
        yield title_of(path), [unwrap(block) for block in re.split(r"\n\s*\n", text)]


RST_INLINE = [(re.compile(r":[a-zA-Z:+-]+:`([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"), (re.compile(r"``([^`]+)``"), r"\1"),
              (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"), (re.compile(r"`([^`]+)`_?_?"), r"\1"),
              (re.compile(r"\|([A-Za-z_][^|\n]*)\|"), r"\1"), (re.compile(r"(?<!\*)\*\*?([^*\n]+)\*\*?(?!\*)"), r"\1"),
              (re.compile(r"::[ ]*$", re.M), ":")]
RST_UNDERLINE = re.compile(r"^\s*([=\-~^\"#*+.`'_:])\1{2,}\s*$")


def read_rst(package_root, group):
    for path in files_of(package_root, "rst", group):
        kept = []
        for block in re.split(r"\n\s*\n", load(path)):
            lines = [line for line in block.split("\n") if not RST_UNDERLINE.match(line)]
            lines = [line for line in lines if not re.match(r"\s*(\.\.( |$)|:[A-Za-z-]+:|[+|][-=+|])", line)]
            if lines:
                text = unwrap("\n".join(lines))
                for pattern, instead in RST_INLINE:
                    text = pattern.sub(instead, text)
                kept.append(text)
        yield title_of(path), kept


PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def read_wordnet(package_root, _group):
    """Glosses as 'word, word (noun): meaning', sixty to a document."""
    for part in ("noun", "verb", "adj", "adv"):
        lines = []
        for line in load(package_root / "usr/share/wordnet" / f"data.{part}").split("\n"):
            head, bar, gloss = line.partition(" | ")
            fields = head.split()
            if not bar or line.startswith(" ") or len(fields) < 6:
                continue
            words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4:4 + 2 * int(fields[3], 16):2]]
            lines.append(f"{', '.join(words)} ({PARTS[fields[2]]}): {gloss.strip()}")
        for start in range(0, len(lines), 60):
            yield f"{part}-{start}", lines[start:start + 60]


def read_dict(package_root, _group):
    """dictd databases: one document per headword."""
    for index in sorted(package_root.rglob("*.index")):
        packed = index.with_suffix(".dict.dz")
        body = gzip.decompress(packed.read_bytes())
        for line in index.read_text(encoding="utf-8", errors="replace").split("\n"):
            fields = line.split("\t")
            if len(fields) != 3 or fields[0].startswith("00-database"):
                continue
            start, size = (number64(field) for field in fields[1:])
            text = body[start:start + size].decode("utf-8", "replace")
            text = re.sub(r"<[a-z, ]+>\s*|^\s*\(\d{4}-\d\d-\d\d\)\s*$|[{}]|^\s*\[[A-Z][^\]]{0,40}\]\.?\s*$", "", text, flags=re.M)
            blocks = [unwrap("\n".join(row.strip() for row in block.split("\n"))) for block in re.split(r"\n\s*\n", text)]
            yield fields[0], blocks


def number64(digits):
    """dictd's base-64 numbers: most significant digit first, the usual alphabet."""
    value = 0
    for char in digits:
        value = value * 64 + base64.b64decode("AAA" + char, validate=True)[2]
    return value


def inflate(chunk):
    """One object of an R lazy-load database: 4 bytes of length, then zlib, or a letter and bzip2 or xz."""
    body = chunk[4:]
    if body[:1] == b"2":
        return bz2.decompress(body[1:])
    if body[:1] == b"Z":
        return lzma.decompress(body[1:], format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}])
    return zlib.decompress(body)


def read_austen(package_root, _group):
    """Six novels stored as R character vectors: CHARSXP header 0x00040009, length, bytes."""
    base = package_root / "usr/lib/R/site-library/janeaustenr"
    data = (base / "data/Rdata.rdb").read_bytes() if (base / "data/Rdata.rdb").is_file() else b""
    number = 0
    # The offsets stand in another file; a length below 16 MiB followed by a compressor's first bytes finds the objects too.
    for match in re.finditer(rb"(?s)\x00...(?:\x78[\x01\x5e\x9c\xda]|2BZh|Z)", data):
        try:
            stored = inflate(data[match.start():])
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            continue
        lines = [stored[match.end():match.end() + int.from_bytes(match.group(1), "big")].decode("utf-8", "replace")
                 for match in re.finditer(rb"(?s)\x00[\x04\x00]\x00\x09(\x00\x00..)", stored)]
        if len(lines) > 1000:
            number += 1
            blocks = re.split(r"\n\s*\n", "\n".join(lines))
            blocks = [" ".join(block.split()) for block in blocks]
            # Chapters would be better cuts, but every novel marks them differently: 40 paragraphs a document.
            for start in range(0, len(blocks), 40):
                yield f"novel{number}-{start}", blocks[start:start + 40]


READERS = {"html": read_html, "text": read_text, "rst": read_rst, "wordnet": read_wordnet, "dict": read_dict,
           "austen": read_austen}


def package_documents(root, name, group):
    return list(READERS[group["reader"]](pathlib.Path(root) / name, group))
