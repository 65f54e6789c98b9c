// Our kernels beside the operators of ATen that they replace, by Google Benchmark: 16 sequences of SciQ's lengths packed
// into 1,856 rows, GPT-2-small's widths. The last part of a name is the type; docs/benchmarks.md compares the real times.
// Where ATen has no operator of its own (rotary embeddings, norms by root mean squares on CPUs), it is those that PyTorch's
// models are made of.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>
#include <c10/core/GradMode.h>

#include <numeric>
#include <string>
#include <vector>

#include "offsite/core/sequences.hpp"
#include "offsite/ops/accumulate.hpp"
#include "offsite/ops/activation.hpp"
#include "offsite/ops/adamw.hpp"
#include "offsite/ops/attention.hpp"
#include "offsite/ops/cross_entropy.hpp"
#include "offsite/ops/dropout.hpp"
#include "offsite/ops/embedding.hpp"
#include "offsite/ops/gated_mlp.hpp"
#include "offsite/ops/norm.hpp"
#include "offsite/ops/rms_norm.hpp"
#include "offsite/ops/rope.hpp"

namespace {

using namespace offsite;

constexpr std::int64_t kLengths[] = {57, 212, 98, 104, 131, 88, 143, 76, 119, 301, 65, 110, 92, 84, 127, 49};
constexpr std::int64_t kHeads = 12, kWidth = 768, kInner = 3072, kScored = 48, kVocabulary = 50257;

std::int64_t rows() { return std::accumulate(std::begin(kLengths), std::end(kLengths), std::int64_t{0}); }

at::Tensor random(at::IntArrayRef shape, at::ScalarType type) { return at::randn(shape).to(type); }

template <Activation kForm>
at::Tensor forward_of(const at::Tensor& x) {
  return kForm == Activation::kGeluTanh ? at::gelu(x, "tanh") : at::silu(x);
}
template <Activation kForm>
at::Tensor backward_of(const at::Tensor& d, const at::Tensor& x) {
  return kForm == Activation::kGeluTanh ? at::gelu_backward(d, x, "tanh") : at::silu_backward(d, x);
}

template <Activation kForm>
void activation_forward(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor x = random({rows(), kInner}, type);
  at::Tensor y = at::empty_like(x);
  for (auto _ : state) {
    if (ours) {
      ops::activation_out(x, kForm, y);
    } else {
      benchmark::DoNotOptimize(y = forward_of<kForm>(x));
    }
  }
}

template <Activation kForm>
void activation_backward(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor x = random({rows(), kInner}, type), kept = random({rows(), kInner}, type);
  at::Tensor d = kept.clone();
  for (auto _ : state) {
    if (ours) {
      ops::activation_backward_(d, x, kForm);
    } else {
      benchmark::DoNotOptimize(backward_of<kForm>(kept, x));
    }
  }
}

/// silu(gate) * value and its gradients.
void gated(benchmark::State& state, at::ScalarType type, bool ours, bool backward) {
  const at::Tensor gate = random({rows(), kInner}, type), value = random({rows(), kInner}, type),
                   d = random({rows(), kInner}, type), out = at::empty_like(gate);
  at::Tensor g = gate.clone(), u = value.clone();
  for (auto _ : state) {
    if (ours && backward) {
      ops::gated_activation_backward_(d, g, u, Activation::kSilu);
    } else if (ours) {
      ops::gated_activation_out(gate, value, Activation::kSilu, out);
    } else if (backward) {
      benchmark::DoNotOptimize(at::silu_backward(d.mul(value), gate));
      benchmark::DoNotOptimize(d.mul(at::silu(gate)));
    } else {
      benchmark::DoNotOptimize(at::silu(gate).mul_(value));
    }
  }
}

/// Layer norm; backward with the gradients of weight and bias.
void layer_norm(benchmark::State& state, at::ScalarType type, bool ours, bool backward) {
  LayerNorm norm{.weight = random({kWidth}, type), .bias = random({kWidth}, type)};
  const at::Tensor x = random({rows(), kWidth}, type), dy = random({rows(), kWidth}, type);
  for (auto* parameter : {&norm.weight, &norm.bias}) parameter->mutable_grad() = at::zeros({kWidth});
  LayerNorm::Saved saved;
  (void)norm.forward(x, saved, true);
  const auto [y, mean, rstd] = at::native_layer_norm(x, {kWidth}, norm.weight, norm.bias, norm.eps);
  for (auto _ : state) {
    if (ours && backward) {
      benchmark::DoNotOptimize(norm.backward(dy, saved));
    } else if (ours) {
      benchmark::DoNotOptimize(norm.forward(x, saved, true));
    } else if (backward) {
      const auto [dx, dw, db] = at::native_layer_norm_backward(dy, x, {kWidth}, mean, rstd, norm.weight,
                                                               norm.bias, {true, true, true});
      norm.weight.mutable_grad().add_(dw);
      norm.bias.mutable_grad().add_(db);
    } else {
      benchmark::DoNotOptimize(at::native_layer_norm(x, {kWidth}, norm.weight, norm.bias, norm.eps));
    }
  }
}

/// Norm by root mean squares; backward with the gradient of the weight.
void rms_norm(benchmark::State& state, at::ScalarType type, bool ours, bool backward) {
  RmsNorm norm{.weight = random({kWidth}, type)};
  const at::Tensor x = random({rows(), kWidth}, type), dy = random({rows(), kWidth}, type);
  RmsNorm::Saved saved;
  norm.weight.mutable_grad() = at::zeros({kWidth}, type);
  (void)norm.forward(x, saved, true);
  const auto normed = [&] {  // as Hugging Face's models compute it
    const at::Tensor wide = x.to(at::kFloat), rstd = at::rsqrt(wide.square().mean(-1, true).add(norm.eps));
    return std::pair(wide, rstd);
  };
  const auto [wide, rstd] = normed();
  for (auto _ : state) {
    if (ours && backward) {
      benchmark::DoNotOptimize(norm.backward(dy, saved));
    } else if (ours) {
      benchmark::DoNotOptimize(norm.forward(x, saved, true));
    } else if (backward) {  // the derivatives that autograd takes of that
      const at::Tensor unit = wide.mul(rstd), g = dy.mul(norm.weight).to(at::kFloat);
      norm.weight.mutable_grad().add_(dy.mul(unit.to(type)).sum(0));
      benchmark::DoNotOptimize(g.sub(unit.mul(g.mul(unit).mean(-1, true))).mul(rstd).to(type));
    } else {
      const auto [from, scale] = normed();
      benchmark::DoNotOptimize(from.mul(scale).to(type).mul(norm.weight));
    }
  }
}

/// Turns the heads of queries or keys.
void rope(benchmark::State& state, at::ScalarType type, bool ours) {
  const auto turned = Rope({.dims = kWidth / kHeads}).rows(Sequences::of(kLengths));
  const at::Tensor x = random({rows(), kWidth}, type);
  for (auto _ : state) {
    if (ours) {
      ops::rope_(x, kHeads, turned);
    } else {
      benchmark::DoNotOptimize(ops::rope_reference(x, kHeads, turned));
    }
  }
}

void dropout(benchmark::State& state, at::ScalarType type, bool ours) {
  const auto sequences = Sequences::of(kLengths);
  const at::Tensor x = random({rows(), kWidth}, type);
  for (auto _ : state) {
    if (ours) {
      ops::dropout_(x, ops::residual_masks(sequences, {}, 0.1, 1, 0));
    } else {
      benchmark::DoNotOptimize(at::native_dropout(x, 0.1, true));
    }
  }
}

/// Gradients of embeddings: each row is added to its token's.
void embedding_gradient(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor table = at::zeros({kVocabulary, kWidth}), from = random({rows(), kWidth}, type);
  const at::Tensor tokens = at::randint(kVocabulary, {rows()}, at::kLong);
  for (auto _ : state) {
    if (ours) {
      ops::scatter_add_rows(table, tokens, from);
    } else {
      table.index_add_(0, tokens, from.to(at::kFloat));
    }
  }
}

void column_sums(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor from = random({rows(), kInner}, type), to = at::zeros({kInner});
  for (auto _ : state) {
    if (ours) {
      ops::accumulate_rows(to, from);
    } else {
      to.add_(from.sum(0));
    }
  }
}

void weight_gradient_sum(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor from = random({kWidth, kInner}, type), to = at::zeros({kWidth, kInner});
  for (auto _ : state) {
    if (ours) {
      ops::accumulate(to, from);
    } else {
      to.add_(from);
    }
  }
}

void cross_entropy(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor logits = random({kScored, kVocabulary}, type);
  const at::Tensor targets = at::randint(kVocabulary, {kScored}, at::kLong);
  for (auto _ : state) {
    if (ours) {
      (void)ops::cross_entropy_(logits, targets, 1.0 / kScored);
    } else {
      const at::Tensor log_softmax = at::log_softmax(logits, 1, at::kFloat);
      at::Tensor d = log_softmax.exp();
      d.scatter_add_(1, targets.unsqueeze(1), at::full({kScored, 1}, -1.0));
      benchmark::DoNotOptimize(at::nll_loss(log_softmax, targets).add(d.mul_(1.0 / kScored).to(type)[0][0]));
    }
  }
}

/// AdamW's step over a block's 7 million numbers, which also clears the gradients and refreshes the copy that computes.
void adamw(benchmark::State& state, at::ScalarType type, bool ours) {
  constexpr std::int64_t kNumbers = 12 * kWidth * kWidth;
  const ops::AdamwTensors tensors{at::randn(kNumbers), at::randn(kNumbers), at::zeros(kNumbers),
                                  at::zeros(kNumbers), random({kNumbers}, type)};
  for (auto _ : state) {
    if (ours) {
      ops::adamw_(tensors, {.learning_rate = 1e-5});
    } else {
      ops::adamw_reference(tensors, {.learning_rate = 1e-5});
    }
  }
}

/// The norm that clipping needs.
void gradient_norm(benchmark::State& state, at::ScalarType, bool ours) {
  const at::Tensor gradients = at::randn(12 * kWidth * kWidth);
  for (auto _ : state) {
    if (ours) {
      benchmark::DoNotOptimize(ops::squared_norm(gradients));
    } else {
      benchmark::DoNotOptimize(at::linalg_vector_norm(gradients, 2).item<double>());
    }
  }
}

/// The targets' log-probabilities and the best tokens, as evaluation wants them.
void log_probabilities(benchmark::State& state, at::ScalarType type, bool ours) {
  const at::Tensor logits = random({kScored, kVocabulary}, type);
  const at::Tensor targets = at::randint(kVocabulary, {kScored}, at::kLong);
  for (auto _ : state) {
    if (ours) {
      benchmark::DoNotOptimize(ops::log_probabilities(logits, targets, true));
    } else {
      benchmark::DoNotOptimize(ops::log_probabilities_reference(logits, targets));
      benchmark::DoNotOptimize(logits.argmax(1));
    }
  }
}

/// Attention of packed rows, or ATen's for each sequence.
void attention(benchmark::State& state, at::ScalarType type, bool ours, bool backward) {
  at::Tensor qkv = random({rows(), 3 * kWidth}, type);
  const at::Tensor dout = random({rows(), kWidth}, type);
  if (ours) {
    const auto plan = ops::AttentionPlan::of(Sequences::of(kLengths));
    const ops::AttentionOptions options{.heads = kHeads};
    const auto part = [](const at::Tensor& t, std::int64_t i) { return t.narrow(1, i * kWidth, kWidth); };
    const at::Tensor d = at::empty_like(qkv);
    const auto kept = ops::attention(part(qkv, 0), part(qkv, 1), part(qkv, 2), plan, options);
    for (auto _ : state) {
      if (backward) {
        ops::attention_backward(dout, part(qkv, 0), part(qkv, 1), part(qkv, 2), kept.lse, part(d, 0),
                                part(d, 1), part(d, 2), plan, options);
      } else {
        benchmark::DoNotOptimize(ops::attention(part(qkv, 0), part(qkv, 1), part(qkv, 2), plan, options).out);
      }
    }
    return;
  }
  struct Sequence {
    at::Tensor q, k, v, dout, out, lse;
  };
  std::vector<Sequence> sequences;
  std::int64_t first = 0;
  for (const auto length : kLengths) {
    const auto heads = [&](const at::Tensor& t, std::int64_t i) {
      return t.narrow(0, first, length)
          .narrow(1, i * kWidth, kWidth)
          .view({length, kHeads, 64})
          .transpose(0, 1)
          .unsqueeze(0);
    };
    Sequence s{heads(qkv, 0), heads(qkv, 1), heads(qkv, 2), heads(dout, 0), {}, {}};
    std::tie(s.out, s.lse) = at::_scaled_dot_product_flash_attention_for_cpu(s.q, s.k, s.v, 0, true);
    sequences.push_back(s);
    first += length;
  }
  for (auto _ : state)
    for (const auto& s : sequences) {
      if (backward) {
        benchmark::DoNotOptimize(at::_scaled_dot_product_flash_attention_for_cpu_backward(
            s.dout, s.q, s.k, s.v, s.out, s.lse, 0, true));
      } else {
        benchmark::DoNotOptimize(at::scaled_dot_product_attention(s.q, s.k, s.v, {}, 0, true));
      }
    }
}

template <class Run>
void add(const std::string& name, const Run& run,
         const std::vector<at::ScalarType>& types = {at::kBFloat16, at::kFloat}) {
  for (const auto type : types)
    for (const bool ours : {true, false}) {
      const auto full =
          name + (ours ? "/offsite " : "/ATen ") + (type == at::kFloat ? "float32" : "bfloat16");
      benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& state) {
        run(state, type, ours);
      })->UseRealTime();
    }
}

}  // namespace

