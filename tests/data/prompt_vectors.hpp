#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/io/json.hpp"
#include "support/test.hpp"

/// Calls `use(text, ids)` for each line `text => id,id,...` of a file of published prompts; returns how many there are.
template <class Use>
int for_each_prompt(std::string_view name, Use&& use) {
  const std::string lines = support::read_file(support::data("tokenizer_vectors/ggml_prompts") / name);
  int count = 0;
  for (std::size_t begin = 0; begin < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', begin), lines.size());
    const std::string line = lines.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t arrow = line.rfind(" => ");
    if (arrow == line.npos) continue;
    use(line.substr(0, arrow),
        offsite::parse_json("[" + line.substr(arrow + 4) + "]", "ids").get<std::vector<std::int32_t>>());
    count += 1;
  }
  return count;
}
