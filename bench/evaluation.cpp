// How fast are multiple-choice questions scored? SciQ's test questions, GPT-2-small's shape with random weights.
//   evaluation [data=DIR] [type=float32] [questions=64] [from=0] [warm=8] [threads=2] [tokens=4096] [arena=1]
// DIR holds sciq/test.json and tokenizers/gpt2. Prints one line of JSON, as bench/peer/eval_mc.py does: `real_tokens` are
// those of every choice with its prompt, as a scorer without shared prefixes meets them, `rows` those that were computed.
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "common.hpp"
#include "offsite/blocks/cast.hpp"
#include "offsite/core/tensor_arena.hpp"
#include "offsite/eval/multiple_choice.hpp"
#include "offsite/models/gpt2.hpp"

namespace {

using namespace offsite;

EncodedQuestions read_questions(const bench::Arguments& arguments) {
  const std::filesystem::path data = arguments.text("data");
  const auto tokenizer = load_tokenizer(data / "tokenizers" / "gpt2");
  const auto from = arguments.number("from"),
             count = arguments.number("questions") + arguments.number("warm");
  auto rows = Sciq{}.read(data / "sciq" / "test.json", {.limit = from + count});
  rows.erase(rows.begin(), rows.begin() + from);
  return encode_questions(std::span<const Example>(rows), tokenizer);
}

int run(const bench::Arguments& arguments) {
  const auto type = arguments.text("type") == "float32" ? at::kFloat : at::kBFloat16;
  const auto encoded = read_questions(arguments);
  const auto all = std::span<const Question>(encoded.questions);
  const auto count = static_cast<std::size_t>(arguments.number("questions"));
  auto model = cast_model<BlockAccess<Gpt2>>(Gpt2::random(Gpt2Config{}, 0), type);

  const EvaluationOptions options{.batch_tokens = arguments.number("tokens")};
  const auto warm = all.subspan(count);
  if (!warm.empty()) (void)score_questions(model, warm, options);
  const bench::PeakOfAnonymousMemory anonymous;
  const auto begin = bench::Usage::read();
  const auto result = score_questions(model, all.first(count), options);
  const auto used = bench::Usage::read() - begin;
  std::int64_t tokens = 0, rows = 0;
  for (const auto& question : all.first(count)) {
    for (const auto& choice : question.choices) tokens += static_cast<std::int64_t>(choice.tokens.size());
    rows += offsite::detail::plan_question(question, SharesPrefixes<BlockAccess<Gpt2>>).rows;
  }
  std::printf(
      "{\"bench\": \"evaluation\", \"questions\": %zu, \"real_tokens\": %lld, \"rows\": %lld, \"wall_s\": "
      "%.3f, "
      "\"questions_per_s\": %.2f, \"user_s\": %.2f, \"sys_s\": %.2f, \"minor_faults\": %lld, "
      "\"peak_rss_mib\": %.0f, \"peak_anonymous_mib\": %.0f, \"loss\": %.4f, \"threads\": %d}\n",
      count, static_cast<long long>(tokens), static_cast<long long>(rows), used.wall,
      static_cast<double>(count) / used.wall, used.user, used.system, static_cast<long long>(used.faults),
      bench::peak_resident(), anonymous.mebibytes(), result.scores.loss, at::get_num_threads());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const bench::Arguments arguments(argc, argv,
                                     {{"model", ""},
                                      {"data", ""},
                                      {"type", "float32"},
                                      {"questions", "64"},
                                      {"from", "0"},
                                      {"warm", "8"},
                                      {"threads", "2"},
                                      {"tokens", "4096"},
                                      {"arena", "1"}});
    if (arguments.number("arena") != 0) {
      keep_few_products();
      TensorArena::install();
    }
    at::globalContext().setFlushDenormal(true);
    at::set_num_threads(static_cast<int>(arguments.number("threads")));
    return run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
