#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "offsite/core/dtype.hpp"
#include "offsite/core/error.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/mapped_file.hpp"
#include "offsite/io/sha256.hpp"

namespace offsite {

/// A weight's type under PyTorch's name ("float32"), as `config.json` and the command line spell it.
/// \throws ArgumentError for a type that weights do not have here.
[[nodiscard]] inline std::string_view weight_dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "float32";
    case Dtype::kF16:
      return "float16";
    case Dtype::kBF16:
      return "bfloat16";
    case Dtype::kF64:
      return "float64";
    default:
      break;
  }
  throw ArgumentError(
      formatted("weights are float32, float16, bfloat16 or float64, not {}", dtype_name(dtype)));
}

/// The type of that name of PyTorch's; none if weights do not have it here.
[[nodiscard]] inline std::optional<Dtype> weight_dtype_of(std::string_view name) {
  for (const auto dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kF64})
    if (weight_dtype_name(dtype) == name) return dtype;
  return std::nullopt;
}

/// Whether weights may be of this type.
[[nodiscard]] constexpr bool is_weight_dtype(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16 || dtype == Dtype::kF64;
}

namespace detail {

/// Files of a model folder that belong to its tokenizer, sorted.
inline constexpr std::array<std::string_view, 12> kTokenizerParts{
    "added_tokens.json", "chat_template.jinja", "encoder.json",
    "merges.txt",        "spiece.model",        "special_tokens_map.json",
    "tokenizer.json",    "tokenizer.model",     "tokenizer_config.json",
    "vocab.bpe",         "vocab.json",          "vocab.txt"};

/// Those of the tokenizer's files that `folder` holds, by name, sorted.
[[nodiscard]] inline std::vector<std::string> tokenizer_parts(const std::filesystem::path& folder) {
  std::vector<std::string> found;
  std::error_code unseen;
  for (const auto name : kTokenizerParts)
    if (std::filesystem::is_regular_file(folder / name, unseen)) found.emplace_back(name);
  std::sort(found.begin(), found.end());
  return found;
}

/// Copies one file as it is. \throws ArgumentError if it cannot be read or written.
inline void copy_one_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  const MappedFile file(from);
  const auto bytes = file.bytes();
  write_file_atomically(to, std::span(&bytes, 1));
}

}  // namespace detail

/// What a folder's tokenizer is, in 64 hexadecimal digits: SHA-256 over name, size and contents of each of
/// its files, in the order of their names. Empty if the folder holds none.
[[nodiscard]] inline std::string tokenizer_sha256(const std::filesystem::path& folder) {
  const auto names = detail::tokenizer_parts(folder);
  if (names.empty()) return {};
  Sha256 hash;
  for (const auto& name : names) {
    const MappedFile file(folder / name);
    const auto header = formatted("{} {}\n", name, file.size());
    hash.update(std::as_bytes(std::span(header))).update(file.bytes());
  }
  return hash.hex();
}

/// Copies the files of the tokenizer that `from` holds to the existing folder `to`.
inline void copy_tokenizer(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const auto& name : detail::tokenizer_parts(from)) detail::copy_one_file(from / name, to / name);
}

/// SHA-256 of a file's contents. \throws ArgumentError if it cannot be read.
[[nodiscard]] inline std::string file_sha256(const std::filesystem::path& path) {
  return sha256_hex(MappedFile(path).bytes());
}

}  // namespace offsite
