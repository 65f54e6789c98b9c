#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/core/random.hpp"
#include "offsite/core/sequences.hpp"
#include "offsite/data/sample.hpp"
#include "offsite/io/xxh64.hpp"

namespace offsite {

/// Gives a prefix cache `size` bytes to keep: zeros, or what an earlier cache of the same `identity` left in them.
/// Empty = memory; `prefix_files_in(folder)` makes one that maps files.
using PrefixStore = std::function<std::shared_ptr<std::byte>(
    std::span<const std::span<const std::byte>> identity, std::size_t size)>;

/// Hidden rows of samples below the first trained block: nothing there changes, so each is computed once.
///
/// Samples are computed in groups, neighbours in the data up to 512 rows, whatever batch asks for one of them. A row's
/// bits depend on its group alone, so a resumed run sees the same; the rows of a batch that is computed as a whole may
/// differ in their last bits, since LibTorch's products sum by shape. Samples are known by their tokens.
class PrefixCache {
 public:
  /// Hidden rows (N, C) of the token ids (N) of sequences: the frozen blocks' pass.
  using Compute = std::function<at::Tensor(const at::Tensor& ids, const Sequences& sequences)>;

  /// Room for the first samples whose rows fit; nothing is computed yet.
  /// \param row_bytes  of one hidden row
  /// \param limit      bytes in all, > 0
  /// \param open       where the rows lie. \throws what it throws
  PrefixCache(std::span<const Sample> samples, std::int64_t row_bytes, std::int64_t limit,
              const std::function<std::shared_ptr<std::byte>(std::size_t size)>& open = zeroed)
      : row_bytes_(row_bytes), limit_(limit) {
    require(row_bytes > 0 && limit > 0, "a prefix cache of {} bytes for rows of {} bytes was asked for",
            limit, row_bytes);
    divide(samples);
    size_ = static_cast<std::size_t>(data_begin() + row_begins_.back() * row_bytes_);
    if (groups() == 0) return;
    for (std::int64_t i = 0; i < kept(); ++i) {
      const auto tokens = tokens_of(i);
      places_.emplace_back(xxh64(std::as_bytes(tokens)), i);
    }
    std::sort(places_.begin(), places_.end());
    ready_.assign(static_cast<std::size_t>(groups()), false);
    memory_ = open(size_);
  }

  /// Whether it was made of these samples and this limit.
  [[nodiscard]] bool serves(std::span<const Sample> samples, std::int64_t limit) const {
    return limit == limit_ && given_ == hash_of(samples);
  }
  [[nodiscard]] std::int64_t kept() const {  ///< samples that it has room for
    return static_cast<std::int64_t>(row_begins_.size()) - 1;
  }
  [[nodiscard]] std::size_t size() const { return size_; }                ///< bytes
  [[nodiscard]] std::int64_t rows_computed() const { return computed_; }  ///< so far, in this process

  /// Hidden rows (N, C) of a batch. What it has no room for is computed, all of it in one pass.
  /// \param ids  (N) int64
  [[nodiscard]] at::Tensor rows(const at::Tensor& ids, const Sequences& s, const Compute& compute) {
    require(s.parents.empty(), "a prefix cache was given sequences with parents, but it keeps whole samples");
    std::vector<std::int64_t> places, missing;
    const std::span all(ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel()));
    for (std::int64_t i = 0; i < s.count(); ++i) {
      places.push_back(
          find(all.subspan(static_cast<std::size_t>(s.begin(i)), static_cast<std::size_t>(s.length(i)))));
      if (places.back() < 0)
        missing.push_back(i);
      else
        make_ready(group_of_[static_cast<std::size_t>(places.back())], compute);
    }
    const at::Tensor rest = missing.empty() ? at::Tensor{} : rest_of(all, s, missing, compute);
    if (static_cast<std::int64_t>(missing.size()) == s.count()) return rest;

