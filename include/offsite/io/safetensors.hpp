#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/dtype.hpp"
#include "offsite/core/error.hpp"
#include "offsite/core/tensor_view.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/mapped_file.hpp"
#include "offsite/io/safetensors_header.hpp"

namespace offsite {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are read and written without swapping bytes");

/// A safetensors file mapped into memory (https://github.com/huggingface/safetensors). Copies share the
/// mapping.
///
/// The file is taken for hostile: header, names, types, shapes and offsets are checked before any of them is
/// used, and no allocation is larger than the file. Tensors are read by the system when they are touched.
class SafetensorsFile {
 public:
  /// Opens and checks a file, in O(header).
  /// \throws ArgumentError if it cannot be read, ProtocolError saying what is wrong if it breaks the format.
  explicit SafetensorsFile(const std::filesystem::path& path)
      : path_(path), file_(std::make_shared<const MappedFile>(path)) {
    const auto bytes = file_->bytes();
    const auto name = path.string();
    require<ProtocolError>(
        bytes.size() >= kLengthSize,
        "{} is not a valid safetensors file: it has {} bytes, but a header's length takes 8", name,
        bytes.size());
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), kLengthSize);
    require<ProtocolError>(
        length <= kMostHeader,
        "{} is not a valid safetensors file: its header claims {} bytes, but at most {} are allowed", name,
        length, kMostHeader);
    require<ProtocolError>(length <= bytes.size() - kLengthSize,
                           "{} is not a valid safetensors file: its header claims {} bytes, but {} follow: "
                           "it is cut short, or no such file",
                           name, length, bytes.size() - kLengthSize);
    header_ = std::make_shared<const detail::SafetensorsHeader>(
        detail::HeaderParser(file_->text().substr(kLengthSize, length), name).parse());
    data_ = bytes.subspan(kLengthSize + length);
    detail::check_layout(*header_, data_.size(), name);
    names_.reserve(header_->tensors.size());
    for (const auto& [tensor, entry] : header_->tensors) names_.push_back(tensor);
  }

  /// All tensors' names, sorted.
  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

  [[nodiscard]] bool contains(std::string_view name) const { return header_->tensors.contains(name); }

  /// One tensor's type, shape and bytes, which live as long as `owner()`. \throws ProtocolError if the file
  /// lacks it.
  [[nodiscard]] TensorView at(std::string_view name) const {
    const auto found = header_->tensors.find(name);
    require<ProtocolError>(found != header_->tensors.end(), "{} holds no tensor {}", path_.string(),
                           detail::shown(name));
    const auto& entry = found->second;
    return {entry.dtype, entry.shape, data_.subspan(entry.begin, entry.end - entry.begin)};
  }

  /// The file's `__metadata__`.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return header_->metadata; }

  /// What keeps the views' bytes mapped.
  [[nodiscard]] std::shared_ptr<const void> owner() const { return file_; }

  [[nodiscard]] std::uint64_t file_size() const { return file_->size(); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  static constexpr std::size_t kLengthSize = 8;  ///< bytes of the header's length, little-endian
  static constexpr std::uint64_t kMostHeader =
      100'000'000;  ///< bytes, as the reference implementation allows

 private:
  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::shared_ptr<const detail::SafetensorsHeader> header_;
  std::span<const std::byte> data_;
  std::vector<std::string> names_;
};

/// A tensor to be written under a name.
struct NamedView {
  std::string name;
  TensorView tensor;
};

namespace detail {

inline void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view kLetters = "\"\\\b\f\n\r\t", kEscapes = "\"\\bfnrt";
  out += '"';
  for (const char c : text) {
    if (const auto i = kLetters.find(c); i != kLetters.npos) {
      out += '\\';
      out += kEscapes[i];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += formatted("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

/// The tensors in the order the reference implementation writes them: wide types first, so that all are
/// aligned, then by name. \throws ArgumentError if a name occurs twice or cannot be written, or bytes do not
/// fit type and shape.
[[nodiscard]] inline std::vector<const NamedView*> writing_order(std::span<const NamedView> tensors) {
  std::vector<const NamedView*> order;
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    require(name != "__metadata__" && is_utf8(name), "a tensor cannot be saved under the name {}",
            shown(name));
    require(names.insert(name).second, "two tensors are to be saved under the name {}", shown(name));
    require(byte_count(tensor.dtype, tensor.shape) == tensor.bytes.size(),
            "tensor {} of type {} and shape {} has {} bytes, which is not what they take", shown(name),
            dtype_name(tensor.dtype), shape_text(tensor.shape), tensor.bytes.size());
  }
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const NamedView* a, const NamedView* b) {
    return a->tensor.dtype != b->tensor.dtype ? a->tensor.dtype > b->tensor.dtype : a->name < b->name;
  });
  return order;
}

/// Everything of a safetensors file that comes before the data: length, JSON, blanks up to a multiple of 8
/// bytes.
[[nodiscard]] inline std::string safetensors_prologue(std::span<const NamedView* const> order,
                                                      const std::map<std::string, std::string>& metadata) {
  std::string text(SafetensorsFile::kLengthSize, '\0');
  text += '{';
  const auto key = [&](std::string_view name) {
    if (text.back() != '{') text += ',';
    append_json_string(text, name);
    text += ':';
  };
  if (!metadata.empty()) {
    key("__metadata__");
    text += '{';
    for (const auto& [name, value] : metadata) {
      require(is_utf8(name) && is_utf8(value), "the metadata {} is not UTF-8", shown(name));
      key(name);
      append_json_string(text, value);
    }
    text += '}';
  }
  std::uint64_t offset = 0;
  for (const auto* tensor : order) {
    key(tensor->name);
    const auto end = offset + tensor->tensor.bytes.size();
    text += formatted("{{\"dtype\":\"{}\",\"shape\":[", dtype_name(tensor->tensor.dtype));
    for (std::size_t i = 0; i < tensor->tensor.shape.size(); ++i) {
      if (i > 0) text += ',';
      text += std::to_string(tensor->tensor.shape[i]);
    }
    text += formatted("],\"data_offsets\":[{},{}]}}", offset, end);
    offset = end;
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size() - SafetensorsFile::kLengthSize;
  require(length <= SafetensorsFile::kMostHeader,
          "the header of {} tensors takes {} bytes, but at most {} are allowed", order.size(), length,
          SafetensorsFile::kMostHeader);
  std::memcpy(text.data(), &length, sizeof length);
  return text;
}

}  // namespace detail

/// Writes a safetensors file, all or nothing (see `write_file_atomically`): byte for byte what the reference
/// implementation writes. The tensors' bytes are not copied on the way.
/// \throws ArgumentError if names or sizes do not fit (see `writing_order`), or the file cannot be written.
inline void save_safetensors(const std::filesystem::path& path, std::span<const NamedView> tensors,
                             const std::map<std::string, std::string>& metadata = {}) {
  const auto order = detail::writing_order(tensors);
  const auto prologue = detail::safetensors_prologue(order, metadata);
  std::vector<std::span<const std::byte>> parts{std::as_bytes(std::span(prologue))};
  for (const auto* tensor : order) parts.push_back(tensor->tensor.bytes);
  write_file_atomically(path, parts);
}

}  // namespace offsite
