// A checkpoint that ends in the middle of a model leaves nothing destroyed twice: compilers have been wrong about that.
#include "offsite/models.hpp"
#include "support/test.hpp"

namespace failed_build_test {

using namespace offsite;

namespace {

struct Missing {};

/// Builds the model from a source that fails at each of its parameters in turn.
template <class Model, class Config>
void check_every_failure(const Config& config) {
  bool built = false;
  for (int fails_at = 0; !built && fails_at < 100; ++fails_at) {
    int taken = 0;
    try {
      (void)build_model<Model>(config, [&](std::string_view, at::IntArrayRef shape) {
        if (taken++ == fails_at) throw Missing{};
        return at::ones(shape);
      });
      built = true;
      CHECK(fails_at > 10);
    } catch (const Missing&) {
      CHECK(taken == fails_at + 1);
    }
  }
  CHECK(built);
}

}  // namespace

TEST_CASE("build: a source that fails at any parameter leaves nothing behind") {
  check_every_failure<Gpt2>(
      Gpt2Config{.n_layer = 2, .n_head = 2, .n_embd = 32, .n_positions = 8, .vocab_size = 11});
  check_every_failure<Opt>(OptConfig{.num_hidden_layers = 2,
                                     .num_attention_heads = 2,
                                     .hidden_size = 32,
                                     .ffn_dim = 16,
                                     .max_position_embeddings = 8,
                                     .vocab_size = 11});
  check_every_failure<Bloom>(BloomConfig{.n_layer = 2, .n_head = 2, .hidden_size = 32, .vocab_size = 11});
  check_every_failure<GptNeox>(GptNeoxConfig{.num_hidden_layers = 2,
                                             .num_attention_heads = 2,
                                             .hidden_size = 32,
                                             .intermediate_size = 16,
                                             .vocab_size = 11});
  check_every_failure<Llama>(LlamaConfig{.num_hidden_layers = 2,
                                         .num_attention_heads = 2,
                                         .hidden_size = 32,
                                         .head_dim = 128,  // what a rotary embedding turns by default

                                         .intermediate_size = 16,
                                         .vocab_size = 11});
}

}  // namespace failed_build_test
