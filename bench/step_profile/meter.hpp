// Attributes a training step's processor time: a timer signal every millisecond of processor time notes which operator
// of LibTorch runs and, in this program's own code, which kernel. Shares of processor time mean the same on a busy
// machine; rates do not.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace bench {

class Meter {
 public:
  /// \param vocabulary  tells the head's products from the others
  /// \param trained     numbers that train
  Meter(std::int64_t vocabulary, std::int64_t trained, at::ScalarType type);
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  void start();  ///< begins to watch
  void step_done(std::int64_t rows, bool counts);
  void print();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bench