int main(int argc, char** argv) {
  const c10::NoGradGuard no_grad;
  at::manual_seed(0);
  add("attention, forward", [](auto& state, auto type, bool ours) { attention(state, type, ours, false); });
  add("attention, backward", [](auto& state, auto type, bool ours) { attention(state, type, ours, true); });
  add("GELU (tanh), forward", activation_forward<Activation::kGeluTanh>);
  add("GELU (tanh), backward", activation_backward<Activation::kGeluTanh>);
  add("SiLU, forward", activation_forward<Activation::kSilu>);
  add("SiLU, backward", activation_backward<Activation::kSilu>);
  add("gated SiLU, forward", [](auto& state, auto type, bool ours) { gated(state, type, ours, false); });
  add("gated SiLU, backward", [](auto& state, auto type, bool ours) { gated(state, type, ours, true); });
  add("layer norm, forward", [](auto& state, auto type, bool ours) { layer_norm(state, type, ours, false); });
  add("layer norm, backward", [](auto& state, auto type, bool ours) { layer_norm(state, type, ours, true); });
  add("RMS norm, forward", [](auto& state, auto type, bool ours) { rms_norm(state, type, ours, false); });
  add("RMS norm, backward", [](auto& state, auto type, bool ours) { rms_norm(state, type, ours, true); });
  add("rotary embeddings", rope);
  add("dropout of a branch", dropout);
  add("embeddings, backward", embedding_gradient);
  add("cross entropy and its gradient", cross_entropy);
  add("log-probabilities and best tokens", log_probabilities);
  add("sums of columns (gradient of a bias)", column_sums);
  add("sum of a weight's gradient", weight_gradient_sum);
  add("AdamW, with a copy of the values", adamw);
  add("norm of the gradients", gradient_norm, {at::kFloat});
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