    at::Tensor h = at::empty({s.rows(), width_}, options_);
    auto* to = static_cast<std::byte*>(h.mutable_data_ptr());
    const auto* computed = rest.defined() ? static_cast<const std::byte*>(rest.const_data_ptr()) : nullptr;
    for (std::int64_t i = 0; i < s.count(); ++i) {
      const auto bytes = static_cast<std::size_t>(s.length(i) * row_bytes_);
      const auto place = places[static_cast<std::size_t>(i)];
      std::memcpy(to + s.begin(i) * row_bytes_, place < 0 ? computed : row(place), bytes);
      if (place < 0) computed += bytes;
    }
    return h;
  }

  /// Memory that the system hands out as it is touched.
  [[nodiscard]] static std::shared_ptr<std::byte> zeroed(std::size_t size) {
    auto* memory = static_cast<std::byte*>(std::calloc(size, 1));
    require(memory != nullptr, "a prefix cache asks for {} bytes, but the system has not so many", size);
    return {memory, [](std::byte* p) { std::free(p); }};
  }

 private:
  static constexpr std::int64_t kGroupRows = 512;  // enough for products at full speed, few to wait for

  // Memory: a checksum a group, 0 = not computed yet; then the rows of all samples kept.
  [[nodiscard]] std::int64_t groups() const { return static_cast<std::int64_t>(group_begins_.size()) - 1; }
  [[nodiscard]] std::int64_t data_begin() const { return (8 * groups() + 63) / 64 * 64; }
  [[nodiscard]] std::byte* row(std::int64_t sample) const {
    return memory_.get() + data_begin() + row_begins_[static_cast<std::size_t>(sample)] * row_bytes_;
  }
  [[nodiscard]] std::uint64_t& checksum(std::int64_t group) const {
    return reinterpret_cast<std::uint64_t*>(memory_.get())[group];
  }
  [[nodiscard]] std::span<std::byte> bytes_of(std::int64_t group) const {
    auto* begin = row(group_begins_[static_cast<std::size_t>(group)]);
    return {begin, row(group_begins_[static_cast<std::size_t>(group) + 1])};
  }
  [[nodiscard]] std::span<const std::int64_t> tokens_of(std::int64_t sample) const {
    const auto begin = row_begins_[static_cast<std::size_t>(sample)];
    return std::span(tokens_).subspan(
        static_cast<std::size_t>(begin),
        static_cast<std::size_t>(row_begins_[static_cast<std::size_t>(sample) + 1] - begin));
  }

  void divide(std::span<const Sample> samples) {
    given_ = hash_of(samples);
    std::int64_t group_rows = 0;
    std::size_t begin = 0, end = 0;
    const auto close = [&] {  // samples [begin, end) are a group, if there is room for it
      const auto rows = row_begins_.back() + group_rows;
      const auto index = (8 * (groups() + 1) + 63) / 64 * 64;
      if (begin == end || index + rows * row_bytes_ > limit_) return false;
      for (; begin < end; ++begin) {
        tokens_.insert(tokens_.end(), samples[begin].tokens.begin(), samples[begin].tokens.end() - 1);
        row_begins_.push_back(static_cast<std::int64_t>(tokens_.size()));
        group_of_.push_back(groups());
      }
      group_begins_.push_back(static_cast<std::int64_t>(end));
      group_rows = 0;
      return true;
    };
    for (; end < samples.size(); ++end) {
      const auto rows = samples[end].rows();
      require(rows > 0, "sample {} has {} tokens, but at least 2 make a row", samples[end].number,
              samples[end].tokens.size());
      if (begin < end && group_rows + rows > kGroupRows && !close()) return;
      group_rows += rows;
    }
    close();
  }

  /// The sample of these tokens, or -1.
  [[nodiscard]] std::int64_t find(std::span<const std::int64_t> ids) const {
    const std::pair<std::uint64_t, std::int64_t> least{xxh64(std::as_bytes(ids)), 0};
    const auto place = std::lower_bound(places_.begin(), places_.end(), least);
    if (place == places_.end() || place->first != least.first) return -1;
    const auto tokens = tokens_of(place->second);
    return std::equal(tokens.begin(), tokens.end(), ids.begin(), ids.end()) ? place->second : -1;
  }

