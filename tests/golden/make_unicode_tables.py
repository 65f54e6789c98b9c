"""Writes include/offsite/data/unicode_tables.hpp: the character classes that Hugging Face's tokenizers sees.

Every code point is put to the library itself (its regular expressions for \\p{L}, \\p{N} and \\s, an added
token with single_word for word characters): the tables follow the reference, not some edition of Unicode.

    pip install tokenizers==0.23.3
    python tests/golden/make_unicode_tables.py
"""

import pathlib

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

LETTER, NUMBER, SPACE, WORD = 1, 2, 3, 4  # the two low bits are the class, the third says "word character"
COLUMNS = 110


def code_points():
    """All but the surrogates, which no UTF-8 text holds."""
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def matching(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return {c for c in code_points() if len(split.pre_tokenize_str(chr(c) + "!")) == 2}


def word_characters():
    tokenizer = Tokenizer(models.BPE(vocab={"!": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken("!!", single_word=True)])
    marker = tokenizer.token_to_id("!!")
    assert tokenizer.encode("!!").ids == [marker]
    before = {c for c in code_points() if marker not in tokenizer.encode(chr(c) + "!!").ids}
    after = {c for c in code_points() if marker not in tokenizer.encode("!!" + chr(c)).ids}
    assert before == after
    return before


def main():
    letters, numbers, spaces = (matching(pattern) for pattern in (r"\p{L}", r"\p{N}", r"\s"))
    words = word_characters()
    assert not (letters & numbers or letters & spaces or numbers & spaces)

    changes, kind = [], -1
    for c in range(0x110000):
        now = LETTER if c in letters else NUMBER if c in numbers else SPACE if c in spaces else 0
        now |= WORD if c in words else 0
        if now != kind:
            changes.append(f"{{{c:#x}, {now}}},")
            kind = now

    lines = [
        "#pragma once",
        f"// Written by tests/golden/make_unicode_tables.py (tokenizers {tokenizers.__version__}).",
        "#include <array>",
        "#include <cstdint>",
        "",
        "namespace offsite::detail {",
        "",
        "/// From `first` up to the next entry's, code points are of this kind: bits 0 and 1 hold the class",
        "/// (1 letter, 2 number, 3 white space), bit 2 tells a word character.",
        "struct KindChange {",
        "  std::uint32_t first;",
        "  std::uint8_t kind;",
        "};",
        "",
        "// clang-format off",
        f"inline constexpr std::array<KindChange, {len(changes)}> kKindChanges{{{{",
    ]
    line = " "
    for change in changes:
        if len(line) + 1 + len(change) > COLUMNS:
            lines.append(line)
            line = " "
        line += " " + change
    lines += [line, "}};", "// clang-format on", "", "}  // namespace offsite::detail", ""]
    root = pathlib.Path(__file__).resolve().parents[2]
    (root / "include/offsite/data/unicode_tables.hpp").write_text("\n".join(lines))
    print(f"{len(letters)} letters, {len(numbers)} numbers, {len(spaces)} spaces, {len(words)} of words")


if __name__ == "__main__":
    main()
