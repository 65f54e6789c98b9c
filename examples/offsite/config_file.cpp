#include "offsite/config_file.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "offsite/core/error.hpp"

namespace program {
namespace {

/// The value of `--config` among the words; empty if there is none.
std::string config_of(const std::vector<std::string>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i].starts_with("--config=")) return words[i].substr(9);
    if (words[i] == "--config" && i + 1 < words.size()) return words[i + 1];
  }
  return {};
}

std::vector<CLI::ConfigItem> read_items(const std::string& path) {
  std::ifstream in(path);
  offsite::require(in && !std::filesystem::is_directory(path), "cannot read the configuration file {}", path);
  try {
    return CLI::ConfigTOML().from_config(in);
  } catch (const CLI::Error& error) {
    throw offsite::ProtocolError(path + " is not a configuration file: " + error.what());
  }
}

}  // namespace

std::vector<std::string> with_config_file(std::vector<std::string> words) {
  const std::string path = config_of(words);
  if (path.empty() || words.empty()) return words;
  const std::string& command = words.front();
  std::set<std::string> given;
  for (const auto& word : words)
    if (word.starts_with("--")) given.insert(word.substr(0, word.find('=')));

  std::vector<std::string> added;
  for (const auto& item : read_items(path)) {
    if (item.name == "++" || item.name == "--") continue;  // CLI11's marks of a table's begin and end
    if (!item.parents.empty() && item.parents.front() != command) continue;
    std::string option = "--" + item.name;
    std::replace(option.begin(), option.end(), '_', '-');
    if (given.contains(option)) continue;
    const bool flag =
        item.inputs.size() == 1 && (item.inputs.front() == "true" || item.inputs.front() == "false");
    if (flag && item.inputs.front() == "false") continue;
    if (flag) {
      added.push_back(option);
      continue;
    }
    for (const auto& value : item.inputs) added.push_back(option + "=" + value);
  }
  words.insert(words.begin() + 1, added.begin(), added.end());
  return words;
}

}  // namespace program
