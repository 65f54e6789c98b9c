#pragma once
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "offsite/core/error.hpp"
#include "offsite/io/json_value.hpp"

namespace offsite {

/// Writes one JSON object a line, each at once on disk's way, so that a broken run leaves whole lines behind.
///
/// NaN and infinity, which JSON does not have, become null; bytes that are no UTF-8 become U+FFFD.
class JsonLines {
 public:
  enum class Mode { kReplace, kAppend };

  /// \throws ArgumentError if the file cannot be opened.
  explicit JsonLines(const std::filesystem::path& file, Mode mode = Mode::kReplace)
      : name_(file.string()),
        stream_(std::fopen(file.c_str(), mode == Mode::kAppend ? "ab" : "wb"), &std::fclose) {
    require(stream_ != nullptr, "{} cannot be written: {}", name_, std::strerror(errno));
  }

  /// Writes to an open stream, e.g. `stdout`, which stays open; `name` is for complaints.
  JsonLines(std::FILE* stream, std::string name)
      : name_(std::move(name)), stream_(stream, [](std::FILE*) { return 0; }) {}

  /// \throws ArgumentError if the line cannot be written, e.g. on a full disk.
  void write(const Json& object) {
    const auto line = object.dump(-1, Json::Text::kReplace) + '\n';
    const bool written = std::fwrite(line.data(), 1, line.size(), stream_.get()) == line.size() &&
                         std::fflush(stream_.get()) == 0;
    require(written, "{} cannot be written: {}", name_, std::strerror(errno));
  }

 private:
  std::string name_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream_;
};

}  // namespace offsite
