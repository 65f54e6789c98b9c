#include "offsite/models/gpt2.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <set>

#include "support/tensors.hpp"
#include "support/test.hpp"

using namespace offsite;
using support::random;
using support::relative_error;

namespace {

using Access = BlockAccess<Gpt2>;

Gpt2 small(std::int64_t width = 24, std::int64_t heads = 3) {
  Gpt2 model =
      Gpt2::random({.n_layer = 3, .n_head = heads, .n_embd = width, .n_positions = 80, .vocab_size = 50}, 1);
  for (auto& block : model.blocks)  // away from the start, where every branch is nearly zero
    block.visit([](std::string_view, at::Tensor& t) { t.add_(random(t.sizes(), 5, 0.2)); });
  return model;
}

at::Tensor run(Gpt2Block& block, const at::Tensor& h, const Sequences& s, const BlockPass& pass = {}) {
  Access::Saved unused;
  return Access::forward(block, h, s, pass, unused);
}

std::vector<at::Tensor> train(Gpt2Block& block) {
  std::vector<at::Tensor> gradients;
  block.visit([&](std::string_view, at::Tensor& t) {
    t.mutable_grad() = at::zeros(t.sizes(), at::kFloat);
    gradients.push_back(t.grad());
  });
  return gradients;
}

const std::vector<std::int64_t> kLengths{7, 40, 1, 12};

}  // namespace

TEST_CASE("Gpt2Config: reads and writes, keeping unknown fields") {
  const auto json = nlohmann::json::parse(R"({"model_type": "gpt2", "n_layer": 2, "n_head": 3, "n_embd": 33,
      "vocab_size": 61, "n_ctx": 40, "n_inner": null, "activation_function": "relu", "scale_attn_weights": false,
      "tie_word_embeddings": false, "eos_token_id": 60, "dtype": "bfloat16", "own": {"field": [1, 2]}})");
  const auto c = Gpt2Config::from_json(json);
  CHECK(c.n_layer == 2);
  CHECK(c.n_positions == 40);
  CHECK(c.inner_width() == 132);
  CHECK(c.activation_function == "relu");
  CHECK(c.attention_scale(1) == 1);
  CHECK_FALSE(c.tie_word_embeddings);
  CHECK(c.bos_token_id == -1);
  CHECK(c.eos_token_id == 60);
  CHECK(c.dtype == "bfloat16");
  const auto again = c.to_json();
  for (const auto& [key, value] : json.items()) CHECK(again.at(key) == value);
  CHECK(again.at("n_positions") == 40);
  CHECK(again.at("bos_token_id").is_null());
  CHECK(Gpt2Config::from_json(again).to_json() == again);

  Gpt2Config scaled{.n_head = 4, .n_embd = 64, .scale_attn_by_inverse_layer_idx = true};
  CHECK(scaled.attention_scale(2) == doctest::Approx(0.25 / 3));
}

TEST_CASE("Gpt2Config: every hostile value gives one sentence that names it") {
  const auto good =
      Gpt2Config{.n_layer = 2, .n_head = 3, .n_embd = 33, .n_positions = 40, .vocab_size = 61}.to_json();
  CHECK_NOTHROW((void)Gpt2Config::from_json(good));
  const std::vector<std::pair<std::string, std::string>> wrong{{"n_layer", "0"},
                                                               {"n_layer", "-3"},
                                                               {"n_layer", "1e3"},
                                                               {"n_layer", "\"12\""},
                                                               {"n_layer", "9223372036854775807"},
                                                               {"n_layer", "18446744073709551615"},
                                                               {"n_layer", "null"},
                                                               {"n_head", "4"},
                                                               {"n_head", "0"},
                                                               {"n_head", "34"},
                                                               {"n_embd", "[33]"},
                                                               {"n_embd", "4611686018427387904"},
                                                               {"n_inner", "0"},
                                                               {"n_inner", "-1"},
                                                               {"n_positions", "0"},
                                                               {"n_positions", "1099511627776"},
                                                               {"vocab_size", "0"},
                                                               {"vocab_size", "true"},
                                                               {"layer_norm_epsilon", "0"},
                                                               {"layer_norm_epsilon", "\"x\""},
                                                               {"activation_function", "\"gelu_old\""},
                                                               {"activation_function", "3"},
                                                               {"scale_attn_weights", "1"},
                                                               {"tie_word_embeddings", "\"no\""},
                                                               {"attn_pdrop", "1.0"},
                                                               {"resid_pdrop", "-0.1"},
                                                               {"embd_pdrop", "1e400"},
                                                               {"add_cross_attention", "true"},
                                                               {"model_type", "\"llama\""},
                                                               {"eos_token_id", "-2"},
                                                               {"initializer_range", "-1"},
                                                               {"dtype", "16"}};
  for (const auto& [field, value] : wrong) {
    INFO(field, " = ", value);
    auto json = good;
    json[field] = value == "1e400" ? nlohmann::json(INFINITY) : nlohmann::json::parse(value);
    const auto message = support::message_of<ProtocolError>([&] { (void)Gpt2Config::from_json(json); });
    CHECK((message.find(field) != std::string::npos || field == "model_type" ||
           field == "activation_function"));
    CHECK(message.size() < 300);
  }
  for (const auto* field : {"n_layer", "n_head", "n_embd", "vocab_size", "n_positions"}) {
    auto json = good;
    json.erase(field);
    CHECK_THROWS_AS((void)Gpt2Config::from_json(json), ProtocolError);
  }
  CHECK_THROWS_AS((void)Gpt2Config::from_json(nlohmann::json::array()), ProtocolError);
}

