#include "offsite/blocks/torch_module.hpp"

#include <ATen/Context.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "offsite/blocks/cast.hpp"
#include "offsite/blocks/run_blocks.hpp"
#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/data/packed_batch.hpp"
#include "offsite/trainer/full_fine_tuning.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "trainer/toy_data.hpp"

#include "support/test.hpp"

namespace torch_module_test {

using namespace offsite;

namespace {

constexpr std::int64_t kWidth = 16, kVocabulary = 50;

struct AttentionImpl : torch::nn::Cloneable<AttentionImpl> {
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear qkv{nullptr}, out{nullptr}, up{nullptr}, down{nullptr};
  at::Tensor scale;  // a parameter of the block itself, which autograd saves as it is
  at::Tensor shift;  // a buffer
  AttentionImpl() { reset(); }
  void reset() override {
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    qkv = register_module("qkv", torch::nn::Linear(kWidth, 3 * kWidth));
    out = register_module("out", torch::nn::Linear(kWidth, kWidth));
    up = register_module("up", torch::nn::Linear(kWidth, 2 * kWidth));
    down = register_module("down", torch::nn::Linear(2 * kWidth, kWidth));
    scale = register_parameter("scale", at::ones({kWidth}));
    shift = register_buffer("shift", at::zeros({kWidth}));
  }
  at::Tensor forward(const at::Tensor& h) {
    const auto parts = qkv(norm(h)).unsqueeze(1).chunk(3, -1);
    const auto mixed =
        at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {}, 0.0, true).squeeze(1);
    const auto x = h + out(mixed) * scale + shift.to(h.scalar_type());
    return x + down(at::gelu(up(x)));
  }
};

struct TinyNet : torch::nn::Cloneable<TinyNet> {
  using Block = AttentionImpl;
  static constexpr std::string_view kBlocks = "layers";
  std::int64_t depth;
  torch::nn::Embedding table{nullptr}, place{nullptr};
  torch::nn::ModuleList layers{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear head{nullptr};
  explicit TinyNet(std::int64_t blocks) : depth(blocks) { reset(); }
  void reset() override {
    table = register_module("table", torch::nn::Embedding(kVocabulary, kWidth));
    place = register_module("place", torch::nn::Embedding(64, kWidth));
    layers = register_module("layers", torch::nn::ModuleList());
    for (std::int64_t i = 0; i < depth; ++i) layers->push_back(AttentionImpl());
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    head =
        register_module("head", torch::nn::Linear(torch::nn::LinearOptions(kWidth, kVocabulary).bias(false)));
  }
  at::Tensor embed(const at::Tensor& ids, const at::Tensor& positions) {
    return table(ids) + place(positions);
  }
  at::Tensor logits(const at::Tensor& h) { return head(norm(h)); }
  /// The module's own pass over one sequence (T).
  at::Tensor run(const at::Tensor& ids) {
    at::Tensor h = embed(ids, at::arange(ids.numel(), at::kLong)).unsqueeze(0);
    for (const auto& block : *layers) h = block->as<AttentionImpl>()->forward(h);
    return logits(h.squeeze(0));
  }
};

/// Cannot be cloned, holds its blocks under the usual name and ties its head: one submodule under two names.
struct TiedNet : torch::nn::Module {
  using Block = AttentionImpl;
  torch::nn::Embedding table = register_module("table", torch::nn::Embedding(kVocabulary, kWidth));
  torch::nn::Embedding head{nullptr};
  torch::nn::ModuleList blocks = register_module("blocks", torch::nn::ModuleList());
  explicit TiedNet(int depth, bool tied = true) {
    head = register_module("head", tied ? table : torch::nn::Embedding(kVocabulary, kWidth));
    for (int i = 0; i < depth; ++i) blocks->push_back(AttentionImpl());
  }
  at::Tensor embed(const at::Tensor& ids, const at::Tensor&) { return table(ids); }
  at::Tensor logits(const at::Tensor& h) { return at::linear(h, head->weight); }
};

using Model = TorchModule<TinyNet>;
using Access = BlockAccess<Model>;
static_assert(BlockAccessor<Access, Model>);
static_assert(CausalLm<Model>);
static_assert(!std::is_constructible_v<TorchModule<TiedNet>, std::shared_ptr<TiedNet>>);  // needs a maker

std::shared_ptr<TinyNet> make_net(std::int64_t depth = 5) {
  at::manual_seed(3);
  return std::make_shared<TinyNet>(depth);
}

at::Tensor logits(Model& model, const PackedBatch& batch) {
  const c10::NoGradGuard no_grad;
  return model.logits(run_blocks<Access>(model, model.embed(batch.ids, batch.sequences), batch.sequences));
}

std::vector<at::Tensor> copies(const torch::nn::Module& net) {
  std::vector<at::Tensor> all;
  for (const auto& tensor : net.parameters()) all.push_back(tensor.detach().clone());
  return all;
}

bool same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i)
    same = a[i].scalar_type() == b[i].scalar_type() && a[i].sizes() == b[i].sizes() &&
           std::memcmp(a[i].contiguous().const_data_ptr(), b[i].contiguous().const_data_ptr(),
                       a[i].nbytes()) == 0;
  return same;
}

