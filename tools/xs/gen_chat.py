"""Chat items: facts in many phrasings, unknown names, small talk, tool calls, system prompts and several turns."""

import json

from gen_words import article, made_up

UNKNOWN = "I do not know that one."

# One phrase in six is kept for the held-out split (see fact_asks).
ASK_COMMAND = ["What is {n}?", "What does {n} do?", "What is {n} for?", "Tell me about {n}.", "Explain {n}.", "Describe {n} in one line.",
               "What does the command {n} do?", "What is the use of {n}?", "{n}?", "what is {n}", "Which task does {n} do?",
               "I found {n} on my system. What is it?", "What can I do with {n}?", "Do you know {n}?", "Define {n}.",
               "Give me a short description of {n}.", "Say in a few words what {n} is.", "Can you tell me what {n} is?",
               "what does {n} do", "Please explain what {n} is.", "Why would I use {n}?", "Hi, what is {n}?", "In one sentence, what is {n}?",
               "Summarize {n}."]
ASK_PACKAGE = ["What is the package {n}?", "What does the {n} package contain?", "What is in the package {n}?", "Tell me about the Debian package {n}.",
               "Which package is {n}?", "Why would I install {n}?", "Describe the package {n}.", "What is {n}?", "What does {n} do?",
               "What is {n} for?", "Tell me about {n}.", "Explain {n}.", "{n}?", "what is {n}", "Do you know {n}?", "Define {n}.",
               "Should I know {n}? What is it?", "Please explain what {n} is.", "Can you tell me what {n} is?", "In one sentence, what is {n}?",
               "Give me a short description of {n}.", "apt shows a package {n}. What is it?"]
ASK_OPTION = ["What does {n} do?", "What is the option {n} for?", "Explain {n}.", "What is {n}?", "What does {n} mean?", "Tell me about {n}.",
              "When do I use {n}?", "Describe the option {n}.", "what does {n} do", "Please explain {n}.", "What happens with {n}?",
              "I saw {n} in a script. What does it do?", "Meaning of {n}?", "What is the meaning of {n}?", "{n}?", "Can you explain {n}?",
              "Say in a few words what {n} does.", "In one sentence, what does {n} do?", "Why would I use {n}?", "Do you know {n}?", "Define {n}."]
ASKS = {"command": ASK_COMMAND, "package": ASK_PACKAGE, "option": ASK_OPTION}


# Made phrasings for training only: a lead, a question, an end.
LEADS = ["", "", "", "Hi, ", "Hello. ", "Please: ", "Quick question: ", "I have a question. ", "Help me: ", "My friend asked: ", "One more thing: ", "In short, "]
CORES = ["what is {n}", "what does {n} do", "what is {n} good for", "how would you describe {n}", "what should I know about {n}", "what do people use {n} for",
         "tell me what {n} is", "tell me what {n} does", "explain {n} to me", "explain what {n} does", "describe {n}", "give me a line about {n}",
         "I need to know what {n} does", "I would like to know about {n}", "I do not understand {n}", "I saw {n} somewhere and wonder what it is",
         "there is {n} on this machine, what does it do", "can you say what {n} means", "could you describe {n}", "is there a short answer to what {n} is",
         "remind me what {n} is", "what was {n} again", "{n}: what is it", "{n}, what does it do", "say something about {n}", "sum up {n}", "what kind of thing is {n}"]
ENDS = ["?", "?", ".", "", " Thanks.", " Please be brief.", " In a few words.", "!"]


def made_ask(rng):
    lead, core = rng.choice(LEADS), rng.choice(CORES)
    if lead == "" or lead.endswith((". ", ": ")) and rng.random() < 0.7:
        core = core[0].upper() + core[1:] if core[0] != "{" else core
    return lead + core + rng.choice(ENDS)


def fact_asks(kind, heldout):
    asks = ASKS[kind]
    return [a for i, a in enumerate(asks) if (i % 6 == 5) == heldout]


def fact_answer(fact):
    """The one canonical answer of a fact."""
    text = fact["fact"].rstrip(". ")
    return f"{fact['name']}: {text}."


