#pragma once
// Models against values that Hugging Face transformers computed: see tests/golden/hugging_face.py.
// Include this before support/test.hpp.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "offsite/blocks/cast.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/ops/cross_entropy.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace golden {

inline at::Tensor tensor(const offsite::SafetensorsFile& file, std::string_view name) {
  return offsite::tensor_over(file.at(name), file.owner()).clone();
}

/// One folder of golden values: a model, three sequences, their logits, the loss and every gradient.
template <class Model>
struct Case {
  using Access = offsite::BlockAccess<Model>;

  Model model;
  std::vector<at::Tensor> ids, logits;
  offsite::Sequences packed;
  at::Tensor all_ids, rows, targets;
  double loss = 0;
  std::map<std::string, at::Tensor> gradients;  // expected

  explicit Case(const std::string& name) : model(offsite::load_model<Model>(support::golden(name))) {
    const offsite::SafetensorsFile expected(support::golden(name + "/expected.safetensors"));
    model = offsite::cast_model<Access>(model, at::kFloat);
    std::vector<std::int64_t> lengths, scored, wanted;
    for (int i = 0; i < 3; ++i) {
      const std::string suffix = "." + std::to_string(i);
      ids.push_back(tensor(expected, "ids" + suffix));
      logits.push_back(tensor(expected, "logits" + suffix));
      const at::Tensor labels = tensor(expected, "labels" + suffix);
      const auto* label = labels.const_data_ptr<std::int64_t>();
      const auto begin = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
      for (std::int64_t t = 1; t < labels.numel(); ++t)
        if (label[t] >= 0) {
          scored.push_back(begin + t - 1);
          wanted.push_back(label[t]);
        }
      lengths.push_back(labels.numel());
    }
    packed = offsite::Sequences::of(lengths);
    all_ids = at::cat(ids);
    rows = at::empty({static_cast<std::int64_t>(scored.size())}, at::kLong);
    targets = at::empty_like(rows);
    std::copy(scored.begin(), scored.end(), rows.mutable_data_ptr<std::int64_t>());
    std::copy(wanted.begin(), wanted.end(), targets.mutable_data_ptr<std::int64_t>());
    loss = tensor(expected, "loss").template item<double>();
    for (const auto& key : expected.names())
      if (key.starts_with("grad.")) gradients[key.substr(5)] = tensor(expected, key);
  }

  /// f(full name, tensor&, its block's prefix or "") for every parameter.
  template <class F>
  void visit(F&& f) {
    model.visit_shared([&](std::string_view name, at::Tensor& t) { f(std::string(name), t, std::string()); });
    for (auto& block : model.blocks)
      Access::visit(block, [&](std::string_view name, at::Tensor& t) {
        const auto prefix = Access::block_prefix(block.index);
        f(prefix + std::string(name), t, prefix);
      });
  }
  void train_everything(bool autograd) {
    visit([&](const std::string&, at::Tensor& t, const std::string&) {
      t = t.detach().clone();
      t.set_requires_grad(autograd);
      t.mutable_grad() = at::zeros(t.sizes(), at::kFloat);
    });
  }

  /// A shift of all keys changes no softmax, so the true gradient of what `key_bias(name, gradient)` returns (a view,
  /// or undefined) is zero.
  template <class KeyBias>
  void check_gradients(KeyBias&& key_bias) {
    std::size_t seen = 0;
    visit([&](const std::string& name, at::Tensor& t, const std::string& prefix) {
      INFO(name);
      ++seen;
      REQUIRE(gradients.contains(name));
      const at::Tensor ours = t.grad().clone(), theirs = gradients[name].clone();
      if (const at::Tensor zero = key_bias(name, ours); zero.defined()) {
        double squares = 0;
        for (const auto& [other, gradient] : gradients)
          if (other.starts_with(prefix)) squares += std::pow(support::magnitude(gradient), 2);
        CHECK(support::magnitude(zero) < 1e-6 * std::sqrt(squares));
        zero.zero_();
        key_bias(name, theirs).zero_();
      }
      CHECK(support::relative_error(ours, theirs) < 1e-5);
    });
    CHECK(seen == gradients.size());
  }

  /// The hand-written pass; with `wanted`, the last block computes those rows only.
  at::Tensor hidden(const at::Tensor& token_ids, const offsite::Sequences& s,
                    std::vector<typename Access::Saved>& saved, bool save, const at::Tensor& wanted = {}) {
    at::Tensor h = model.embed(token_ids, s);
    saved.resize(model.blocks.size());
    for (std::size_t i = 0; i < saved.size(); ++i)
      h = Access::forward(model.blocks[i], h, s,
                          {.rows = i + 1 == saved.size() ? wanted : at::Tensor{}, .save = save}, saved[i]);
    return h;
  }
};

