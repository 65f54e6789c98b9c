// BLOOM against values that Hugging Face transformers computed: see tests/golden/make_bloom.py.
#include "offsite/models/bloom.hpp"

#include "models/golden_model.hpp"

namespace bloom_golden_test {

using namespace offsite;

TEST_CASE("Bloom: logits, loss and every gradient equal Hugging Face's, packed, alone and from a cache") {
  const std::vector<std::pair<std::string, std::int64_t>> cases{
      {"four_heads", 4}, {"three_heads", 3}, {"normed_residual", 6}, {"twelve_heads_untied", 12}};
  for (const auto& [name, heads] : cases)
    golden::check_model<Bloom>("bloom/" + name,
                               [heads = heads](const std::string& parameter, const at::Tensor& t) {
                                 return parameter.ends_with("query_key_value.bias")
                                            ? t.view({heads, 3, t.size(0) / (3 * heads)}).select(1, 1)
                                            : at::Tensor{};
                               });
}

}  // namespace bloom_golden_test