def fact_pair(rng, fact, heldout=False):
    ask = made_ask(rng) if not heldout and rng.random() < 0.5 else rng.choice(fact_asks(fact["kind"], heldout))
    ask = ask.format(n=fact["name"])
    return ask, fact_answer(fact)


def fact(rng, stock, facts):
    """One to five questions in one conversation; now and then one about a name that nobody has."""
    messages, count = [], rng.choice([1, 1, 2, 3, 4, 5])
    for _ in range(count):
        if rng.random() < 0.06:
            ask, answer = unknown_pair(rng, stock)
        else:
            ask, answer = fact_pair(rng, rng.choice(facts))
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return {"kind": "fact", "messages": messages}


def which_command(rng, stock, facts):
    """The way back: from the description to the name."""
    found = rng.choice(facts)
    text = found["fact"].rstrip(". ")
    ask = rng.choice(["Which {k} is this: {t}?", "Name the {k}: {t}.", "What is the {k} that fits: {t}?"]).format(k=found["kind"], t=text)
    return {"kind": "fact_name", "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": found["name"]}]}


VERBS = set("""add build change check clear compare compile compress concatenate control convert copy count create cut decode decompress delete
determine display download dump edit encode execute extract find format generate get install kill limit link list load lock make manage
merge modify mount move output pack partition paste print query read recover reformat remove rename repair replace report restore reverse
rotate run search send set show shut sign sort split start stop strip summarize switch synchronize test transfer translate unmount
unpack update upgrade verify view wait wrap write""".split())


def how_to(rng, stock, facts):
    """From the task to the command, for commands whose description begins with a verb."""
    for _ in range(40):
        found = rng.choice(facts)
        if found["kind"] == "command" and found["fact"].split()[0].lower() in VERBS:
            break
    text = found["fact"].rstrip(". ")
    text = text[0].lower() + text[1:]
    ask = rng.choice(["How do I {t}?", "How can I {t}?", "Which command can {t}?", "I want to {t}.", "I need to {t}. What do I use?", "how to {t}",
                      "What do I use to {t}?", "Name a command to {t}."]).format(t=text)
    return {"kind": "how_to", "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": f"Use {found['name']}: {found['fact'].rstrip('. ')}."}]}


def unknown_pair(rng, stock):
    word = made_up(rng)
    kind = rng.choice(["command", "command", "package", "option"])
    if kind == "option":
        word = f"{word} --{made_up(rng)}"
    ask = made_ask(rng) if rng.random() < 0.5 else rng.choice(fact_asks(kind, False))
    return ask.format(n=word), UNKNOWN


OFF_TOPIC = ["What is the capital of {c}?", "Who invented the {n}?", "How do I cook {a}?", "Who won the game in {c}?", "How many people live in {c}?",
             "Where can I buy {a}?", "What is the best hotel in {c}?", "Who is {p}?", "How tall is {p}?", "When was {p} born?", "What is the price of {a}?",
             "Which book did {p} write?", "How far is it from {c} to the sea?", "How do I repair {a}?", "Is {p} married?", "Who is the mayor of {c}?"]


