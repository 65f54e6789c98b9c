#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/utf8.hpp"
#include "offsite/data/unicode_compositions.hpp"
#include "offsite/data/unicode_decompositions.hpp"

namespace offsite {

namespace detail {

/// What composing needs to know of a code point: its combining class, or `kMayChange` for class 0 where NFC may
/// replace it or join it to what stands before it. 0 is a boundary: what follows never changes what precedes.
inline constexpr std::uint8_t kMayChange = 255;

inline constexpr std::uint32_t kHangulFirst = 0xac00, kHangulLeads = 0x1100, kHangulVowels = 0x1161,
                               kHangulTails = 0x11a7;
inline constexpr std::uint32_t kHangulVowelCount = 21, kHangulTailCount = 28, kHangulCount = 11172;

/// One byte for every code point; made at the first text that is not Latin.
inline const std::vector<std::uint8_t>& combining_classes() {
  static const std::vector<std::uint8_t> classes = [] {
    std::vector<std::uint8_t> all(0x110000);
    for (const Replacement& entry : kReplacements) all[entry.from] = kMayChange;
    for (const Decomposition& entry : kDecompositions) all[entry.whole] = kMayChange;
    for (const Composition& entry : kCompositions) all[entry.second] = kMayChange;
    for (std::uint32_t i = 0; i < kHangulVowelCount; ++i) all[kHangulVowels + i] = kMayChange;
    for (std::uint32_t i = 1; i < kHangulTailCount; ++i) all[kHangulTails + i] = kMayChange;
    for (const CombiningRun& run : kCombiningRuns)
      for (std::uint32_t c = run.first; c <= run.last; ++c) all[c] = run.combining_class;
    return all;
  }();
  return classes;
}

inline std::uint8_t combining_class(std::uint32_t c) {
  const std::uint8_t value = c < 0x300 ? std::uint8_t{0} : combining_classes()[c];
  return value == kMayChange ? std::uint8_t{0} : value;
}

/// Finds `c` among entries that are sorted by `member`; null if it is not there.
template <class Table, class Entry>
const Entry* find_entry(const Table& table, std::uint32_t Entry::*member, std::uint32_t c) {
  const auto found =
      std::lower_bound(table.begin(), table.end(), c,
                       [&](const Entry& entry, std::uint32_t key) { return entry.*member < key; });
  return found != table.end() && (*found).*member == c ? &*found : nullptr;
}

/// Appends the canonical decomposition of `c`.
inline void append_decomposed(std::vector<std::uint32_t>& out, std::uint32_t c) {
  if (c < 0xc0) {
    out.push_back(c);
  } else if (kHangulFirst <= c && c < kHangulFirst + kHangulCount) {
    const std::uint32_t index = c - kHangulFirst, tail = index % kHangulTailCount;
    out.push_back(kHangulLeads + index / (kHangulVowelCount * kHangulTailCount));
    out.push_back(kHangulVowels + index / kHangulTailCount % kHangulVowelCount);
    if (tail != 0) out.push_back(kHangulTails + tail);
  } else if (const auto* pair = find_entry(kCompositions, &Composition::whole, c)) {
    append_decomposed(out, pair->first);  // at most three times within each other
    out.push_back(pair->second);
  } else if (const auto* one = find_entry(kReplacements, &Replacement::from, c)) {
    out.push_back(one->to);
  } else if (const auto* several = find_entry(kDecompositions, &Decomposition::whole, c)) {
    for (const std::uint32_t part : several->parts)
      if (part != 0) out.push_back(part);
  } else {
    out.push_back(c);
  }
}

/// Compositions by what they are made of: first << 32 | second, and the whole.
inline const std::vector<std::pair<std::uint64_t, std::uint32_t>>& compositions_by_parts() {
  static const std::vector<std::pair<std::uint64_t, std::uint32_t>> sorted = [] {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> all;
    all.reserve(kCompositions.size());
    for (const Composition& entry : kCompositions)
      all.emplace_back(static_cast<std::uint64_t>(entry.first) << 32 | entry.second, entry.whole);
    std::sort(all.begin(), all.end());
    return all;
  }();
  return sorted;
}

/// What `first` and `second` make together, or 0.
inline std::uint32_t composed(std::uint32_t first, std::uint32_t second) {
  if (kHangulLeads <= first && first < kHangulLeads + 19 && kHangulVowels <= second &&
      second < kHangulVowels + kHangulVowelCount)
    return kHangulFirst +
           ((first - kHangulLeads) * kHangulVowelCount + (second - kHangulVowels)) * kHangulTailCount;
  if (kHangulFirst <= first && first < kHangulFirst + kHangulCount &&
      (first - kHangulFirst) % kHangulTailCount == 0 && kHangulTails < second &&
      second < kHangulTails + kHangulTailCount)
    return first + (second - kHangulTails);
  const auto& all = compositions_by_parts();
  const std::pair<std::uint64_t, std::uint32_t> wanted{static_cast<std::uint64_t>(first) << 32 | second, 0};
  const auto found = std::lower_bound(all.begin(), all.end(), wanted);
  return found != all.end() && found->first == wanted.first ? found->second : 0;
}

/// Appends `points`, the decomposition of a stretch between two boundaries, put in order and composed.
inline void append_composed(std::string& out, std::vector<std::uint32_t>& points) {
  for (auto run = points.begin(); run != points.end();) {
    const auto is_mark = [](std::uint32_t c) { return combining_class(c) != 0; };
    const auto begin = std::find_if(run, points.end(), is_mark);
    run = std::find_if_not(begin, points.end(), is_mark);
    std::stable_sort(
        begin, run, [](std::uint32_t a, std::uint32_t b) { return combining_class(a) < combining_class(b); });
  }
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::size_t starter = kNone, kept = 0;
  std::uint8_t last_class = 0;  // of the last code point kept after the starter
  for (const std::uint32_t c : points) {
    const std::uint8_t now = combining_class(c);
    // A mark reaches the starter unless one of its own class or a higher one stands between them.
    const bool reaches = starter != kNone && (starter + 1 == kept || last_class < now);
    if (const std::uint32_t whole = reaches ? composed(points[starter], c) : 0) {
      points[starter] = whole;
      continue;
    }
    if (now == 0) starter = kept;
    last_class = now;
    points[kept++] = c;
  }
  for (std::size_t i = 0; i < kept; ++i) append_utf8(out, points[i]);
}

}  // namespace detail

/// Whether `text` certainly is its own NFC; Latin text is told at the speed of reading.
[[nodiscard]] inline bool is_surely_nfc(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0xcc) {  // below U+0300, or the second byte of such
      at += 1;
      continue;
    }
    const CodePoint point = first_code_point(text.substr(at));
    if (point.bytes != 0 && detail::combining_classes()[point.value] != 0) return false;
    at += std::max<std::size_t>(point.bytes, 1);
  }
  return true;
}

/// `text` in Unicode's normalisation form C (Unicode Standard Annex #15), of the edition that Hugging Face's
/// tokenizers knows. Bytes that are no UTF-8 stay as they are and join nothing.
[[nodiscard]] inline std::string nfc(std::string_view text) {
  if (is_surely_nfc(text)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  std::vector<std::uint32_t> points;
  std::size_t last = 0;  // where the last code point begins that is a boundary
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = first_code_point(text.substr(at));
    if (point.bytes == 0 || point.value < 0x300 || detail::combining_classes()[point.value] == 0) {
      out.append(text, last, at - last);
      last = at;
      at += std::max<std::size_t>(point.bytes, 1);
      if (point.bytes == 0) {
        out += text[last];
        last = at;
      }
      continue;
    }
    points.clear();
    for (at = last; at < text.size();) {
      const CodePoint next = first_code_point(text.substr(at));
      if (next.bytes == 0) break;
      const bool boundary = next.value < 0x300 || detail::combining_classes()[next.value] == 0;
      if (boundary && at != last) break;
      detail::append_decomposed(points, next.value);
      at += next.bytes;
    }
    detail::append_composed(out, points);
    last = at;
  }
  out.append(text, last);
  return out;
}

}  // namespace offsite
