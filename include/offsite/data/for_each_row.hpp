#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "offsite/core/error.hpp"

namespace offsite::detail {

/// Calls f(0) .. f(count - 1) on the calling thread and at most `workers` more, each on a run of neighbouring
/// rows. Of several exceptions the one of the first row is thrown, whatever the number of threads.
template <class F>
void for_each_row(std::size_t count, std::int64_t workers, const F& f) {
  require(0 <= workers && workers <= 1024, "workers is {}, but must lie between 0 and 1024", workers);
  const std::size_t parts =
      std::clamp<std::size_t>(static_cast<std::size_t>(workers) + 1, 1, std::max<std::size_t>(count, 1));
  std::vector<std::exception_ptr> failures(parts);
  const auto run = [&](std::size_t part) {
    try {
      for (std::size_t i = count * part / parts; i < count * (part + 1) / parts; ++i) f(i);
    } catch (...) {
      failures[part] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    threads.reserve(parts);
    for (std::size_t part = 1; part < parts; ++part) threads.emplace_back(run, part);
    run(0);
  }
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace offsite::detail
