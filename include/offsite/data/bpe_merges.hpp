#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace offsite {

/// A merge rule: neighbours `left` and `right` become `merged`. Ids are not negative.
struct BpeMerge {
  std::int32_t left = 0;
  std::int32_t right = 0;
  std::int32_t merged = 0;
};

/// The merge rules of a byte-pair encoding, applied lowest rank first and from left to right among equals.
///
/// Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (arXiv:1508.07909).
class BpeMerges {
 public:
  BpeMerges() : BpeMerges(std::span<const BpeMerge>{}) {}

  /// Takes the rules in order of rank; of two rules for one pair the later holds, as in Hugging Face's.
  explicit BpeMerges(std::span<const BpeMerge> by_rank)
      : slots_(std::bit_ceil(2 * by_rank.size() + 2)), shift_(64 - std::countr_zero(slots_.size())) {
    for (std::size_t rank = 0; rank < by_rank.size(); ++rank) {
      const BpeMerge& rule = by_rank[rank];
      Slot& slot = slots_[slot_of(key_of(rule.left, rule.right))];
      slot = {key_of(rule.left, rule.right), {static_cast<std::uint32_t>(rank), rule.merged}};
    }
  }

  /// Appends to `out` what remains of `symbols` when no rule applies any more: O(n log n) for long words.
  void apply(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& out) const {
    if (symbols.size() <= kShort)
      apply_short(symbols, out);
    else
      apply_long(symbols, out);
  }

 private:
  static constexpr std::size_t kShort = 48;  // beyond it a heap is faster than scanning for the lowest rank
  static constexpr std::uint32_t kNoRule = std::numeric_limits<std::uint32_t>::max();
  static constexpr std::uint64_t kFree =
      std::numeric_limits<std::uint64_t>::max();  // no key: ids are not negative

  struct Outcome {
    std::uint32_t rank = kNoRule;
    std::int32_t merged = -1;
  };
  struct Slot {
    std::uint64_t key = kFree;
    Outcome outcome;
  };
  struct Node {
    std::int32_t symbol;
    std::size_t previous, next;
  };
  struct Candidate {
    Outcome outcome;
    std::int32_t left, right;
    std::size_t at;
  };

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }

  std::size_t slot_of(std::uint64_t key) const {
    const std::uint64_t mixed =
        (key ^ key >> 29) * 0x9e3779b97f4a7c15u;  // golden ratio; the high bits are the good ones
    std::size_t slot = static_cast<std::size_t>(mixed >> shift_);
    while (slots_[slot].key != key && slots_[slot].key != kFree) slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  Outcome find(std::int32_t left, std::int32_t right) const {
    return slots_[slot_of(key_of(left, right))].outcome;
  }

  void apply_short(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& out) const {
    std::array<std::int32_t, kShort> rest;
    std::array<Outcome, kShort> outcome;  // [i] is that of the pair (i, i + 1)
    std::size_t size = symbols.size();
    std::copy(symbols.begin(), symbols.end(), rest.begin());
    for (std::size_t i = 0; i + 1 < size; ++i) outcome[i] = find(rest[i], rest[i + 1]);

    while (size > 1) {
      std::size_t best = 0;
      for (std::size_t i = 1; i + 1 < size; ++i)
        if (outcome[i].rank < outcome[best].rank) best = i;
      if (outcome[best].rank == kNoRule) break;

      rest[best] = outcome[best].merged;
      size -= 1;
      for (std::size_t i = best + 1; i < size; ++i) {
        rest[i] = rest[i + 1];
        outcome[i - 1] = outcome[i];
      }
      if (best > 0) outcome[best - 1] = find(rest[best - 1], rest[best]);
      if (best + 1 < size) outcome[best] = find(rest[best], rest[best + 1]);
    }
    out.insert(out.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(size));
  }

  void apply_long(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& out) const {
    constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
    const auto comes_later = [](const Candidate& a, const Candidate& b) {
      return a.outcome.rank != b.outcome.rank ? a.outcome.rank > b.outcome.rank : a.at > b.at;
    };
    std::vector<Node> nodes(symbols.size());
    std::vector<Candidate> heap;
    const auto offer = [&](std::size_t at) {
      if (at == kNone || nodes[at].next == kNone) return false;
      const std::int32_t left = nodes[at].symbol;
      const std::int32_t right = nodes[nodes[at].next].symbol;
      const Outcome outcome = find(left, right);
      if (outcome.rank != kNoRule) heap.push_back({outcome, left, right, at});
      return outcome.rank != kNoRule;
    };

    for (std::size_t i = 0; i < nodes.size(); ++i)
      nodes[i] = {symbols[i], i == 0 ? kNone : i - 1, i + 1 == nodes.size() ? kNone : i + 1};
    for (std::size_t i = 0; i < nodes.size(); ++i) offer(i);
    std::make_heap(heap.begin(), heap.end(), comes_later);

    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), comes_later);
      const Candidate best = heap.back();
      heap.pop_back();
      Node& node = nodes[best.at];
      // Earlier merges may have taken one of the two: a node that is gone has the symbol -1.
      if (node.symbol != best.left || node.next == kNone || nodes[node.next].symbol != best.right) continue;

      Node& gone = nodes[node.next];
      node.symbol = best.outcome.merged;
      node.next = gone.next;
      if (gone.next != kNone) nodes[gone.next].previous = best.at;
      gone.symbol = -1;
      if (offer(best.at)) std::push_heap(heap.begin(), heap.end(), comes_later);
      if (offer(node.previous)) std::push_heap(heap.begin(), heap.end(), comes_later);
    }
    for (std::size_t at = 0; at != kNone; at = nodes[at].next) out.push_back(nodes[at].symbol);
  }

  std::vector<Slot> slots_;  // open addressing, at most half full
  int shift_;                // 64 - log2(slots)
};

}  // namespace offsite
