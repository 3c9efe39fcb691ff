"""Paragraph cleaning: ASCII only, no markup remains, no licence boilerplate or addresses, no duplicate anywhere."""
import hashlib
import re
import unicodedata

PLAIN = {0x2018: "'", 0x2019: "'", 0x201a: "'", 0x201b: "'", 0x2032: "'", 0x00b4: "'", 0x201c: '"', 0x201d: '"', 0x201e: '"',
         0x2033: '"', 0x00ab: '"', 0x00bb: '"', 0x2010: "-", 0x2011: "-", 0x2012: "-", 0x2013: "-", 0x2014: " - ", 0x2015: " - ",
         0x2212: "-", 0x2022: "-", 0x00b7: "-", 0x25cf: "-", 0x2023: "-", 0x2043: "-", 0x2192: "->", 0x21d2: "=>", 0x2190: "<-",
         0x2026: "...", 0x00a0: " ", 0x2009: " ", 0x202f: " ", 0x2003: " ", 0x2002: " ", 0x00d7: "x", 0x2264: "<=", 0x2265: ">=",
         0x2260: "!=", 0x00a9: "(C)", 0x00ae: "(R)", 0x2122: "(TM)", 0x200b: "", 0xfeff: "", 0x00ad: "", 0x00b0: " degrees",
         0x00b5: "u", 0x03bc: "u", 0x2248: "~", 0x00df: "ss", 0x00e6: "ae", 0x00f8: "o", 0x0142: "l", 0x27e8: "<", 0x27e9: ">",
         0x00a7: "section ", 0x2423: " ", 0x2502: "|", 0x2500: "-", 0x2514: "`", 0x251c: "|"}
# Above this share of characters without a plain form, the paragraph is in another script and goes.
FOREIGN_SHARE = 0.01
BOILERPLATE = re.compile(
    r"Permission is (?:hereby )?granted|WITHOUT ANY WARRANTY|without any warranty|Free Software Foundation|GNU (?:Lesser )?General Public"
    r"|All rights reserved|AS IS|Redistribution and use|[Cc]opyright (?:\(C\)|[12][09]\d\d)|\(C\) [12][09]\d\d|Licensed under the|SPDX-"
    r"|Report bugs to|report bugs|mailing list archive|Download the ebook|Previous.{0,40}Next|lorem ipsum|Index of /|Click here"
    r"|This page (?:describes|was generated)|generated (?:by|from|automatically)|sourceforge\.net|Documentation generated")
ADDRESS = re.compile(r"[\w.+-]+(?:@| at | \(at\) |\[at\])[\w-]+(?:\.| dot )[\w.-]+")
# An address may stand in an example; these are the domains that belong to no one.
EXAMPLE_ADDRESS = re.compile(r"example\.(?:com|org|net)|localhost|foo|bar|host|domain|\.invalid|\.test|\.local", re.I)
STOP_WORDS = frozenset("the a an of to in is and or for with that this be are it by on as if from not can will when which at you "
                       "has have may all no any".split())
COMMONEST = frozenset("the a to of is and in for this with are be".split())
HEX_RUN = re.compile(r"[0-9a-fA-F]{24,}|[A-Za-z0-9+/]{60,}")


def to_ascii(text):
    """ASCII form of a text, or None when it is mostly not writable so."""
    if text.isascii():
        return text
    text = text.translate(PLAIN)
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text)
    kept = "".join(char for char in plain if char.isascii())
    lost = sum(1 for char in plain if not char.isascii() and not unicodedata.combining(char))
    return kept if lost <= FOREIGN_SHARE * len(plain) else None


def is_prose(text):
    """A sentence-like paragraph: most characters are letters and spaces."""
    letters = sum(char.isalpha() or char == " " for char in text)
    return letters > 0.82 * len(text)


def clean(paragraph):
    """One paragraph cleaned, or empty when it should go."""
    text = to_ascii(paragraph)
    if text is None:
        return ""
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", " ", text)
    text = "\n".join(line.rstrip() for line in text.split("\n") if line.strip())
    text = re.sub(r"(?<=\S)  +(?=\S)", " ", text) if "\n" not in text.strip() else re.sub(r"(?<=[.:;,!?)])  +(?=\S)", " ", text)
    if not text.strip() or BOILERPLATE.search(text) or HEX_RUN.search(text):
        return ""
    if any(not EXAMPLE_ADDRESS.search(match.group()) for match in ADDRESS.finditer(text)):
        return ""
    visible = text.replace(" ", "").replace("\n", "")
    if len(visible) > 30:
        if sum(char.isalpha() for char in visible) < 0.55 * len(visible):
            return ""
        words = text.lower().split()
        if len(text) >= 120 and is_prose(text) and sum(word in STOP_WORDS for word in words) < 0.06 * len(words):
            return ""
        if max(len(word) for word in words) > 120:
            return ""
    return text


def is_english(text):
    """False for a document of some length with hardly any of the commonest words: a word list, a table, another language."""
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) <= 80 or sum(word in COMMONEST for word in words) >= 0.03 * len(words)


def fingerprint(text):
    """Equal for paragraphs that differ in case, spacing, digits or punctuation only."""
    return hashlib.blake2b(re.sub(r"[^a-z]+", "", text.lower()).encode(), digest_size=8).digest()


class Deduplicator:
    """Drops paragraphs seen before. Short ones (headings, 'Options') are kept, but never as all of a document."""

    SHORT = 40

    def __init__(self):
        self.seen = set()

    def document(self, paragraphs):
        """Cleaned paragraphs not seen before; headings left without a body are dropped. Empty when too little stays."""
        kept = []
        for paragraph in paragraphs:
            text = clean(paragraph)
            if not text:
                continue
            if len(text) >= self.SHORT:
                mark = fingerprint(text)
                if mark in self.seen:
                    continue
                self.seen.add(mark)
            kept.append(text)
        return without_bare_headings(kept)


def is_heading(text):
    return "\n" not in text and len(text) < 60 and not text.startswith((" ", "-")) and text[-1:] not in ".:;,)"


def without_bare_headings(paragraphs):
    out = []
    for index, text in enumerate(paragraphs):
        last = index + 1 == len(paragraphs)
        if is_heading(text) and (last or (text.isupper() and paragraphs[index + 1].isupper())):
            continue
        out.append(text)
    return out
