#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace offsite::ops {

/// What some pieces of work prepare for others.
class Preparations {
 public:
  explicit Preparations(std::int64_t count) : ready_(static_cast<std::size_t>(count)) {}
  [[nodiscard]] std::int64_t count() const { return static_cast<std::int64_t>(ready_.size()); }
  void finish(std::int64_t i) { ready_[static_cast<std::size_t>(i)].store(true, std::memory_order_release); }
  /// Returns when what a thread wrote before it finished `i` can be read.
  void wait(std::int64_t i) const {
    while (!ready_[static_cast<std::size_t>(i)].load(std::memory_order_acquire)) std::this_thread::yield();
  }

 private:
  std::vector<std::atomic<bool>> ready_;
};

/// Calls `prepare(i)` for every one of `preparations` and then `f(begin, end)` for pieces of [0, count) until
/// all is done, in LibTorch's threads: a thread that is free takes what comes next. `f` waits for what it needs.
///
/// Pieces are of `most` numbers and, towards the end, of ever fewer, down to one: a thread that the system
/// disturbs, or whose pieces are slower, does less instead of making the others wait. Which thread gets which
/// piece is chance, so what `f` makes of a number must depend on neither. Within another parallel region this
/// thread does all. What either throws is thrown here, after the other threads have finished their pieces.
template <class Prepare, class F>
void share_work(Preparations& preparations, Prepare&& prepare, std::int64_t count, std::int64_t most, F&& f) {
  const auto before = preparations.count(), all = before + count;
  const auto threads = std::min<std::int64_t>(at::get_num_threads(), all);
  std::atomic<std::int64_t> next = 0;
  const auto take = [&](std::int64_t begin, std::int64_t end) {
    if (begin >= before) return f(begin - before, end - before);
    prepare(begin);
    preparations.finish(begin);
  };
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    auto begin = next.load(std::memory_order_relaxed);
    while (begin < all) {
      const auto fair = std::clamp((all - begin) / (2 * threads), std::int64_t{1}, most),
                 end = begin + (begin < before ? 1 : fair);
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      try {
        take(begin, end);
      } catch (...) {
        next.store(all, std::memory_order_relaxed);
        for (std::int64_t i = 0; i < before; ++i)
          preparations.finish(i);  // nobody waits for what never comes
        throw;
      }
      begin = next.load(std::memory_order_relaxed);
    }
  });
}

/// The same without preparations.
template <class F>
void share_work(std::int64_t count, std::int64_t most, F&& f) {
  Preparations none(0);
  share_work(
      none, [](std::int64_t) {}, count, most, f);
}

}  // namespace offsite::ops