TEST_CASE("Gpt2: build asks for every parameter once, under its own block's number") {
  const Gpt2Config config{.n_layer = 5,
                          .n_head = 2,
                          .n_embd = 8,
                          .n_positions = 16,
                          .vocab_size = 11,
                          .scale_attn_by_inverse_layer_idx = true,
                          .tie_word_embeddings = false};
  std::vector<std::string> asked;
  const auto zeros = [&](std::string_view name, at::IntArrayRef shape) {
    asked.emplace_back(name);
    return at::zeros(shape);
  };
  const std::vector<std::int64_t> numbers{0, 3};
  Gpt2 model = Gpt2::build(config, numbers, zeros);
  CHECK(asked.size() == 5 + 2 * 12);
  CHECK(std::set<std::string>(asked.begin(), asked.end()).size() == asked.size());
  std::vector<std::string> visited;
  model.visit_shared([&](std::string_view name, at::Tensor&) { visited.emplace_back(name); });
  for (auto& block : model.blocks)
    Access::visit(block, [&](std::string_view name, at::Tensor&) {
      visited.push_back(block_prefix<Access>(block.index) + std::string(name));
    });
  CHECK(std::set<std::string>(asked.begin(), asked.end()) ==
        std::set<std::string>(visited.begin(), visited.end()));
  CHECK(std::find(visited.begin(), visited.end(), "transformer.h.3.attn.c_attn.weight") != visited.end());
  CHECK(model.blocks[1].index == 3);
  CHECK(model.blocks[1].attention_scale == doctest::Approx(0.5 / 4));

  const std::vector<std::int64_t> none{5}, kept{1};
  CHECK_THROWS_AS((void)Gpt2::build(config, none, zeros), ArgumentError);
  CHECK_THROWS_AS((void)Gpt2::build(config, [](std::string_view, at::IntArrayRef) { return at::zeros({3}); }),
                  ProtocolError);
  Gpt2 part = Access::select(model, kept);
  CHECK(part.blocks.size() == 1);
  CHECK(part.blocks[0].index == 3);
  CHECK(part.blocks[0].c_fc.weight.is_same(model.blocks[1].c_fc.weight));
  part.blocks[0].c_fc.weight = at::zeros({1});
  CHECK(model.blocks[1].c_fc.weight.dim() == 2);
  CHECK(Gpt2::is_buffer("transformer.h.0.attn.bias"));
  CHECK(Gpt2::is_buffer("h.11.attn.masked_bias"));
  CHECK_FALSE(Gpt2::is_buffer("h.11.attn.c_attn.bias"));
}

TEST_CASE("Gpt2::random: GPT-2's initialisation, the same bits for the same seed") {
  const Gpt2Config config{.n_layer = 2, .n_head = 2, .n_embd = 64, .n_positions = 32, .vocab_size = 500};
  Gpt2 a = Gpt2::random(config, 3), b = Gpt2::random(config, 3), c = Gpt2::random(config, 4);
  CHECK(at::equal(a.blocks[1].c_fc.weight, b.blocks[1].c_fc.weight));
  CHECK_FALSE(at::equal(a.blocks[1].c_fc.weight, c.blocks[1].c_fc.weight));
  CHECK_FALSE(at::equal(a.blocks[0].c_fc.weight, a.blocks[1].c_fc.weight));
  CHECK(a.wte.std().item<double>() == doctest::Approx(0.02).epsilon(0.05));
  CHECK(a.blocks[0].mlp_proj.weight.std().item<double>() == doctest::Approx(0.01).epsilon(0.05));
  CHECK(a.blocks[0].c_attn.bias.abs().max().item<double>() == 0);
  CHECK(a.ln_f.weight.min().item<double>() == 1);
  CHECK_FALSE(a.head.defined());
}

