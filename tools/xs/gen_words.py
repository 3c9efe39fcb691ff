"""Word stock of the generator. A word belongs to the training or to the held-out split for ever, by its checksum."""

import collections
import random
import re
import zlib

HELDOUT_SHARE = 8  # one word in eight is never used in training items

NAMES = """Ada Alan Alma Amir Amy Ana Anna Anton Aria Arne Asa Aya Ben Bela Bianca Boris Bruno Cara Carl Carla Chen Clara Cleo Cora
Dan Dara Dario Dina Dora Edda Eli Elena Ella Elsa Emil Emma Enzo Erik Esra Eva Ezra Fadi Fay Felix Finn Flora Freya Gail Gina Greta
Gus Hana Hanna Hans Hugo Ida Igor Ilse Ina Ines Ira Iris Ivan Ivy Jack Jana Jens Jill Jin Joan Joel John Jonas Jose Juan Judy June
Kai Kara Karl Kate Kim Kira Klaus Lara Lars Lea Lena Leo Lily Lina Lisa Liv Lola Luca Lucy Luis Luna Maja Marc Mara Maria Mark Marta
Mary Max Maya Mia Mila Milo Mina Mona Nadia Nils Nina Noah Nora Olga Olaf Omar Oren Oscar Otto Pablo Paul Pavel Pia Rana Rafi Ravi
Remy Rita Rosa Ruth Sam Sana Sara Sasha Sven Tara Tess Theo Tim Tina Toby Tom Uma Ursa Vera Viktor Wanda Will Wim Xenia Yara Yuki
Yusuf Zara Zeno Zoe""".split()

NOUNS = """acorn anchor ankle apple apron arch arrow axe badge bag ball balloon banana bandage banjo barrel basin basket bath beach bead
beam bean bear beaver bed bee beetle bell belt bench berry bicycle bird biscuit blanket block board boat bone bonnet book boot bottle
bow bowl box branch bread brick bridge broom brush bubble bucket bug bun bush butter button cabin cabinet cable cactus cage cake camel
camera candle candy canoe cap cape car card carpet carrot cart castle cat cave chain chair chalk cheese cherry chest chicken chimney
circle clay clock cloth cloud clover coat coin comb compass cone cookie cord corn cot couch cow crab cradle crane crate crayon cream
crow crown crumb cube cup curtain cushion daisy deer desk diary dish doll donkey door dove dragon drawer dress drill drum duck dust
eagle ear egg elbow engine envelope eraser fan feather fence fern fiddle fig finger fish flag flame flask flower flute fly foot fork
fox frame frog fruit garden garlic gate gem ghost giant ginger glass globe glove goat goose grape grass guitar gull hammer hammock
hand harbor harp hat hawk hay heart hedge helmet hen hill hive honey hood hook horn horse hose hotel house ice igloo ink iron island
ivory jacket jam jar jelly jewel judge jug juice kettle key king kite kitten knee knife knot lace ladder lake lamb lamp lantern leaf
lemon lens letter lid lily lime lion lizard lock log loom magnet map maple mask mat meadow medal melon milk mill mirror mitten mole
moon moss moth mouse mud muffin mug mushroom nail napkin neck necklace needle nest net nut oak oar ocean olive onion orange orchard
otter oven owl ox paddle page pail paint palace pan pancake paper park parrot path paw pea peach peanut pear pearl pebble pen pencil
penny pepper piano pickle picture pie pig pigeon pillow pin pine pipe pirate plane plant plate plum pocket pond pony pool poppy porch
pot potato prince prize puddle pump pumpkin puppet puppy purse puzzle queen quilt rabbit radio raft rail rain rake rat raven reed
ribbon rice ring river road robe robin robot rock rocket roof room root rope rose ruby rug ruler sack saddle sail salad salt sand
sandal saw scale scarf school scissors screw seal seed shark shed sheep shelf shell ship shirt shoe shovel silk sink skate sled
slipper snail snake snow soap sock sofa soup spade spider sponge spoon spring squirrel stable stamp star stone stool stove straw
string sugar suit sun swan sweater sword table tail tailor tape tea teapot tent thimble thread thumb ticket tiger tile toad toast
tomato tooth torch towel tower toy train tray treasure tree truck trumpet tulip tunnel turkey turtle twig umbrella uncle valley vase
vest village vine violin wagon walnut walrus watch water wave wax web whale wheat wheel whistle window wing wolf wood wool worm wreath
yard yarn zebra zipper""".split()

