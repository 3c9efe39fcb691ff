#!/usr/bin/env python3
"""Writes src/text/unicode_tables.cpp: where this build's Unicode data differ from those of PyPI `tokenizers`.

Two libraries decide ids besides the vocabulary: the regex engine (general categories) and the normaliser (NFC).
PyPI `tokenizers` carries Oniguruma (Unicode 16) and a normaliser with Unicode 9 data; this project links PCRE2 and
utf8proc of other versions. Both differences are finite lists, found here by asking each side about every code point.

Usage: tokenizer_unicode.py > src/text/unicode_tables.cpp     (needs: pip install tokenizers; libpcre2-8, libutf8proc)
"""

import ctypes

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
PCRE2_UTF_UCP = 0x000A0000


def load_pcre2():
    library = ctypes.CDLL("libpcre2-8.so.0")
    library.pcre2_compile_8.restype = ctypes.c_void_p
    library.pcre2_match_data_create_8.restype = ctypes.c_void_p
    return library


def load_utf8proc():
    library = ctypes.CDLL("libutf8proc.so.2")
    library.utf8proc_unicode_version.restype = ctypes.c_char_p
    for name in ("utf8proc_NFC", "utf8proc_NFD"):
        getattr(library, name).restype = ctypes.c_void_p
        getattr(library, name).argtypes = [ctypes.c_char_p]
    return library


def normalise(library, function, text):
    libc = ctypes.CDLL("libc.so.6")
    libc.free.argtypes = [ctypes.c_void_p]
    pointer = getattr(library, function)(text.encode())
    result = ctypes.string_at(pointer).decode()
    libc.free(pointer)
    return result


def pcre2_version(library, what):
    buffer = ctypes.create_string_buffer(64)
    library.pcre2_config_8(what, buffer)
    return buffer.value.decode()


def oracle_categories():
    text = "".join(map(chr, CODE_POINTS))
    found = {}
    for category in CATEGORIES:
        keep = pre_tokenizers.Split(Regex(r"\p{%s}" % category), "removed", invert=True)
        for part, _ in keep.pre_tokenize_str(text):
            for character in part:
                found[ord(character)] = category
    return found


def linked_categories(library):
    match_data = ctypes.c_void_p(library.pcre2_match_data_create_8(4, None))
    encoded = [chr(c).encode() for c in CODE_POINTS]
    found = {}
    for category in CATEGORIES:
        pattern = (r"\p{%s}" % category).encode()
        error, offset = ctypes.c_int(), ctypes.c_size_t()
        code = ctypes.c_void_p(library.pcre2_compile_8(pattern, ctypes.c_size_t(len(pattern)), PCRE2_UTF_UCP,
                                                       ctypes.byref(error), ctypes.byref(offset), None))
        for point, text in zip(CODE_POINTS, encoded):
            if library.pcre2_match_8(code, text, ctypes.c_size_t(len(text)), ctypes.c_size_t(0), 0, match_data, None) > 0:
                found[point] = category
    return found


def ranges(points, value):
    result = []
    for point in points:
        if result and result[-1][1] == point - 1 and result[-1][2] == value(point):
            result[-1][1] = point
        else:
            result.append([point, point, value(point)])
    return result


def nfc_barriers(library):
    oracle = normalizers.NFC()
    different = set()
    # Planes above hold ideographs, private use and tags; of these only compatibility ideographs have canonical properties.
    for point in [*(c for c in CODE_POINTS if 0x300 <= c < 0x20000), *range(0x2F800, 0x2FA20)]:
        character = chr(point)
        probes = (character, "a" + character + "\u0334", "a\u0345" + character, character + "\u0301", "a" + character + "\u0301",
                  "\uac00" + character)
        if any(oracle.normalize_str(probe) != normalise(library, "utf8proc_NFC", probe) for probe in probes):
            different.add(point)
        parts = normalise(library, "utf8proc_NFD", character)
        if parts != character and oracle.normalize_str(parts) != normalise(library, "utf8proc_NFC", parts):
            different.update({point, *map(ord, parts)})
    return sorted(different)


def main():
    pcre2, utf8proc = load_pcre2(), load_utf8proc()
    oracle, linked = oracle_categories(), linked_categories(pcre2)
    changed = [c for c in CODE_POINTS if oracle.get(c) != linked.get(c)]
    # PCRE2 counts U+180E as a space; Oniguruma and the White_Space property do not.
    changed = sorted({*changed, 0x180E})
    print("// Made by tools/oracles/tokenizer_unicode.py; do not edit.")
    print(f"// Oracle: tokenizers {tokenizers.__version__}. Linked: PCRE2 {pcre2_version(pcre2, 11)}, Unicode "
          f"{pcre2_version(pcre2, 10)}; utf8proc, Unicode {utf8proc.utf8proc_unicode_version().decode()}.")
    print('#include "text/unicode_tables.h"\n\nnamespace weir {\nnamespace {\n')
    print("constexpr CategoryChange kCategoryChanges[] = {")
    for first, last, category in ranges(changed, oracle.get):
        print(f"    {{0x{first:05X}, 0x{last:05X}, GeneralCategory::k{category}}},")
    print("};\n\nconstexpr CodePointRange kNfcBarriers[] = {")
    for first, last, _ in ranges(nfc_barriers(utf8proc), lambda point: None):
        print(f"    {{0x{first:05X}, 0x{last:05X}}},")
    print("};\n\n}  // namespace\n")
    print("std::span<const CategoryChange> category_changes() { return kCategoryChanges; }")
    print("std::span<const CodePointRange> nfc_barriers() { return kNfcBarriers; }\n\n}  // namespace weir")


if __name__ == "__main__":
    main()
