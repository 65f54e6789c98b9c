// Include this after the headers under test: LibTorch's logging header defines CHECK, and doctest must win. No
// #pragma once: where several test files are compiled as one, each must win anew.
#undef CHECK
#include <doctest/doctest.h>
#ifndef CHECK
#define CHECK(...) DOCTEST_CHECK(__VA_ARGS__)
#endif

#include "support/helpers.hpp"
