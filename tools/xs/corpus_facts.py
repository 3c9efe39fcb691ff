"""Short checkable facts: what a package is, what a command does, what an option means. One JSON object a line."""
import collections
import json
import re
import subprocess

import corpus_clean
import corpus_man

FACT_MIN, FACT_MAX = 8, 80     # characters: a fact has to fit one short answer
PACKAGES_MAX = 2500
OPTIONS_MAX = 10_000
OPTIONS_PER_COMMAND = 24
OPTIONS_PER_PACKAGE = 150
# Sections of the archive whose packages a user installs by name.
SECTIONS = {"admin", "utils", "net", "editors", "shells", "web", "mail", "text", "devel", "vcs", "database", "graphics", "sound",
            "video", "games", "science", "math", "interpreters", "httpd", "python", "misc", "gnome", "kde", "x11", "otherosfs",
            "electronics", "education", "tex", "fonts", "embedded", "hamradio", "comm", "news", "java", "ruby", "php", "haskell"}
UNFINISHED = re.compile(r"(?:\b(?:the|a|an|of|to|in|is|and|or|for|with|by|as|e\.g|i\.e|see|than|if|when|that)|[,:;(=/-])$", re.I)
NOT_FACT = re.compile(r"[<>@{}|\\`\[\]^~*_]|https?:|\bsee\b|\babove\b|\bbelow\b|deprecated|obsolete|ignored|same as|equivalent to|"
                      r"transitional|dummy package|metapackage|meta-package|this option|alias for|synonym|like -|mutually|"
                      r"manual page|missing|unsupported|not implemented|argument|^(?:it|they|these|those|this)\b|\bsection\b", re.I)
# What Debian packages are called that no one asks about.
PART_OF_PACKAGE = re.compile(r"^lib|-(?:dev|doc|docs|data|common|dbg|perl|java|plugins?|modules?|utils-doc|core|base|bin|cil|examples|locales?)$"
                             r"|^(?:python3?|ruby|node|golang|php\d?|gir1\.2|haskell|fonts|ttf|r|elpa|linux|gcc|g\+\+|cpp|texlive|kde|task)-"
                             r"|\d{3,}")
OPTION = re.compile(r"(?P<first>--?[A-Za-z0-9?][\w-]*)(?P<more>(?:[ =,|/\[][^\n]*?)?)(?:\n +|  +)(?P<text>\S.*)$", re.S)

# Options that mean the same in every program: facts about them would only crowd out others.
EVERYWHERE = {"--help", "--version", "-h", "-V", "-?", "--usage", "-help", "-version"}
# Names that users ask about and whose own pages are not among the sources, in our words.
COMMON = {"awk": "pattern scanning and text processing language", "perl": "interpreter of the Perl 5 language",
          "python": "interpreter of the Python language", "docker": "tool to build and run containers",
          "firefox": "web browser made by Mozilla", "gcc": "compiler for C and C++ of the GNU project",
          "cc": "the system's C compiler", "vi": "screen-oriented text editor", "git": "distributed version control system",
          "apt": "command-line package manager of Debian", "less": "pager that shows text a screen at a time",
          "emacs": "extensible, self-documenting text editor", "chromium": "web browser made by the Chromium project"}


def fact_of(text):
    """A phrase of 8 to 80 characters, or empty: first sentence only, nothing unbalanced, unfinished or referring elsewhere."""
    text = corpus_clean.to_ascii(" ".join(text.split())) or ""
    text = re.split(r"(?<=[a-z)\"'])\.(?= |$)|(?<=[a-z)]);(?= )", text)[0].strip().rstrip(".")
    if not FACT_MIN <= len(text) <= FACT_MAX or NOT_FACT.search(text) or UNFINISHED.search(text) or not text.isascii():
        return ""
    if any(text.count(left) != text.count(right) for left, right in ("()", "[]")) or text.count('"') % 2:
        return ""
    letters = sum(char.isalpha() or char == " " for char in text)
    return text if letters > 0.85 * len(text) and text[0].isalnum() and len(text.split()) > 1 else ""


