// The model families, one translation unit each.
#pragma once
#include <string>

#include "common.hpp"

namespace bench {

void watch_allocations();  ///< from now on; see meter.cpp

struct Family {
  bool (*reads)(const std::string& model_type);
  void (*profile)(const Arguments& arguments);
};
extern const Family bloom, gpt2, gpt_neox, llama, opt;
inline const Family* const kFamilies[] = {&bloom, &gpt2, &gpt_neox, &llama, &opt};

}  // namespace bench
