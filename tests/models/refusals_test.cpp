// The table of docs/models.md: what each family refuses, and in which words.
#include <string>
#include <string_view>
#include <vector>

#include "offsite/io/json.hpp"
#include "offsite/models/bloom.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/models/gpt_neox.hpp"
#include "offsite/models/llama.hpp"
#include "offsite/models/opt.hpp"
#include "support/test.hpp"

namespace refusals_test {

using namespace offsite;

namespace {

struct Refusal {
  std::string model_type, fields, sentence;
};

/// The rows of three cells of which the first is a `model_type`.
std::vector<Refusal> documented_refusals() {
  std::vector<Refusal> rows;
  const auto page = support::read_file(support::root() / "docs/models.md");
  for (std::size_t at = 0, end = 0; at < page.size(); at = end + 1) {
    end = std::min(page.find('\n', at), page.size());
    const auto line = page.substr(at, end - at);
    const auto first = line.find("` | `"), second = line.find("` | ", first + 1);
    if (!line.starts_with("| `") || first == line.npos || second == line.npos || line.find('"') > second)
      continue;
    rows.push_back({line.substr(3, first - 3), line.substr(first + 5, second - first - 5),
                    line.substr(second + 4, line.size() - second - 6)});
  }
  return rows;
}

/// What reading a whole configuration with these fields says.
template <class Config>
std::string sentence(const Refusal& row) {
  Config config;
  if constexpr (requires { config.model_type; }) config.model_type = row.model_type;
  auto json = config.to_json();
  json.erase("rope_parameters");
  CHECK_NOTHROW((void)Config::from_json(json));
  json.update(parse_json("{" + row.fields + "}", "docs/models.md"));
  return support::message_of<ProtocolError>([&] { (void)Config::from_json(json); });
}

}  // namespace

TEST_CASE("model families: docs/models.md tells what each refuses, in its words") {
  const auto rows = documented_refusals();
  CHECK(rows.size() >= 12);
  for (const auto& row : rows) {
    CAPTURE(row.model_type);
    CAPTURE(row.fields);
    const auto found = row.model_type == "gpt2"       ? sentence<Gpt2Config>(row)
                       : row.model_type == "opt"      ? sentence<OptConfig>(row)
                       : row.model_type == "bloom"    ? sentence<BloomConfig>(row)
                       : row.model_type == "gpt_neox" ? sentence<GptNeoxConfig>(row)
                                                      : sentence<LlamaConfig>(row);
    CHECK(found == row.sentence);
  }
}

}  // namespace refusals_test
