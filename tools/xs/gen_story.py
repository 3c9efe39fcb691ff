"""Stories from a small simulated world (who is where, who holds what), questions about them, and short stories on request."""

from gen_words import article, he_she, join_and


class World:
    """Everybody is somewhere; every thing is held by one person or lies in one place."""

    def __init__(self, rng, stock, people=3, things=3):
        self.rng = rng
        self.people = rng.sample(stock.names, people)
        self.places = rng.sample(stock.places, 4)
        self.things = rng.sample(stock.nouns, things)
        self.at = {p: rng.choice(self.places) for p in self.people}
        self.holder = {t: None for t in self.things}
        self.lies = {t: rng.choice(self.places) for t in self.things}
        self.lines = []
        self.events = []

    def say(self, *forms):
        self.lines.append(self.rng.choice(forms))

    def open(self):
        for person in self.people:
            self.say(f"{person} is in the {self.at[person]}.", f"{person} waits in the {self.at[person]}.",
                     f"In the {self.at[person]} sits {person}.")
        for thing in self.things:
            self.say(f"The {thing} is in the {self.lies[thing]}.", f"There is {article(thing)} in the {self.lies[thing]}.",
                     f"Somebody left {article(thing)} in the {self.lies[thing]}.")

    def step(self):
        rng = self.rng
        person = rng.choice(self.people)
        place = self.at[person]
        held = [t for t in self.things if self.holder[t] == person]
        here = [t for t in self.things if self.holder[t] is None and self.lies[t] == place]
        near = [p for p in self.people if p != person and self.at[p] == place]
        options = ["go"] + ["take"] * (2 if here else 0) + ["drop"] * bool(held) + ["give"] * (2 if held and near else 0)
        kind = rng.choice(options)
        if kind == "go":
            target = rng.choice([p for p in self.places if p != place])
            self.at[person] = target
            self.say(f"{person} goes to the {target}.", f"{person} walks to the {target}.", f"Then {person} moves to the {target}.")
        elif kind == "take":
            thing = rng.choice(here)
            self.holder[thing] = person
            self.say(f"{person} takes the {thing}.", f"{person} picks up the {thing}.", f"{person} finds the {thing} and keeps it.")
        elif kind == "drop":
            thing = rng.choice(held)
            self.holder[thing], self.lies[thing] = None, place
            self.say(f"{person} leaves the {thing} there.", f"{person} puts the {thing} down.", f"{person} drops the {thing}.")
        else:
            thing, other = rng.choice(held), rng.choice(near)
            self.holder[thing] = other
            self.say(f"{person} gives the {thing} to {other}.", f"{person} hands {other} the {thing}.")
        self.events.append((kind, person))

    def where(self, thing):
        holder = self.holder[thing]
        return self.at[holder] if holder else self.lies[thing]

    def question(self):
        rng = self.rng
        kind = rng.choice(["person", "person", "thing", "holder", "room", "count"])
        if kind == "person":
            person = rng.choice(self.people)
            return f"Where is {person}?", f"{person} is in the {self.at[person]}."
        if kind == "room":
            place = rng.choice(self.places)
            found = [p for p in self.people if self.at[p] == place]
            verb = "is" if len(found) == 1 else "are"
            return f"Who is in the {place}?", f"{join_and(found)} {verb} in the {place}." if found else f"Nobody is in the {place}."
        if kind == "count":
            person = rng.choice(self.people)
            held = [t for t in self.things if self.holder[t] == person]
            if not held:
                return f"What does {person} have?", f"{person} has nothing."
            return f"What does {person} have?", f"{person} has {join_and(['the ' + t for t in held])}."
        thing = rng.choice(self.things)
        holder = self.holder[thing]
        if kind == "thing":
            if holder:
                return f"Where is the {thing}?", f"{holder} has the {thing} in the {self.at[holder]}."
            return f"Where is the {thing}?", f"The {thing} is in the {self.lies[thing]}."
        return f"Who has the {thing}?", f"{holder} has the {thing}." if holder else f"Nobody has the {thing}."


def world_question(rng, stock):
    world = World(rng, stock, rng.randint(2, 4), rng.randint(1, 4))
    world.open()
    for _ in range(rng.randint(2, 14)):
        world.step()
    text = " ".join(world.lines)
    messages = []
    for index in range(rng.choice([1, 1, 2, 3])):
        ask, answer = world.question()
        messages += [{"role": "user", "content": f"{text}\n\n{ask}" if index == 0 else ask}, {"role": "assistant", "content": answer}]
    return {"kind": "world", "messages": messages}


OPENINGS = ["One morning {name} woke up early.", "Once there was a {job} named {name}.", "{name} lived near the {place}.",
            "It was a quiet day, and {name} was in the {place}.", "A long time ago, {name} worked in the {place}.",
            "{name} was a young {job} who loved the {place}.", "Every day {name} walked past the {place}."]
WEATHER = ["The sun was warm.", "It was raining softly.", "Snow lay on the roofs.", "The wind was cold.", "Fog hung over the street.",
           "The sky was clear and blue.", "A storm was coming."]
JOBS = "baker sailor teacher gardener clerk tailor painter doctor farmer miller fisher carpenter".split()
MOODS = ["happy", "proud", "glad", "calm", "cheerful"]


