// The Llama family against values that Hugging Face transformers computed: see tests/golden/make_llama.py.
#include "offsite/models/llama.hpp"

#include "models/golden_model.hpp"

namespace llama_golden_test {

using namespace offsite;

namespace {

// Keys turn with their positions before they meet queries, so no gradient of a bias is zero.
at::Tensor no_key_bias(const std::string&, const at::Tensor&) { return {}; }

}  // namespace

TEST_CASE(
    "Llama family: logits, loss and every gradient equal Hugging Face's, packed, alone and from a cache") {
  for (const auto* name : {"llama_grouped", "llama_biased", "llama_linear", "llama_llama3", "llama_yarn",
                           "llama_yarn_scaled", "mistral_window", "mistral_plain", "qwen2_tied",
                           "qwen2_windows", "qwen3_normed", "qwen3_biased", "gemma"})
    golden::check_model<Llama>(std::string("llama/") + name, no_key_bias);
}

TEST_CASE("Llama: beyond its context, a dynamic rotary embedding equals Hugging Face's") {
  const std::string name = "llama/llama_dynamic";
  golden::check_hand_written<Llama>(name, no_key_bias);
  golden::check_autograd<Llama>(name, no_key_bias);
  golden::check_alone<Llama>(name, false);  // keys in a cache keep the angles of the length that they came at
}

}  // namespace llama_golden_test
