#!/usr/bin/env python3
"""Compares the template engine with jinja2 on random expressions and statements.

Usage: template_fuzz.py DRIVER [COUNT] [SEED]. Left out, because the two differ on purpose or jinja2's answer is no
data: what prints an address, integers past 128 bits, and slices of constants that cannot be sliced, which jinja2
computes while compiling and makes undefined there, though the same slice of a variable is an error.
"""
import json
import random
import subprocess
import sys
import warnings

from template_env import environment, outcome
from template_goldens import agrees
from template_language import CONTEXT

NAMES = ["s", "u", "e", "ws", "n", "z", "neg", "f", "t", "no", "none_", "lst", "words", "mixed", "nested", "d", "empty",
         "lines", "users", "deep", "missing"]
LITERALS = ["0", "1", "-1", "2", "3", "10", "0.5", "1.0", "-2.5", "1e3", "true", "false", "none", "''", "'a'", "'ab c'",
            "'A,b'", "' x '", "'\u00e9\u4e16'", "'\\n'", "[]", "{}", "()"]
FILTERS = ["upper", "lower", "trim", "length", "first", "last", "list", "sort", "reverse|list", "join", "join(', ')",
           "default('d')", "default(1, true)", "int", "float", "string", "abs", "round", "round(1)", "sum", "min", "max",
           "unique|list", "title", "capitalize", "replace('a', 'b')", "indent", "indent(2, true)", "tojson",
           "tojson(indent=1)", "batch(2)|list", "slice(2)|list", "map('string')|list", "map('length')|list",
           "select|list", "reject('string')|list", "select('number')|list", "map(attribute='name')|list",
           "selectattr('age')|list", "dictsort", "items|list", "wordcount", "truncate(5)", "e", "safe", "format",
           "map('upper')|join('-')", "groupby('age')|length", "center(7)", "tojson(sort_keys=true)"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable",
         "sequence", "true", "false", "odd", "even", "lower", "upper", "callable", "in lst", "in 'abc'", "eq 1", "gt 1",
         "divisibleby 2", "sameas none", "escaped"]
METHODS = ["upper()", "lower()", "title()", "capitalize()", "swapcase()", "strip()", "lstrip()", "rstrip()", "split()",
           "split(',')", "split(' ', 1)", "rsplit(' ', 1)", "rsplit(none, 1)", "split(none, 1)", "splitlines()",
           "startswith('a')", "endswith('d')", "replace('l', 'L')", "find('o')", "rfind('o')", "count('o')", "join(words)",
           "partition(' ')", "zfill(5)", "center(9, '*')", "removeprefix('H')", "isdigit()", "isupper()", "isspace()",
           "items()|list", "keys()|list", "values()|list", "get('a')", "get('a', 1)", "index(1)", "strip('dH')",
           "format(1, 2)", "nosuch is defined", "copy()", "name", "a", "0", "b[0]"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
SLICES = ["[0]", "[-1]", "[1:]", "[:-1]", "[::-1]", "[::2]", "['a']", "['name']", "[99]", "[none]", "[1:none]", "[:0]"]


def expression(rng, depth):
    if depth <= 0 or rng.random() < 0.12:
        return rng.choice(NAMES) if rng.random() < 0.6 else rng.choice(LITERALS)

    def inner():
        return expression(rng, depth - 1)

    form = rng.randrange(13)
    if form <= 2:
        return f"{inner()} {rng.choice(BINARY)} {inner()}"
    if form <= 5:
        return f"({inner()})|{rng.choice(FILTERS)}"
    if form == 6:
        return f"({inner()}).{rng.choice(METHODS)}"
    if form == 7:
        return f"({inner()}){rng.choice(SLICES)}"
    if form == 8:
        return f"({inner()}) is {rng.choice(['', 'not '])}{rng.choice(TESTS)}"
    if form == 9:
        return f"({inner()} if {inner()} else {inner()})"
    if form == 10:
        return rng.choice(["[{}, {}]", "({}, {})", "{{'k': {}, 'l': {}}}"]).format(inner(), inner())
    if form == 11:
        return f"{rng.choice(['not ', '-', '+', ''])}({inner()})"
    return f"{inner()} < {inner()} <= {inner()}"


def statement(rng, depth):
    def body():
        return "".join(statement(rng, depth - 1) for _ in range(rng.randrange(1, 3)))

    text = rng.choice(["", " ", "\n", "\n  ", "x", "  y\n", "\t"])
    minus = [rng.choice(["", "", "-", "+"]) for _ in range(6)]
    small = expression(rng, 1)
    form = rng.randrange(9) if depth > 0 else 0
    if form <= 1:
        opening, closing = rng.choice([("{{", "}}"), ("{{-", "}}"), ("{{", "-}}")])
        return f"{text}{opening} {expression(rng, 2)} {closing}{text}"
    if form == 2:
        return f"{text}{{%{minus[0]} set v = {small} {minus[1]}%}}{text}{{{{ v }}}}"
    if form == 3:
        return (f"{text}{{%{minus[0]} if {small} {minus[1]}%}}{body()}{{%{minus[2]} else {minus[3]}%}}{body()}"
                f"{{%{minus[4]} endif {minus[5]}%}}{text}")
    if form == 4:
        return (f"{{%{minus[0]} for i in {small} {minus[1]}%}}{{{{ loop.index }}}}{text}{{{{ loop.last }}}}{body()}"
                f"{{%{minus[2]} endfor {minus[3]}%}}{text}")
    if form == 5:
        return f"{{%{minus[0]} set v {minus[1]}%}}{body()}{{%{minus[2]} endset {minus[3]}%}}{text}{{{{ v|length }}}}"
    if form == 6:
        return f"{{% macro m(a, b={small}) %}}{body()}{{{{ a }}}}{{% endmacro %}}{{{{ m({small}) }}}}"
    if form == 7:
        return f"{text}{{#{minus[0]} note {minus[1]}#}}{text}{body()}"
    return f"{{% filter upper %}}{body()}{{% endfilter %}}{text}"


def is_data(text):
    return " object at 0x" not in text and "<built-in method" not in text and "<generator" not in text


def compare(process, env, template):
    expected = outcome(env, template, CONTEXT)
    process.stdin.write(json.dumps({"template": template, "context": CONTEXT}) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    shown = expected.get("text", "")
    error = answer.get("error", "")
    folded = "not subscriptable" in error or "type: 'slice'" in error
    if not is_data(shown) or "128 bits" in error or (folded and "fails" not in expected):
        return expected, answer, None
    return expected, answer, agrees(expected, answer)


def main():
    warnings.simplefilter("ignore")  # Python's own, about expressions that can only fail
    driver = sys.argv[1]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    rng = random.Random(seed)
    env = environment()
    process = subprocess.Popen([driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    compared = {}
    skipped = bad = 0
    for index in range(count):
        template = f"{{{{ {expression(rng, 3)} }}}}" if index % 2 else statement(rng, 3)
        expected, answer, same = compare(process, env, template)
        if same is None:
            skipped += 1
            continue
        kind = next(iter(expected))
        compared[kind] = compared.get(kind, 0) + 1
        if not same:
            bad += 1
            print(f"{template!r}\n  jinja2: {expected!r}\n  driver: {answer!r}")
    process.stdin.close()
    print(f"seed {seed}: {sum(compared.values())} compared {compared}, {skipped} skipped, {bad} differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