/// Packed logits, loss and every gradient, by the hand-written passes on every instruction set.
template <class Model, class KeyBias>
void check_hand_written(const std::string& name, KeyBias&& key_bias) {
  using Access = offsite::BlockAccess<Model>;
  c10::NoGradGuard no_grad;
  INFO(name);
  support::for_each_isa([&] {
    Case<Model> golden(name);
    golden.train_everything(false);
    std::vector<typename Access::Saved> saved;
    at::Tensor h = golden.hidden(golden.all_ids, golden.packed, saved, false);
    CHECK(support::relative_error(golden.model.logits(h), at::cat(golden.logits)) < 1e-5);

    h = golden.hidden(golden.all_ids, golden.packed, saved, true, golden.rows);
    typename Model::SavedHead head;
    const at::Tensor logits = golden.model.logits(h, head);
    CHECK(support::relative_error(logits, at::cat(golden.logits).index_select(0, golden.rows)) < 1e-5);
    const auto count = static_cast<double>(golden.targets.numel());
    const auto result = offsite::ops::cross_entropy_(logits, golden.targets, 1 / count);
    CHECK(result.sum / count == doctest::Approx(golden.loss).epsilon(1e-5));
    at::Tensor d = golden.model.logits_backward(logits, head);
    for (std::size_t i = saved.size(); i-- > 0;)
      d = Access::backward(golden.model.blocks[i], d, golden.packed, saved[i], true);
    golden.model.embed_backward(d, golden.all_ids, golden.packed);
    golden.check_gradients(key_bias);
  });
}

/// The same by autograd.
template <class Model, class KeyBias>
void check_autograd(const std::string& name, KeyBias&& key_bias) {
  using Access = offsite::BlockAccess<Model>;
  INFO(name);
  Case<Model> golden(name);
  golden.train_everything(true);
  at::Tensor h = golden.model.embed(golden.all_ids, golden.packed);
  for (auto& block : golden.model.blocks) h = Access::forward(block, h, golden.packed);
  const at::Tensor logits = golden.model.logits(h);
  CHECK(support::relative_error(logits.detach(), at::cat(golden.logits)) < 1e-5);
  const at::Tensor loss =
      offsite::ops::log_probabilities_reference(logits.index_select(0, golden.rows), golden.targets)
          .mean()
          .neg();
  CHECK(loss.item<double>() == doctest::Approx(golden.loss).epsilon(1e-5));
  loss.backward();
  golden.check_gradients(key_bias);
}

/// Each sequence alone, at once and, `from_cache`, token by token.
template <class Model>
void check_alone(const std::string& name, bool from_cache = true) {
  using Access = offsite::BlockAccess<Model>;
  c10::NoGradGuard no_grad;
  INFO(name);
  Case<Model> golden(name);
  for (std::size_t i = 0; i < golden.ids.size(); ++i) {
    const std::vector<std::int64_t> length{golden.ids[i].numel()};
    const auto s = offsite::Sequences::of(length);
    std::vector<typename Access::Saved> saved;
    CHECK(support::relative_error(golden.model.logits(golden.hidden(golden.ids[i], s, saved, false)),
                                  golden.logits[i]) < 1e-5);
    if (!from_cache) continue;

    const at::Tensor embedded = golden.model.embed(golden.ids[i], s);
    std::vector<typename Access::Cache> caches(golden.model.blocks.size());
    std::vector<at::Tensor> parts;
    for (std::int64_t t = 0, n = 0; t < length[0]; t += n) {
      n = t == 0 ? length[0] / 2 : 1;  // the prompt at once, then token by token
      at::Tensor h = embedded.narrow(0, t, n);
      for (std::size_t b = 0; b < caches.size(); ++b)
        h = Access::forward(golden.model.blocks[b], h, caches[b]);
      parts.push_back(golden.model.logits(h));
    }
    CHECK(support::relative_error(at::cat(parts), golden.logits[i]) < 1e-5);
  }
}

/// All of the above for the golden folder `name`.
template <class Model, class KeyBias>
void check_model(const std::string& name, KeyBias&& key_bias) {
  check_hand_written<Model>(name, key_bias);
  check_autograd<Model>(name, key_bias);
  check_alone<Model>(name);
}

}  // namespace golden
