"""Writes the tables of include/offsite/data/nfc.hpp: Unicode's canonical forms as Hugging Face's tokenizers sees them.

Every code point is put to the library itself (its NFC and NFD normalisers): the tables follow the reference, not some
edition of Unicode. Python's unicodedata only gives one mark for each combining class, with which the others are compared.

    pip install tokenizers==0.23.3
    python tests/golden/make_normalization_tables.py
"""

import pathlib
import unicodedata

import tokenizers
from tokenizers import normalizers

COLUMNS = 110
DATA = pathlib.Path(__file__).resolve().parents[2] / "include/offsite/data"
nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
HANGUL = range(0xAC00, 0xD7A4)


def code_points():
    """All but the surrogates, which no UTF-8 text holds."""
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def combining_classes():
    """{code point: class} of all whose class is not 0: a mark moves before another of a higher class, never past 0."""
    def moves(first, second):
        return first != second and nfd("a" + first + second) == "a" + second + first

    marks = {}
    for c in map(chr, range(0x300, 0x20000)):
        known = unicodedata.combining(c)
        below, above = "\u0316", "\u0301"  # classes 220 and 230
        if known and nfd(c) == c and (moves(above, c) or moves(c, below)):  # the library may not know it yet
            marks.setdefault(known, c)
    order = sorted(marks)

    low, high = marks[order[0]], marks[order[-1]]
    found = {}
    for c in map(chr, code_points()):
        if nfd(c) != c or not (moves(high, c) or moves(c, low)):
            continue
        equal = [k for k in order if not moves(c, marks[k]) and not moves(marks[k], c)]
        assert len(equal) == 1, (hex(ord(c)), equal)
        found[ord(c)] = equal[0]
    return found


def table(lines, type_name, name, entries, comment):
    lines += [f"/// {text}" for text in comment]
    lines += ["// clang-format off", f"inline constexpr std::array<{type_name}, {len(entries)}> {name}{{{{"]
    line = " "
    for entry in entries:
        if len(line) + 1 + len(entry) > COLUMNS:
            lines.append(line)
            line = " "
        line += " " + entry
    lines += [line, "}};", "// clang-format on", ""]


def header(structs):
    return ["#pragma once",
            f"// Written by tests/golden/make_normalization_tables.py (tokenizers {tokenizers.__version__}).",
            "#include <array>", "#include <cstdint>", "", "namespace offsite::detail {", "", *structs, ""]


def main():
    pairs, others = [], []
    for c in code_points():
        parts = nfd(chr(c))
        if parts == chr(c) or c in HANGUL:
            continue
        if nfc(chr(c)) == chr(c):
            first, second = nfc(parts[:-1]), parts[-1]
            assert len(first) == 1 and nfc(first + second) == chr(c), hex(c)
            pairs.append((c, ord(first), ord(second)))
        else:
            assert len(parts) <= 4
            others.append((c, [ord(p) for p in parts]))
    assert all(nfd(nfc(chr(c))) == nfd(chr(c)) for c, _ in others)

    lines = header(["/// `whole` is `first` and `second` put together, the shortest form of the two.",
                    "struct Composition {", "  std::uint32_t whole, first, second;", "};"])
    table(lines, "Composition", "kCompositions", ["{%d,%d,%d}," % pair for pair in pairs],
          ["All primary composites but Hangul's, by `whole`."])
    lines += ["}  // namespace offsite::detail", ""]
    (DATA / "unicode_compositions.hpp").write_text("\n".join(lines))

    single = [(c, p[0]) for c, p in others if len(p) == 1]
    several = [(c, p + [0] * (4 - len(p))) for c, p in others if len(p) > 1]
    runs = []  # neighbours with one class
    for c, k in sorted(combining_classes().items()):
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == k:
            runs[-1][1] = c
        else:
            runs.append([c, c, k])
    lines = header(["/// A code point that never stays, and the one that stands for it.",
                    "struct Replacement {", "  std::uint32_t from, to;", "};", "",
                    "/// A code point that always falls apart, into those of `parts` that are not 0.",
                    "struct Decomposition {", "  std::uint32_t whole;", "  std::uint32_t parts[4];", "};", "",
                    "/// From `first` to `last`, code points have this combining class, which is not 0.",
                    "struct CombiningRun {", "  std::uint32_t first, last;", "  std::uint8_t combining_class;",
                    "};"])
    table(lines, "Replacement", "kReplacements", ["{%d,%d}," % pair for pair in single], ["By `from`."])
    table(lines, "Decomposition", "kDecompositions",
          ["{%d,{%s}}," % (c, ",".join(map(str, p))) for c, p in several], ["By `whole`."])
    table(lines, "CombiningRun", "kCombiningRuns", ["{%d,%d,%d}," % tuple(run) for run in runs], ["By `first`."])
    lines += ["}  // namespace offsite::detail", ""]
    (DATA / "unicode_decompositions.hpp").write_text("\n".join(lines))
    print(f"{len(pairs)} pairs, {len(single)} replacements, {len(several)} decompositions, {len(runs)} runs of marks")


if __name__ == "__main__":
    main()
