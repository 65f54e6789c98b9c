// GPT-2 against values that Hugging Face transformers computed: see tests/golden/make_gpt2.py.
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <map>

#include "offsite/core/tensors.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/ops/cross_entropy.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

using namespace offsite;
using support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;

at::Tensor tensor(const SafetensorsFile& file, std::string_view name) {
  return tensor_over(file.at(name), file.owner()).clone();
}

struct Case {
  Gpt2 model;
  std::vector<at::Tensor> ids, logits;
  Sequences packed;
  at::Tensor all_ids, rows, targets;
  double loss = 0;
  std::map<std::string, at::Tensor> gradients;  // expected

  explicit Case(const std::string& name)
      : Case(SafetensorsFile(support::golden("gpt2/" + name + "/model.safetensors")),
             SafetensorsFile(support::golden("gpt2/" + name + "/expected.safetensors")),
             Gpt2Config::from_json(read_json(support::golden("gpt2/" + name + "/config.json")))) {}

  Case(const SafetensorsFile& weights, const SafetensorsFile& expected, const Gpt2Config& config) {
    model = Gpt2::build(config, [&](std::string_view key, at::IntArrayRef) { return tensor(weights, key); });
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
    packed = Sequences::of(lengths);
    all_ids = at::cat(ids);
    rows = at::empty({static_cast<std::int64_t>(scored.size())}, at::kLong);
    targets = at::empty_like(rows);
    std::copy(scored.begin(), scored.end(), rows.mutable_data_ptr<std::int64_t>());
    std::copy(wanted.begin(), wanted.end(), targets.mutable_data_ptr<std::int64_t>());
    loss = tensor(expected, "loss").item<double>();
    for (const auto& key : expected.names())
      if (key.starts_with("grad.")) gradients[key.substr(5)] = tensor(expected, key);
  }

  template <class F>
  void visit(F&& f) {
    model.visit_shared([&](std::string_view name, at::Tensor& t) { f(std::string(name), t); });
    for (auto& block : model.blocks)
      Access::visit(block, [&](std::string_view name, at::Tensor& t) {
        f(Access::block_prefix(block.index) + std::string(name), t);
      });
  }
  void train_everything(bool autograd) {
    visit([&](const std::string&, at::Tensor& t) {
      t.set_requires_grad(autograd);
      t.mutable_grad() = at::zeros(t.sizes(), at::kFloat);
    });
  }
  void check_gradients() {
    std::size_t seen = 0;
    std::map<std::string, double> block_norms;
    const auto block_of = [](const std::string& name) { return name.substr(0, name.find('.', 14)); };
    for (const auto& [name, gradient] : gradients)
      block_norms[block_of(name)] += std::pow(support::magnitude(gradient), 2);
    visit([&](const std::string& name, at::Tensor& t) {
      INFO(name);
      ++seen;
      REQUIRE(gradients.contains(name));
      at::Tensor ours = t.grad(), theirs = gradients[name];
      if (name.ends_with("c_attn.bias")) {  // a shift of all keys changes no softmax: this third is zero
        const auto C = model.config.n_embd;
        CHECK(support::magnitude(ours.narrow(0, C, C)) < 1e-6 * std::sqrt(block_norms[block_of(name)]));
        ours = at::cat({ours.narrow(0, 0, C), ours.narrow(0, 2 * C, C)});
        theirs = at::cat({theirs.narrow(0, 0, C), theirs.narrow(0, 2 * C, C)});
      }
      CHECK(relative_error(ours, theirs) < 1e-5);
    });
    CHECK(seen == gradients.size());
  }
  // The hand-written pass; with `rows`, the last block computes those only.
  at::Tensor hidden(const at::Tensor& token_ids, const Sequences& s, std::vector<Access::Saved>& saved,
                    bool save, const at::Tensor& wanted = {}) {
    at::Tensor h = model.embed(token_ids, s);
    saved.resize(model.blocks.size());
    for (std::size_t i = 0; i < saved.size(); ++i)
      h = Access::forward(model.blocks[i], h, s,
                          {.rows = i + 1 == saved.size() ? wanted : at::Tensor{}, .save = save}, saved[i]);
    return h;
  }
};

