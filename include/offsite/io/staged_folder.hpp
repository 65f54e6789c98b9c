#pragma once
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/io/atomic_file.hpp"

namespace offsite {

/// A folder that appears under its name only when it is complete.
///
/// Write into `path()`, a new folder beside the final one; `commit` gives it its name. Without `commit` it is
/// removed, with the parents made for it, so that an error on the way leaves the disk as it was.
class StagedFolder {
 public:
  /// What to do if the folder exists and holds something.
  enum Existing {
    kRefuse,   ///< throw before anything is written
    kReplace,  ///< put the new folder in its place, all of it, when it is complete
  };

  /// \throws ArgumentError if `final_path` is a file, or holds something and may not be replaced, or cannot
  /// be made.
  explicit StagedFolder(const std::filesystem::path& final_path, Existing existing = kRefuse) {
    namespace fs = std::filesystem;
    final_ = resolved(final_path);
    std::error_code unseen;
    const auto status = fs::status(final_, unseen);
    if (fs::exists(status)) {
      require(fs::is_directory(status), "cannot write the folder {}: a file of that name exists",
              final_path.string());
      std::error_code unreadable;
      const bool empty = fs::is_empty(final_, unreadable);
      require(!unreadable, "cannot read the folder {}: {}", final_path.string(), unreadable.message());
      require(empty || existing == kReplace,
              "the folder {} exists and is not empty, and replacing it was not asked for",
              final_path.string());
    }
    try {
      make_parents(final_.parent_path());
      path_ = detail::temporary_sibling(final_);
      fs::create_directory(path_);
    } catch (const fs::filesystem_error& error) {
      remove_parents();
      throw ArgumentError(
          formatted("cannot make the folder {}: {}", final_path.string(), error.code().message()));
    }
  }
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;
  ~StagedFolder() {
    if (committed_) return;
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
    remove_parents();
  }

  /// Where to write: the temporary folder, after `commit` the final one.
  [[nodiscard]] const std::filesystem::path& path() const { return committed_ ? final_ : path_; }

  /// Syncs the folder's files and gives it its final name. \throws ArgumentError if the system refuses.
  void commit() {
    namespace fs = std::filesystem;
    require(!committed_, "the folder {} has been committed already", final_.string());
    sync_tree();
    // Onto nothing or an empty folder a rename suffices; a full one is exchanged in one step, then removed.
    if (::rename(path_.c_str(), final_.c_str()) != 0) {
      require(errno == ENOTEMPTY || errno == EEXIST, "cannot write the folder {}: {}", final_.string(),
              std::strerror(errno));
      if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) != 0)
        exchange_in_steps();
      std::error_code ignored;
      fs::remove_all(path_, ignored);
    }
    committed_ = true;
    detail::sync_folder(final_.parent_path());
  }

 private:
  /// Absolute, without a trailing slash, and behind links: a rename would replace the link itself.
  static std::filesystem::path resolved(const std::filesystem::path& given) {
    require(!given.empty(), "the name of the folder to write is empty");
    std::error_code unresolved;
    auto path = std::filesystem::weakly_canonical(given, unresolved);
    if (unresolved) path = std::filesystem::absolute(given).lexically_normal();
    return path.has_filename() ? path : path.parent_path();
  }

  void make_parents(const std::filesystem::path& folder) {
    if (folder.empty() || std::filesystem::exists(folder)) return;
    make_parents(folder.parent_path());
    if (std::filesystem::create_directory(folder)) made_.push_back(folder);
  }

  void remove_parents() {
    for (; !made_.empty(); made_.pop_back()) ::rmdir(made_.back().c_str());  // stops at what others filled
  }

  void sync_tree() const {
    try {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
        if (entry.is_directory()) detail::sync_folder(entry.path());
        if (!entry.is_regular_file()) continue;
        const int file = ::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
        const bool synced = file >= 0 && ::fsync(file) == 0;
        const int reason = errno;
        if (file >= 0) ::close(file);
        require(synced, "cannot write {}: {}", entry.path().string(), std::strerror(reason));
      }
    } catch (const std::filesystem::filesystem_error& error) {
      throw ArgumentError(
          formatted("cannot write the folder {}: {}", final_.string(), error.code().message()));
    }
    detail::sync_folder(path_);
  }

  /// For file systems that cannot exchange: the old folder steps aside, and comes back if the new one cannot
  /// be placed.
  void exchange_in_steps() {
    const auto aside = detail::temporary_sibling(final_);
    require(::rename(final_.c_str(), aside.c_str()) == 0, "cannot replace the folder {}: {}", final_.string(),
            std::strerror(errno));
    if (::rename(path_.c_str(), final_.c_str()) != 0) {
      const int reason = errno;
      ::rename(aside.c_str(), final_.c_str());
      throw ArgumentError(
          formatted("cannot replace the folder {}: {}", final_.string(), std::strerror(reason)));
    }
    path_ = aside;  // what `commit` removes
  }

  std::filesystem::path final_;
  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // parents that did not exist, outermost first
  bool committed_ = false;
};

}  // namespace offsite