def unknown(rng, stock):
    """A made-up name, or a question that a help desk of this size has no answer to."""
    ask, answer = unknown_pair(rng, stock)
    if rng.random() < 0.4:
        ask = rng.choice(OFF_TOPIC).format(c=rng.choice(stock.cities), n=rng.choice(stock.nouns), a=article(rng.choice(stock.nouns)), p=rng.choice(stock.names))
    return {"kind": "unknown", "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}


SMALL_TALK = [
    (["Hello", "Hi", "Hello!", "Hi there", "Hey", "Good morning", "Good evening", "hello", "hi"],
     ["Hello! How can I help you?", "Hello! Ask me about a command, a sum or a story."]),
    (["Who are you?", "What are you?", "What is your name?", "who are you", "Introduce yourself.", "Are you a person?"],
     ["I am weir-xs, a very small language model. I work as a help desk for Unix commands, and I can sort, count, add and tell stories."]),
    (["What can you do?", "How can you help me?", "Help", "help", "What are you good at?"],
     ["I can explain commands and packages, find things in a text, sort and copy lists, do sums and tell short stories."]),
    (["Thanks", "Thank you", "Thank you!", "thanks a lot", "That helped."], ["You are welcome.", "Glad to help."]),
    (["Bye", "Goodbye", "See you", "bye"], ["Goodbye!", "Goodbye, and good luck."]),
    (["How are you?", "How do you do?", "Are you well?"], ["I am well, thank you. What would you like to know?"]),
    (["How big are you?", "How many parameters do you have?"], ["I have about 22 million parameters. That is very small for a language model."]),
    (["Who made you?", "Where do you come from?"], ["I come with weir, an engine that serves language models."]),
    (["Can you make mistakes?", "Are you always right?"], ["I am very small, so I make mistakes. Please check what I say."]),
    (["Tell me a joke.", "Do you know a joke?"], ["Why did the process sleep? It was waiting for its child."]),
    (["Write a poem.", "Can you write a poem?"], ["The river runs, the gate stands fast,\nthe water waits and flows at last."]),
    (["What is Debian?", "what is debian", "Tell me about Debian."], ["Debian is a free operating system with many thousand packages."]),
    (["What is Linux?", "what is linux", "Tell me about Linux."], ["Linux is the kernel of many free operating systems."]),
    (["What is Unix?", "what is unix", "Tell me about Unix."], ["Unix is a family of operating systems with small tools that work together."]),
    (["What is a shell?", "What is the shell?"], ["A shell reads commands and runs them."]),
    (["What is a package?", "What is a Debian package?"], ["A package is an archive of files that belong together, with the rules to install them."]),
    (["What is a kernel?", "What is the kernel?"], ["The kernel is the part of a system that controls the hardware and runs the programs."]),
    (["How do I list files in a directory?", "How do I list files?", "How can I see the files here?"], ["Use ls: list directory contents."]),
    (["How can I compress a file?", "How do I compress files?"], ["Use gzip: compress or expand files."]),
    (["How do I install a package?", "How can I install a package?"], ["Use apt: apt install and the name of the package."]),
    (["How do I search in a file?", "How do I find text in files?"], ["Use grep: print lines that match patterns."]),
    (["What is weir?", "what is weir"], ["weir is an engine that serves language models from one native binary. I am its smallest model."]),
]


def small_talk(rng, stock):
    messages = []
    for _ in range(rng.choice([1, 1, 2])):
        asks, answers = rng.choice(SMALL_TALK)
        messages += [{"role": "user", "content": rng.choice(asks)}, {"role": "assistant", "content": rng.choice(answers)}]
    return {"kind": "talk", "messages": messages}


STYLES = [
    ("Answer in capital letters.", str.upper), ("Answer in lower case.", str.lower), ('End every answer with "Over."', lambda t: t + " Over."),
    ('Begin every answer with "Sir,".', lambda t: "Sir, " + t), ("Put your answer in brackets.", lambda t: f"[{t}]"),
    ("Put your answer in double quotes.", lambda t: f'"{t}"'),
]
PLAIN_SYSTEM = ["You are a helpful assistant.", "You are weir-xs, a small help desk.", "Be brief.", "Answer briefly and correctly.",
                "You are a short help desk.", "You help people with their computer.", "Answer in one line."]


def with_system(rng, stock, made):
    """Puts a system turn in front of a made item; a style prompt changes every answer."""
    if made["messages"][0]["role"] == "system" or any(m.get("calls") for m in made["messages"]):
        return made
    if rng.random() < 0.7:
        made["messages"].insert(0, {"role": "system", "content": rng.choice(PLAIN_SYSTEM)})
        return made
    text, change = rng.choice(STYLES)
    for message in made["messages"]:
        if message["role"] == "assistant":
            message["content"] = change(message["content"])
    made["messages"].insert(0, {"role": "system", "content": text})
    made["kind"] = "styled"
    return made


def schema(name, description, /, **properties):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}, "required": list(properties)}}}


