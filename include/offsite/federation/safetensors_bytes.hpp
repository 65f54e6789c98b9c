#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "offsite/io/safetensors.hpp"

namespace offsite::federation {

/// The tensors of a safetensors file that lies in memory, by name, as views of it; taken for hostile, and held to what
/// `SafetensorsFile` holds files to. \param what  names it in errors \throws ProtocolError saying what is wrong.
[[nodiscard]] inline std::vector<NamedView> read_safetensors(std::span<const std::byte> bytes,
                                                             const std::string& what) {
  std::uint64_t length = 0;
  require<ProtocolError>(bytes.size() >= sizeof length,
                         "{} is not a valid safetensors file: it has {} bytes, but a header's length takes 8",
                         what, bytes.size());
  std::memcpy(&length, bytes.data(), sizeof length);
  require<ProtocolError>(length <= bytes.size() - sizeof length && length <= SafetensorsFile::kMostHeader,
                         "{} is not a valid safetensors file: its header claims {} bytes, but {} follow",
                         what, length, bytes.size() - sizeof length);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
  const auto header = offsite::detail::HeaderParser(text, what).parse();
  const auto data = bytes.subspan(sizeof length + length);
  offsite::detail::check_layout(header, data.size(), what);
  std::vector<NamedView> tensors;
  tensors.reserve(header.tensors.size());
  for (const auto& [name, entry] : header.tensors)
    tensors.push_back({name, {entry.dtype, entry.shape, data.subspan(entry.begin, entry.end - entry.begin)}});
  return tensors;
}

/// A safetensors file in memory, byte for byte what `save_safetensors` writes. \throws ArgumentError as that does.
[[nodiscard]] inline std::vector<std::byte> safetensors_bytes(std::span<const NamedView> tensors) {
  const auto order = offsite::detail::writing_order(tensors);
  const auto prologue = offsite::detail::safetensors_prologue(order, {});
  std::vector<std::byte> out;
  std::size_t size = prologue.size();
  for (const auto* tensor : order) size += tensor->tensor.bytes.size();
  out.reserve(size);
  const auto first = std::as_bytes(std::span(prologue));
  out.insert(out.end(), first.begin(), first.end());
  for (const auto* tensor : order)
    out.insert(out.end(), tensor->tensor.bytes.begin(), tensor->tensor.bytes.end());
  return out;
}

}  // namespace offsite::federation
