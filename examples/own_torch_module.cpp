// A torch::nn model takes part: any module with its blocks in a ModuleList. Its author writes Block, embed and
// logits; copies of it are made by clone().
#include <offsite/blocks/torch_module.hpp>
#include <offsite/eval.hpp>
#include <offsite/offsite.hpp>

#include <ATen/Context.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cstdio>
#include <memory>
#include <vector>

namespace {

constexpr std::int64_t kWidth = 32, kVocabulary = 40;

struct LayerImpl : torch::nn::Cloneable<LayerImpl> {
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear qkv{nullptr}, up{nullptr}, down{nullptr};
  LayerImpl() { reset(); }
  void reset() override {
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
    qkv = register_module("qkv", torch::nn::Linear(kWidth, 3 * kWidth));
    up = register_module("up", torch::nn::Linear(kWidth, 2 * kWidth));
    down = register_module("down", torch::nn::Linear(2 * kWidth, kWidth));
  }
  at::Tensor forward(const at::Tensor& h) {  // (B, T, C), one attention head
    const auto parts = qkv(norm(h)).chunk(3, -1);
    const at::Tensor x = h + at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {}, 0.0, true);
    return x + down(at::gelu(up(x)));
  }
};

struct Net : torch::nn::Cloneable<Net> {
  using Block = LayerImpl;
  torch::nn::Embedding table{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  torch::nn::Linear head{nullptr};
  Net() { reset(); }
  void reset() override {
    table = register_module("table", torch::nn::Embedding(kVocabulary, kWidth));
    blocks = register_module("blocks", torch::nn::ModuleList());
    for (int i = 0; i < 6; ++i) blocks->push_back(LayerImpl());
    head = register_module("head", torch::nn::Linear(kWidth, kVocabulary));
  }
  at::Tensor embed(const at::Tensor& ids, const at::Tensor& /*positions*/) { return table(ids); }
  at::Tensor logits(const at::Tensor& h) { return head(h); }
};

}  // namespace

int main() {
  using namespace offsite;
  at::manual_seed(1);
  const auto net = std::make_shared<Net>();
  std::vector<Sample> samples(40);
  for (std::int32_t k = 0; k < 40; ++k)
    for (std::int32_t i = 0; i < 8; ++i)
      samples[static_cast<std::size_t>(k)].tokens.push_back((k + 3 * i) % 40);

  TorchModule model(net);
  OffsiteTuning tuner{model, {.bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2}};
  tuner.train(samples, {.learning_rate = 3e-3, .num_epochs = 20});
  auto tuned = tuner.plug_in().model;

  const double before = score_samples(model, samples).scores.loss,
               after = score_samples(tuned, samples).scores.loss;
  const std::shared_ptr<Net> trained =
      tuned.net();  // a torch module again: run it, or save it with torch::save
  const bool shared = trained->head->weight.data_ptr() == net->head->weight.data_ptr();
  std::printf("Loss of the whole module: %.3f before, %.3f after offsite tuning.\n", before, after);
  std::printf("Memory of frozen parameters is %s with the module it was made from.\n",
              shared ? "shared" : "not shared");
  return after < 0.5 * before && shared ? 0 : 1;
}
