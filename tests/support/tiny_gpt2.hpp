#pragma once
// Include this before support/test.hpp.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "offsite/io/model_folder.hpp"
#include "offsite/models/gpt2.hpp"

namespace tiny {

inline offsite::Gpt2Config config(std::int64_t blocks = 4) {
  offsite::Gpt2Config config;
  config.n_layer = blocks;
  config.n_head = 2;
  config.n_embd = 8;
  config.n_positions = 16;
  config.vocab_size = 11;
  return config;
}

/// The tensors of a folder to be written, changeable one by one.
struct Folder {
  offsite::Json config;
  std::vector<std::pair<std::string, at::Tensor>> tensors;

  explicit Folder(const offsite::Gpt2Config& of = tiny::config(), std::uint64_t seed = 7) {
    config = of.to_json();
    config["unknown_field"] = 0.25;
    auto model = offsite::Gpt2::random(of, seed);
    offsite::visit_parameters<offsite::BlockAccess<offsite::Gpt2>>(
        model, offsite::detail::all_blocks(of.n_layer),
        [&](const std::string& name, const at::Tensor& tensor) { tensors.emplace_back(name, tensor); });
    auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    for (auto& [name, tensor] : tensors)  // zeros and ones would hide mistakes
      if (tensor.dim() == 1) tensor.add_(at::empty_like(tensor).uniform_(-0.5, 0.5, generator));
  }

  at::Tensor& operator[](const std::string& name) {
    for (auto& [key, tensor] : tensors)
      if (key == name) return tensor;
    return tensors.emplace_back(name, at::Tensor{}).second;
  }
  void erase(const std::string& name) {
    std::erase_if(tensors, [&](const auto& entry) { return entry.first == name; });
  }
  Folder& without_prefix() {
    for (auto& [key, tensor] : tensors)
      if (key.starts_with("transformer.")) key = key.substr(12);
    return *this;
  }

  std::filesystem::path write(const std::filesystem::path& path, std::uint64_t shard = 1 << 30) const {
    std::filesystem::create_directories(path);
    offsite::write_json(path / "config.json", config);
    offsite::write_text_atomically(path / "vocab.json", "{}");
    offsite::write_text_atomically(path / "merges.txt", "#version: 0.2\n");
    offsite::write_text_atomically(path / "generation_config.json", "{\"a\": 1}");
    std::vector<offsite::NamedView> views;
    for (const auto& [name, tensor] : tensors) views.push_back({name, offsite::view_of(tensor)});
    offsite::save_checkpoint(path, views, {.max_shard_bytes = shard});
    return path;
  }
};

/// Every file of a folder and its bytes, to see that nothing changed.
inline std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      files[std::filesystem::relative(entry.path(), folder).string()] =
          std::string(offsite::MappedFile(entry.path()).text());
  return files;
}

}  // namespace tiny
