#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <string_view>
#include <type_traits>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/blocks/visit_linears.hpp"

namespace offsite {

/// One forward and one backward pass through the blocks, with a record a block: what the hand-written pass
/// saves where the accessor has one, else a small autograd graph of that block alone. Records are freed block
/// by block.
template <class Model, class Access>
class BlockTape {
 public:
  /// What is trained and asked for in one pass.
  struct Plan {
    std::vector<bool> trained;    ///< a flag a block
    bool input_gradient = false;  ///< the gradient of the first block's input is wanted
    Dropout dropout;              ///< for trained blocks
    bool module_dropout = false;  ///< modules of linear layers in trained blocks drop something themselves
    std::int64_t recompute = 0;   ///< every so many-th recorded block keeps its input alone; 0 = none

    /// The first block of which something must be recorded.
    [[nodiscard]] std::int64_t first_recorded() const {
      if (input_gradient) return 0;
      std::int64_t first = 0;
      while (first < static_cast<std::int64_t>(trained.size()) && !trained[static_cast<std::size_t>(first)])
        ++first;
      return first;
    }
    /// Whether the backward pass runs this block forward again, instead of finding what it kept. The last block's record
    /// is the first to be used: to make it anew would save nothing.
    [[nodiscard]] bool recomputes(std::int64_t block) const {
      return recompute > 0 && block + 1 < static_cast<std::int64_t>(trained.size()) &&
             (block - first_recorded()) % recompute == 0;
    }
  };

  /// (N, C) -> `rows` of the last block's output (M, C). Below the first trained block nothing is recorded.
  /// \param begin  the first block to run, not above the first recorded: `h` is its input
  [[nodiscard]] at::Tensor forward(Model& model, at::Tensor h, const Sequences& s, const at::Tensor& rows,
                                   const Plan& plan, std::int64_t begin = 0) {
    const auto depth = Access::num_blocks(model);
    plan_ = plan;
    first_ = plan.first_recorded();
    rows_ = rows;
    records_.clear();
    records_.resize(static_cast<std::size_t>(depth - first_));
    for (std::int64_t i = begin; i < depth; ++i) h = forward_block(model, i, h, s);
    if constexpr (HandWrittenBackward<Access>)
      return h;
    else
      return h.index_select(0, rows);
  }

  /// The first `count` blocks alone, which are frozen: (N, C) -> (N, C).
  [[nodiscard]] static at::Tensor forward_frozen(Model& model, at::Tensor h, const Sequences& s,
                                                 std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      if constexpr (HandWrittenBackward<Access>) {
        typename Access::Saved unused;
        h = Access::forward(Access::block(model, i), h, s, BlockPass{{}, {}, false}, unused);
      } else {
        h = Access::forward(Access::block(model, i), h, s);
      }
    }
    return h;
  }

  /// Adds the gradients of all trained block parameters; `d` (M, C) is the gradient of `forward`'s result.
  /// \returns the gradient of the first block's input (N, C) if the plan wanted it, else an undefined tensor
  at::Tensor backward(Model& model, at::Tensor d, const Sequences& s) {
    if constexpr (!HandWrittenBackward<Access>)
      d = at::zeros({s.rows(), d.size(1)}, d.options()).index_add_(0, rows_, d);
    for (auto i = static_cast<std::int64_t>(records_.size()); i-- > 0;) {
      auto& record = records_[static_cast<std::size_t>(i)];
      const bool need = i > 0 || plan_.input_gradient;
      if (plan_.recomputes(first_ + i))
        (void)run(model, first_ + i, at::Tensor(record.input), s, record, true, false);
      if constexpr (HandWrittenBackward<Access>) {
        d = Access::backward(Access::block(model, first_ + i), d, s, record.saved, need);
      } else {
        const c10::AutoGradMode grad(true);
        record.output.backward(d);
        d = record.input.grad();
      }
      record = {};
    }
    return plan_.input_gradient ? d : at::Tensor{};
  }

 private:
  /// Tells the modules of a block's layers of a pass, for as long as this lives.
  class WithinPass {
   public:
    using Block = typename Access::Block;
    WithinPass(Block& block, const ModulePass* pass) : block_(pass != nullptr ? &block : nullptr) {
      set(pass);
    }
    ~WithinPass() { set(nullptr); }
    WithinPass(const WithinPass&) = delete;
    WithinPass& operator=(const WithinPass&) = delete;

   private:
    void set(const ModulePass* pass) {
      if (block_ != nullptr)
        visit_linears<Access>(*block_, [&](std::string_view, Linear& layer) {
          layer.low_rank.dropout.pass = layer.bottleneck.dropout.pass = pass;
        });
    }
    Block* block_;
  };

  template <class A>
  struct RecordOf {
    at::Tensor input, output;  // the ends of its graph, or the input alone
  };
  template <HandWrittenBackward A>
  struct RecordOf<A> {
    at::Tensor input;  // if it is all that is kept
    typename A::Saved saved;
  };
  using Record = RecordOf<Access>;

  at::Tensor forward_block(Model& model, std::int64_t i, const at::Tensor& h, const Sequences& s) {
    Record unused;
    if (i < first_) return run(model, i, h, s, unused, false);
    auto& record = records_[static_cast<std::size_t>(i - first_)];
    if (!plan_.recomputes(i)) return run(model, i, h, s, record, true);
    record.input = h;
    return run(model, i, h, s, unused, false);
  }

  at::Tensor run(Model& model, std::int64_t i, const at::Tensor& h, const Sequences& s, Record& record,
                 bool save, bool output = true) {
    auto& block = Access::block(model, i);
    const bool last = i + 1 == Access::num_blocks(model);
    const bool trained = plan_.trained[static_cast<std::size_t>(i)];
    const ModulePass modules{s, last ? rows_ : at::Tensor{}, plan_.dropout.key};
    const WithinPass within(block, plan_.module_dropout && trained ? &modules : nullptr);
    if constexpr (HandWrittenBackward<Access>) {
      const BlockPass pass{last ? rows_ : at::Tensor{}, trained ? plan_.dropout : Dropout{}, save, output};
      return Access::forward(block, h, s, pass, record.saved);
    } else {
      if (!save) return Access::forward(block, h, s);
      const c10::AutoGradMode grad(true);
      record.input = h.detach().set_requires_grad(true);
      record.output = Access::forward(block, record.input, s);
      return record.output.detach();
    }
  }

  std::vector<Record> records_;
  Plan plan_;
  std::int64_t first_ = 0;
  at::Tensor rows_;
};

}  // namespace offsite
