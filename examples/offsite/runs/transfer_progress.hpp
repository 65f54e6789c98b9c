#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "offsite/federation/messages.hpp"
#include "offsite/report/progress.hpp"

namespace program {

/// Shows how far a transfer is that takes more than one message, and how long it still takes.
class TransferProgress {
 public:
  /// \param label  what is done: "upload"
  TransferProgress(std::string label, bool quiet) : label_(std::move(label)), quiet_(quiet) {}

  /// \param what  is transferred: another one begins anew  \param done, total  bytes
  void update(const std::string& what, std::uint64_t done, std::uint64_t total) {
    if (total <= offsite::federation::kMostChunk) return;
    const auto kilobytes = [](std::uint64_t bytes) { return static_cast<std::int64_t>(bytes / 1000); };
    if (what != what_ || total != total_) {
      what_ = what;
      total_ = total;
      progress_.reset();
      if (done < total)
        progress_ = std::make_unique<offsite::Progress>(offsite::ProgressOptions{.label = label_,
                                                                                 .total = kilobytes(total),
                                                                                 .unit = "kB",
                                                                                 .begin = kilobytes(done),
                                                                                 .quiet = quiet_});
    }
    if (!progress_) return;
    progress_->update({.done = kilobytes(done)});
    if (done < total) return;
    progress_->finish();
    progress_.reset();
  }

 private:
  std::string label_;
  bool quiet_;
  std::string what_;
  std::uint64_t total_ = 0;
  std::unique_ptr<offsite::Progress> progress_;
};

}  // namespace program
