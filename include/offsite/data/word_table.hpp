#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace offsite::detail {

/// Hashes a string or a view of one alike, so that a map of strings finds views without a copy.
struct StringHash : std::hash<std::string_view> {
  using is_transparent = void;
};

using StringMap = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

/// Ids of whole words. Words up to 16 bytes, nearly all there are, are compared as two integers.
class WordTable {
 public:
  /// Makes room for `words` words.
  explicit WordTable(std::size_t words = 0)
      : slots_(std::bit_ceil(2 * words + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  /// Adds a word that is not empty; at most as many as the constructor was told.
  void insert(std::string_view word, std::int32_t id) {
    if (word.size() > kShort) {
      long_words_.emplace(word, id);
      return;
    }
    const Key key = key_of(word);
    slots_[slot_of(key, word.size())] = {key, id, static_cast<std::uint32_t>(word.size())};
  }

  /// The word's id, or -1.
  [[nodiscard]] std::int32_t find(std::string_view word) const {
    if (word.size() <= kShort) return slots_[slot_of(key_of(word), word.size())].id;
    if (long_words_.empty()) return -1;
    const auto found = long_words_.find(word);
    return found == long_words_.end() ? -1 : found->second;
  }

 private:
  static constexpr std::size_t kShort = 16;

  struct Key {
    std::uint64_t head = 0, tail = 0;
    bool operator==(const Key&) const = default;
  };
  struct Slot {
    Key key;
    std::int32_t id = -1;
    std::uint32_t bytes = 0;  // 0: free
  };
  template <class Integer>
  static std::uint64_t load(const char* from) {
    Integer value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  /// With the length, the key tells all bytes of 1 to 16: the two loads overlap in the middle.
  static Key key_of(std::string_view word) {
    const char* begin = word.data();
    const std::size_t size = word.size();
    if (size >= 8) return {load<std::uint64_t>(begin), load<std::uint64_t>(begin + size - 8)};
    if (size >= 4) return {load<std::uint32_t>(begin) | load<std::uint32_t>(begin + size - 4) << 32, 0};
    return {load<std::uint8_t>(begin) | load<std::uint8_t>(begin + size / 2) << 8 |
                load<std::uint8_t>(begin + size - 1) << 16,
            0};
  }

  std::size_t slot_of(const Key& key, std::size_t bytes) const {
    std::uint64_t mixed =
        (key.head ^ std::rotl(key.tail * 0xc2b2ae3d27d4eb4fu, 31) ^ bytes) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 32) * 0x9e3779b97f4a7c15u;
    std::size_t slot = static_cast<std::size_t>(mixed >> shift_);
    while (slots_[slot].bytes != 0 && !(slots_[slot].key == key && slots_[slot].bytes == bytes))
      slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  std::vector<Slot> slots_;  // open addressing, at most half full
  int shift_;                // 64 - log2(slots)
  StringMap long_words_;
};

}  // namespace offsite::detail
