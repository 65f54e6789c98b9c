#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "offsite/blocks/cast.hpp"
#include "offsite/core/process.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/models/llama.hpp"
#include "support/test.hpp"

namespace model_memory_test {

using namespace offsite;

namespace {

/// The most anonymous memory that `f` was seen to hold beyond what was there before, in bytes.
template <class F>
std::int64_t held_by(F&& f) {
  const auto before = anonymous_memory();
  std::atomic<std::int64_t> peak = 0;
  std::atomic<bool> done = false;
  std::thread watch([&] {
    while (!done) {
      peak = std::max(peak.load(), anonymous_memory());
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  f();
  done = true;
  watch.join();
  return std::max(peak.load(), anonymous_memory()) - before;
}

struct Sizes {
  std::int64_t numbers = 0, largest = 0;  // of all tensors, of one
};

/// A float32 folder of zeros that takes no disk: headers, and a hole.
[[maybe_unused]] Sizes write_holes(const LlamaConfig& config, const std::filesystem::path& folder) {
  std::vector<NamedView> views;
  Sizes sizes;
  const at::Tensor untouched = at::empty({config.vocab_size * config.hidden_size}, at::kFloat);
  (void)build_model<Llama>(config, [&](std::string_view name, at::IntArrayRef shape) {
    at::Tensor t = untouched.narrow(0, 0, c10::multiply_integers(shape)).view(shape);
    views.push_back({std::string(name), view_of(t)});
    sizes.numbers += t.numel();
    sizes.largest = std::max(sizes.largest, t.numel());
    return t;
  });
  const auto prologue = detail::safetensors_prologue(detail::writing_order(views), {});
  support::write_file(folder / "config.json", config.to_json().dump());
  support::write_file(folder / "model.safetensors", prologue);
  std::filesystem::resize_file(folder / "model.safetensors",
                               prologue.size() + static_cast<std::uintmax_t>(4 * sizes.numbers));
  return sizes;
}

}  // namespace

TEST_CASE("load_model: nothing is read; in another type it takes what the model does in it, and one tensor") {
#ifdef __SANITIZE_ADDRESS__
  support::skip("memory is measured where no sanitizer adds to it");
#else
  LlamaConfig config;
  config.hidden_size = 512;
  config.intermediate_size = 1376;
  config.num_hidden_layers = 8;
  config.num_attention_heads = 8;
  config.rope.dims = 64;
  const support::TemporaryFolder folder;
  const auto sizes = write_holes(config, folder.path());
  REQUIRE(4 * sizes.numbers > 200'000'000);
  constexpr std::int64_t kSlack = 8'000'000;

  Llama model;
  CHECK(held_by([&] { model = load_model<Llama>(folder.path()); }) < kSlack);
  CHECK((model.wte.scalar_type() == at::kFloat));
  const auto held =
      held_by([&] { model = cast_model<BlockAccess<Llama> >(std::move(model), at::kBFloat16); });
  CHECK((model.blocks[7].mlp.up.weight.scalar_type() == at::kBFloat16));
  CHECK(held > sizes.numbers);  // it is measured at all; what other tests have freed is taken first
  CHECK(held < 2 * sizes.numbers + 4 * sizes.largest + kSlack);
#endif
}

}  // namespace model_memory_test
