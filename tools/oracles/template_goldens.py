#!/usr/bin/env python3
"""Writes tests/data/templates/goldens.json: what jinja2 renders for ten published chat templates.

Every template meets every conversation with every set of arguments below. Texts past 160 bytes are kept as their
length and 64-bit FNV-1a hash. Usage: template_goldens.py [--check DRIVER]; with --check nothing is written, and every
text (not only its hash) is compared with what the program template_driver renders.
"""
import itertools
import json
import pathlib
import subprocess
import sys

from template_env import environment, outcome

DATA = pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "templates"
TEXT_MAX = 160

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather at a place.\nIn degrees.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City & <country>"},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                "days": {"type": "integer", "minimum": 1, "maximum": 18446744073709551615},
            },
            "required": ["city"],
        },
    },
}
NESTED = {
    "type": "function",
    "function": {
        "name": "book",
        "description": "Bücher: \"quoted\" 'text' 日本",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "items": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "number"}}}},
                "which": {"oneOf": [{"type": "string"}, {"type": "object", "description": "d"}], "default": "x"},
                "one": {"oneOf": [{"type": "integer", "default": 3}]},
                "kinds": {"type": ["string", "null"]},
                "flag": {"type": "boolean", "default": False, "nullable": True},
                "ratio": {"type": "number", "default": 1e-07},
                "list": {"type": "array", "items": {"type": "string"}, "nullable": True},
                "free": {"type": "object"},
            },
            "required": [],
        },
    },
}
PLAIN = {"name": "bare", "description": "No wrapper", "parameters": {"type": "object", "properties": {}}}
DEFERRED = {"type": "function", "function": {"name": "later", "description": "d", "defer_loading": True,
                                             "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, wrapped=True):
    function = {"name": name, "arguments": arguments}
    return {"id": "c1", "type": "function", "function": function} if wrapped else function


USER = {"role": "user", "content": "What is 2 + 2?"}
SYSTEM = {"role": "system", "content": "You are terse. "}
ARGS = {"city": "Zürich", "days": 3, "exact": True, "ratio": 0.5, "tags": ["a", "b"], "at": {"x": None}}
PARTS = [{"type": "text", "text": " one "}, {"type": "text", "text": "two\n"}]

CONVERSATIONS = {
    "user": [USER],
    "system_user": [SYSTEM, USER],
    "developer_user": [{"role": "developer", "content": "Dev text"}, USER],
    "multi_turn": [SYSTEM, USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "\n Sure? \n"}],
    "assistant_last": [USER, {"role": "assistant", "content": "4."}],
    "thinking_in_content": [USER, {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"}, USER,
                            {"role": "assistant", "content": "<think>\nagain\n</think>\n\n4!"}],
    "reasoning_content": [USER, {"role": "assistant", "reasoning_content": "\nadd them\n", "content": "\n\n4"}, USER,
                          {"role": "assistant", "reasoning_content": "repeat", "content": "4 "}],
    "reasoning_null": [USER, {"role": "assistant", "reasoning_content": None, "content": "4"}, USER],
    "thinking_field": [USER, {"role": "assistant", "thinking": "hm", "content": "4"}],
    "call_and_result": [USER, {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGS)]},
                        {"role": "tool", "tool_call_id": "c1", "content": "{\"t\": 21}"}],
    "call_answered": [SYSTEM, USER,
                      {"role": "assistant", "content": "Let me look.", "reasoning_content": "need tool",
                       "tool_calls": [call("get_weather", ARGS), call("book", {})]},
                      {"role": "tool", "content": "21 C"}, {"role": "tool", "content": "booked"},
                      {"role": "assistant", "content": "It is 21 C."}, {"role": "user", "content": "Thanks"}],
    "call_arguments_text": [USER, {"role": "assistant", "content": None,
                                   "tool_calls": [call("get_weather", "{\"city\": \"Rom\"}")]},
                            {"role": "tool", "content": "sun"}],
    "call_unwrapped": [USER, {"role": "assistant", "content": "x", "tool_calls": [call("bare", {"k": "v"}, False)]}],
    "call_no_content": [USER, {"role": "assistant", "tool_calls": [call("bare", {"k": "v"})]},
                        {"role": "tool", "content": "r"}, {"role": "assistant", "content": "done"}],
    "call_thinking": [USER, {"role": "assistant", "thinking": "why", "tool_calls": [call("bare", {"a": 1})]},
                      {"role": "tool", "content": {"obj": [1, 2.5, None]}}],
    "call_thinking_and_content": [USER, {"role": "assistant", "thinking": "why", "content": "c",
                                         "tool_calls": [call("bare", {"a": 1})]}],
    "empty_tool_calls": [USER, {"role": "assistant", "content": "4", "tool_calls": []}, USER],
    "tool_without_call": [USER, {"role": "tool", "content": "r"}],
    "tool_first": [{"role": "tool", "content": "r"}, USER],
    "tool_parts": [USER, {"role": "assistant", "content": "", "tool_calls": [call("bare", {})]},
                   {"role": "tool", "content": [{"type": "text", "text": "r1"}, {"output": "r2"}]}],
    "tool_outputs": [USER, {"role": "assistant", "content": "", "tool_calls": [call("bare", {})]},
                     {"role": "tool", "content": [{"output": "r1"}, {"output": "r2"}]}],
    "tool_reference": [USER, {"role": "assistant", "content": "", "tool_calls": [call("bare", {})]},
                       {"role": "tool", "content": [{"type": "tool_reference", "name": "get_weather"}]}],
    "parts": [{"role": "system", "content": PARTS}, {"role": "user", "content": PARTS}],
    "image": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}],
    "image_in_system": [{"role": "system", "content": [{"type": "image"}]}, USER],
    "video_audio": [{"role": "user", "content": [{"type": "video"}, {"type": "input_audio"}, "bare text"]}],
    "odd_part": [{"role": "user", "content": [{"type": "strange"}]}],
    "system_later": [USER, SYSTEM, USER],
    "two_systems": [SYSTEM, {"role": "system", "content": "Also kind."}, USER],
    "no_user": [SYSTEM],
    "assistant_first": [{"role": "assistant", "content": "Hello"}, USER],
    "user_is_tool_response": [USER, {"role": "assistant", "content": "a"},
                              {"role": "user", "content": "<tool_response>\n1\n</tool_response>"},
                              {"role": "assistant", "reasoning_content": "kept", "content": "b"}],
    "only_tool_response": [{"role": "user", "content": "<tool_response>1</tool_response>"}],
    "unknown_role": [USER, {"role": "wizard", "content": "abracadabra"}],
    "no_role": [{"content": "x"}],
    "no_content": [USER, {"role": "assistant"}, USER],
    "null_content": [{"role": "user", "content": None}],
    "number_content": [{"role": "user", "content": 7}],
    "object_content": [{"role": "user", "content": {"text": "x"}}],
    "empty_content": [{"role": "user", "content": ""}],
    "empty": [],
    "not_objects": ["hello"],
    "white_space": [{"role": "user", "content": "\t\u00a0 x\u2003\r\n"}],
    "unicode": [{"role": "user", "content": "Gr\u00fc\u00dfe \U0001f600 \u0130stanbul <|im_end|> {{ 1 }} {% x %}"}],
    "channel_tags": [USER, {"role": "assistant", "content": "<|channel|>analysis<|message|>x"}],
    "no_think_switch": [{"role": "system", "content": "Be quick /no_think"}, USER],
    "think_switch": [{"role": "system", "content": "Slow /think"}, USER, {"role": "assistant", "content": "\nok"}],
    "slash_nothink": [{"role": "user", "content": "quick /nothink"}],
    "prefix": [USER, {"role": "assistant", "content": "So", "prefix": True}],
    "consecutive_users": [USER, USER, {"role": "assistant", "content": "1"}, {"role": "assistant", "content": "2"}],
}

