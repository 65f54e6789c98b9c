// The Llama family through whole rounds: offer folder, training, update folder, plugging in.
#include <ATen/ops/zeros.h>

#include <filesystem>
#include <string>
#include <vector>

#include "models/conformance.hpp"
#include "models/small_llama.hpp"
#include "offsite/adapters/any_adapter.hpp"
#include "offsite/models/llama.hpp"
#include "offsite/ops/cross_entropy.hpp"
#include "offsite/trainer/offer_folder.hpp"
#include "offsite/trainer/offsite_tuning.hpp"
#include "offsite/trainer/returned_update.hpp"
#include "support/test.hpp"

namespace llama_round_test {

using namespace offsite;

namespace {

using Access = BlockAccess<Llama>;

LlamaConfig small(std::string_view model_type) {
  auto c = conformance::small_llama(model_type);
  c.num_hidden_layers = 5;
  c.vocab_size = 30;
  c.sliding_window = model_type == "mistral" ? 6 : 0;
  return c;
}

std::filesystem::path write_model(Llama& model, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  write_json(folder / "config.json", model.config.to_json());
  std::filesystem::copy(support::golden("tokenizer/tokenizer.json"), folder / "tokenizer.json");
  std::vector<NamedView> views;
  for (const auto& [name, tensor] : conformance::parameters(model)) views.push_back({name, view_of(tensor)});
  save_checkpoint(folder, views);
  return folder;
}

double loss_of(Llama& model, const std::vector<Sample>& data) {
  c10::NoGradGuard no_grad;
  const auto batch = pack(data);
  const at::Tensor h =
      run_blocks<Access>(model, model.embed(batch.ids, batch.sequences), batch.sequences, batch.scored_rows);
  return -ops::log_probabilities_reference(model.logits(h), batch.targets).mean().item<double>();
}

}  // namespace

TEST_CASE(
    "Llama family: owner and client that share folders alone tune each member with each kind of adapter") {
  const TrainingOptions training{.learning_rate = 5e-3, .max_steps = 6, .batch_size = 5};
  const auto data = conformance::samples(30);
  for (const auto* type : {"llama", "mistral", "qwen2", "qwen3", "gemma"})
    for (const auto* text : {"whole_blocks", "lora rank=2 targets=q_proj,v_proj,down_proj", "bitfit norms",
                             "bottom: lora rank=2 dora; top: whole_blocks"}) {
      const bool every_kind = std::string_view(type) == "qwen3";
      if (!every_kind && std::string_view(text) != "whole_blocks" &&
          !std::string_view(text).starts_with("lora"))
        continue;
      CAPTURE(type);
      CAPTURE(text);
      const support::TemporaryFolder folder;
      auto full = conformance::small<Llama>(small(type));
      const auto source = write_model(full, folder / "model");
      const auto policy = PlacedAdapters::parse(text);
      const OffsiteOptions cut{
          .bottom_blocks = 1, .top_blocks = 1, .emulator_blocks = 2, .dtype = at::kFloat};

      Owner<Llama, UniformDrop, FedAvg, PlacedAdapters> owner(load_model<Llama>(source), cut.split(), {}, {},
                                                              policy);
      write_offer(owner.model(), owner.offer(), source, folder / "offer");
      auto received = read_offer<Llama>(folder / "offer");
      CHECK(received.split.model_type == type);
      Client<Llama, PlacedAdapters> client(received.offer, at::kFloat, received.adapters);
      const auto before = loss_of(client.model(), data);
      const auto summary = client.train(data, training);
      CHECK(loss_of(client.model(), data) < before - 0.01);
      const auto update = client.update(static_cast<double>(summary.samples));
      write_update(folder / "update", folder / "offer", client.parameters().layout(),
                   {update.delta.data(), static_cast<std::size_t>(update.delta.size())},
                   {.samples = summary.samples, .loss = summary.loss});

      UpdateFolder returned(folder / "update");
      check_update_fits<Llama>(source, returned.split());
      owner.aggregate(std::vector<ClientUpdate>{client_update(returned, owner.layout())});
      auto plugged = owner.plug_in();
      CHECK(plugged.tensors_changed > 0);
      CHECK(loss_of(plugged.model, data) < loss_of(full, data));
      save_model(plugged.model, source, folder / "plugged");
      auto reread = load_model<Llama>(folder / "plugged");
      CHECK(conformance::same_bits(reread, plugged.model));
    }
}

TEST_CASE("Llama family: an offer of one member is not taken for another's") {
  const support::TemporaryFolder folder;
  auto full = conformance::small<Llama>(small("qwen2"));
  const auto source = write_model(full, folder / "model");
  const SplitPlan plan{5, {0, 4}, {1, 3}};
  write_offer(full, Offer<Llama>{plan, Access::select(full, plan.kept())}, source, folder / "offer");
  auto other = read_json(source / "config.json");
  other["model_type"] = "mistral";
  write_json(source / "config.json", other);
  const auto split = SplitSpecification::read(folder / "offer/split.json");
  CHECK(support::message_of<ProtocolError>([&] {
          check_update_fits<Llama>(source, split);
        }).find("model_type") != std::string::npos);
}

}  // namespace llama_round_test
