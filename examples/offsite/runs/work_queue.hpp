#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "offsite/transport/pump.hpp"

namespace program {

/// Long work that a machine asks for, done by the main thread while another one attends to the network: so heartbeats
/// are answered, and what is computed has the threads and their settings that the other subcommands compute with.
class WorkQueue {
 public:
  void put(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }
  /// No more work is wanted: `run` returns after the job it is at.
  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_one();
  }
  [[nodiscard]] bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }
  /// Does jobs in their order until it is closed.
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closed_ || !jobs_.empty(); });
      if (closed_) return;
      const auto job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
    }
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  bool closed_ = false;
};

/// Runs a node until `over()`: messages and clock on a thread of their own, work on this one. What either throws ends
/// both, and is thrown here.
template <class Node, class Transport, class Over, class Refusal>
void run_node(Node& node, Transport& transport, offsite::AnswerQueue& answers, WorkQueue& work, Over over,
              Refusal refused) {
  std::exception_ptr failed;
  std::thread network([&] {
    try {
      node.start();
      offsite::pump(
          node, transport, answers, [&] { return over() || work.closed(); }, refused);
    } catch (...) {
      failed = std::current_exception();
    }
    work.close();
  });
  try {
    work.run();
  } catch (...) {
    work.close();
    network.join();
    throw;
  }
  network.join();
  if (failed) std::rethrow_exception(failed);
}

}  // namespace program
