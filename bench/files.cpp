// How fast are models split, loaded and saved? A folder of GPT-2-small's shape with random weights, in the page cache.
//   files [folder=TEMPORARY] [rounds=3] [small=0]
// Prints one line of JSON: for each thing done, GB of files read or written a second, one number a round, beside memcpy
// of as many bytes and `cp` of the same file. Writing waits for the disk where the library does; `cp` and memcpy do not.
#include <ATen/Parallel.h>
#include <fcntl.h>

#include <cstring>
#include <functional>

#include "common.hpp"
#include "offsite/blocks/visit_parameters.hpp"
#include "offsite/core/tensors.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/json.hpp"
#include "offsite/io/model_folder.hpp"
#include "offsite/io/update_folder.hpp"
#include "offsite/models/gpt2.hpp"
#include "offsite/trainer/client.hpp"
#include "offsite/trainer/offer_folder.hpp"

namespace {

using namespace offsite;
namespace fs = std::filesystem;

void write_random_model(const fs::path& folder, const Gpt2Config& config) {
  auto model = Gpt2::random(config, 0);
  std::vector<NamedView> tensors;
  visit_parameters<BlockAccess<Gpt2>>(model, offsite::detail::all_blocks(config.num_blocks()),
                                      [&](const std::string& name, const at::Tensor& tensor) {
                                        tensors.push_back({name, view_of(tensor)});
                                      });
  fs::create_directories(folder);
  save_checkpoint(folder, tensors);
  write_json(folder / "config.json", config.to_json());
}

std::int64_t bytes_in(const fs::path& folder) {
  std::int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder))
    bytes += static_cast<std::int64_t>(entry.file_size());
  return bytes;
}

/// What `cp` does to a folder of files.
void copy_files(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from))
    require(std::system(formatted("cp '{}' '{}'", entry.path().string(), to.string()).c_str()) == 0,
            "cp {} failed", entry.path().string());
}

void wait_for_disk(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const int file = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    fsync(file);
    close(file);
  }
}

class Files {
 public:
  explicit Files(fs::path folder) : folder_(std::move(folder)) {}

  /// `work` reads or writes a folder whose size is `bytes_of`'s afterwards.
  void time(const std::string& name, const std::function<void()>& work, const fs::path& bytes_of) {
    const auto begin = bench::Usage::read();
    work();
    const auto used = bench::Usage::read() - begin;
    const auto bytes = static_cast<double>(bytes_in(bytes_of));
    auto& found = results_[name];
    found.bytes = bytes;
    found.rates.push_back(1e-9 * bytes / used.wall);
    found.processor.push_back(used.user + used.system);
  }

  void round(const Gpt2Config& config) {
    const auto model = folder_ / "model", offer = folder_ / "offer", update = folder_ / "update",
               copy = folder_ / "copy";
    time(
        "split, the offer's bytes",
        [&] {
          const auto full = load_model<Gpt2>(model);
          const auto plan = plan_split(config.num_blocks(), {2, 2, 4}, UniformDrop{});
          write_offer(full, Offer<Gpt2>{plan, BlockAccess<Gpt2>::select(full, plan.kept())}, model, offer);
        },
        offer);
    time(
        "cp of the offer", [&] { copy_files(offer, copy); }, copy);
    fs::remove_all(copy);
    time(
        "cp of the offer and fsync", [&] { copy_files(offer, copy), wait_for_disk(copy); }, copy);
    fs::remove_all(copy);
    std::vector<char> from(static_cast<std::size_t>(bytes_in(offer)), 1), to(from.size());
    time(
        "memcpy of as many bytes", [&] { std::memcpy(to.data(), from.data(), from.size()); }, offer);
    time(
        "read the offer, hashes checked", [&] { (void)read_offer<Gpt2>(offer); }, offer);
    Client<Gpt2> client(read_offer<Gpt2>(offer).offer, at::kFloat);
    time(
        "save an update",
        [&] {
          const auto delta = client.parameters().values();
          write_update(update, offer, client.parameters().layout(),
                       {delta.const_data_ptr<float>(), static_cast<std::size_t>(delta.numel())},
                       {.samples = 1});
        },
        update);
    time(
        "cp of the update and fsync", [&] { copy_files(update, copy), wait_for_disk(copy); }, copy);
    time(
        "read an update, checked", [&] { (void)UpdateFolder(update); }, update);
    for (const auto& made : {offer, update, copy}) fs::remove_all(made);
  }

  void print() const {
    Json list = Json::array({});
    for (const auto& [name, result] : results_) {
      Json rates = Json::array({}), processor = Json::array({});
      for (const auto rate : result.rates) rates.push_back(rate);
      for (const auto seconds : result.processor) processor.push_back(seconds);
      list.push_back(Json::object({{"name", name},
                                   {"bytes", result.bytes},
                                   {"gb_per_s", std::move(rates)},
                                   {"cpu_s", std::move(processor)}}));
    }
    std::printf("%s\n", Json::object({{"bench", "files"}, {"things", std::move(list)}}).dump().c_str());
  }

 private:
  struct Result {
    double bytes = 0;
    std::vector<double> rates, processor;
  };
  fs::path folder_;
  std::map<std::string, Result> results_;
};

}  // namespace

int main(int argc, char** argv) {
  const auto folder = fs::temp_directory_path() / formatted("offsite-bench-files-{}", getpid());
  int status = 0;
  try {
    const bench::Arguments arguments(
        argc, argv, {{"model", ""}, {"folder", folder.string()}, {"rounds", "3"}, {"small", "0"}});
    Gpt2Config config;
    if (arguments.number("small") != 0) config.n_embd = 96, config.vocab_size = 1000;
    const fs::path place = arguments.text("folder");
    write_random_model(place / "model", config);
    Files files(place);
    for (std::int64_t i = 0; i < arguments.number("rounds"); ++i) files.round(config);
    files.print();
    fs::remove_all(place);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    status = 1;
  }
  std::error_code unseen;
  fs::remove_all(folder, unseen);
  return status;
}