TEST_CASE("Gpt2: an id outside the vocabulary and a row beyond the context are refused with the numbers") {
  const Gpt2 model = small();
  const std::vector<std::int64_t> three{3}, long_one{81};
  const auto embed = [&](const at::Tensor& ids, const std::vector<std::int64_t>& lengths) {
    return [&model, ids, lengths] { (void)model.embed(ids, Sequences::of(lengths)); };
  };
  CHECK(support::message_of<ArgumentError>(embed(support::longs({1, 50, 2}), three)) ==
        "token id 50 of packed row 1 is outside the vocabulary of 50");
  CHECK_THROWS_AS(embed(support::longs({1, 2, -1}), three)(), ArgumentError);
  CHECK_THROWS_AS(embed(support::longs({1, 2}), three)(), ArgumentError);
  CHECK(support::message_of<ArgumentError>(embed(at::zeros({81}, at::kLong), long_one)).find("80 tokens") !=
        std::string::npos);
}

TEST_CASE(
    "Gpt2 block: chosen rows equal those of all, forward and backward, trained or frozen, in both types") {
  const auto s = Sequences::of(kLengths);
  const at::Tensor rows = support::longs({0, 6, 20, 46, 59});
  for (const auto type : {at::kFloat, at::kBFloat16})
    for (const bool trained : {true, false}) {
      Gpt2 model = small();
      auto& block = model.blocks[1];
      block.visit([&](std::string_view, at::Tensor& t) { t = t.to(type); });
      const at::Tensor h = random({s.rows(), 24}, 2).to(type), d = random({5, 24}, 3).to(type);
      const at::Tensor spread = at::zeros({s.rows(), 24}, type).index_copy(0, rows, d);
      std::vector<at::Tensor> all, some;
      Access::Saved saved, saved_rows;
      if (trained) all = train(block);
      const at::Tensor y = Access::forward(block, h, s, {}, saved);
      const at::Tensor dh = Access::backward(block, spread, s, saved, true);
      if (trained) some = train(block);
      const at::Tensor y_rows = Access::forward(block, h, s, {.rows = rows}, saved_rows);
      const at::Tensor dh_rows = Access::backward(block, d, s, saved_rows, true);
      const double limit = support::tolerance(type);
      CHECK(relative_error(y_rows, y.index_select(0, rows)) < limit);
      CHECK(relative_error(dh_rows, dh) < limit);
      for (std::size_t i = 0; i < all.size(); ++i) CHECK(relative_error(some[i], all[i]) < 2 * limit);

      CHECK(at::equal(run(block, h, s, {.save = false}), y));
      Access::Saved again;
      if (trained) some = train(block);
      (void)Access::forward(block, h, s, {}, again);
      CHECK_FALSE(Access::backward(block, spread, s, again, false).defined());
      for (std::size_t i = 0; i < all.size(); ++i) CHECK(at::equal(some[i], all[i]));
    }
}

TEST_CASE("Gpt2 block: bfloat16 stays near float32, forward, backward and parameter gradients") {
  const auto s = Sequences::of(kLengths);
  Gpt2 model = small(48, 4), low = model;
  auto &exact = model.blocks[0], &rounded = low.blocks[0];
  rounded.visit([](std::string_view, at::Tensor& t) { t = t.to(at::kBFloat16); });
  exact.visit([](std::string_view, at::Tensor& t) { t = t.to(at::kBFloat16).to(at::kFloat); });
  const auto expected = train(exact), found = train(rounded);
  const at::Tensor h = random({s.rows(), 48}, 2).to(at::kBFloat16),
                   d = random({s.rows(), 48}, 3).to(at::kBFloat16);
  Access::Saved a, b;
  CHECK(relative_error(Access::forward(rounded, h, s, {}, b),
                       Access::forward(exact, h.to(at::kFloat), s, {}, a)) < 1e-2);
  CHECK(relative_error(Access::backward(rounded, d, s, b, true),
                       Access::backward(exact, d.to(at::kFloat), s, a, true)) < 1e-2);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(relative_error(found[i], expected[i]) < 2e-2);
}

