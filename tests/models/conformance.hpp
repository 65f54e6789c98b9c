#pragma once
// What must hold of every model family, whatever its numbers are: see `check_conformance` at the end.
// Include this before support/test.hpp.
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "offsite/blocks/cast.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/blocks/transformer_block.hpp"
#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/models/transformer_lm.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "support/tensors.hpp"
#include "support/test.hpp"

namespace conformance {

using offsite::BlockPass;
using offsite::Sequences;
using support::random;
using support::relative_error;

inline offsite::Json json(std::string_view text) { return offsite::parse_json(text, "a test"); }

template <class Model>
using AccessOf = offsite::BlockAccess<Model>;

/// A model of that configuration, away from the start, where every branch is nearly zero.
template <class Model>
Model small(const offsite::ConfigOf<Model>& config) {
  Model model = offsite::random_model<Model>(config, 1);
  std::uint64_t seed = 5;
  const auto stir = [&](std::string_view, at::Tensor& t) { t.add_(random(t.sizes(), seed++, 0.2)); };
  model.visit_shared(stir);
  for (auto& block : model.blocks) AccessOf<Model>::visit(block, stir);
  return model;
}

template <class Model>
Model copy_of(Model m) {
  const auto clone = [](std::string_view, at::Tensor& t) { t = t.clone(); };
  m.visit_shared(clone);
  for (auto& block : m.blocks) AccessOf<Model>::visit(block, clone);
  return m;
}

/// Every parameter with its full name.
template <class Model>
std::vector<std::pair<std::string, at::Tensor>> parameters(Model& m) {
  std::vector<std::int64_t> numbers;
  for (const auto& block : m.blocks) numbers.push_back(block.index);
  std::vector<std::pair<std::string, at::Tensor>> all;
  offsite::visit_parameters<AccessOf<Model>>(
      m, numbers, [&](const std::string& name, at::Tensor& t) { all.emplace_back(name, t); });
  return all;
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.is_contiguous() &&
         b.is_contiguous() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

template <class Model>
bool same_bits(Model& a, Model& b) {
  const auto of_a = parameters(a), of_b = parameters(b);
  return std::equal(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && same_bits(x.second, y.second);
  });
}

/// One block of a model, and what tests do with it.
template <class Model>
struct Block {
  using Access = AccessOf<Model>;
  typename Access::Block block;