const std::vector<std::string> kCases{"odd_width", "five_heads", "inverse_layer", "untied",
                                      "unscaled",  "quick",      "tanh"};

}  // namespace

TEST_CASE("Gpt2: packed logits, loss and every gradient equal Hugging Face's, by hand-written passes") {
  c10::NoGradGuard no_grad;
  for (const auto& name : kCases) {
    INFO(name);
    support::for_each_isa([&] {
      Case golden(name);
      golden.train_everything(false);
      std::vector<Access::Saved> saved;
      at::Tensor h = golden.hidden(golden.all_ids, golden.packed, saved, false);
      CHECK(relative_error(golden.model.logits(h), at::cat(golden.logits)) < 1e-5);

      h = golden.hidden(golden.all_ids, golden.packed, saved, true, golden.rows);
      Gpt2::SavedHead head;
      const at::Tensor logits = golden.model.logits(h, head);
      CHECK(relative_error(logits, at::cat(golden.logits).index_select(0, golden.rows)) < 1e-5);
      const auto count = static_cast<double>(golden.targets.numel());
      const auto result = ops::cross_entropy_(logits, golden.targets, 1 / count);
      CHECK(result.sum / count == doctest::Approx(golden.loss).epsilon(1e-5));
      at::Tensor d = golden.model.logits_backward(logits, head);
      for (std::size_t i = saved.size(); i-- > 0;)
        d = Access::backward(golden.model.blocks[i], d, golden.packed, saved[i], true);
      golden.model.embed_backward(d, golden.all_ids, golden.packed);
      golden.check_gradients();
    });
  }
}

TEST_CASE("Gpt2: packed logits, loss and every gradient equal Hugging Face's, by autograd") {
  for (const auto& name : kCases) {
    INFO(name);
    Case golden(name);
    golden.train_everything(true);
    at::Tensor h = golden.model.embed(golden.all_ids, golden.packed);
    for (auto& block : golden.model.blocks) h = Access::forward(block, h, golden.packed);
    const at::Tensor logits = golden.model.logits(h);
    CHECK(relative_error(logits.detach(), at::cat(golden.logits)) < 1e-5);
    const at::Tensor loss =
        ops::log_probabilities_reference(logits.index_select(0, golden.rows), golden.targets).mean().neg();
    CHECK(loss.item<double>() == doctest::Approx(golden.loss).epsilon(1e-5));
    loss.backward();
    golden.check_gradients();
  }
}

TEST_CASE("Gpt2: each sequence alone equals Hugging Face's, at once and token by token from a cache") {
  c10::NoGradGuard no_grad;
  for (const auto& name : kCases) {
    INFO(name);
    Case golden(name);
    for (std::size_t i = 0; i < golden.ids.size(); ++i) {
      const std::vector<std::int64_t> length{golden.ids[i].numel()};
      const auto s = Sequences::of(length);
      std::vector<Access::Saved> saved;
      CHECK(relative_error(golden.model.logits(golden.hidden(golden.ids[i], s, saved, false)),
                           golden.logits[i]) < 1e-5);

      const at::Tensor embedded = golden.model.embed(golden.ids[i], s);
      std::vector<Access::Cache> caches(golden.model.blocks.size());
      std::vector<at::Tensor> parts;
      for (std::int64_t t = 0, n = 0; t < length[0]; t += n) {
        n = t == 0 ? length[0] / 2 : 1;  // the prompt at once, then token by token
        at::Tensor h = embedded.narrow(0, t, n);
        for (std::size_t b = 0; b < caches.size(); ++b)
          h = Access::forward(golden.model.blocks[b], h, caches[b]);
        parts.push_back(golden.model.logits(h));
      }
      CHECK(relative_error(at::cat(parts), golden.logits[i]) < 1e-5);
    }
  }
}