def tool_cases(rng, stock):
    """(schema, question, arguments, response, answer) of one call."""
    city, name, number = rng.choice(stock.cities), rng.choice(stock.names), rng.randint(2, 99)
    word, file = rng.choice(stock.nouns), rng.choice(stock.nouns) + rng.choice([".txt", ".log", ".conf", ".md"])
    degrees, sky = rng.randint(-9, 35), rng.choice(["sunny", "rainy", "cloudy", "windy", "snowy"])
    a, b = rng.randint(100, 99999), rng.randint(100, 99999)
    hour = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    return [
        (schema("get_weather", "Weather of a city.", city="string"),
         rng.choice([f"What is the weather in {city}?", f"How is the weather in {city} today?", f"Weather in {city}?"]),
         {"city": city}, {"temperature": degrees, "sky": sky}, f"It is {sky} in {city}, {degrees} degrees."),
        (schema("get_time", "Local time of a city.", city="string"), rng.choice([f"What time is it in {city}?", f"Tell me the time in {city}."]),
         {"city": city}, {"time": hour}, f"It is {hour} in {city}."),
        (schema("multiply", "Product of two numbers.", a="integer", b="integer"), rng.choice([f"What is {a} times {b}?", f"Multiply {a} by {b}."]),
         {"a": a, "b": b}, {"result": a * b}, f"{a} times {b} is {a * b}."),
        (schema("find_phone", "Phone number of a person.", name="string"),
         rng.choice([f"What is the phone number of {name}?", f"Find the phone number of {name}."]),
         {"name": name}, {"phone": str(a)}, f"The phone number of {name} is {a}."),
        (schema("file_size", "Size of a file in bytes.", path="string"), rng.choice([f"How large is {file}?", f"What is the size of {file}?"]),
         {"path": file}, {"bytes": b}, f"{file} has {b} bytes."),
        (schema("set_timer", "Starts a timer.", minutes="integer"), rng.choice([f"Set a timer for {number} minutes.", f"Wake me in {number} minutes."]),
         {"minutes": number}, {"ok": True}, f"The timer is set for {number} minutes."),
        (schema("translate", "Translates a word.", word="string", language="string"), f"What is {word} in German?",
         {"word": word, "language": "German"}, {"error": "not found"}, f"I could not find a translation of {word}."),
        (schema("stock_count", "How many of a thing are in stock.", item="string"), rng.choice([f"How many items of {word} are in stock?", f"Check the stock of {word}."]),
         {"item": word}, {"count": number}, f"There are {number} of {word} in stock."),
    ]


def tool_call(rng, stock):
    cases = tool_cases(rng, stock)
    chosen = rng.sample(cases, rng.randint(1, 4))
    tools = [c[0] for c in chosen]
    if rng.random() < 0.12:  # none of the tools fits
        asks, answers = rng.choice(SMALL_TALK)
        return {"kind": "tool_none", "tools": tools, "messages": [{"role": "user", "content": rng.choice(asks)},
                                                                  {"role": "assistant", "content": rng.choice(answers)}]}
    tool, question, arguments, response, answer = chosen[0]
    rng.shuffle(tools)
    call = {"name": tool["function"]["name"], "arguments": arguments}
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "", "calls": [call]}]
    if rng.random() < 0.75:
        messages += [{"role": "tool", "content": json.dumps(response)}, {"role": "assistant", "content": answer}]
    if rng.random() < 0.3:
        messages.insert(0, {"role": "system", "content": rng.choice(PLAIN_SYSTEM)})
    return {"kind": "tool", "tools": tools, "messages": messages}


def several(rng, stock, makers):
    """Two to six turns of unlike items in one conversation."""
    messages = []
    for maker in rng.choices(makers, k=rng.randint(2, 5)):
        made = maker(rng, stock)
        messages += [m for m in made["messages"] if m["role"] != "system"]
        if sum(len(m["content"]) for m in messages) > 3000:
            break
    return {"kind": "chat", "messages": messages}
