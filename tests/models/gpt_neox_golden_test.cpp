// GPT-NeoX against values that Hugging Face transformers computed: see tests/golden/make_gpt_neox.py.
#include "offsite/models/gpt_neox.hpp"

#include "models/golden_model.hpp"

namespace gpt_neox_golden_test {

using namespace offsite;

TEST_CASE("GptNeox: logits, loss and every gradient equal Hugging Face's, packed, alone and from a cache") {
  struct Case {
    std::string name;
    std::int64_t heads, turned;
  };
  for (const auto& [name, heads, turned] : std::vector<Case>{{"parallel", 3, 2},
                                                             {"sequential", 3, 6},
                                                             {"half_rotary", 5, 2},
                                                             {"tied", 2, 12},
                                                             {"scaled", 2, 4}}) {
    const auto unturned_keys = [heads = heads, turned = turned](const std::string& parameter,
                                                                const at::Tensor& t) {
      if (!parameter.ends_with("query_key_value.bias")) return at::Tensor{};
      const auto depth = t.size(0) / (3 * heads);
      return t.view({heads, 3, depth}).select(1, 1).narrow(1, turned, depth - turned);
    };
    golden::check_model<GptNeox>("gpt_neox/" + name, unturned_keys);
  }
}

}  // namespace gpt_neox_golden_test
