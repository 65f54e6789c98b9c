#pragma once
// Include this before support/test.hpp.
#include <ATen/ops/cross_entropy_loss.h>

#include <string_view>
#include <vector>

#include "offsite/blocks/block_access.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/flat_parameters.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace support {

/// A client's loss and the gradients of what `policy` trains are those of autograd through the readable forward pass,
/// of all rows, on copies of the trained tensors.
template <class Client, class Policy>
void check_gradients(Client& client, const offsite::PackedBatch& batch, const Policy& policy) {
  auto reference = client.model();
  using Access = offsite::BlockAccess<decltype(reference)>;
  client.parameters().clear_gradients();
  const auto scored = batch.targets.numel();
  const double loss = client.trained().add_gradients(batch, scored, {});

  std::vector<at::Tensor> leaves;
  for (auto& block : reference.blocks)
    Access::visit(block, [&](std::string_view name, at::Tensor& t) {
      if (!policy.trains(name, t)) return;
      t = t.detach().clone().set_requires_grad(true);
      leaves.push_back(t);
    });
  at::Tensor h = reference.embed(batch.ids, batch.sequences);
  for (auto& block : reference.blocks) h = Access::forward(block, h, batch.sequences);
  const at::Tensor expected = at::cross_entropy_loss(reference.logits(h.index_select(0, batch.scored_rows)),
                                                     batch.targets, {}, at::Reduction::Mean);
  expected.backward();

  CHECK(loss / static_cast<double>(scored) ==
        doctest::Approx(expected.template item<double>()).epsilon(1e-5));
  const auto& tensors = client.parameters().layout().tensors();
  REQUIRE(tensors.size() == leaves.size());
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    CAPTURE(tensors[i].name);
    CHECK(relative_error(offsite::FlatParameters::view(client.parameters().gradients(), tensors[i]),
                         leaves[i].grad()) < 2e-5);
  }
}

}  // namespace support