const OffsiteOptions kCut{.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2};

}  // namespace

TEST_CASE("TorchModule: packed sequences of any lengths give what the module gives for each alone") {
  const auto net = make_net();
  Model model(net);
  const auto samples = toy::samples(9);  // two lengths occur twice
  const auto batch = pack(samples);
  const at::Tensor packed = logits(model, batch);
  const c10::NoGradGuard no_grad;
  for (std::int64_t i = 0; i < batch.sequences.count(); ++i) {
    const auto begin = batch.sequences.begin(i), length = batch.sequences.length(i);
    const at::Tensor alone = net->run(batch.ids.narrow(0, begin, length));
    CHECK((packed.narrow(0, begin, length) - alone).abs().max().item<float>() < 1e-5f);
  }
  const std::vector<Sample> equal{samples[0], samples[7]};
  const auto even = pack(equal);
  CHECK(at::equal(logits(model, even).narrow(0, 0, samples[0].rows()),
                  logits(model, pack(std::span(equal).first(1)))));
}

TEST_CASE("TorchModule: trains offsite; the module it was made from stays as it was") {
  const auto net = make_net();
  const auto before = copies(*net);
  OffsiteTuning tuner{Model(net), kCut};
  const auto summary =
      tuner.train(toy::samples(), {.learning_rate = 1e-2, .max_steps = 60, .schedule = Schedule::kConstant});
  CHECK(summary.losses.back() < 0.7 * summary.losses.front());
  CHECK(same_bits(copies(*net), before));
  CHECK(net->is_training());
  CHECK(net->table->weight.requires_grad());

  auto plugged = tuner.plug_in();
  CHECK(plugged.tensors_changed > 0);
  const auto trained = plugged.model.net();
  std::vector<std::string> changed;
  for (const auto& parameter : trained->named_parameters()) {
    const at::Tensor old = net->named_parameters()[parameter.key()];
    if (!at::equal(old, parameter.value()))
      changed.push_back(parameter.key());
    else
      CHECK(parameter.value().data_ptr() == old.data_ptr());  // frozen memory is shared, not copied
  }
  CHECK(static_cast<std::int64_t>(changed.size()) == plugged.tensors_changed);
  for (const auto& name : changed) CHECK((name.starts_with("layers.0.") || name.starts_with("layers.4.")));
  const at::Tensor client =
      tuner.client().model().block(0).qkv->weight;  // received + update rounds once more
  CHECK(at::allclose(trained->layers[0]->as<AttentionImpl>()->qkv->weight, client, 1e-6, 1e-7));
}

TEST_CASE("TorchModule: gradients land in the flat vector, in bfloat16 too") {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    auto cut = kCut;
    cut.dtype = type;
    OffsiteTuning tuner{Model(make_net()), cut};
    const auto summary = tuner.train(
        toy::samples(), {.learning_rate = 5e-3, .max_steps = 40, .schedule = Schedule::kConstant});
    CHECK(summary.losses.back() < 0.9 * summary.losses.front());
    CHECK((tuner.client().model().block(1).scale.scalar_type() == type));
  }
}

TEST_CASE("TorchModule: plugging in untrained adapters is bit-identical") {
  const auto net = make_net();
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    auto cut = kCut;
    cut.dtype = type;
    OffsiteTuning tuner{Model(net), cut};
    auto plugged = tuner.plug_in();
    CHECK(plugged.tensors_changed == 0);
    CHECK(same_bits(copies(*plugged.model.net()), copies(*net)));
  }
}

TEST_CASE("TorchModule: with the whole middle kept the client's logits are the full model's") {
  Model model(make_net());
  auto cut = kCut;
  cut.emulator_blocks = 3;
  OffsiteTuning tuner{model, cut};
  const auto batch = pack(toy::samples());
  CHECK(at::equal(logits(tuner.client().model(), batch), logits(model, batch)));
}

