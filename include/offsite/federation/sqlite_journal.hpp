#pragma once
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/error.hpp"
#include "offsite/federation/chunk_bytes.hpp"
#include "offsite/federation/journal.hpp"
#include "offsite/federation/part_writer.hpp"
#include "offsite/io/atomic_file.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/mapped_file.hpp"
#include "offsite/io/safetensors_header.hpp"
#include "offsite/io/sha256.hpp"

namespace offsite::federation {

namespace detail {

/// An open SQLite database; every error names the file and says SQLite's words.
class Database {
 public:
  explicit Database(std::filesystem::path path) : path_(std::move(path)) {
    sqlite3* handle = nullptr;
    const int status =
        ::sqlite3_open_v2(path_.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
    handle_.reset(handle);
    if (status != SQLITE_OK) fail();
    ::sqlite3_busy_timeout(handle, 10'000);  // others only read
  }

  void execute(const char* sql) {
    if (::sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK) fail();
  }
  /// Runs one statement with these texts as its parameters; calls `row(column)` for each row of the result.
  template <class Row>
  void run(const char* sql, std::span<const std::string> texts, Row&& row) {
    sqlite3_stmt* raw = nullptr;
    if (::sqlite3_prepare_v2(handle_.get(), sql, -1, &raw, nullptr) != SQLITE_OK) fail();
    const std::unique_ptr<sqlite3_stmt, Finalize> statement(raw);
    for (std::size_t i = 0; i < texts.size(); ++i)
      if (::sqlite3_bind_text64(raw, static_cast<int>(i + 1), texts[i].data(), texts[i].size(), SQLITE_STATIC,
                                SQLITE_UTF8) != SQLITE_OK)
        fail();
    for (;;) {
      const int status = ::sqlite3_step(raw);
      if (status == SQLITE_DONE) return;
      if (status != SQLITE_ROW) fail();
      row([&](int column) {
        const auto* text = ::sqlite3_column_text(raw, column);
        const auto size = static_cast<std::size_t>(::sqlite3_column_bytes(raw, column));
        return text == nullptr ? std::string() : std::string(reinterpret_cast<const char*>(text), size);
      });
    }
  }

 private:
  struct Close {
    void operator()(sqlite3* handle) const { ::sqlite3_close_v2(handle); }
  };
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { ::sqlite3_finalize(statement); }
  };
  [[noreturn]] void fail() const {
    throw ArgumentError(
        formatted("the journal {} cannot be used: {}", path_.string(), ::sqlite3_errmsg(handle_.get())));
  }

  std::filesystem::path path_;
  std::unique_ptr<sqlite3, Close> handle_;
};

/// A lock on a file, held as long as the object and the process live.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& path)
      : file_(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666)) {
    require(file_ >= 0, "cannot write {}: {}", path.string(), std::strerror(errno));
    if (::flock(file_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(file_);
    throw ArgumentError(
        formatted("the journal in {} is in use by another process", path.parent_path().string()));
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock() { ::close(file_); }

 private:
  int file_;
};

/// Sums of squares of blobs that were seen as they came, by SHA-256. Thread-safe, as views of a journal are.
class SquaresSeen {
 public:
  void keep(const std::string& sha256, double squares) {
    const std::lock_guard lock(mutex_);
    squares_[sha256] = squares;
  }
  void forget(std::string_view sha256) {
    const std::lock_guard lock(mutex_);
    if (const auto found = squares_.find(sha256); found != squares_.end()) squares_.erase(found);
  }
  [[nodiscard]] std::optional<double> squares_of(std::string_view sha256) const {
    const std::lock_guard lock(mutex_);
    const auto found = squares_.find(sha256);
    return found == squares_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, double, std::less<>> squares_;
};

}  // namespace detail

/// A journal in a folder: records in `journal.sqlite`, blobs beside it in `blobs/`, named by their hash (adapters, updates
/// and policy states are safetensors files), unfinished parts in `parts/`.
///
/// Records are one table that only grows; the views `rounds`, `clients` and `updates` show it to people and programs. A
/// record is on the disk when `append` returns (SQLite's write-ahead log, synced in full). One process at a time writes.
class SqliteJournal {
 public:
  /// Opens the folder, or makes it. \throws ArgumentError if it cannot be used, or is in use.
  explicit SqliteJournal(std::filesystem::path folder)
      : folder_(made(std::move(folder))),
        lock_(std::make_unique<detail::FolderLock>(folder_ / "lock")),
        database_(std::make_unique<detail::Database>(folder_ / "journal.sqlite")) {
    database_->execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
    int version = 0;
    database_->run("PRAGMA user_version", {}, [&](auto column) { version = std::stoi(column(0)); });
    require(version == 0 || version == kVersion,
            "the journal in {} is of version {}, but this reads version {}", folder_.string(), version,
            kVersion);
    if (version == 0) database_->execute(kSchema);
  }

  [[nodiscard]] std::vector<Record> records() {
    std::vector<Record> records;
    database_->run("SELECT kind, fields FROM record ORDER BY id", {}, [&](auto column) {
      records.push_back({column(0), parse_json(column(1), "a record of the journal in " + folder_.string())});
    });
    return records;
  }
  void append(const Record& record) {
    const std::string texts[] = {record.kind, record.fields.dump()};
    database_->run("INSERT INTO record(kind, fields) VALUES (?, ?)", texts, [](auto) {});
  }

  [[nodiscard]] bool contains(std::string_view sha256) const {
    return std::filesystem::exists(blob_path(sha256));
  }
  Blob put(std::span<const std::byte> bytes) {
    Blob blob{sha256_hex(bytes), bytes.size()};
    if (!contains(blob.sha256)) write_file_atomically(blob_path(blob.sha256), std::span(&bytes, 1));
    return blob;
  }
  [[nodiscard]] BlobView view(std::string_view sha256) const {
    require<ProtocolError>(contains(sha256), "the journal in {} holds no blob {}", folder_.string(), sha256);
    const auto file = std::make_shared<const MappedFile>(blob_path(sha256));
    return {file->bytes(), file, seen_->squares_of(sha256)};
  }
  void drop(std::string_view sha256) {
    seen_->forget(sha256);
    remove(blob_path(sha256));
  }

  [[nodiscard]] std::uint64_t open_part(std::string_view peer, const Blob& blob) const {
    const auto path = part_path(peer, blob);
    parts_->settle();
    std::error_code missing;
    const auto size = std::filesystem::file_size(path, missing);
    return missing || size > blob.bytes ? 0 : size;
  }
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::span<const std::byte> bytes) {
    write_part(peer, blob, offset, ChunkBytes(std::vector<std::byte>(bytes.begin(), bytes.end())));
  }
  /// The same without a copy. It is written meanwhile: what fails is told by the next call for this part.
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::same_as<ChunkBytes> auto&& bytes) {
    parts_->write(part_path(peer, blob), offset, std::move(bytes));
  }
  bool finish_part(std::string_view peer, const Blob& blob) {
    const auto path = part_path(peer, blob);
    const auto seen = parts_->finish(path, blob.bytes);
    if (!std::filesystem::exists(path)) return false;
    if (!has_hash(path, seen.sha256, blob)) {
      remove(path);
      return false;
    }
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const bool synced = file >= 0 && ::fsync(file) == 0;
    const int reason = errno;
    if (file >= 0) ::close(file);
    require(synced, "cannot write {}: {}", path.string(), std::strerror(reason));
    const auto target = blob_path(blob.sha256);
    require(::rename(path.c_str(), target.c_str()) == 0, "cannot write {}: {}", target.string(),
            std::strerror(errno));
    offsite::detail::sync_folder(target.parent_path());
    if (!seen.sha256.empty()) seen_->keep(blob.sha256, seen.squares);
    return true;
  }
  void drop_part(std::string_view peer, const Blob& blob) {
    const auto path = part_path(peer, blob);
    try {
      (void)parts_->finish(path, blob.bytes);
    } catch (const ArgumentError&) {  // nothing more is wanted of it
    }
    remove(path);
  }

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  static constexpr int kVersion = 1;
  static constexpr const char* kSchema = R"(
    BEGIN;
    CREATE TABLE record(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, fields TEXT NOT NULL);
    CREATE VIEW rounds AS SELECT
      json_extract(fields, '$.round') AS round,
      max(CASE kind WHEN 'round' THEN fields ->> '$.chosen' END) AS chosen,
      sum(kind = 'update') AS updates,
      sum(kind = 'refused') AS refused,
      sum(kind = 'extended') AS extensions,
      max(CASE kind WHEN 'decided' THEN fields ->> '$.loss' END) AS loss,
      max(CASE kind WHEN 'decided' THEN fields ->> '$.accuracy' END) AS accuracy,
      max(CASE kind WHEN 'decided' THEN fields ->> '$.kept' END) AS kept,
      max(CASE kind WHEN 'decided' THEN fields ->> '$.error' END) AS error
      FROM record WHERE json_extract(fields, '$.round') IS NOT NULL GROUP BY 1;
    CREATE VIEW updates AS SELECT
      fields ->> '$.round' AS round, fields ->> '$.client' AS client, kind AS outcome,
      fields ->> '$.update.sha256' AS sha256, fields ->> '$.update.bytes' AS bytes, fields ->> '$.samples' AS samples,
      fields ->> '$.steps' AS steps, fields ->> '$.norm' AS norm, fields ->> '$.loss' AS loss,
      fields ->> '$.reason' AS reason
      FROM record WHERE kind IN ('update', 'refused');
    CREATE VIEW clients AS SELECT
      fields ->> '$.client' AS client, max(fields ->> '$.samples') AS samples,
      max(CASE kind WHEN 'left' THEN fields ->> '$.reason' END) AS reason_of_leaving
      FROM record WHERE kind IN ('client', 'left') GROUP BY 1;
    PRAGMA user_version = 1;
    COMMIT;)";

