#include "offsite/ops/share_work.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/test.hpp"

namespace share_work_test {

using namespace offsite;

/// Sets the number of threads and restores it.
struct Threads {
  const int before = at::get_num_threads();
  explicit Threads(int n) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before); }
};

TEST_CASE("share_work: every number is in one piece, and none is longer than asked") {
  for (const int n : {1, 2, 5}) {
    const Threads threads(n);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 64, 1000})
      for (const std::int64_t most : {1, 4, 2000}) {
        std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
        std::atomic<bool> fits = true;
        ops::share_work(count, most, [&](std::int64_t begin, std::int64_t end) {
          if (!(0 <= begin && begin < end && end <= count && end - begin <= most)) fits = false;
          for (auto i = begin; i < end; ++i) ++calls[static_cast<std::size_t>(i)];
        });
        CHECK(fits);
        CHECK(std::all_of(calls.begin(), calls.end(), [](const auto& called) { return called == 1; }));
      }
  }
}

TEST_CASE("share_work: pieces shrink towards the end") {
  const Threads threads(1);
  std::vector<std::int64_t> pieces;
  ops::share_work(40, 8, [&](std::int64_t begin, std::int64_t end) { pieces.push_back(end - begin); });
  CHECK(pieces == std::vector<std::int64_t>{8, 8, 8, 8, 4, 2, 1, 1});
}

TEST_CASE("share_work: other threads take what a delayed one does not come to") {
  const Threads threads(2);
  std::atomic<int> others = 0;
  ops::share_work(100, 1, [&](std::int64_t begin, std::int64_t) {
    if (begin > 0) return void(++others);
    for (int i = 0; i < 2000 && others < 99; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(others == 99);
  });
}

TEST_CASE("share_work: within a parallel region the thread does its work alone") {
  const Threads threads(2);
  std::atomic<int> calls = 0, elsewhere = 0;
  at::parallel_for(0, 2, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) {
      const auto own = std::this_thread::get_id();
      ops::share_work(50, 3, [&](std::int64_t first, std::int64_t last) {
        calls += static_cast<int>(last - first);
        if (std::this_thread::get_id() != own) ++elsewhere;
      });
    }
  });
  CHECK(calls == 100);
  CHECK(elsewhere == 0);
}

TEST_CASE("share_work: passes on what a piece throws, and starts no more") {
  for (const int n : {1, 2}) {
    const Threads threads(n);
    std::atomic<int> calls = 0;
    CHECK_THROWS_AS(ops::share_work(1000000, 1,
                                    [&](std::int64_t, std::int64_t) {
                                      if (++calls == 10) throw std::runtime_error("stop");
                                      if (calls > 10)
                                        std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                    }),
                    std::runtime_error);
    CHECK(calls < 1000000);
    if (n == 1) CHECK(calls == 10);
    ops::share_work(3, 1, [&](std::int64_t, std::int64_t) { calls = 0; });  // and the next one works
    CHECK(calls == 0);
  }
}

TEST_CASE("share_work: pieces wait for what others prepare, in every thread") {
  for (const int n : {1, 2, 5}) {
    const Threads threads(n);
    constexpr std::int64_t kCount = 40;
    for (const std::int64_t preparations : {1, 3, 20}) {
      std::vector<std::int64_t> prepared(static_cast<std::size_t>(preparations)), found(kCount);
      ops::Preparations ready(preparations);
      const auto prepare = [&](std::int64_t i) {
        if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // others come too early
        prepared[static_cast<std::size_t>(i)] = 100 + i;
      };
      ops::share_work(ready, prepare, kCount, 3, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) {
          ready.wait(i % preparations);
          found[static_cast<std::size_t>(i)] = prepared[static_cast<std::size_t>(i % preparations)];
        }
      });
      for (std::int64_t i = 0; i < kCount; ++i)
        CHECK(found[static_cast<std::size_t>(i)] == 100 + i % preparations);
    }
  }
}

TEST_CASE("share_work: nobody waits for a preparation that threw") {
  for (const int n : {1, 3}) {
    const Threads threads(n);
    ops::Preparations ready(2);
    const auto prepare = [](std::int64_t i) {
      if (i > 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      throw std::runtime_error("cannot prepare");
    };
    CHECK_THROWS_AS(
        ops::share_work(ready, prepare, 10, 2, [&](std::int64_t, std::int64_t) { ready.wait(0); }),
        std::runtime_error);
  }
}

}  // namespace share_work_test