  /// Rows of the sequences `which`, in one pass.
  at::Tensor rest_of(std::span<const std::int64_t> ids, const Sequences& s,
                     const std::vector<std::int64_t>& which, const Compute& compute) {
    std::vector<std::int64_t> lengths, tokens;
    for (const auto i : which) {
      lengths.push_back(s.length(i));
      const auto own =
          ids.subspan(static_cast<std::size_t>(s.begin(i)), static_cast<std::size_t>(s.length(i)));
      tokens.insert(tokens.end(), own.begin(), own.end());
    }
    return computed(tokens, lengths, compute);
  }

  at::Tensor computed(std::span<const std::int64_t> tokens, const std::vector<std::int64_t>& lengths,
                      const Compute& compute) {
    const at::Tensor ids = at::empty({static_cast<std::int64_t>(tokens.size())}, at::kLong);
    std::copy(tokens.begin(), tokens.end(), ids.mutable_data_ptr<std::int64_t>());
    at::Tensor h = compute(ids, Sequences::of(lengths)).contiguous();
    width_ = h.size(1);
    options_ = h.options();
    computed_ += h.size(0);
    require(static_cast<std::int64_t>(h.nbytes()) == h.size(0) * row_bytes_,
            "a prefix cache for rows of {} bytes was given {} of {} bytes in all", row_bytes_, h.size(0),
            h.nbytes());
    return h;
  }

  void make_ready(std::int64_t group, const Compute& compute) {
    const auto at = static_cast<std::size_t>(group);
    if (ready_[at]) return;
    const auto kept = bytes_of(group);
    const bool whole = checksum(group) != 0 && checksum(group) == checksum_of(kept);
    if (!whole || !trusted_) {
      std::vector<std::int64_t> lengths;
      for (auto i = group_begins_[at]; i < group_begins_[at + 1]; ++i)
        lengths.push_back(static_cast<std::int64_t>(tokens_of(i).size()));
      const auto begin = row_begins_[static_cast<std::size_t>(group_begins_[at])];
      const auto end = row_begins_[static_cast<std::size_t>(group_begins_[at + 1])];
      const at::Tensor h = computed(
          std::span(tokens_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
          lengths, compute);
      // What was found is taken if its first group has the bits that this processor, these threads and this version
      // of the program compute.
      trusted_ = true;
      if (!whole || std::memcmp(kept.data(), h.const_data_ptr(), kept.size()) != 0) {
        if (whole) forget_found();
        std::memcpy(kept.data(), h.const_data_ptr(), kept.size());
        checksum(group) = checksum_of(kept);
      }
    }
    ready_[at] = true;
  }

  void forget_found() {
    for (std::int64_t g = 0; g < groups(); ++g)
      if (!ready_[static_cast<std::size_t>(g)]) checksum(g) = 0;
  }

  [[nodiscard]] static std::uint64_t checksum_of(std::span<const std::byte> bytes) {
    return xxh64(bytes) | 1;
  }
  [[nodiscard]] static std::uint64_t hash_of(std::span<const Sample> samples) {
    std::uint64_t key = mix(samples.size());
    for (const auto& sample : samples) key = mix(key ^ xxh64(std::as_bytes(std::span(sample.tokens))));
    return key;
  }

  std::int64_t row_bytes_, limit_, width_ = 0, computed_ = 0;
  std::uint64_t given_ = 0;                    // hash of all samples that it was made of
  std::vector<std::int64_t> tokens_;           // of all rows kept
  std::vector<std::int64_t> row_begins_{0};    // a sample's first row
  std::vector<std::int64_t> group_begins_{0};  // a group's first sample
  std::vector<std::int64_t> group_of_;
  std::vector<std::pair<std::uint64_t, std::int64_t>> places_;  // hash of tokens, sample
  std::vector<bool> ready_;
  at::TensorOptions options_{};
  bool trusted_ = false;  // what was found in the memory has been compared with what is computed
  std::size_t size_ = 0;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace offsite
