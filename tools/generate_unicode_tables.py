"""Writes csrc/text/unicode_tables.cpp from what the `tokenizers` library itself does, code point by code point.

The regular expressions and the normalizer of `tokenizers` carry their own versions of Unicode, which differ from
Python's, so every class is asked from the library: general categories and white space of its split patterns, word
characters of its added tokens, combining classes, decompositions and compositions of its NFC.

    python tools/generate_unicode_tables.py csrc/text/unicode_tables.cpp
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

SURROGATES = range(0xD800, 0xE000)
CODE_POINTS = [code for code in range(0x110000) if code not in SURROGATES]
HANGUL = range(0xAC00, 0xAC00 + 11172)
BLOCK = 128
OTHER, LETTER, NUMBER, SPACE = range(4)
WORD, NORMALIZES, REBUILDS = 4, 8, 16
CATEGORIES = [
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
    "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn",
]  # fmt: skip
WHITE_CONTROL = len(CATEGORIES)
"""The category of the control characters that are white space, so that \\s is a union of categories."""

NFC, NFD = normalizers.NFC(), normalizers.NFD()


def matching(pattern: str) -> set[int]:
    """Code points that the library's split engine matches with ``pattern``; ``pattern`` is given negated."""
    remove = normalizers.Replace(Regex(pattern), "")
    chunks = range(0, len(CODE_POINTS), 20000)
    return {
        ord(character)
        for at in chunks
        for character in remove.normalize_str("".join(map(chr, CODE_POINTS[at : at + 20000])))
    }


def categories(spaces: set[int]) -> list[int]:
    """The general category of every code point, as the place of its name in CATEGORIES; surrogates have that of Cn."""
    result = [CATEGORIES.index("Cn")] * 0x110000
    for number, name in enumerate(CATEGORIES[:-1]):
        for code in matching(rf"\P{{{name}}}"):
            assert result[code] == CATEGORIES.index("Cn"), f"U+{code:04X} is in two categories"
            result[code] = WHITE_CONTROL if name == "Cc" and code in spaces else number
    white = {CATEGORIES.index(name) for name in ("Zs", "Zl", "Zp")} | {WHITE_CONTROL}
    assert spaces == {code for code in CODE_POINTS if result[code] in white}
    return result


def word_characters() -> set[int]:
    """Code points that stop a `single_word` added token from matching."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken("<x>", single_word=True, normalized=False)])
    return {code for code in CODE_POINTS if 1 not in tokenizer.encode("<x>" + chr(code)).ids}


def combining_classes() -> dict[int, int]:
    """Canonical combining class of every code point that the library reorders; only the order of values matters."""

    def swaps(first: str, second: str) -> bool:
        return first != second and NFD.normalize_str("a" + first + second) == "a" + second + first

    references: dict[int, str] = {}
    for code in CODE_POINTS:
        value, character = unicodedata.combining(chr(code)), chr(code)
        known = swaps(character, "\u0334") or swaps("\u0345", character)  # the smallest and the largest class
        if value and known:
            references.setdefault(value, character)
    values = sorted(references)
    classes = {}
    lowest, highest = references[values[0]], references[values[-1]]
    for code in CODE_POINTS:
        character = chr(code)
        if NFD.normalize_str(character) != character:
            continue
        if swaps(character, lowest) or swaps(highest, character):
            below = sum(swaps(character, references[value]) for value in values)
            above = sum(swaps(references[value], character) for value in values)
            assert below + above + 1 == len(values), f"U+{code:04X} has a combining class without a reference"
            classes[code] = values[below]
    return classes


def decompositions() -> dict[int, list[int]]:
    """Full canonical decomposition of every code point that has one, Hangul syllables excepted."""
    result = {}
    for code in CODE_POINTS:
        parts = NFD.normalize_str(chr(code))
        if parts != chr(code) and code not in HANGUL:
            result[code] = list(map(ord, parts))
    return result


def compositions(decomposed: dict[int, list[int]]) -> dict[tuple[int, int], int]:
    """Pairs that NFC puts together, Hangul excepted."""
    pairs = {}
    for code, parts in decomposed.items():
        if NFC.normalize_str(chr(code)) != chr(code):
            continue
        first = NFC.normalize_str("".join(map(chr, parts[:-1])))
        assert len(first) == 1 and NFC.normalize_str(first + chr(parts[-1])) == chr(code), f"U+{code:04X}"
        pairs[ord(first), parts[-1]] = code
    return pairs


def two_stages(values: list[int]) -> tuple[list[int], list[int]]:
    """(block number per block of BLOCK code points, the distinct blocks one after another)."""
    blocks: dict[tuple[int, ...], int] = {}
    index = [blocks.setdefault(tuple(values[at : at + BLOCK]), len(blocks)) for at in range(0, len(values), BLOCK)]
    return index, [value for block in blocks for value in block]


def array(kind: str, name: str, values: list[int]) -> str:
    """A C++ array definition, wrapped at 110 columns."""
    lines, line = [], " "
    for value in values:
        item = f" {value},"
        if len(line) + len(item) > 110:
            lines.append(line)
            line = " "
        line += item
    return f"const {kind} {name}[{len(values)}] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def main(target: str) -> None:
    """Ask the library everything and write the tables."""
    letters, numbers, spaces = matching(r"[^\p{L}]"), matching(r"[^\p{N}]"), matching(r"\S")
    words, classes, decomposed = word_characters(), combining_classes(), decompositions()
    pairs = compositions(decomposed)
    category_index, category_blocks = two_stages(categories(spaces))
    seconds = {second for _, second in pairs} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    changed = {code for code in CODE_POINTS if NFC.normalize_str(chr(code)) != chr(code)}

    def properties(code: int) -> int:
        kind = LETTER if code in letters else NUMBER if code in numbers else SPACE if code in spaces else OTHER
        rebuilds = code in changed or code in seconds
        return kind + WORD * (code in words) + NORMALIZES * (rebuilds or code in classes) + REBUILDS * rebuilds

    property_index, property_blocks = two_stages([properties(code) for code in range(0x110000)])
    class_index, class_blocks = two_stages([classes.get(code, 0) for code in range(0x110000)])
    keys = sorted(decomposed)
    offsets, flat = [0], []
    for key in keys:
        flat += decomposed[key]
        offsets.append(len(flat))
    ordered = sorted(pairs)
    assert len(property_blocks) // BLOCK < 65536
    Path(target).write_text(
        f"// Generated by tools/generate_unicode_tables.py from tokenizers {tokenizers.__version__}; do not edit.\n"
        '#include "text/unicode.h"\n\nnamespace ettin {\n\n'
        + array("uint16_t", "property_index", property_index)
        + array("uint8_t", "property_blocks", property_blocks)
        + array("uint16_t", "category_index", category_index)
        + array("uint8_t", "category_blocks", category_blocks)
        + array("uint16_t", "combining_index", class_index)
        + array("uint8_t", "combining_blocks", class_blocks)
        + f"const size_t decomposition_count = {len(keys)};\n"
        + array("uint32_t", "decomposition_keys", keys)
        + array("uint16_t", "decomposition_offsets", offsets)
        + array("uint32_t", "decomposition_values", flat)
        + f"const size_t composition_count = {len(ordered)};\n"
        + array("uint64_t", "composition_pairs", [first << 32 | second for first, second in ordered])
        + array("uint32_t", "composition_values", [pairs[pair] for pair in ordered])
        + "\n}  // namespace ettin\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
