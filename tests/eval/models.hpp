#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "offsite/core/tensors.hpp"
#include "offsite/data/encode.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/safetensors.hpp"
#include "offsite/models/gpt2.hpp"
#include "support/test.hpp"  // last: see there

namespace evaluation {

using Tokens = std::vector<std::int32_t>;
using offsite::Gpt2;

/// The same blocks without any refinement: what a user's plain struct offers.
struct PlainAccess : offsite::VectorBlocks<Gpt2, &Gpt2::blocks> {
  static at::Tensor forward(offsite::Gpt2Block& b, const at::Tensor& h, const offsite::Sequences& s) {
    return offsite::BlockAccess<Gpt2>::forward(b, h, s);
  }
  template <class F>
  static void visit(offsite::Gpt2Block& b, F&& f) {
    b.visit(f);
  }
};
static_assert(offsite::BlockAccessor<PlainAccess, Gpt2>);
static_assert(!offsite::HandWrittenBackward<PlainAccess> && !offsite::SharesPrefixes<PlainAccess> &&
              !offsite::CachesKeys<PlainAccess>);

/// A model of 3 blocks, 40 tokens and 24 positions whose predictions are far from uniform.
inline Gpt2 small_model(std::uint64_t seed = 5) {
  offsite::Gpt2Config config;
  config.n_layer = 3;
  config.n_head = 3;
  config.n_embd = 24;
  config.n_positions = 24;
  config.vocab_size = 40;
  config.initializer_range = 0.4;
  return Gpt2::random(config, seed);
}

inline Gpt2 golden_model(const std::string& name) {
  const auto folder = support::golden("gpt2/" + name);
  const offsite::SafetensorsFile weights(folder / "model.safetensors");
  return Gpt2::build(offsite::Gpt2Config::from_json(offsite::read_json(folder / "config.json")),
                     [&](std::string_view key, at::IntArrayRef) {
                       return offsite::tensor_over(weights.at(key), weights.owner()).clone();
                     });
}

inline Tokens random_tokens(std::mt19937& random, std::int64_t count, std::int32_t vocabulary = 40) {
  Tokens tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocabulary)));
  return tokens;
}

/// The reference: one sequence alone through all blocks by autograd's own operators, all logits, log_softmax.
/// Log-probabilities of tokens[from..).
template <class Model, class Access = offsite::BlockAccess<Model>>
std::vector<double> reference(Model& model, const Tokens& tokens, std::int64_t from) {
  const c10::NoGradGuard no_grad;
  const auto size = static_cast<std::int64_t>(tokens.size());
  at::Tensor ids = at::empty({size - 1}, at::kLong);
  std::copy(tokens.begin(), tokens.end() - 1, ids.template mutable_data_ptr<std::int64_t>());
  const std::vector<std::int64_t> length{size - 1};
  const auto s = offsite::Sequences::of(length);
  at::Tensor h = model.embed(ids, s);
  for (std::int64_t i = 0; i < Access::num_blocks(model); ++i)
    h = Access::forward(Access::block(model, i), h, s);
  const at::Tensor log_softmax = at::log_softmax(model.logits(h).to(at::kDouble), 1);
  std::vector<double> values;
  for (auto t = from; t < size; ++t)
    values.push_back(
        log_softmax.select(0, t - 1).select(0, tokens[static_cast<std::size_t>(t)]).template item<double>());
  return values;
}

inline double sum(const std::vector<double>& values) {
  double total = 0;
  for (const auto value : values) total += value;
  return total;
}

/// A question as `encode_questions` makes them.
inline offsite::Question question(const Tokens& prompt, const std::vector<Tokens>& choices,
                                  std::int64_t answer = 0, std::int64_t number = 0) {
  offsite::Question result;
  result.answer = answer;
  result.number = number;
  result.shared = static_cast<std::int64_t>(prompt.size());
  for (const auto& choice : choices) {
    offsite::Sample sample{prompt, result.shared, number};
    sample.tokens.insert(sample.tokens.end(), choice.begin(), choice.end());
    result.choices.push_back(sample);
    result.characters.push_back(static_cast<std::int64_t>(choice.size()) * 3);
  }
  return result;
}

}  // namespace evaluation
