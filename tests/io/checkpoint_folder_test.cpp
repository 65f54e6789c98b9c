#include "offsite/io/checkpoint_folder.hpp"

#include <array>
#include <string>
#include <vector>

#include "offsite/io/staged_folder.hpp"
#include "support/test.hpp"

namespace checkpoint_folder_test {

using namespace offsite;
namespace fs = std::filesystem;

namespace {

/// Four float32 tensors of 4, 8, 12 and 16 bytes, named a to d.
struct Weights {
  std::array<float, 4> values{1, 2, 3, 4};
  std::vector<NamedView> views;
  Weights() {
    for (std::int64_t n = 1; n <= 4; ++n)
      views.push_back(
          {std::string(1, static_cast<char>('a' + n - 1)),
           {Dtype::kF32, {n}, std::as_bytes(std::span(values)).first(static_cast<std::size_t>(4 * n))}});
  }
};

void check_equal(const CheckpointFolder& folder, const Weights& weights) {
  CHECK(folder.names() == std::vector<std::string>{"a", "b", "c", "d"});
  for (const auto& [name, tensor] : weights.views) {
    const auto read = folder.at(name);
    CHECK(read.shape == tensor.shape);
    CHECK(std::equal(read.bytes.begin(), read.bytes.end(), tensor.bytes.begin(), tensor.bytes.end()));
    CHECK(folder.owner(name) != nullptr);
  }
}

void refuses(const support::TemporaryFolder& folder, std::string_view words) {
  const auto text = support::message_of<ProtocolError>([&] { (void)CheckpointFolder(folder.path()); });
  CHECK_MESSAGE(text.find(words) != std::string::npos, text);
}

/// A folder of two shards, "a b" and "c", and its index.
struct Sharded : support::TemporaryFolder {
  Json index;
  Sharded() {
    Weights weights;
    weights.views.pop_back();
    save_checkpoint(path(), weights.views, {.max_shard_bytes = 12});
    index = read_json(index_path());
  }
  fs::path index_path() const { return path() / "model.safetensors.index.json"; }
  void write_index() const { support::write_file(index_path(), index.dump()); }
};

}  // namespace

TEST_CASE("CheckpointFolder: one file, as saved") {
  const support::TemporaryFolder folder;
  const Weights weights;
  save_checkpoint(folder.path(), weights.views);
  const CheckpointFolder read(folder.path());
  check_equal(read, weights);
  REQUIRE(read.files().size() == 1);
  CHECK(read.files()[0].metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK_FALSE(read.contains("e"));
  CHECK(support::message_of<ProtocolError>([&] { (void)read.at("e"); }) ==
        "the checkpoint " + folder.path().string() + " holds no tensor 'e'");
}

TEST_CASE("CheckpointFolder: shards of every size hold the same tensors") {
  const Weights weights;
  const std::array<std::pair<std::uint64_t, std::size_t>, 5> cases{
      {{1, 4}, {12, 3}, {24, 2}, {39, 2}, {40, 1}}};
  for (const auto& one : cases) {
    const auto size = one.first;
    const auto count = one.second;
    CAPTURE(size);
    const support::TemporaryFolder folder;
    save_checkpoint(folder.path(), weights.views, {.max_shard_bytes = size});
    const CheckpointFolder read(folder.path());
    check_equal(read, weights);
    CHECK(read.files().size() == count);
    CHECK(fs::exists(folder / "model.safetensors") == (count == 1));
    if (count == 1) continue;
    const auto index = read_json(folder / "model.safetensors.index.json");
    CHECK(index.at("metadata").at("total_size") == 40);
    CHECK(index.at("weight_map").at("a") == fmt::format("model-00001-of-{:05}.safetensors", count));
  }
}

TEST_CASE("CheckpointFolder: a single file comes before an index, and another stem is another checkpoint") {
  Sharded folder;
  const Weights weights;
  save_safetensors(folder / "model.safetensors", weights.views);
  CHECK(CheckpointFolder(folder.path()).files().size() == 1);
  save_checkpoint(folder.path(), weights.views, {.max_shard_bytes = 20, .stem = "update"});
  check_equal(CheckpointFolder(folder.path(), "update"), weights);
}

TEST_CASE("CheckpointFolder: refuses an index that its shards do not bear out") {
  Sharded folder;
  SUBCASE("a name that the shard lacks") {
    folder.index["weight_map"]["x"] = "model-00001-of-00002.safetensors";
    folder.write_index();
    refuses(folder,
            "puts tensor 'x' into 'model-00001-of-00002.safetensors', but that file does not hold it");
  }
  SUBCASE("a tensor that is not in the index") {
    folder.index["weight_map"].erase("b");
    folder.write_index();
    refuses(folder, "holds tensor 'b', but");
  }
  SUBCASE("a tensor in another shard than the index says") {
    folder.index["weight_map"]["b"] = "model-00002-of-00002.safetensors";
    folder.write_index();
    refuses(folder, "tensor 'b'");
  }
  SUBCASE("a shard that is missing") {
    fs::remove(folder / "model-00002-of-00002.safetensors");
    refuses(folder, "lists the shard 'model-00002-of-00002.safetensors', but the folder lacks it");
  }
  SUBCASE("a shard that is cut short") {
    fs::resize_file(folder / "model-00002-of-00002.safetensors", 100);
    refuses(folder, "model-00002-of-00002.safetensors is not a valid safetensors file");
  }
  SUBCASE("no weight_map") {
    for (const auto* text : {"{}", "[]", "3", R"({"weight_map": ["a"]})"}) {
      support::write_file(folder.index_path(), text);
      refuses(folder, "holds no object 'weight_map'");
    }
  }
  SUBCASE("no JSON") {
    support::write_file(folder.index_path(), "{\"weight_map\": ");
    refuses(folder, "model.safetensors.index.json is not valid JSON");
  }
}

TEST_CASE("CheckpointFolder: shard names lead nowhere else") {
  Sharded folder;
  support::TemporaryFolder elsewhere;
  save_safetensors(elsewhere / "secret.safetensors", Weights().views);
  const std::array<std::string, 9> names{"../secret.safetensors",
                                         (elsewhere / "secret.safetensors").string(),
                                         "sub/x.safetensors",
                                         "..\\x.safetensors",
                                         "",
                                         ".",
                                         "..",
                                         "config.json",
                                         std::string("x\0/.safetensors", 15)};
  for (const auto& name : names) {
    folder.index["weight_map"]["a"] = name;
    folder.write_index();
    refuses(folder, "which is not the plain name of a safetensors file in this folder");
  }
  folder.index["weight_map"]["a"] = 3;
  folder.write_index();
  refuses(folder, "something that is not a file name");
}

TEST_CASE("CheckpointFolder: a folder without weights says what to do") {
  const support::TemporaryFolder folder;
  const auto message = [&](const fs::path& path) {
    return support::message_of<ArgumentError>([&] { (void)CheckpointFolder(path); });
  };
  const auto name = folder.path().string();
  CHECK(message(folder / "missing") == name + "/missing is no folder, but a checkpoint is a folder");
  CHECK(message(folder.path()) == name + " holds neither model.safetensors nor model.safetensors.index.json");
  support::write_file(folder / "pytorch_model.bin", "\x80\x02.");
  CHECK(message(folder.path()) ==
        name +
            " holds its weights only as pytorch_model.bin, a pickle, which can run code when "
            "read: convert it with 'python3 examples/convert_checkpoint.py " +
            name + "'");
  fs::rename(folder / "pytorch_model.bin", folder / "weights.pt");
  CHECK(message(folder.path()).find("convert_checkpoint.py") != std::string::npos);
}

TEST_CASE("CheckpointFolder: config.json") {
  const support::TemporaryFolder folder;
  save_checkpoint(folder.path(), {});
  const CheckpointFolder read(folder.path());
  CHECK(read.names().empty());
  CHECK_THROWS_AS((void)read.config(), ArgumentError);
  support::write_file(folder / "config.json", "[]");
  CHECK_THROWS_AS((void)read.config(), ProtocolError);
  support::write_file(folder / "config.json", R"({"model_type": "gpt2"})");
  CHECK(read.config().at("model_type") == "gpt2");
}

TEST_CASE("save_checkpoint: refuses before it writes") {
  const support::TemporaryFolder folder;
  Weights weights;
  CHECK_THROWS_AS(save_checkpoint(folder.path(), weights.views, {.max_shard_bytes = 0}), ArgumentError);
  CHECK_THROWS_AS(save_checkpoint(folder / "missing", weights.views), ArgumentError);
  weights.views.push_back(weights.views.front());  // in another shard than its double
  CHECK_THROWS_AS(save_checkpoint(folder.path(), weights.views, {.max_shard_bytes = 1}), ArgumentError);
  CHECK(fs::is_empty(folder.path()));
  weights.views.pop_back();
  save_checkpoint(folder.path(), weights.views);
  CHECK(support::message_of<ArgumentError>(
            [&] { save_checkpoint(folder.path(), weights.views, {.max_shard_bytes = 1}); }) ==
        folder.path().string() + " holds the weights model.safetensors already: write to another folder");
}

}  // namespace checkpoint_folder_test
