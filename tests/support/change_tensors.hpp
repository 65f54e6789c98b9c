#pragma once
// Include this before support/test.hpp.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "offsite/core/tensors.hpp"
#include "offsite/io/safetensors.hpp"

namespace support {

/// Writes a safetensors file again, after `change(tensors by name)`.
template <class Change>
void change_tensors(const std::filesystem::path& path, Change&& change) {
  std::map<std::string, at::Tensor> tensors;
  {
    const offsite::SafetensorsFile file(path);
    for (const auto& name : file.names())
      tensors[name] = offsite::tensor_over(file.at(name), file.owner()).clone();
  }
  change(tensors);
  std::vector<offsite::NamedView> views;
  for (const auto& [name, tensor] : tensors) views.push_back({name, offsite::view_of(tensor)});
  offsite::save_safetensors(path, views);
}

/// A message with the paths of what lies in `folder` cut to what they are called there.
inline std::string without_folder(std::string text, const std::filesystem::path& folder) {
  const auto path = folder.string() + "/";
  for (auto at = text.find(path); at != text.npos; at = text.find(path)) text.erase(at, path.size());
  return text;
}

}  // namespace support