  at::Tensor run(const at::Tensor& h, const Sequences& s, const BlockPass& pass = {}) {
    typename Access::Saved unused;
    return Access::forward(block, h, s, pass, unused);
  }
  /// Fresh float32 gradients of every parameter, to be added to.
  std::vector<at::Tensor> train() {
    std::vector<at::Tensor> gradients;
    Access::visit(block, [&](std::string_view, at::Tensor& t) {
      t.mutable_grad() = at::zeros(t.sizes(), at::kFloat);
      gradients.push_back(t.grad());
    });
    return gradients;
  }
  void cast(at::ScalarType type) {
    Access::visit(block, [&](std::string_view, at::Tensor& t) { t = t.to(type); });
  }
};

inline const std::vector<std::int64_t> kLengths{7, 20, 1, 12};
inline at::Tensor some_rows() { return support::longs({0, 6, 15, 26, 39}); }

/// Which parts of a gradient are zero in truth (biases of keys), so that only rounding errors are in it.
inline bool comparable(const at::Tensor& gradient, const at::Tensor& other, double limit, double block_norm) {
  return support::magnitude(gradient.sub(other)) < limit * (support::magnitude(other) + 1e-4 * block_norm);
}

inline double norm_of(const std::vector<at::Tensor>& tensors) {
  double squares = 0;
  for (const auto& t : tensors) squares += std::pow(support::magnitude(t), 2);
  return std::sqrt(squares);
}

template <class Model>
void check_build(const offsite::ConfigOf<Model>& config) {
  std::vector<std::string> asked;
  const auto zeros = [&](std::string_view name, at::IntArrayRef shape) {
    asked.emplace_back(name);
    return at::zeros(shape);
  };
  const std::vector<std::int64_t> numbers{0, config.num_blocks() - 1}, none{config.num_blocks()}, kept{1};
  Model model = Model::build(config, numbers, zeros);
  std::vector<std::string> visited;
  for (const auto& [name, tensor] : parameters(model)) visited.push_back(name);
  CHECK(std::set(asked.begin(), asked.end()).size() == asked.size());
  CHECK(std::set(asked.begin(), asked.end()) == std::set(visited.begin(), visited.end()));
  for (const auto& name : visited) CHECK((name.starts_with(Model::kKeyPrefix) || name == Model::kTiedKey));
  CHECK(std::find(visited.begin(), visited.end(), Model::kTiedTo) != visited.end());
  CHECK(model.blocks[1].index == numbers[1]);
  CHECK_THROWS_AS((void)Model::build(config, none, zeros), offsite::ArgumentError);
  CHECK_THROWS_AS((void)offsite::build_model<Model>(
                      config, [](std::string_view, at::IntArrayRef) { return at::zeros({3}); }),
                  offsite::ProtocolError);

  const Model part = AccessOf<Model>::select(model, kept);
  CHECK(part.blocks.size() == 1);
  CHECK(part.blocks[0].index == numbers[1]);
}

template <class Model>
void check_refused_ids(const Model& model) {
  const auto vocabulary = model.config.vocabulary_size();
  const std::vector<std::int64_t> three{3};
  const auto embed = [&](const at::Tensor& ids) {
    return [&model, &three, ids] { (void)model.embed(ids, Sequences::of(three)); };
  };
  CHECK(support::message_of<offsite::ArgumentError>(embed(support::longs({1, vocabulary, 2})))
            .find("outside the vocabulary") != std::string::npos);
  CHECK_THROWS_AS(embed(support::longs({1, 2, -1}))(), offsite::ArgumentError);
  CHECK_THROWS_AS(embed(support::longs({1, 2}))(), offsite::ArgumentError);
}

/// Chosen rows equal those of all, forward and backward, trained or frozen.
template <class Model>
void check_chosen_rows(const Model& model, at::ScalarType type) {
  using Access = AccessOf<Model>;
  const auto s = Sequences::of(kLengths);
  const at::Tensor rows = some_rows();
  const auto width = model.embed(at::zeros({s.rows()}, at::kLong), s).size(1);
  for (const bool trained : {true, false}) {
    Block<Model> b{copy_of(model).blocks[1]};
    b.cast(type);
    const at::Tensor h = random({s.rows(), width}, 2).to(type), d = random({rows.numel(), width}, 3).to(type);
    const at::Tensor spread = at::zeros({s.rows(), width}, type).index_copy(0, rows, d);
    std::vector<at::Tensor> all, some;
    typename Access::Saved saved, saved_rows;
    if (trained) all = b.train();
    const at::Tensor y = Access::forward(b.block, h, s, {}, saved);
    const at::Tensor dh = Access::backward(b.block, spread, s, saved, true);
    if (trained) some = b.train();
    const at::Tensor y_rows = Access::forward(b.block, h, s, {.rows = rows}, saved_rows);
    const at::Tensor dh_rows = Access::backward(b.block, d, s, saved_rows, true);
    const double limit = support::tolerance(type), norm = norm_of(all);
    CHECK(relative_error(y_rows, y.index_select(0, rows)) < limit);
    CHECK(relative_error(dh_rows, dh) < limit);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(comparable(some[i], all[i], 2 * limit, norm));

    CHECK(at::equal(b.run(h, s, {.save = false}), y));
    typename Access::Saved again;
    if (trained) some = b.train();
    (void)Access::forward(b.block, h, s, {}, again);
    CHECK_FALSE(Access::backward(b.block, spread, s, again, false).defined());
    // The first norm's gradients, and those of the projection behind it, are then summed in another way.
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(comparable(some[i], all[i], 2 * limit, norm));
  }
}

/// bfloat16 stays near float32, forward, backward and parameter gradients.
template <class Model>
void check_bfloat16(const Model& model) {
  using Access = AccessOf<Model>;
  const auto s = Sequences::of(kLengths);
  const auto width = model.embed(at::zeros({s.rows()}, at::kLong), s).size(1);
  Block<Model> exact{copy_of(model).blocks[0]}, rounded = exact;
  rounded.cast(at::kBFloat16);
  exact.cast(at::kBFloat16);
  exact.cast(at::kFloat);
  const auto expected = exact.train(), found = rounded.train();
  const at::Tensor h = random({s.rows(), width}, 2).to(at::kBFloat16),
                   d = random({s.rows(), width}, 3).to(at::kBFloat16);
  typename Access::Saved a, b;
  CHECK(relative_error(Access::forward(rounded.block, h, s, {}, b),
                       Access::forward(exact.block, h.to(at::kFloat), s, {}, a)) < 1.5e-2);
  CHECK(relative_error(Access::backward(rounded.block, d, s, b, true),
                       Access::backward(exact.block, d.to(at::kFloat), s, a, true)) < 1.5e-2);
  const double norm = norm_of(expected);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(support::magnitude(found[i].sub(expected[i])) <
          3e-2 * support::magnitude(expected[i]) + 1e-3 * norm);
}

/// A shared prefix gives what whole sequences give.
template <class Model>
void check_shared_prefix(Model model) {
  c10::NoGradGuard no_grad;
  const std::vector<std::int64_t> shared_lengths{20, 4, 9}, whole_lengths{24, 29};
  const auto shared = Sequences::of(shared_lengths, {-1, 0, 0}), whole = Sequences::of(whole_lengths);
  const at::Tensor ids = at::arange(33, at::kLong).mul(7).remainder(model.config.vocabulary_size());
  const at::Tensor prefix = ids.narrow(0, 0, 20);
  const auto logits = [&](const at::Tensor& tokens, const Sequences& s) {
    return model.logits(offsite::run_blocks<AccessOf<Model>>(model, model.embed(tokens, s), s));
  };
  const at::Tensor a = logits(ids, shared);
  const at::Tensor b = logits(at::cat({prefix, ids.narrow(0, 20, 4), prefix, ids.narrow(0, 24, 9)}), whole);
  CHECK(relative_error(a.narrow(0, 0, 24), b.narrow(0, 0, 24)) < 1e-5);
  CHECK(relative_error(a.narrow(0, 24, 9), b.narrow(0, 44, 9)) < 1e-5);
}

/// With dropout, the backward pass equals finite differences of the forward pass.
template <class Model>
void check_dropout_gradients(const Model& model) {
  using Access = AccessOf<Model>;
  const auto s = Sequences::of(kLengths);
  const auto width = model.embed(at::zeros({s.rows()}, at::kLong), s).size(1);
  for (const auto& rows : {at::Tensor{}, some_rows()}) {
    Block<Model> b{copy_of(model).blocks[2]};
    const auto gradients = b.train();
    const BlockPass pass{.rows = rows, .dropout = {.attention = 0.3, .residual = 0.25, .key = 17}};
    const at::Tensor h = random({s.rows(), width}, 2);
    typename Access::Saved saved;
    const at::Tensor y = Access::forward(b.block, h, s, pass, saved), d = random(y.sizes(), 3);
    const at::Tensor dh = Access::backward(b.block, d, s, saved, true);
    CHECK_FALSE(at::equal(y, b.run(h, s, {.rows = rows})));
    CHECK(at::equal(y, b.run(h, s, pass)));
    const auto loss = [&](const at::Tensor& x) {
      return b.run(x, s, pass).to(at::kDouble).mul(d.to(at::kDouble)).sum().template item<double>();
    };
    constexpr double kStep = 2e-3;
    const double norm = norm_of(gradients);
    const auto check = [&](const at::Tensor& gradient, const auto& moved) {
      const double size = support::magnitude(gradient);
      if (size < 1e-5 * norm) return;                   // biases of keys, whose true gradient is zero
      const at::Tensor direction = gradient.div(size);  // along it, the slope is the gradient's norm
      const double slope = (moved(direction.mul(kStep)) - moved(direction.mul(-kStep))) / (2 * kStep);
      CHECK(slope == doctest::Approx(size).epsilon(4e-3));
    };
    check(dh, [&](const at::Tensor& step) { return loss(h.add(step)); });
    std::size_t i = 0;
    Access::visit(b.block, [&](std::string_view name, at::Tensor& t) {
      INFO(std::string(name));
      check(gradients[i++], [&](const at::Tensor& step) {
        const at::Tensor kept = t.clone();
        t.add_(step);
        const double result = loss(h);
        t.copy_(kept);
        return result;
      });
    });
  }
}

/// A pass whose result nobody uses keeps all that the backward pass needs, and where the result is the last layer's makes
/// none.
template <class Model>
void check_pass_without_output(const Model& model) {
  using Access = AccessOf<Model>;
  const auto s = Sequences::of(kLengths);
  const auto width = model.embed(at::zeros({s.rows()}, at::kLong), s).size(1);
  const at::Tensor h = random({s.rows(), width}, 2), d = random({s.rows(), width}, 3);
  std::vector<std::vector<at::Tensor>> found;
  for (const bool output : {true, false}) {
    Block<Model> b{copy_of(model).blocks[1]};
    found.push_back(b.train());
    typename Access::Saved saved;
    const BlockPass pass{.dropout = {.attention = 0.3, .residual = 0.25, .key = 17}, .output = output};
    const at::Tensor y = Access::forward(b.block, h, s, pass, saved);
    CHECK(y.defined() == (output || b.block.residual == offsite::Residual::kPostNorm));
    found.back().push_back(Access::backward(b.block, d, s, saved, true));
  }
  for (std::size_t i = 0; i < found[0].size(); ++i) CHECK(at::equal(found[0][i], found[1][i]));
}

/// Dropout masks depend on key, block and sample, not on packing.
template <class Model>
void check_dropout_masks(const Model& model) {
  Block<Model> b{model.blocks[1]};
  auto packed = Sequences::of(kLengths);
  packed.samples = {5, 9, 2, 7};
  const std::vector<std::int64_t> one{kLengths[1]};
  auto alone = Sequences::of(one);
  alone.samples = {9};
  const auto width = model.embed(at::zeros({packed.rows()}, at::kLong), packed).size(1);
  const at::Tensor h = random({packed.rows(), width}, 2), own = h.narrow(0, 7, one[0]);
  const BlockPass pass{.dropout = {.attention = 0.3, .residual = 0.25, .key = 17}};
  const at::Tensor y = b.run(h, packed, pass), of_one = y.narrow(0, 7, one[0]);
  CHECK(relative_error(b.run(own, alone, pass), of_one) < 1e-5);
  auto other = pass;
  other.dropout.key = 18;
  CHECK(relative_error(b.run(h, packed, other), y) > 0.02);
  alone.samples = {8};
  CHECK(relative_error(b.run(own, alone, pass), of_one) > 0.02);
  ++b.block.index;
  CHECK(relative_error(b.run(h, packed, pass), y) > 0.02);
}

inline std::vector<offsite::Sample> samples(std::int64_t vocabulary) {
  std::vector<offsite::Sample> all;
  for (std::int64_t i = 0; i < 5; ++i) {
    offsite::Sample sample{{}, 2, i};
    for (std::int64_t t = 0; t < 8 + 3 * i; ++t)
      sample.tokens.push_back(static_cast<std::int32_t>((5 + 7 * t * (i + 1) + i) % vocabulary));
    all.push_back(std::move(sample));
  }
  return all;
}

/// All middle kept: the client's logits are the full model's. Untrained adapters plugged in: not a bit changes.
template <class Model>
void check_offsite_tuning(const Model& model) {
  using Access = AccessOf<Model>;
  const auto data = samples(model.config.vocabulary_size());
  const auto batch = offsite::pack(data);
  const auto depth = model.config.num_blocks();
  const auto logits = [&](Model& m) {
    return m.logits(offsite::run_blocks<Access>(m, m.embed(batch.ids, batch.sequences), batch.sequences,
                                                batch.scored_rows));
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto with = [&](std::int64_t emulator) {
      return offsite::OffsiteOptions{
          .bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = emulator, .dtype = dtype};
    };
    offsite::OffsiteTuning whole{model, with(depth - 2)}, less{model, with(depth - 3)};
    Model full = offsite::cast_model<Access>(model, dtype);
    CHECK(at::equal(logits(whole.client().model()), logits(full)));
    CHECK_FALSE(at::equal(logits(less.client().model()), logits(full)));

    for (const auto stored : {at::kFloat, at::kBFloat16, at::kHalf}) {
      Model m = copy_of(offsite::cast_model<Access>(model, stored));
      for (auto& block : m.blocks)
        Access::visit(block, [](std::string_view, at::Tensor& t) { t.view(-1)[0] = -0.0; });
      Model before = copy_of(m);
      offsite::OffsiteTuning tuner{m, with(depth - 3)};
      auto plugged = tuner.plug_in();
      CHECK(plugged.tensors_changed == 0);
      CHECK(same_bits(plugged.model, before));
      (void)tuner.train(data, {.learning_rate = 1e-2, .max_steps = 2});
      CHECK(tuner.plug_in().tensors_changed > 0);
      CHECK(same_bits(m, before));  // the owner's tensors are never written to
    }
  }
}

/// Folders: keys with the prefix and without, one file and shards, read and written again with the same bytes.
template <class Model>
void check_folders(Model model) {
  const support::TemporaryFolder folder;
  const auto all = parameters(model);
  const auto write = [&](const char* name, std::string_view prefix, std::uint64_t shard) {
    std::filesystem::create_directories(folder / name);
    offsite::write_json(folder / name / "config.json", model.config.to_json());
    std::vector<offsite::NamedView> views;
    for (const auto& [key, tensor] : all)
      views.push_back({key.starts_with(prefix) ? key.substr(prefix.size()) : key, offsite::view_of(tensor)});
    offsite::SaveOptions options;
    options.max_shard_bytes = shard;
    offsite::save_checkpoint(folder / name, views, options);
    return folder / name;
  };
  for (const auto& path :
       {write("full", "", 1 << 30), write("bare", Model::kKeyPrefix, 1 << 30), write("shards", "", 20'000)}) {
    INFO(path.string());
    Model read = offsite::load_model<Model>(path);
    CHECK(same_bits(read, model));
    CHECK(read.config.to_json() == model.config.to_json());
    const auto again = path.string() + "_again";
    offsite::save_model(read, path, again);
    Model reread = offsite::load_model<Model>(again);
    CHECK(same_bits(reread, model));
    CHECK(offsite::CheckpointFolder(again).names() == offsite::CheckpointFolder(path).names());
  }
}

/// A configuration that was read says the same when it is written.
template <class Config>
void check_config(const offsite::Json& json) {
  const auto again = Config::from_json(json).to_json();
  for (const auto& [key, value] : json.items()) {
    INFO(key);
    CHECK(again.at(key) == value);
  }
  CHECK(Config::from_json(again).to_json() == again);
}

/// Each wrong value of a field gives one sentence that names the field or the value; so does each needed field that
/// is absent, null, zero or negative.
template <class Config>
void check_wrong_config(const offsite::Json& good, const std::vector<std::string>& needed,
                        std::vector<std::pair<std::string, std::string>> wrong) {
  CHECK_NOTHROW((void)Config::from_json(good));
  for (const auto& field : needed)
    for (const auto* value :
         {"0", "-3", "null", "\"12\"", "[3]", "true", "9223372036854775807", "18446744073709551615"})
      wrong.emplace_back(field, value);
  wrong.emplace_back("quantization_config", "{}");
  for (const auto& [field, value] : wrong) {
    INFO(field, " = ", value);
    auto json = good;
    json[field] = conformance::json(value);
    const auto message = support::message_of<offsite::ProtocolError>([&] { (void)Config::from_json(json); });
    const auto named = value.starts_with('"') ? value.substr(1, value.size() - 2) : field;
    CHECK((message.find(field) != std::string::npos || message.find(named) != std::string::npos));
    CHECK(message.size() < 300);
  }
  for (const auto& field : needed) {
    auto json = good;
    json.erase(field);
    CHECK_THROWS_AS((void)Config::from_json(json), offsite::ProtocolError);
  }
  CHECK_THROWS_AS((void)Config::from_json(conformance::json("[]")), offsite::ProtocolError);
}

/// All that is asked of a model. `config` needs four blocks, a context of 32 tokens and weights worth more than 20 KB.
template <class Model>
void check_conformance(const offsite::ConfigOf<Model>& config) {
  const Model model = small<Model>(config);
  check_build<Model>(config);
  check_refused_ids(model);
  check_chosen_rows(model, at::kFloat);
  check_chosen_rows(model, at::kBFloat16);
  check_bfloat16(model);
  check_shared_prefix(model);
  check_dropout_gradients(model);
  check_pass_without_output(model);
  check_dropout_masks(model);
  check_offsite_tuning(model);
  check_folders(model);
}

}  // namespace conformance