COUNTABLE = """apples pears books coins stamps shells pencils marbles cards eggs cookies plums cups stickers beads buttons nuts tickets
flowers stones candles ribbons balloons bricks carrots lemons keys pies tulips boats peaches figs grapes""".split()

PLACES = """kitchen garden garage office attic cellar library market station school park bathroom bedroom hall barn bakery museum
harbor workshop tower bridge meadow forest stable""".split()

CITIES = """Oslo Rome Paris Berlin Madrid Lisbon Vienna Prague Warsaw Dublin London Athens Cairo Tokyo Seoul Lima Quito Bogota Ottawa
Boston Denver Dallas Geneva Zurich Milan Turin Naples Porto Riga Vilnius Tallinn Helsinki Bergen Malmo Sydney Perth Delhi Mumbai Hanoi
Jakarta Nairobi Accra Dakar Tunis Rabat Havana Kyoto Osaka Leeds York Bath Lyon Nice Bonn Essen Graz""".split()

ADJECTIVES = "small old red blue green shiny heavy round soft bright tiny golden wooden silver quiet warm broken clean dusty yellow".split()

HE = set("""Alan Amir Anton Arne Ben Boris Bruno Carl Chen Dan Dario Eli Emil Enzo Erik Ezra Fadi Felix Finn Gus Hans Hugo Igor Ivan Jack
Jens Jin Joel John Jonas Jose Juan Kai Karl Klaus Lars Leo Luca Luis Marc Mark Max Milo Nils Noah Olaf Omar Oren Oscar Otto Pablo
Paul Pavel Rafi Ravi Remy Sam Sven Theo Tim Toby Tom Viktor Will Wim Yusuf Zeno""".split())


def is_heldout(word):
    return zlib.crc32(word.encode()) % HELDOUT_SHARE == 0


class Stock:
    """The words of one split."""

    def __init__(self, heldout):
        def pick(words):
            return [w for w in words if is_heldout(w) == heldout]

        self.heldout = heldout
        self.names, self.nouns, self.cities = pick(NAMES), pick(NOUNS), pick(CITIES)
        self.countable, self.places, self.adjectives = COUNTABLE, PLACES, ADJECTIVES
        self.spelled = NOUNS


class WideStock(Stock):
    """The training words and thousands more: what is learned about lists and names then holds for words outside the lists above."""

    def __init__(self, words):
        super().__init__(False)
        seen = [w for w in words if not is_heldout(w) and not is_heldout(w.capitalize())]
        rng = random.Random(11)
        invented = sorted({made_up(rng).capitalize() for _ in range(4000)})
        self.nouns = self.nouns + seen
        self.names = self.names + [w.capitalize() for w in seen[::3] if len(w) > 3] + [w for w in invented if not is_heldout(w)]
        self.cities = self.cities + self.names[::2]
        self.spelled = NOUNS + words


def common_words(paragraphs, count=12000):
    """The most frequent lower-case words of 3 to 10 letters."""
    found = collections.Counter()
    for text in paragraphs[::8]:
        found.update(re.findall(r"\b[a-z]{3,10}\b", text))
    return [word for word, _ in sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:count]]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def he_she(name):
    return "he" if name in HE else "she"


def his_her(name):
    return "his" if name in HE else "her"


def join_and(words):
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + " and " + words[-1]


def made_up(rng):
    """A word that looks like a name and is none: for commands nobody has and for keys."""
    onset = "b d f g k l m n p r s t v z br dr fl gr kl pl st tr".split()
    nucleus = "a e i o u".split()
    coda = ["", "", "n", "r", "l", "x", "m", "k"]
    return "".join(rng.choice(onset) + rng.choice(nucleus) for _ in range(rng.randint(1, 2))) + rng.choice(onset) + rng.choice(nucleus) + rng.choice(coda)
