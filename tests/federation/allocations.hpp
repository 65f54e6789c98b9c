#pragma once
#include <cstddef>

/// Bytes of the largest allocation of this program since it was set to 0; for tests on one thread.
std::size_t& largest_allocation();
