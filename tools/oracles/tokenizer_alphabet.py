"""Random strings that stress a tokenizer, by seed. Used by tokenizer_synthetic.py and tokenizer_fuzz.py."""

import random

ALPHABET = """each string joins 0-40 parts, each part drawn from one of:
  ASCII letters and words; digits; ASCII punctuation; contractions in both cases and with U+017F;
  Latin-1 to Latin Extended-B and Greek/Cyrillic letters; Latin letters with 1-4 combining marks (U+0300-036F, 0483-0487,
  0591-05C7, 064B-0655, 093C, 094D, 0E38-0E3A, 1AB0-1AC0, 1DC0-1DFF, 20D0-20F0, 302A-302F, 3099-309A, 1D165-1D172);
  CJK, kana, CJK compatibility ideographs; Hangul syllables and conjoining Jamo; Hebrew, Arabic, Indic and Thai;
  emoji, ZWJ sequences, flags, skin tones; all White_Space code points and runs of them, U+180E, U+200B-200F, U+FEFF;
  newlines of all kinds; special-token and added-token texts, whole and cut; U+FB00-FB4F and other decomposables;
  code points assigned in Unicode 10 to 17; uniformly random code points (no surrogates); NUL and other controls"""

WORDS = ("the of and to in is you that it he was for on are as with his they at be this have from or one had by word but "
         "not what all were we when your can said there use an each which she do how their if will up other about out many "
         "function return class import std vector template const int float string print lambda yield model tensor").split()
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'LL", "'D", "'\u017f", "\u2019s", "''s"]
SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
                           0x3000, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF)]
NEWLINES = ["\n", "\r", "\r\n", "\n\n", "\n\n\n", "\r\n\r\n", "\u0085", "\u2028", "\u2029", "\v", "\f", " \n", "\n ", "\t\n\t"]
MARK_RANGES = [(0x300, 0x36F), (0x483, 0x487), (0x591, 0x5C7), (0x64B, 0x655), (0x93C, 0x93C), (0x94D, 0x94D), (0xE38, 0xE3A),
               (0x1AB0, 0x1AC0), (0x1DC0, 0x1DFF), (0x20D0, 0x20F0), (0x302A, 0x302F), (0x3099, 0x309A), (0x1D165, 0x1D172)]
LETTER_RANGES = [(0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x1E00, 0x1FFF)]
CJK_RANGES = [(0x4E00, 0x9FFF), (0x3041, 0x30FF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1F)]
HANGUL_RANGES = [(0xAC00, 0xD7A3), (0x1100, 0x11FF), (0xA960, 0xA97C), (0xD7B0, 0xD7FB)]
OTHER_RANGES = [(0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0xFB00, 0xFDFF), (0x2100, 0x2BFF)]
EMOJI = ["\U0001F600", "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466", "\U0001F1E9\U0001F1EA", "\U0001F44D\U0001F3FD",
         "\u2764\ufe0f", "\U0001F3F4\U000E0067\U000E0062\U000E007F", "1\ufe0f\u20e3", "\U0001FAE8", "\U0001FAC6"]
NEW_RANGES = [(0x860, 0x8FF), (0x1AC1, 0x1ACE), (0x1C80, 0x1C8A), (0x1DFA, 0x1DFB), (0xA7C0, 0xA7DC), (0x10D24, 0x10D8F), (0x10EA0, 0x10F59),
              (0x11380, 0x113E2), (0x11930, 0x11959), (0x11F00, 0x11F59), (0x16100, 0x16139), (0x16D40, 0x16D79), (0x1CC00, 0x1CEB3),
              (0x1E030, 0x1E08F), (0x1E4D0, 0x1E5FF), (0x1FA70, 0x1FAFF), (0x2EBF0, 0x2EE5D), (0x31350, 0x323B0), (0x10940, 0x10959)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_", "start|>", "<|", "|>",
           "<thi", "nk>", "<single>", "<left>", "<right>", "<both>", "<norm\u00e9>", "<norme\u0301>", "a<single>", " <left>", "<right> ", "<wide",
           "<wider>", "<wide>", "[gMASK]<sop>", "<|user|>"]


def from_ranges(rng, ranges):
    first, last = rng.choice(ranges)
    return chr(rng.randint(first, last))


def random_code_point(rng):
    point = rng.randrange(0x10F800)
    return chr(point + 0x800 if point >= 0xD800 else point)


def marked(rng):
    base = rng.choice("aeiouyncszAEIOUdhkx") if rng.random() < 0.7 else from_ranges(rng, LETTER_RANGES)
    return base + "".join(from_ranges(rng, MARK_RANGES) for _ in range(rng.randint(1, 4)))


def repeat(make, most):
    return lambda rng: "".join(make(rng) for _ in range(rng.randint(1, most)))


KINDS = [
    (10, lambda rng: rng.choice(("", " ", " ")) + rng.choice(WORDS)),
    (2, lambda rng: rng.choice(WORDS).upper()),
    (2, lambda rng: rng.choice(WORDS).title()),
    (3, repeat(lambda rng: chr(rng.randint(0x20, 0x7E)), 8)),
    (2, repeat(lambda rng: rng.choice("0123456789"), 8)),
    (2, repeat(lambda rng: rng.choice("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"), 5)),
    (2, lambda rng: rng.choice(WORDS) + rng.choice(CONTRACTIONS)),
    (2, repeat(lambda rng: from_ranges(rng, LETTER_RANGES), 6)),
    (4, repeat(marked, 3)),
    (1, repeat(lambda rng: from_ranges(rng, MARK_RANGES), 6)),
    (2, repeat(lambda rng: from_ranges(rng, CJK_RANGES), 6)),
    (3, repeat(lambda rng: from_ranges(rng, HANGUL_RANGES), 6)),
    (2, repeat(lambda rng: from_ranges(rng, OTHER_RANGES), 6)),
    (2, lambda rng: rng.choice(EMOJI)),
    (4, repeat(lambda rng: rng.choice(SPACES), 4)),
    (2, lambda rng: " " * rng.randint(1, 12)),
    (4, repeat(lambda rng: rng.choice(NEWLINES), 3)),
    (4, lambda rng: rng.choice(SPECIAL)),
    (2, repeat(lambda rng: from_ranges(rng, NEW_RANGES), 4)),
    (2, repeat(random_code_point, 4)),
    (1, lambda rng: chr(rng.randrange(0x20))),
]
WEIGHTS = [weight for weight, _ in KINDS]
MAKERS = [make for _, make in KINDS]


def random_text(rng: random.Random) -> str:
    # Short strings find most differences; one in ten is longer.
    parts = rng.randint(0, 40) if rng.random() < 0.1 else rng.randint(0, 8)
    return "".join(make(rng) for make in rng.choices(MAKERS, WEIGHTS, k=parts))
