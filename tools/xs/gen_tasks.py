"""Items with one right answer: copy, reverse, sort, count, sums and word problems.

Every maker takes (rng, stock) and returns an Item: messages whose last turn is the expected answer.
"""

from gen_words import article, he_she, join_and, made_up


def item(kind, question, answer, reasoning="", before=(), system=""):
    messages = [{"role": "system", "content": system}] if system else []
    messages += list(before)
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "reasoning": reasoning}]
    return {"kind": kind, "messages": messages}


def word_list(rng, stock, low, high):
    count = rng.randint(low, high)
    return rng.sample(stock.nouns, min(count, len(stock.nouns)))


COPY_ASKS = ["Repeat exactly: {}", "Copy this line: {}", "Say this back to me: {}", "Repeat after me: {}", "Please copy: {}",
             "Write this again without a change:\n{}", "Echo the following text.\n{}", "{}\nRepeat the line above.",
             "Return this text as it is: {}", "Copy the words: {}"]


def copy_text(rng, stock):
    shape = rng.random()
    if shape < 0.45:
        return rng.choice([" ", ", ", " "]).join(word_list(rng, stock, 2, 24))
    if shape < 0.6:
        return " ".join(str(rng.randint(0, 10 ** rng.randint(1, 6))) for _ in range(rng.randint(2, 12)))
    if shape < 0.7:
        return "".join(rng.choice("0123456789abcdef") for _ in range(rng.randint(6, 32)))
    if shape < 0.8:
        return " ".join(made_up(rng) for _ in range(rng.randint(2, 8)))
    words = [f"{rng.choice(stock.adjectives)} {noun}" for noun in word_list(rng, stock, 2, 6)]
    return f"{rng.choice(stock.names)} has {join_and([article(w) for w in words])}."


def copy(rng, stock):
    text = copy_text(rng, stock)
    return item("copy", rng.choice(COPY_ASKS).format(text), text)


def reverse(rng, stock):
    words = word_list(rng, stock, 2, 9)
    ask = rng.choice(["Reverse the order of these words: {}", "Write these words backwards, last word first: {}",
                      "List these in reverse order: {}"])
    return item("reverse", ask.format(" ".join(words)), " ".join(reversed(words)))


def pick(rng, stock):
    words = word_list(rng, stock, 3, 10)
    which = rng.choice(["first", "last", "second", "third"])
    index = {"first": 0, "last": -1, "second": 1, "third": 2}[which]
    ask = rng.choice(["What is the {} word? {}", "Name the {} word of this list: {}", "Give me the {} item: {}"])
    return item("pick", ask.format(which, ", ".join(words)), words[index])


SORT_WORDS = ["Sort these words: {}", "Put these words in alphabetical order: {}", "Sort alphabetically: {}",
              "Arrange from A to Z: {}", "Please sort the list: {}"]
SORT_UP = ["Sort these numbers: {}", "Sort from smallest to largest: {}", "Put these numbers in ascending order: {}",
           "Arrange these numbers from low to high: {}"]
SORT_DOWN = ["Sort from largest to smallest: {}", "Put these numbers in descending order: {}"]


def sort(rng, stock):
    glue = rng.choice([" ", ", ", ", "])
    shape = rng.random()
    if shape < 0.55:
        words = word_list(rng, stock, 3, 10)
        return item("sort", rng.choice(SORT_WORDS).format(glue.join(words)), glue.join(sorted(words)))
    numbers = rng.sample(range(0, rng.choice([10, 100, 100, 1000])), rng.randint(3, 9))
    down = shape > 0.85
    ask = rng.choice(SORT_DOWN if down else SORT_UP)
    ordered = sorted(numbers, reverse=down)
    return item("sort", ask.format(glue.join(map(str, numbers))), glue.join(map(str, ordered)))


