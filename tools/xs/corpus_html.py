"""HTML (and Mallard help pages) to paragraphs, with one regular expression instead of a parser: the input is
machine-written documentation, and 100 MB of it has to be read on a small machine."""
import html
import re

TOKEN = re.compile(r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<[^>]*>|[^<]+", re.S)
TAG = re.compile(r"</?\s*([A-Za-z][A-Za-z0-9:]*)")
BLOCKS = {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "section", "article", "blockquote",
          "body", "html", "title", "figure", "figcaption", "caption", "hr", "page", "note", "steps", "list", "terms",
          "main", "details", "summary", "center", "tbody", "thead"}
LINES = {"li", "dt", "dd", "tr", "br", "item"}
VOID = {"input", "img", "br", "hr", "meta", "link", "area", "col", "base", "wbr", "body", "html"}
SKIPPED_TAGS = {"script", "style", "head", "nav", "noscript", "info", "svg", "math", "button", "select", "form", "credit",
                "footer", "sup", "aside", "header", "label"}
VERBATIM = {"pre", "screen", "programlisting", "code_block"}
# Navigation, indexes and notices in the documentation tools met here (Sphinx, DocBook, Publican, gi-docgen, help viewer).
SKIPPED_CLASS = re.compile(r"""(?:class|role|id)\s*=\s*["'][^"']*\b(?:sphinxsidebar\w*|related|navheader|navfooter|navigation|"""
                           r"""toc|footer|headerlink|breadcrumbs|legalnotice|indexterm|topnav|toplang|bottomlang|docnav|menubar|nosearch|"""
                           r"""DonationFrame|modules-menu|contents|viewcode-link|"""
                           r"""header|quickview|comments_section|path-footer|admonition-see-also)\b""")


class Builder:
    """Collects text into paragraphs; inside a verbatim element line breaks and spaces are kept."""

    def __init__(self):
        self.paragraphs = []
        self.current = []
        self.verbatim = 0

    def text(self, data):
        data = html.unescape(data)
        self.current.append(data if self.verbatim else re.sub(r"\s+", " ", data))

    def line(self, prefix):
        self.current.append("\n" + prefix)

    def close(self):
        joined = "".join(self.current)
        self.current = []
        if self.verbatim:
            kept = [line.rstrip() for line in joined.split("\n")]
        else:
            kept = [re.sub(r"(?<=\S) {2,}", " ", line.rstrip()) for line in joined.split("\n")]
            kept = [line if line.startswith("    ") else line.strip() for line in kept]
        kept = [line for line in kept if line.strip() and line.strip() != "-"]
        if kept:
            self.paragraphs.append("\n".join(kept))


def open_tag(builder, name):
    if name in VERBATIM:
        builder.close()
        builder.verbatim += 1
    elif name in BLOCKS:
        builder.close()
    elif name in LINES:
        builder.line({"li": "- ", "item": "- ", "dd": "    "}.get(name, ""))
    elif name in ("td", "th"):
        builder.current.append("  ")


def close_tag(builder, name):
    if name in VERBATIM and builder.verbatim:
        builder.close()
        builder.verbatim -= 1
    elif name in BLOCKS:
        builder.close()


def paragraphs(source):
    """HTML source -> list of paragraphs (list items and table rows are lines of one paragraph)."""
    builder = Builder()
    skipped, depth = "", 0
    for match in TOKEN.finditer(source):
        token = match.group()
        if token[0] != "<":
            if not skipped:
                builder.text(token)
            continue
        found = TAG.match(token)
        if not found:
            continue
        name = found.group(1).lower()
        closing, empty = token[1] == "/", token.endswith("/>")
        if skipped:
            if name == skipped and not empty:
                depth += -1 if closing else 1
                skipped = skipped if depth else ""
        elif closing:
            close_tag(builder, name)
        elif (name in SKIPPED_TAGS or SKIPPED_CLASS.search(token)) and not empty and name not in VOID:
            skipped, depth = name, 1
        else:
            open_tag(builder, name)
    builder.close()
    return builder.paragraphs