def rank_of_packages():
    """{package: (section, how many packages of the archive name it as a dependency)}."""
    section, wanted = {}, collections.Counter()
    dump = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout.decode("utf-8", "replace")
    for stanza in dump.split("\n\n"):
        name = re.search(r"^Package: (\S+)", stanza, re.M)
        if not name:
            continue
        found = re.search(r"^Section: (?:\S+/)?(\S+)", stanza, re.M)
        section[name.group(1)] = found.group(1) if found else ""
        for field in re.findall(r"^(?:Depends|Recommends|Suggests): (.*)$", stanza, re.M):
            wanted.update(set(re.findall(r"(?:^|[,|] *)([a-z0-9][a-z0-9.+-]+)", field)))
    return {name: (section[name], wanted[name]) for name in section}


def package_facts(descriptions, first, taken):
    """Packages that users name: those whose manuals are in the corpus, then by how many others ask for them."""
    ranks = rank_of_packages()
    ordered = []
    for name, short, _ in descriptions:
        section, wanted = ranks.get(name, ("", 0))
        if name in taken or PART_OF_PACKAGE.search(name) or (name not in first and section not in SECTIONS):
            continue
        fact = fact_of(short)
        if fact and len(name) <= 20:
            ordered.append((name not in first, -wanted, name, fact))
    return [{"kind": "package", "name": name, "fact": fact} for _, _, name, fact in sorted(ordered)[:PACKAGES_MAX]]


def command_facts(pages):
    """NAME lines of sections 1, 6 and 8: {name: fact}, the first package that documents a name wins."""
    facts = {}
    for title, paragraphs in pages:
        if not re.search(r"\([168][a-z0-9]*\)$", title):
            continue
        names, dash, text = corpus_man.name_line(paragraphs).replace("\u2014", "-").replace("\u2013", "-").partition(" - ")
        fact = fact_of(text)
        own = title.rpartition("(")[0]
        for name in re.split(r", *", names.strip()):
            usable = re.fullmatch(r"[a-zA-Z0-9][\w.+-]{0,24}", name) and (name == own or "-" not in name)
            if dash and fact and usable and name not in facts and fact.lower() != name.lower():
                facts[name] = fact
    return facts


def option_facts(title, paragraphs):
    """Options of one command page: [(option, other spelling, fact)]. A paragraph is '-a, --all' and its indented text."""
    seen, out = set(), []
    for paragraph in paragraphs:
        text = corpus_clean.to_ascii(paragraph)
        match = OPTION.match(text) if text and text.startswith("-") else None
        if not match or match["first"] in seen:
            continue
        fact = fact_of(match["text"].split("\n\n")[0])
        if not fact or match["first"] in EVERYWHERE:
            continue
        other = re.search(r"(?:^|[ ,|/\[])(--?[A-Za-z0-9][\w-]*)", match["more"])
        seen.add(match["first"])
        out.append((match["first"], other.group(1) if other else "", fact))
    return out[:OPTIONS_PER_COMMAND]


def option_lines(pages_of, known):
    """Options of known commands, packages in the order of sources.toml (common ones first)."""
    lines = []
    for pages in pages_of.values():
        here = 0
        for title, paragraphs in pages:
            command, _, section = title.rpartition("(")
            if command not in known or section[0] not in "168":
                continue
            for option, other, fact in option_facts(title, paragraphs):
                if here < OPTIONS_PER_PACKAGE and len(lines) < OPTIONS_MAX:
                    entry = {"kind": "option", "name": f"{command} {option}", "fact": fact}
                    lines.append({**entry, "other": f"{command} {other}"} if other and other != option else entry)
                    here += 1
    unique = {entry["name"]: entry for entry in reversed(lines)}
    return [entry for entry in lines if unique[entry["name"]] is entry]


def write(config, work, descriptions, path):
    """Write facts.jsonl; every name stands once (a command wins over the package of the same name)."""
    group = next(entry for entry in config["group"] if entry["reader"] == "man")
    pages_of = {name: corpus_man.package_documents(work / "root", name, group, work / "man") for name in group["packages"]}
    commands = command_facts([page for pages in pages_of.values() for page in pages])
    commands.update(COMMON)
    packages = package_facts(descriptions, set(group["packages"]), commands)
    options = option_lines(pages_of, commands)
    lines = [{"kind": "command", "name": name, "fact": fact} for name, fact in commands.items()] + packages + options
    partial = path.with_name(path.name + ".part")
    with open(partial, "w", encoding="ascii") as sink:
        sink.writelines(json.dumps(line) + "\n" for line in lines)
    partial.rename(path)
    print(f"facts: {len(commands)} commands, {len(packages)} packages, {len(options)} options, {path.stat().st_size / 1e6:.2f} MB")