TEST_CASE("TorchModule: copies and selections share memory, but no handles") {
  Model model(make_net());
  Model copy = model;
  const std::vector<std::int64_t> kept{3, 1};
  Model part = Access::select(model, kept);
  CHECK(part.num_blocks() == 2);
  CHECK(part.block(0).scale.data_ptr() == model.block(3).scale.data_ptr());
  CHECK(part.block(1).scale.data_ptr() == model.block(1).scale.data_ptr());
  CHECK(part.block(0).shift.data_ptr() != model.block(3).shift.data_ptr());  // a buffer may be written to
  const auto before = copies(*model.net());
  for (auto* other : {&copy, &part}) {
    const auto negate = [](std::string_view, at::Tensor& tensor) { tensor = tensor.neg(); };
    other->visit_shared(negate);
    for (std::int64_t i = 0; i < other->num_blocks(); ++i) Access::visit(Access::block(*other, i), negate);
    CHECK(same_bits(copies(*model.net()), before));
  }
  CHECK(at::equal(copy.block(2).qkv->weight, -model.block(2).qkv->weight));
  CHECK(at::equal(part.block(0).qkv->weight, -model.block(3).qkv->weight));
  CHECK((cast_model<Access>(model, at::kBFloat16).block(0).scale.scalar_type() == at::kBFloat16));
  CHECK(same_bits(copies(*model.net()), before));
  CHECK_THROWS_WITH_AS((void)part.net(), "the model has 2 of its module's 5 blocks, so the module cannot run",
                       ArgumentError);
  // A part of a part counts from the part, and memory of dropped blocks is given back.
  const std::vector<std::int64_t> first{0}, twice{1, 1}, beyond{5};
  CHECK(Access::select(part, first).block(0).scale.data_ptr() == part.block(0).scale.data_ptr());
  CHECK_THROWS_WITH_AS((void)Access::select(model, twice),
                       "block 1 was asked for twice, but a module has one of each", ArgumentError);
  CHECK_THROWS_WITH_AS((void)Access::select(model, beyond), "block 5 was asked for, but the model has 5",
                       ArgumentError);
}

TEST_CASE("TorchModule: names are the module's own, each once") {
  Model model(make_net());
  std::set<std::string> names;
  const std::vector<std::int64_t> numbers{0, 1, 2, 3, 4};
  visit_parameters<Access>(model, numbers,
                           [&](const std::string& name, at::Tensor&) { CHECK(names.insert(name).second); });
  std::set<std::string> own;
  for (const auto& parameter : model.net()->named_parameters()) own.insert(parameter.key());
  CHECK(names == own);
}

TEST_CASE("TorchModule: any module takes part through a function that makes it; ties are kept") {
  const auto make = [] { return std::make_shared<TiedNet>(4); };
  const auto net = make();
  TorchModule<TiedNet> model(net, make);
  std::vector<std::string> shared;
  model.visit_shared([&](std::string_view name, at::Tensor&) { shared.emplace_back(name); });
  CHECK(shared == std::vector<std::string>{"table.weight"});

  FullFineTuning<TorchModule<TiedNet>> tuning(model);
  const auto summary = tuning.train(toy::samples(), {.learning_rate = 1e-2, .max_steps = 30});
  CHECK(summary.losses.back() < 0.5 * summary.losses.front());
  const auto trained = tuning.model().net();
  CHECK(trained->table->weight.is_same(trained->head->weight));
  CHECK_FALSE(at::equal(trained->table->weight, net->table->weight));
}

TEST_CASE("TorchModule: what cannot be a model is refused in one sentence") {
  const auto tied = std::make_shared<TiedNet>(2);
  const auto message = [&](const std::shared_ptr<TiedNet>& net, const TorchModule<TiedNet>::Make& make) {
    return support::message_of<ArgumentError>([&] { TorchModule<TiedNet>(net, make); });
  };
  const TorchModule<TiedNet>::Make make = [] { return std::make_shared<TiedNet>(2); };
  CHECK(message(nullptr, make) == "a model was to be made of a null module");
  CHECK(message(std::make_shared<TiedNet>(0), make) == "the module's list 'blocks' is empty");
  CHECK(message(tied, [] { return std::shared_ptr<TiedNet>(); }) ==
        "the function that makes a new module returned none");
  CHECK(message(tied, [&] { return tied; }).find("with the old 'table.weight'") != std::string::npos);
  CHECK(message(tied, [] { return std::make_shared<TiedNet>(3); }).find("the new module has 35 parameters") ==
        0);
  CHECK(message(tied, [] { return std::make_shared<TiedNet>(2, false); }).find("'head.weight' is tied to") ==
        0);

  const auto shares = std::make_shared<TiedNet>(1);
  shares->blocks->push_back(shares->blocks[0]);
  CHECK(message(shares, make).find("are one parameter, but blocks cannot share any") != std::string::npos);
  const auto other = std::make_shared<TiedNet>(1);
  other->blocks->push_back(torch::nn::Linear(2, 2));
  CHECK(message(other, make).find("'blocks.1' is a torch::nn::LinearImpl") == 0);
}

}  // namespace torch_module_test
