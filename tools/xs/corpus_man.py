"""Manual pages: groff renders them, one paragraph to a line; this module turns that into plain indented text."""
import gzip
import json
import pathlib
import re
import subprocess

# Wide enough that groff never breaks a line of prose: a paragraph comes out as one line.
LINE_LENGTH = "1500n"
PAGE_HEADER = re.compile(r"\S+\([0-9][a-zA-Z0-9_]*\)")
# Sections of boilerplate or of people's addresses; they teach nothing about the program.
SKIPPED_SECTIONS = {"AUTHOR", "AUTHORS", "COPYRIGHT", "REPORTING BUGS", "BUGS AND FEEDBACK", "COLOPHON", "SEE ALSO",
                    "LICENSE", "LICENCE", "CONTACT", "MAINTAINER", "MAINTAINERS", "CREDITS", "THANKS", "HISTORY",
                    "TRANSLATION", "CONTRIBUTORS", "ACKNOWLEDGEMENTS", "ACKNOWLEDGMENTS", "AVAILABILITY", "RESOURCES"}


def page_files(package_root, sections):
    """Real (not linked) English pages of the given sections, in a fixed order."""
    found = []
    for folder in sorted((package_root / "usr/share/man").glob("man[1-8]")):
        if folder.name[3] in sections:
            found += [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]
    return found


def read_source(path):
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return raw


def render(path):
    """One page -> rendered text, or empty when it only redirects or groff fails."""
    raw = read_source(path)
    if len(raw) < 300 and b".so " in raw or len(raw) > 3_000_000:
        return ""
    # -rHY=0: no hyphenation. -P-cbou: no escapes, no overstriking, no underlining.
    done = subprocess.run(["groff", "-k", "-t", "-mandoc", "-Tutf8", "-P-cbou", "-rHY=0", f"-rLL={LINE_LENGTH}"],
                          input=raw, capture_output=True, check=False, timeout=60)
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def indent_of(columns):
    """groff's 7-column body becomes 0; deeper levels become 4 spaces each, at most 2."""
    return "    " * min(2, max(0, (columns - 4) // 7))


def tidy(text):
    """Rendered page -> list of (section, paragraph) with running head and foot removed."""
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and PAGE_HEADER.match(lines[0].strip()):
        lines.pop(0)
    if lines and re.search(r"\S {5,}\S", lines[-1]):
        lines.pop()
    section, block, out = "", [], []

    def close():
        if block:
            out.append((section, "\n".join(block)))
            block.clear()

    for line in lines:
        body = line.strip()
        if not body:
            close()
            continue
        columns = len(line) - len(line.lstrip())
        if columns == 0 and len(body) < 60:
            close()
            section = body
            out.append((section, body))
            continue
        if columns > 60:
            columns = 14
        block.append(indent_of(columns) + re.sub(r"(?<=\S) {3,}(?=\S)", "  ", body))
    close()
    return out


def document(path):
    """-> (title, list of paragraphs) of one page."""
    title = re.sub(r"\.gz$", "", path.name)
    name, _, section = title.rpartition(".")
    paragraphs = [paragraph for heading, paragraph in tidy(render(path))
                  if heading.upper() not in SKIPPED_SECTIONS]
    return f"{name}({section})", paragraphs


def name_line(paragraphs):
    """The 'tar - an archiving utility' line below the NAME heading, or empty."""
    for index, paragraph in enumerate(paragraphs[:-1]):
        if paragraph.strip().upper() == "NAME":
            return " ".join(paragraphs[index + 1].split())
    return ""


def package_documents(root, name, group, cache):
    """All pages of one package as [[title, [paragraph, ...]], ...]; rendered once, then read from `cache`."""
    drop = re.compile(group.get("drop", "$^"))
    return [entry for entry in rendered_documents(root, name, group["sections"], cache) if not drop.search(entry[0])]


def rendered_documents(root, name, sections, cache):
    stored = cache / f"{name}.{sections}.json"
    if stored.is_file():
        return json.loads(stored.read_text(encoding="utf-8"))
    documents = []
    for path in page_files(root / name, sections):
        title, paragraphs = document(path)
        if paragraphs:
            documents.append([title, paragraphs])
    cache.mkdir(parents=True, exist_ok=True)
    partial = stored.with_suffix(".part")
    partial.write_text(json.dumps(documents), encoding="utf-8")
    partial.rename(stored)
    return documents


if __name__ == "__main__":
    import sys
    for page in sys.argv[1:]:
        heading, parts = document(pathlib.Path(page))
        print(heading, *parts, sep="\n\n")
