// random_model DIR MODEL_TYPE SEED [FIELDS]: a model folder of random weights, without a tokenizer. FIELDS is a JSON object
// of what `config.json` says beside the family's defaults.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/models/bloom.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/models/gpt_neox.hpp"
#include "offsite/models/llama.hpp"
#include "offsite/models/opt.hpp"

namespace {

using namespace offsite;

/// Writes a model of this family if it is the wanted one.
template <class Model>
bool write(const std::filesystem::path& folder, const std::string& type, std::uint64_t seed,
           const Json& fields) {
  if (!reads_model_type<Model>(type)) return false;
  Json json = ConfigOf<Model>{}.to_json();
  json["model_type"] = type;
  json.erase("architectures");  // of the family's first member
  json.update(fields);
  const auto config = ConfigOf<Model>::from_json(json);
  auto model = random_model<Model>(config, seed);
  std::vector<NamedView> tensors;
  visit_parameters<BlockAccess<Model>>(model, offsite::detail::all_blocks(config.num_blocks()),
                                       [&](const std::string& name, const at::Tensor& tensor) {
                                         tensors.push_back({name, view_of(tensor)});
                                       });
  std::filesystem::create_directories(folder);
  save_checkpoint(folder, tensors);
  write_json(folder / "config.json", config.to_json());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const std::filesystem::path folder = argv[1];
  const std::string type = argv[2];
  const auto seed = static_cast<std::uint64_t>(std::atoll(argv[3]));
  const Json fields = argc > 4 ? parse_json(argv[4], "FIELDS") : Json::object();
  const bool known = write<Gpt2>(folder, type, seed, fields) || write<Opt>(folder, type, seed, fields) ||
                     write<Bloom>(folder, type, seed, fields) || write<GptNeox>(folder, type, seed, fields) ||
                     write<Llama>(folder, type, seed, fields);
  if (known) std::printf("%s\n", argv[1]);
  return known ? 0 : 2;
}
