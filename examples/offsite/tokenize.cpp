#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "offsite/command_line.hpp"
#include "offsite/core/error.hpp"
#include "offsite/data/any_task.hpp"
#include "offsite/data/encode.hpp"
#include "offsite/data/load_tokenizer.hpp"
#include "offsite/report/table.hpp"
#include "offsite/session.hpp"
#include "offsite/text_lines.hpp"

namespace program {
namespace {

void tokenize_lines(const TokenizeCommand& command, Session& session) {
  const auto tokenizer = offsite::load_tokenizer(command.model);
  std::int64_t lines = 0, tokens = 0;
  for (const auto& line : read_lines(command.text)) {
    const auto ids = tokenizer.encode(line);
    std::cout << offsite::Json::object({{"ids", ids}}).dump() << '\n';
    ++lines;
    tokens += static_cast<std::int64_t>(ids.size());
  }
  session.results["lines"] = lines;
  session.results["tokens"] = tokens;
}

/// The lengths that decide what a batch costs.
void say_lengths(const Session& session, const std::vector<offsite::Sample>& samples) {
  std::vector<std::int64_t> lengths, scored;
  for (const auto& sample : samples) {
    lengths.push_back(static_cast<std::int64_t>(sample.tokens.size()));
    scored.push_back(sample.scored());
  }
  offsite::Table table({"tokens", "mean", "median", "95 %", "longest", "sum"});
  const auto add = [&](const char* name, std::vector<std::int64_t> values) {
    std::sort(values.begin(), values.end());
    std::int64_t sum = 0;
    for (const auto value : values) sum += value;
    const auto at = [&](double share) {
      return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
    };
    table.add({offsite::Cell(name),
               offsite::Cell(static_cast<double>(sum) / static_cast<double>(values.size()), 1), at(0.5),
               at(0.95), values.back(), sum});
  };
  add("a sample", lengths);
  add("scored of it", scored);
  session.say(table.text());
}

void tokenize_task(const TokenizeCommand& command, Session& session) {
  const auto& data = command.data;
  const auto tokenizer = offsite::load_tokenizer(command.model);
  const auto task = offsite::task_named(data.task, {data.prompt_template, data.completion_template});
  offsite::EncodeOptions options{.bos = offsite::bos_named(data.bos), .workers = data.workers};
  if (data.max_length > 0) options.max_length = data.max_length;
  const auto encoded = offsite::encode_for_training(offsite::read_examples(task, data.data, data.range()),
                                                    offsite::scoring_of(task), tokenizer, options);
  std::int64_t tokens = 0;
  for (const auto& sample : encoded.samples) {
    std::vector<int> scored(sample.tokens.size());
    std::fill(scored.begin() + sample.scored_from, scored.end(), 1);
    std::cout << offsite::Json::object({{"ids", sample.tokens}, {"scored", scored}}).dump() << '\n';
    tokens += static_cast<std::int64_t>(sample.tokens.size());
  }
  say_lengths(session, encoded.samples);
  session.results["rows"] = encoded.samples.size();
  session.results["tokens"] = tokens;
  session.results["shortened"] = encoded.shortened;
}

}  // namespace

std::vector<std::string> read_lines(const Path& file) {
  std::ifstream in(file, std::ios::binary);
  offsite::require(in && !std::filesystem::is_directory(file), "cannot read {}: {}", file.string(),
                   std::filesystem::is_directory(file) ? "it is a folder" : std::strerror(errno));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(std::move(line));
  return lines;
}

void add_tokenize_command(CLI::App& program) {
  auto* app = program.add_subcommand(
      "tokenize", "Token ids of each line of a text, or of each row of a task, as JSON lines");
  auto command = std::make_shared<TokenizeCommand>();
  app->add_option("--model", command->model, "folder with tokenizer files; weights are not needed")
      ->type_name("DIR")
      ->required();
  auto* text = app->add_option("--text", command->text, "text file")->type_name("FILE");
  add_data(*app, command->data, false);
  app->get_option("--task")->needs(app->get_option("--data"))->excludes(text);
  app->get_option("--data")->needs(app->get_option("--task"));
  app->get_option("--max-length")->description("tokens a sample may have; 0 = 1024");
  add_common(*app, command->common);
  app->callback([command] {
    offsite::require(!command->text.empty() || !command->data.task.empty(),
                     "--text, or --task and --data, is needed: what is to be tokenised");
    Session session("tokenize", command->common);
    if (command->text.empty())
      tokenize_task(*command, session);
    else
      tokenize_lines(*command, session);
    session.finish();
  });
}

}  // namespace program