def plot_lost(rng, a, b, thing, places, adjective):
    first, second = places
    they = he_she(a)
    return [f"{a} had {article(adjective)} {thing} and took it everywhere.", f"But that day the {thing} was gone.",
            f'"Have you seen my {thing}?" {a} asked {b}.',
            rng.choice([f'"No," said {b}, "but I will help you look."', f'"Not today," said {b}. "Let us look for it."']),
            f"They looked in the {first}, but it was not there.", f"Then they went to the {second}.",
            f"There, under a bench, lay the {adjective} {thing}.", f'"Thank you!" said {a}, and {they} smiled.',
            f"From then on {a} always kept the {thing} close."]


def plot_gift(rng, a, b, thing, places, adjective):
    return [f"{a} wanted to give {b} a present.", f"{he_she(a).capitalize()} went to the {places[0]} and looked around.",
            f"At last {he_she(a)} found {article(adjective)} {thing}.", f"It cost more than {he_she(a)} had, so {he_she(a)} worked in the {places[1]} for a week.",
            f"On Sunday {a} brought the {thing} to {b}.", f'"Is this for me?" asked {b}.', f'"Yes," said {a}, "because you are my friend."',
            f"{b} was so {rng.choice(MOODS)} that {he_she(b)} kept the {thing} by the window."]


def plot_repair(rng, a, b, thing, places, adjective):
    return [f"The {adjective} {thing} of {b} was broken.", f"{b} was sad and carried it to the {places[0]}.",
            f'"I can mend it," said {a}, "but I need time."', f"{a} worked all evening in the {places[1]}.",
            rng.choice(["At first nothing helped.", "The first try failed, and so did the second."]), f"Then {a} had a good idea and used a small piece of wire.",
            f"In the morning the {thing} was as good as new.", f'{b} laughed. "How did you do that?"', f'"With patience," said {a}.']


def plot_storm(rng, a, b, thing, places, adjective):
    return [f"A storm came, and the door of the {places[0]} blew open.", f"{a} ran inside to save the {adjective} {thing}.",
            f"It was dark, and the water was rising.", f"{b} heard a call and brought a lamp.", f"Together they carried the {thing} to the {places[1]}.",
            f"When the storm was over, they sat by the stove and drank tea.", f'"You were brave," said {b}.', f'"So were you," said {a}.']


def plot_share(rng, a, b, thing, places, adjective):
    return [f"{a} and {b} both wanted the {adjective} {thing}.", f'"I saw it first," said {a}.', f'"But I carried it home," said {b}.',
            f"They argued all the way to the {places[0]}.", f"An old woman listened and shook her head.",
            f'"Use it in turns," she said, "one day each."', f"So {a} had the {thing} on Monday and {b} had it on Tuesday.",
            f"Soon they met in the {places[1]} every day and used it together."]


def plot_trip(rng, a, b, thing, places, adjective):
    return [f"{a} had never seen the {places[1]}.", f'"Come with me," said {b}, "it is not far."', f"They packed bread, water and {article(adjective)} {thing}.",
            f"On the way they lost the path near the {places[0]}.", f"{a} climbed a hill and saw a light.", f'"This way!" {he_she(a)} called.',
            f"When they arrived, the {thing} turned out to be very useful.", f"They came home late, tired and {rng.choice(MOODS)}."]


PLOTS = [plot_lost, plot_gift, plot_repair, plot_storm, plot_share, plot_trip]
STORY_ASKS = ["Tell me a story about {name} and {a_thing}.", "Write a short story about {a_thing}.", "Tell me a short story.",
              "Please tell a story with {name} in it.", "Can you tell me a story about {a_thing} and the {place}?",
              "I would like to hear a story.", "Write a story about {name} and {other}.", "Make up a story set in the {place}."]
ENDINGS = ["And that was a good day.", "The end.", "They talked about it for a long time.", "That night everyone slept well."]


def story_parts(rng, stock):
    a, b = rng.sample(stock.names, 2)
    thing, places, adjective = rng.choice(stock.nouns), rng.sample(stock.places, 2), rng.choice(stock.adjectives)
    body = rng.choice(PLOTS)(rng, a, b, thing, places, adjective)
    opening = rng.choice(OPENINGS).format(name=a, place=places[0], job=rng.choice(JOBS))
    lines = [opening] + ([rng.choice(WEATHER)] if rng.random() < 0.6 else []) + body + [rng.choice(ENDINGS)]
    return a, b, thing, places, adjective, lines


def short_story(rng, stock):
    a, b, thing, places, _, lines = story_parts(rng, stock)
    ask = rng.choice(STORY_ASKS).format(name=a, other=b, a_thing=article(thing), place=places[0])
    half = len(lines) // 2
    text = " ".join(lines[:half]) + "\n\n" + " ".join(lines[half:]) if rng.random() < 0.4 else " ".join(lines)
    messages = [{"role": "user", "content": ask}, {"role": "assistant", "content": text}]
    if rng.random() < 0.4:
        question, answer = story_fact(rng, a, b, thing, places)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"kind": "story", "messages": messages}


def story_fact(rng, a, b, thing, places):
    return rng.choice([("Who are the two people in the story?", f"{a} and {b}."), ("Which thing is the story about?", f"The {thing}."),
                       ("Name one place in the story.", f"The {places[0]}.")])


def story_question(rng, stock):
    a, b, thing, places, _, lines = story_parts(rng, stock)
    question, answer = story_fact(rng, a, b, thing, places)
    return {"kind": "story_question", "messages": [{"role": "user", "content": " ".join(lines) + "\n\n" + question},
                                                   {"role": "assistant", "content": answer}]}


__all__ = ["world_question", "short_story", "story_question"]