ARGUMENTS = {
    "bare": {"add_generation_prompt": True},
    "closed": {"add_generation_prompt": False},
    "no_thinking": {"add_generation_prompt": True, "enable_thinking": False, "thinking": False},
    "thinking": {"add_generation_prompt": True, "enable_thinking": True, "thinking": True, "clear_thinking": False,
                 "preserve_thinking": True, "reasoning_effort": "high"},
    "clear_thinking": {"add_generation_prompt": True, "clear_thinking": True, "reasoning_effort": "low",
                       "add_vision_id": True},
    "tools": {"add_generation_prompt": True, "tools": [WEATHER, NESTED]},
    "odd_tools": {"add_generation_prompt": True, "tools": [PLAIN, DEFERRED, WEATHER], "enable_thinking": False,
                  "builtin_tools": ["browser", "python"], "model_identity": "You are W."},
    "empty_tools": {"tools": [], "builtin_tools": ["python"], "xml_tools": [WEATHER], "python_tools": [PLAIN]},
}
BASE = {"bos_token": "<bos>", "eos_token": "<eos>", "tools": None, "documents": None}


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def shortened(result):
    data = result.get("text", "").encode()
    if len(data) <= TEXT_MAX:
        return result
    return {"bytes": len(data), "fnv1a": fnv1a(data)}


def agrees(expected, answer):
    if "text" in expected or "text" in answer:
        return expected.get("text") == answer.get("text")
    if "raises" in expected:
        return answer.get("error") == expected["raises"]
    return "undefined" not in expected or answer["error"].endswith(expected["undefined"])


def cases():
    env = environment()
    for path in sorted(DATA.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for conversation, arguments in itertools.product(CONVERSATIONS, ARGUMENTS):
            context = BASE | {"messages": CONVERSATIONS[conversation]} | ARGUMENTS[arguments]
            context = json.loads(json.dumps(context))
            yield path.stem, source, conversation, arguments, context, outcome(env, source, context)


def check(driver):
    process = subprocess.Popen([driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    count = bad = 0
    for name, source, conversation, arguments, context, expected in cases():
        process.stdin.write(json.dumps({"template": source, "context": context}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        count += 1
        if not agrees(expected, answer):
            bad += 1
            print(f"{name} {conversation} {arguments}\n  jinja2: {expected!r}\n  driver: {answer!r}")
    process.stdin.close()
    print(f"{count} renderings compared, {bad} differ")
    return 1 if bad else 0


def write():
    results = {}
    kinds = {}
    for name, _, conversation, arguments, _, expected in cases():
        short = shortened(expected)
        kinds[next(iter(expected))] = kinds.get(next(iter(expected)), 0) + 1
        results.setdefault(name, {}).setdefault(conversation, {})[arguments] = short
    document = {"conversations": CONVERSATIONS, "arguments": ARGUMENTS, "base": BASE, "results": results}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"')
    (DATA / "goldens.json").write_text(text + "\n", encoding="utf-8")
    print(f"goldens.json: {len(text.encode())} bytes, {sum(kinds.values())} renderings, {kinds}")
    return 0


if __name__ == "__main__":
    sys.exit(check(sys.argv[2]) if sys.argv[1:2] == ["--check"] else write())
