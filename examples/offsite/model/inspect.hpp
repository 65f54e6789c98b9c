#pragma once
#include <cstdio>
#include <map>

#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/model/common.hpp"
#include "offsite/model/split.hpp"
#include "offsite/trainer/offer_folder.hpp"

namespace program {

/// A row a part of the model: parameters, bytes, types.
template <class Model>
void print_parts(Model& model, const std::vector<std::int64_t>& numbers,
                 const std::function<std::string(std::string)>& part_of, std::int64_t& parameters,
                 std::int64_t& bytes) {
  struct Part {
    std::int64_t tensors = 0, parameters = 0, bytes = 0;
    std::string type;
  };
  std::vector<std::pair<std::string, Part>> parts;
  visit_parameters<BlockAccess<Model>>(model, numbers,
                                       [&](const std::string& name, const at::Tensor& tensor) {
                                         const auto called = part_of(name);
                                         if (parts.empty() || parts.back().first != called)
                                           parts.push_back({called, {}});
                                         auto& part = parts.back().second;
                                         ++part.tensors;
                                         part.parameters += tensor.numel();
                                         part.bytes += static_cast<std::int64_t>(tensor.nbytes());
                                         const std::string type(dtype_name(dtype_of(tensor.scalar_type())));
                                         part.type = part.type.empty() || part.type == type ? type : "mixed";
                                       });
  Table table({"part", "tensors", "parameters", "bytes", "type"});
  for (const auto& [name, part] : parts) {
    table.add({Cell(name), part.tensors, part.parameters, part.bytes, Cell(part.type)});
    parameters += part.parameters;
    bytes += part.bytes;
  }
  std::fputs(table.text().c_str(), stdout);
}

/// The block that a full name belongs to, or "shared".
template <class Model>
std::function<std::string(std::string)> part_finder(
    const std::vector<std::int64_t>& numbers, const std::function<std::string(std::int64_t)>& describe) {
  std::map<std::string, std::string> prefixes;
  for (const auto number : numbers) prefixes[block_prefix<BlockAccess<Model>>(number)] = describe(number);
  return [prefixes](const std::string& name) -> std::string {
    auto at = prefixes.upper_bound(name);
    if (at == prefixes.begin()) return "shared";
    --at;
    return name.starts_with(at->first) ? at->second : "shared";
  };
}

/// What an offer holds; everything in it is checked.
template <class Model>
void run_inspect_offer(const InspectCommand& command, Session& session) {
  // Left-out shared parameters do not hinder looking: the texts are checked, and the weights where all travel.
  const auto split = SplitSpecification::read(command.folder / "split.json");
  const bool whole =
      std::all_of(split.tensors.begin(), split.tensors.end(), [](const auto& t) { return t.second.travels; });
  DisclosureReport report = offsite::detail::read_offer_texts<Model>(command.folder).disclosure;
  if (whole) {
    auto received = read_offer<Model>(command.folder);
    const auto kept = split.plan.kept();
    std::int64_t parameters = 0, bytes = 0;
    print_parts(
        received.offer.model, kept,
        part_finder<Model>(kept,
                           [&](std::int64_t number) {
                             const auto& adapters = split.plan.adapters;
                             const bool trains =
                                 std::find(adapters.begin(), adapters.end(), number) != adapters.end();
                             return fmt::format("block {} ({})", number, trains ? "adapter" : "emulator");
                           }),
        parameters, bytes);
  } else {
    for (const auto& [name, record] : split.tensors)
      if (!record.travels) std::printf("left out: %s\n", name.c_str());
  }
  for (const auto& line : report.lines()) std::printf("%s\n", line.c_str());
  session.results["kind"] = "offer";
  put_disclosure(session.results, report);
}

/// What a model folder holds.
template <class Model>
void run_inspect_model(const InspectCommand& command, Session& session) {
  Model model = load_model<Model>(command.folder);
  std::vector<std::int64_t> all;
  for (std::int64_t i = 0; i < model.config.num_blocks(); ++i) all.push_back(i);
  std::int64_t parameters = 0, bytes = 0;
  print_parts(model, all,
              part_finder<Model>(all, [](std::int64_t number) { return fmt::format("block {}", number); }),
              parameters, bytes);
  const auto type = model_type_of(command.folder);
  std::printf("%s, %lld blocks, %lld parameters, %s, context %lld, vocabulary %lld\n", type.c_str(),
              static_cast<long long>(all.size()), static_cast<long long>(parameters),
              bytes_text(bytes).c_str(), static_cast<long long>(model.config.context_length()),
              static_cast<long long>(model.config.vocabulary_size()));
  session.results["kind"] = "model";
  session.results["model_type"] = type;
  session.results["blocks"] = all.size();
  session.results["parameters"] = parameters;
  session.results["bytes"] = bytes;
}

}  // namespace program
