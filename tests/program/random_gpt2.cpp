// random_gpt2 DIR [width layers heads vocabulary context seed]: a GPT-2 folder of random weights, without a tokenizer;
// GPT-2-small's shape (124M parameters) by default.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/json.hpp"
#include "offsite/models/gpt2.hpp"

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto number = [&](int i, std::int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  offsite::Gpt2Config config;
  config.n_embd = number(2, 768);
  config.n_layer = number(3, 12);
  config.n_head = number(4, 12);
  config.vocab_size = number(5, 50257);
  config.n_positions = number(6, 1024);
  config.bos_token_id = config.eos_token_id = config.vocab_size - 1;
  auto model = offsite::Gpt2::random(config, static_cast<std::uint64_t>(number(7, 42)));
  std::vector<std::int64_t> numbers;
  for (std::int64_t i = 0; i < config.n_layer; ++i) numbers.push_back(i);
  std::vector<offsite::NamedView> tensors;
  offsite::visit_parameters<offsite::BlockAccess<offsite::Gpt2>>(
      model, numbers,
      [&](const std::string& name, const at::Tensor& tensor) { tensors.push_back({name, offsite::view_of(tensor)}); });
  std::filesystem::create_directories(argv[1]);
  offsite::save_checkpoint(argv[1], tensors);
  offsite::write_json(std::filesystem::path(argv[1]) / "config.json", config.to_json());
  std::printf("%s\n", argv[1]);
  return 0;
}