  /// \param sha256  made while it came; empty = a part that was begun before a restart, or went back: it is read again
  [[nodiscard]] static bool has_hash(const std::filesystem::path& path, const std::string& sha256,
                                     const Blob& blob) {
    const MappedFile file(path);
    return file.size() == blob.bytes && (sha256.empty() ? sha256_hex(file.bytes()) : sha256) == blob.sha256;
  }

  static std::filesystem::path made(std::filesystem::path folder) {
    std::error_code error;
    for (const auto* part : {"blobs", "parts"}) {
      std::filesystem::create_directories(folder / part, error);
      require(!error, "cannot make the folder {}: {}", (folder / part).string(), error.message());
    }
    return folder;
  }
  static void remove(const std::filesystem::path& path) {
    std::error_code error;
    std::filesystem::remove(path, error);
    require(!error, "cannot remove {}: {}", path.string(), error.message());
  }
  [[nodiscard]] std::filesystem::path blob_path(std::string_view sha256) const {
    require(is_sha256(sha256), "{} is no SHA-256", offsite::detail::shown(sha256));
    return folder_ / "blobs" / sha256;
  }
  [[nodiscard]] std::filesystem::path part_path(std::string_view peer, const Blob& blob) const {
    require(is_client_name(peer) && is_sha256(blob.sha256), "a blob of {} cannot be a file's name",
            offsite::detail::shown(peer));
    return folder_ / "parts" / (std::string(peer) + "." + blob.sha256);
  }

  std::filesystem::path folder_;
  std::unique_ptr<detail::FolderLock> lock_;
  std::unique_ptr<detail::Database> database_;
  std::unique_ptr<detail::SquaresSeen> seen_ = std::make_unique<detail::SquaresSeen>();
  std::unique_ptr<PartWriter> parts_ = std::make_unique<PartWriter>();
};

static_assert(Journal<SqliteJournal>);

/// The records of a journal that another process may be writing. \throws ArgumentError if there is none.
[[nodiscard]] inline std::vector<Record> read_records(const std::filesystem::path& folder) {
  std::error_code unseen;
  require(std::filesystem::is_regular_file(folder / "journal.sqlite", unseen),
          "{} holds no journal of a federation", folder.string());
  detail::Database database(folder / "journal.sqlite");
  std::vector<Record> records;
  database.run("SELECT kind, fields FROM record ORDER BY id", {}, [&](auto column) {
    records.push_back({column(0), parse_json(column(1), "a record of the journal in " + folder.string())});
  });
  return records;
}

}  // namespace offsite::federation