TEST_CASE("Gpt2: a shared prefix gives what whole sequences give") {
  c10::NoGradGuard no_grad;
  Gpt2 model = small();
  const std::vector<std::int64_t> shared_lengths{30, 4, 9}, whole_lengths{34, 39};
  const auto shared = Sequences::of(shared_lengths, {-1, 0, 0}), whole = Sequences::of(whole_lengths);
  const at::Tensor ids = at::arange(43, at::kLong).mul(7).remainder(50);
  const at::Tensor prefix = ids.narrow(0, 0, 30);
  const auto logits = [&](const at::Tensor& tokens, const Sequences& s) {
    at::Tensor h = model.embed(tokens, s);
    for (auto& block : model.blocks) h = run(block, h, s, {.save = false});
    return model.logits(h);
  };
  const at::Tensor a = logits(ids, shared);
  const at::Tensor b = logits(at::cat({prefix, ids.narrow(0, 30, 4), prefix, ids.narrow(0, 34, 9)}), whole);
  CHECK(relative_error(a.narrow(0, 0, 34), b.narrow(0, 0, 34)) < 1e-5);
  CHECK(relative_error(a.narrow(0, 34, 9), b.narrow(0, 64, 9)) < 1e-5);
}

TEST_CASE("Gpt2 block: with dropout, the backward pass equals finite differences of the forward pass") {
  const auto s = Sequences::of(kLengths);
  const at::Tensor some = support::longs({0, 6, 20, 46, 59});
  for (const auto& rows : {at::Tensor{}, some}) {
    Gpt2 model = small();
    auto& block = model.blocks[2];
    const auto gradients = train(block);
    const BlockPass pass{.rows = rows, .dropout = {.attention = 0.3, .residual = 0.25, .key = 17}};
    const at::Tensor h = random({s.rows(), 24}, 2);
    Access::Saved saved;
    const at::Tensor y = Access::forward(block, h, s, pass, saved), d = random(y.sizes(), 3);
    const at::Tensor dh = Access::backward(block, d, s, saved, true);
    CHECK_FALSE(at::equal(y, run(block, h, s, {.rows = rows})));
    CHECK(at::equal(y, run(block, h, s, pass)));
    const auto loss = [&](const at::Tensor& x) {
      return run(block, x, s, pass).to(at::kDouble).mul(d.to(at::kDouble)).sum().item<double>();
    };
    constexpr double kStep = 2e-3;
    const auto check = [&](const at::Tensor& gradient, const auto& moved) {
      const at::Tensor direction =
          gradient.div(gradient.norm());  // along it, the slope is the gradient's norm
      const double slope = (moved(direction.mul(kStep)) - moved(direction.mul(-kStep))) / (2 * kStep);
      CHECK(slope == doctest::Approx(support::magnitude(gradient)).epsilon(2e-3));
    };
    check(dh, [&](const at::Tensor& step) { return loss(h.add(step)); });
    std::size_t i = 0;
    block.visit([&](std::string_view name, at::Tensor& t) {
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

TEST_CASE("Gpt2 block: dropout masks depend on key, block and sample, not on packing or threads") {
  Gpt2 model = small();
  auto packed = Sequences::of(kLengths);
  packed.samples = {5, 9, 2, 7};
  const std::vector<std::int64_t> one{40};
  auto alone = Sequences::of(one);
  alone.samples = {9};
  const at::Tensor h = random({packed.rows(), 24}, 2);
  const BlockPass pass{.dropout = {.attention = 0.3, .residual = 0.25, .key = 17}};
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor y = run(model.blocks[1], h, packed, pass);
  at::set_num_threads(3);
  CHECK(relative_error(run(model.blocks[1], h, packed, pass), y) <
        1e-6);  // products may add in another order
  at::set_num_threads(threads);
  CHECK(relative_error(run(model.blocks[1], h.narrow(0, 7, 40), alone, pass), y.narrow(0, 7, 40)) < 1e-5);
  auto other = pass;
  other.dropout.key = 18;
  CHECK(relative_error(run(model.blocks[1], h, packed, other), y) > 0.05);
  auto block = model.blocks[1];
  block.index = 2;
  CHECK(relative_error(run(block, h, packed, pass), y) > 0.05);
  alone.samples = {8};
  CHECK(relative_error(run(model.blocks[1], h.narrow(0, 7, 40), alone, pass), y.narrow(0, 7, 40)) > 0.05);
}
