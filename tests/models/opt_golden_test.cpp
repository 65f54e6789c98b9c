// OPT against values that Hugging Face transformers computed: see tests/golden/make_opt.py.
#include "offsite/models/opt.hpp"

#include "models/golden_model.hpp"

namespace opt_golden_test {

using namespace offsite;

TEST_CASE("Opt: logits, loss and every gradient equal Hugging Face's, packed, alone and from a cache") {
  for (const auto* name : {"pre_norm", "post_norm_projected", "no_final_norm", "bare", "untied"})
    golden::check_model<Opt>(std::string("opt/") + name,
                             [](const std::string& parameter, const at::Tensor& t) {
                               return parameter.ends_with("k_proj.bias") ? t : at::Tensor{};
                             });
}

}  // namespace opt_golden_test
