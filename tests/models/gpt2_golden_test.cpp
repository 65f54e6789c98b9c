// GPT-2 against values that Hugging Face transformers computed: see tests/golden/make_gpt2.py.
#include "offsite/models/gpt2.hpp"

#include "models/golden_model.hpp"

namespace gpt2_golden_test {

using namespace offsite;

TEST_CASE("Gpt2: logits, loss and every gradient equal Hugging Face's, packed, alone and from a cache") {
  for (const auto* name : {"odd_width", "five_heads", "inverse_layer", "untied", "unscaled", "quick", "tanh"})
    golden::check_model<Gpt2>(std::string("gpt2/") + name,
                              [](const std::string& parameter, const at::Tensor& t) {
                                const auto C = t.size(0) / 3;
                                return parameter.ends_with("c_attn.bias") ? t.narrow(0, C, C) : at::Tensor{};
                              });
}

}  // namespace gpt2_golden_test
