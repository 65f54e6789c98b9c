#pragma once
#include <cstdio>
#include <string>

#include "offsite/eval/generate.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/peft.hpp"

namespace program {

/// Prints the prompt's greedy continuation, token by token.
template <class Model>
void run_generate(const GenerateCommand& command, Session& session) {
  require(command.max_new_tokens > 0, "--max-new-tokens is {}, but it must be positive",
          command.max_new_tokens);
  Model model = load_with_peft<Model>(command.model, command.peft_folder);
  const auto tokenizer = tokenizer_for(command.model, model.config.vocabulary_size());
  model = cast_model<BlockAccess<Model>>(std::move(model),
                                         compute_type(session, Precision::kScoring, own_type(model)));
  auto prompt = tokenizer.encode(command.prompt);
  if (tokenizer.adds_bos() && tokenizer.bos_id()) prompt.insert(prompt.begin(), *tokenizer.bos_id());
  if (prompt.empty()) {
    // Nothing to go on from: the model begins a text of its own.
    const auto begin = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id();
    require(begin.has_value(), "--prompt is empty, and the tokenizer has no token that begins a text");
    prompt.push_back(*begin);
  }
  // A token may end within a character: bytes are printed as they come, terminals put them together.
  const auto result = generate(model, prompt,
                               {.max_new_tokens = command.max_new_tokens,
                                .context = model.config.context_length(),
                                .end_of_text = tokenizer.eos_id(),
                                .on_token = [&](std::int32_t id) {
                                  if (id == tokenizer.eos_id()) return;
                                  const auto text = tokenizer.bytes_of(id);
                                  std::fwrite(text.data(), 1, text.size(), stdout);
                                  std::fflush(stdout);
                                }});
  std::fputc('\n', stdout);
  if (result.stop == Stop::kContext)
    session.say(fmt::format("the context of {} tokens is full", model.config.context_length()));
  std::string text;  // not `decode`, which takes the space off that begins many a text
  for (const auto id : result.text()) text += tokenizer.bytes_of(id);
  session.results["text"] = text;
  session.results["ids"] = result.tokens;
}

}  // namespace program
