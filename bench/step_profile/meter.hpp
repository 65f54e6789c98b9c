// Attributes a training step's processor time: a timer signal every millisecond of processor time notes which operator
// of LibTorch runs and, in this program's own code, which kernel. Shares of processor time mean the same on a busy
// machine; rates do not.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "step_profile/floors.hpp"

namespace bench {

/// What a step costs; all but `live`, `anonymous`, `resident` and `floors` on average a step.
struct Budget {
  struct Line {
    std::string part;  ///< products, attention, activations, norms, ...
    std::string what;  ///< what of it; empty = the part's sum
    double processor;  ///< seconds
    double flop;       ///< of products: their operations
  };
  const char* type = "";
  int threads = 0;
  std::int64_t trained = 0;                    ///< numbers that train
  std::int64_t steps = 0;                      ///< that were measured
  double rows = 0;                             ///< packed
  double pairs = 0;                            ///< of a row and one that it attends to, in one block and head
  double wall = 0, processor = 0, system = 0;  ///< seconds; `processor` of all threads, `system` a part of it
  double faults = 0;                           ///< minor page faults
  double operators = 0;                        ///< LibTorch's: calls, those of one by another too
  double allocations = 0, allocated = 0;       ///< of LibTorch: calls, bytes
  double live = 0, anonymous = 0,
         resident = 0;        ///< bytes at most: LibTorch's, the process's, with mapped files
  double flop = 0, body = 0;  ///< of all products, and without the head's
  Floors floors{};
  std::vector<Line> lines{};  ///< parts by their time, each followed by what is in it

  void print() const;
  void print_json() const;  ///< the same as one line
};

class Meter {
 public:
  /// \param vocabulary  tells the head's products from the others
  /// \param trained     numbers that train
  /// \param in_by_out   weights are stored so, as GPT-2's are
  Meter(std::int64_t vocabulary, std::int64_t trained, at::ScalarType type, bool in_by_out);
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  void start();  ///< begins to watch
  void step_done(std::int64_t rows, bool counts);
  [[nodiscard]] Budget finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bench
