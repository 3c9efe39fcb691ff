#!/usr/bin/env python3
"""Render every example of FORMAT.md with share/weir-xs/chat_template.jinja and compare byte for byte.

Needs jinja2. The environment is the one transformers uses: trim_blocks, lstrip_blocks, loop controls, a plain
`tojson` (no HTML escapes, keys as given) and `raise_exception`. Exit status 1 on the first difference.
"""
import json
import pathlib
import re
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATE = HERE.parent.parent / "share" / "weir-xs" / "chat_template.jinja"
EXAMPLE = re.compile(r"```json\n(.*?)\n```\n```text\n(.*?)\n```", re.S)

# Conversations that must be refused, with a part of the message.
REFUSED = [
    ({"messages": []}, "No messages"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, "No user query"),
    ({"messages": [{"role": "user", "content": "<tool_response>\nx\n</tool_response>"}]}, "No user query"),
    ({"messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "x"}]}, "beginning"),
    ({"messages": [{"role": "user", "content": "hi"}, {"role": "wizard", "content": "x"}]}, "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "item type"),
    ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "content type"),
]

# Conversations that must render to the same text: content as parts, reasoning inside content, thinking switched off.
SAME = [
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": " a"}, {"type": "text", "text": "b "}]}]},
     {"messages": [{"role": "user", "content": "ab"}]}),
    ({"messages": [{"role": "user", "content": "q"},
                   {"role": "assistant", "content": "<think>\nr\n</think>\n\nz"}]},
     {"messages": [{"role": "user", "content": "q"},
                   {"role": "assistant", "reasoning_content": "r", "content": "z"}]}),
    ({"messages": [{"role": "user", "content": "q"}], "add_generation_prompt": True, "enable_thinking": False},
     {"messages": [{"role": "user", "content": "q"}], "add_generation_prompt": True}),
    ({"messages": [{"role": "system", "content": " "}, {"role": "user", "content": "q"}]},
     {"messages": [{"role": "user", "content": "q"}]}),
]


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def load_template():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
    env.globals["raise_exception"] = raise_exception
    return env.from_string(TEMPLATE.read_text(encoding="utf-8"))


def main():
    template = load_template()
    examples = EXAMPLE.findall((HERE / "FORMAT.md").read_text(encoding="utf-8"))
    bad = 0
    for source, wanted in examples:
        got = template.render(**json.loads(source))
        if got != wanted:
            bad += 1
            print(f"DIFFERS for {source}\n--- wanted\n{wanted!r}\n--- rendered\n{got!r}")
    for conversation, part in REFUSED:
        try:
            template.render(**conversation)
            bad += 1
            print(f"NOT REFUSED: {conversation}")
        except jinja2.exceptions.TemplateError as error:
            if part not in str(error):
                bad += 1
                print(f"WRONG MESSAGE {error!r} for {conversation}")
    for left, right in SAME:
        if template.render(**left) != template.render(**right):
            bad += 1
            print(f"NOT THE SAME: {left}")
    print(f"{len(examples)} examples, {len(REFUSED)} refusals, {len(SAME)} pairs: {bad} wrong")
    return 1 if bad or not examples else 0


if __name__ == "__main__":
    sys.exit(main())
