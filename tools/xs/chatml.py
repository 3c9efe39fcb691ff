"""The chat format of weir-xs as text: what share/weir-xs/chat_template.jinja renders (see FORMAT.md)."""

import json

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
EMPTY_THINK = "<think>\n\n</think>\n\n"

TOOLS_HEAD = "# Tools\n\nYou may call these functions:\n\n<tools>\n"
TOOLS_TAIL = (
    "\n</tools>\n\nTo call one, reply with:\n\n<tool_call>\n"
    '{"name": NAME, "arguments": ARGUMENTS}\n</tool_call>'
)


def dump(value):
    """JSON as the template writes it: separators ", " and ": ", no ASCII escapes, key order kept."""
    return json.dumps(value, ensure_ascii=False)


def turn(role, content):
    return f"{IM_START}{role}\n{content}{IM_END}\n"


def calls_text(content, calls):
    parts = ["<tool_call>\n" + dump({"name": c["name"], "arguments": c["arguments"]}) + "\n</tool_call>" for c in calls]
    return (content + "\n\n" if content else "") + "\n".join(parts)


def last_user_index(messages):
    """Index of the last user turn; tool results have the role "tool" here, so every user turn is a real one."""
    return max(i for i, m in enumerate(messages) if m["role"] == "user")


def render(messages, tools=None, generation_prompt=False, thinking=False):
    """One conversation as text. Messages are dicts with role, content and, for the assistant, reasoning and calls."""
    out = []
    rest = messages
    system = ""
    if messages[0]["role"] == "system":
        system, rest = messages[0]["content"].strip(), messages[1:]
    if tools:
        head = TOOLS_HEAD + "\n".join(dump(t) for t in tools) + TOOLS_TAIL
        system = head + ("\n\n" + system if system else "")
    if system:
        out.append(turn("system", system))
    last = last_user_index(rest)
    pending = []
    for i, message in enumerate(rest):
        role, content = message["role"], message.get("content", "").strip()
        if role == "tool":
            pending.append(f"<tool_response>\n{content}\n</tool_response>")
            if i + 1 == len(rest) or rest[i + 1]["role"] != "tool":
                out.append(turn("user", "\n".join(pending)))
                pending = []
            continue
        if role == "assistant":
            if message.get("calls"):
                content = calls_text(content, message["calls"])
            if i > last:
                reasoning = message.get("reasoning", "").strip()
                content = f"<think>\n{reasoning}\n</think>\n\n{content}" if reasoning else EMPTY_THINK + content
        out.append(turn(role, content))
    if generation_prompt:
        out.append(f"{IM_START}assistant\n" + ("<think>\n" if thinking else EMPTY_THINK))
    return "".join(out)
