#include "federation/allocations.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "support/test.hpp"

std::size_t& largest_allocation() {
  static thread_local std::size_t largest = 0;
  return largest;
}

// Every allocation of this program passes here. In a file of its own: where the compiler sees both these and their uses,
// it takes the pairs for mistakes.
[[gnu::noinline]] void* operator new(std::size_t size) {
  largest_allocation() = std::max(largest_allocation(), size);
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST_CASE("allocations: the largest one is seen") {
  largest_allocation() = 0;
  const std::vector<char> small(10), large(12'345);
  CHECK(largest_allocation() == large.size());
}
