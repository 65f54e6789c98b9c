#include "offsite/blocks/cast.hpp"

#include "eval/models.hpp"
#include "offsite/eval/multiple_choice.hpp"
#include "support/test.hpp"  // last: see there
#include "trainer/own_model.hpp"

namespace cast_test {

using namespace offsite;

TEST_CASE("cast_model: casts what has another type, shares the rest, leaves the original alone") {
  auto model = evaluation::small_model();
  model.wpe = model.wpe.to(at::kBFloat16);
  auto cast = cast_model<BlockAccess<Gpt2>>(model, at::kBFloat16);
  CHECK(cast.wpe.is_same(model.wpe));
  CHECK((cast.wte.scalar_type() == at::kBFloat16));
  CHECK((cast.head.norm->bias.scalar_type() == at::kBFloat16));
  for (auto& block : cast.blocks)
    block.visit([](const std::string& name, at::Tensor& t) {
      INFO(name);
      CHECK((t.scalar_type() == at::kBFloat16));
    });
  CHECK((model.wte.scalar_type() == at::kFloat));
  CHECK((model.blocks[0].mlp.in.weight.scalar_type() == at::kFloat));
  CHECK(cast_model<BlockAccess<Gpt2>>(model, at::kFloat).wte.is_same(model.wte));
  auto own_cast = cast_model<BlockAccess<own::Model>>(own::random_model(1, 1), at::kDouble);
  CHECK((own_cast.blocks[0].w2.scalar_type() == at::kDouble));
  CHECK(support::message_of<ArgumentError>([&] { (void)cast_model<BlockAccess<Gpt2>>(model, at::kLong); }) ==
        "a model cannot be computed in Long, which is not a floating type");
}

TEST_CASE("cast_model: a model in bfloat16 scores nearly as in float32") {
  auto model = evaluation::small_model();
  auto half = cast_model<BlockAccess<Gpt2>>(model, at::kBFloat16);
  std::mt19937 random(2);
  std::vector<Question> all;
  for (int i = 0; i < 8; ++i)
    all.push_back(
        evaluation::question(evaluation::random_tokens(random, 6),
                             {evaluation::random_tokens(random, 2), evaluation::random_tokens(random, 3)}));
  const double exact = score_questions(model, all).scores.loss,
               rounded = score_questions(half, all).scores.loss;
  CHECK(rounded != exact);
  CHECK(rounded == doctest::Approx(exact).epsilon(0.05));
}

}  // namespace cast_test