def count(rng, stock):
    shape = rng.random()
    if shape < 0.5:
        words = word_list(rng, stock, 2, 12)
        ask = rng.choice(["How many words are in this list? {}", "Count the words: {}", "How many items are here: {}"])
        steps = " ".join(f"{i + 1} {w}" for i, w in enumerate(words))
        return item("count", ask.format(", ".join(words)), f"There are {len(words)}.", steps if rng.random() < 0.3 else "")
    target, others = rng.sample(stock.nouns, 2)
    total = rng.randint(2, 12)
    hits = rng.randint(0, total)
    words = [target] * hits + [others] * (total - hits)
    rng.shuffle(words)
    ask = rng.choice(["How many times does {} appear? {}", "Count the word {} in: {}", "How often is {} in this list? {}"])
    return item("count", ask.format(target, " ".join(words)), f"{target} appears {hits} time{'' if hits == 1 else 's'}.")


def chain(rng, steps, top):
    """Start value and operations of a sum that never goes below zero."""
    value = rng.randint(1, top)
    start, operations, lines = value, [], []
    for _ in range(steps):
        kind = rng.random()
        if kind < 0.5 or (value == 0 and kind < 0.88):
            sign, number, result = "+", rng.randint(1, top), 0
            result = value + number
        elif kind < 0.88:
            number = rng.randint(1, min(value, top))
            sign, result = "-", value - number
        else:
            number = rng.randint(2, 9)
            if value > 99:
                sign, result = "+", value + number
            else:
                sign, result = "*", value * number
        operations.append((sign, number))
        lines.append(f"{value} {sign} {number} = {result}")
        value = result
    return start, operations, lines, value


SPOKEN = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}
SUM_ASKS = ["What is {}?", "{} = ?", "Compute {}.", "Calculate {}", "How much is {}?", "Solve: {}", "Work out {}."]


def sums(rng, stock, steps=None):
    steps = steps or rng.choice([1, 1, 2, 2, 3, 3, 3, 3, 4])
    start, operations, lines, value = chain(rng, steps, rng.choice([9, 20, 99, 99, 99, 999]))
    flat = rng.random() < 0.6 and not any(sign == "*" for sign, _ in operations)
    if flat:
        expression = str(start) + "".join(f" {sign} {number}" for sign, number in operations)
        question = rng.choice(SUM_ASKS).format(expression)
    else:
        spoken = [SPOKEN[sign].format(number) for sign, number in operations]
        question = rng.choice([f"Start with {start}, {', then '.join(spoken)}. What do you get?",
                               f"Take {start}, {', then '.join(spoken)}. What is the result?"])
    answer = f"The answer is {value}."
    kind = "sums3" if steps == 3 else "sums"
    if rng.random() < 0.3:
        return item(kind, question, answer, "\n".join(lines))
    return item(kind, question, ". ".join(lines) + ". " + answer)


def word_problem(rng, stock):
    name, other = rng.sample(stock.names, 2)
    thing = rng.choice(stock.countable)
    start, operations, lines, value = chain(rng, rng.choice([2, 2, 3]), rng.choice([9, 20, 50]))
    pronoun = he_she(name).capitalize()
    gains = ["finds {} more", "buys {} more", "gets {} more from " + other, "picks {} more"]
    losses = ["gives {} to " + other, "loses {}", "sells {}", "uses {}"]
    sentences = [f"{name} has {start} {thing}."]
    for sign, number in operations:
        if sign == "*":
            sentences.append(f"Then the number becomes {number} times as large.")
        else:
            sentences.append(f"{pronoun} {rng.choice(gains if sign == '+' else losses).format(number)}.")
    sentences.append(f"How many {thing} does {name} have now?")
    answer = f"{name} has {value} {thing}."
    if rng.random() < 0.3:
        return item("problem", " ".join(sentences), answer, "\n".join(lines))
    return item("problem", " ".join(sentences), ". ".join(lines) + ". " + answer)


def compare(rng, stock):
    a, b = rng.sample(range(0, rng.choice([20, 100, 1000])), 2)
    if rng.random() < 0.5:
        return item("compare", f"Which is larger, {a} or {b}?", f"{max(a, b)} is larger.")
    return item("compare", f"Which is smaller, {a} or {b}?", f"{min(a, b)} is smaller.")


def spell(rng, stock):
    word = rng.choice(stock.spelled)
    if rng.random() < 0.6:
        return item("spell", rng.choice([f"Spell the word {word}.", f"How do you spell {word}?"]), "-".join(word))
    return item("spell", f"How many letters are in the word {word}?", f"{'-'.join(word)}. There are {len(word)} letters.")
