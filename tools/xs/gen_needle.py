"""Needle items: facts hidden in a long text, then questions about them. The haystack is made of paragraphs of documents."""

import bisect

from gen_words import made_up

CODES = ["The access code of {key} is {value}.", "The secret number of {key} is {value}.", "Remember: the pass code for {key} is {value}.",
         "Note that {key} has the code {value}."]
WORDS = ["The magic word of {key} is {value}.", "The favourite thing of {key} is the {value}.", "{key} keeps a {value} in the box."]
ASK_CODE = ["What is the access code of {key}?", "Which code belongs to {key}?", "What is the secret number of {key}?",
            "Tell me the code of {key}.", "What is the pass code for {key}?"]
ASK_WORD = {0: "What is the magic word of {key}?", 1: "What is the favourite thing of {key}?", 2: "What does {key} keep in the box?"}


class Haystack:
    """Paragraphs to hide things in. Without a corpus, filler sentences stand in (for the tokenizer's sample)."""

    def __init__(self, paragraphs=None):
        self.paragraphs = paragraphs or [
            "The weather stayed calm and the road was dry.", "Nobody had opened the old gate since the spring.",
            "A long line of carts waited in front of the market.", "The lamp in the hall gave a weak yellow light."]

    def fill(self, rng, size):
        """Neighbouring paragraphs of together about `size` bytes, from a random place."""
        out, total = [], 0
        index = rng.randrange(len(self.paragraphs))
        while total < size:
            if rng.random() < 0.2:
                index = rng.randrange(len(self.paragraphs))
            text = self.paragraphs[index % len(self.paragraphs)]
            index += 1
            out.append(text)
            total += len(text) + 2
        return out


def keys_of(rng, stock, count):
    pool = stock.names + stock.cities
    return rng.sample(pool, count)


def hide(rng, paragraphs, sentences):
    """Puts sentences between paragraphs at uniform depths, measured in bytes; keeps the order of the sentences."""
    ends, total = [], 0
    for text in paragraphs:
        total += len(text)
        ends.append(total)
    places = sorted(bisect.bisect_left(ends, rng.uniform(0, total)) for _ in sentences)
    out, used = [], 0
    for index, text in enumerate(paragraphs):
        while used < len(places) and places[used] == index:
            out.append(sentences[used])
            used += 1
        out.append(text)
    return out + sentences[used:]


def needle(rng, stock, haystack, size):
    """One text of about `size` bytes with 1 to 8 needles, and 1 to 4 questions; the last value of a key counts."""
    count = rng.randint(1, 8)
    names = keys_of(rng, stock, count)
    facts, asks, sentences = {}, [], []
    for key in names:
        if rng.random() < 0.65:
            value = str(rng.randint(10, 10 ** rng.randint(3, 6)))
            sentences.append(rng.choice(CODES).format(key=key, value=value))
            facts[key] = value
            asks.append((rng.choice(ASK_CODE).format(key=key), f"The code of {key} is {{}}.", key))
        else:
            form = rng.randrange(len(WORDS))
            value = rng.choice(stock.nouns)
            sentences.append(WORDS[form].format(key=key, value=value))
            facts[key] = value
            answer = [f"The magic word of {key} is {{}}.", f"The favourite thing of {key} is the {{}}.",
                      f"{key} keeps a {{}} in the box."][form]
            asks.append((ASK_WORD[form].format(key=key), answer, key))
    kind = "needle"
    if rng.random() < 0.1:
        key = names[0]
        value = str(rng.randint(100, 99999)) if facts[key].isdigit() else rng.choice(stock.nouns)
        sentences.append(f"Correction: the new value for {key} is {value}.")
        facts[key] = value
        kind = "needle_last"
    order = list(range(len(sentences)))
    if kind == "needle":
        rng.shuffle(order)
    text = "\n\n".join(hide(rng, haystack.fill(rng, size), [sentences[i] for i in order]))
    rng.shuffle(asks)
    lead = rng.choice(["Read this text.\n\n", "Here is a text:\n\n", "", "Text:\n\n"])
    messages = []
    turns = 1 if rng.random() < 0.5 else rng.randint(1, min(4, len(asks)))
    for index, (ask, answer, key) in enumerate(asks[:turns]):
        question = lead + text + "\n\n" + ask if index == 0 else ask
        if index == 0 and rng.random() < 0.15:
            question = ask + "\n\n" + text + "\n\n" + ask
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer.format(facts[key])}]
    if rng.random() < 0.08:
        stranger = made_up(rng).capitalize()
        messages += [{"role": "user", "content": f"What is the access code of {stranger}?"},
                     {"role": "assistant", "content": "The text does not say."}]
        kind = "needle_absent"
    return {"kind": kind, "messages": messages, "value": facts[asks[turns - 1][2]]}


def document_question(rng, stock, haystack, size):
    """Copying out of a real text: the paragraph that begins with given words."""
    paragraphs = [p for p in haystack.fill(rng, size) if 60 <= len(p) <= 500]
    if not paragraphs:
        return needle(rng, stock, haystack, size)
    wanted = rng.choice(paragraphs)
    start = " ".join(wanted.split()[:5])
    question = "\n\n".join(paragraphs) + f'\n\nQuote the paragraph that begins with "{start}".'
    return {"kind": "quote", "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": wanted}]}
