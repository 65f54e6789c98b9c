#pragma once
// Models of llama2.c (https://github.com/karpathy/llama2.c) in the layout of Hugging Face's Llama: see
// convert_llama2c.cpp.
#include <ATen/core/Tensor.h>
#include <offsite/core/error.hpp>
#include <offsite/core/tensors.hpp>
#include <offsite/io/checkpoint_folder.hpp>
#include <offsite/io/json.hpp>
#include <offsite/io/mapped_file.hpp>
#include <offsite/models/llama_config.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace llama2c {

using offsite::Json, offsite::ProtocolError, offsite::require;

/// Reads numbers and bytes one after another; never beyond the file's end.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : name_(path.string()), file_(path) {}

  [[nodiscard]] std::string_view bytes(std::uint64_t count) {
    require<ProtocolError>(count <= file_.size() - at_,
                           "{} ends at byte {}, but {} more were expected at byte {}", name_, file_.size(),
                           count, at_);
    at_ += count;
    return file_.text().substr(at_ - count, count);
  }
  template <class T>
  [[nodiscard]] T number() {
    T value;
    std::memcpy(&value, bytes(sizeof value).data(), sizeof value);
    return value;
  }
  [[nodiscard]] bool ended() const { return at_ == file_.size(); }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  std::string name_;
  offsite::MappedFile file_;
  std::uint64_t at_ = 0;
};

/// A float32 tensor (layers, rows, columns), or what `shape` says.
inline at::Tensor read_tensor(Reader& in, at::IntArrayRef shape) {
  std::uint64_t count = 1;  // sizes are at most 2^20 and there are three of them
  for (const auto n : shape) count *= static_cast<std::uint64_t>(n);
  const auto bytes = in.bytes(count * sizeof(float));
  at::Tensor t = at::empty(shape, at::kFloat);
  std::memcpy(t.mutable_data_ptr<float>(), bytes.data(), bytes.size());
  return t;
}

/// llama2.c turns neighbouring features of a head, Hugging Face's models features i and i + depth/2.
inline at::Tensor reordered(const at::Tensor& weight, std::int64_t heads) {  // (heads * depth, C)
  const auto depth = weight.size(0) / heads;
  return weight.view({heads, depth / 2, 2, weight.size(1)}).transpose(1, 2).reshape(weight.sizes());
}

/// Writes config.json and model.safetensors of the model in `file` to an existing folder; returns its vocabulary's size.
/// \throws ProtocolError if the file is no model of llama2.c's first version.
inline std::int64_t convert_model(const std::filesystem::path& file, const std::filesystem::path& folder) {
  Reader in(file);
  std::int64_t header[7];
  for (auto& value : header) value = in.number<std::int32_t>();
  const bool tied = header[5] > 0;  // a negative vocabulary size says that the head is a matrix of its own
  header[5] = std::max(header[5], -header[5]);
  for (const auto value : header)
    require<ProtocolError>(0 < value && value <= 1 << 20, "{} is no model of llama2.c: its header holds {}",
                           in.name(), value);
  const auto C = header[0], inner = header[1], L = header[2], heads = header[3], kv_heads = header[4],
             V = header[5], context = header[6];

  offsite::LlamaConfig config;
  config.num_hidden_layers = L;
  config.num_attention_heads = heads;
  config.num_key_value_heads = kv_heads;
  config.hidden_size = C;
  config.intermediate_size = inner;
  config.max_position_embeddings = context;
  config.vocab_size = V;
  config.tie_word_embeddings = tied;
  config.rms_norm_eps = 1e-5;
  config.rope.dims = C / heads;
  offsite::detail::check_read(config);
  const auto kv = kv_heads * config.head_width();

  std::vector<std::pair<std::string, at::Tensor>> tensors;
  const auto read = [&](const std::string& name, std::int64_t rows, std::int64_t columns,
                        std::int64_t turning = 0) {
    for (std::int64_t i = 0; i < L; ++i) {
      at::Tensor t = columns == 0 ? read_tensor(in, {rows}) : read_tensor(in, {rows, columns});
      if (turning > 0) t = reordered(t, turning);
      tensors.emplace_back("model.layers." + std::to_string(i) + "." + name + ".weight", t);
    }
  };
  tensors.emplace_back("model.embed_tokens.weight", read_tensor(in, {V, C}));
  read("input_layernorm", C, 0);
  read("self_attn.q_proj", C, C, heads);
  read("self_attn.k_proj", kv, C, kv_heads);
  read("self_attn.v_proj", kv, C);
  read("self_attn.o_proj", C, C);
  read("post_attention_layernorm", C, 0);
  read("mlp.gate_proj", inner, C);
  read("mlp.down_proj", C, inner);
  read("mlp.up_proj", inner, C);
  tensors.emplace_back("model.norm.weight", read_tensor(in, {C}));
  (void)read_tensor(in, {2, context, config.head_width() / 2});  // cosines and sines of the angles
  if (!tied) tensors.emplace_back("lm_head.weight", read_tensor(in, {V, C}));
  require<ProtocolError>(in.ended(), "{} goes on after the last tensor", in.name());

  config.source["bos_token_id"] = 1;
  config.source["eos_token_id"] = 1;  // llama2.c's models begin the next text where one ends
  offsite::write_json(folder / "config.json", config.to_json());
  std::vector<offsite::NamedView> views;
  for (const auto& [name, tensor] : tensors) views.push_back({name, offsite::view_of(tensor)});
  offsite::save_checkpoint(folder, views);
  return V;
}

/// What every tokenizer.json of a Llama says beside its vocabulary.
inline constexpr std::string_view kTokenizer = R"({"version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}, "pre_tokenizer": null,
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": {}, "merges": []}})";

/// Writes tokenizer.json and tokenizer_config.json for the `size` pieces in `file` to an existing folder.
/// \throws ProtocolError if the file is no tokenizer of llama2.c.
inline void convert_tokenizer(const std::filesystem::path& file, std::int64_t size,
                              const std::filesystem::path& folder) {
  constexpr std::int64_t kFirstPiece = 259;  // after <unk>, <s>, </s> and the 256 bytes
  Reader in(file);
  (void)in.number<std::int32_t>();  // the longest piece's length
  std::vector<std::pair<float, std::string>> pieces;
  std::map<std::string, std::int64_t, std::less<>> ids;
  for (std::int64_t i = 0; i < size; ++i) {
    const auto score = in.number<float>();
    const auto length = in.number<std::int32_t>();
    require<ProtocolError>(length > 0, "{} says that piece {} has {} bytes", in.name(), i, length);
    std::string piece;
    for (const char c : in.bytes(static_cast<std::uint64_t>(length))) {
      if (c == ' ')
        piece += "▁";
      else
        piece += c;
    }
    if (i == 1) piece = "<s>";
    if (i == 2) piece = "</s>";
    require<ProtocolError>(ids.emplace(piece, i).second, "{} holds the piece {} twice", in.name(), i);
    pieces.emplace_back(score, piece);
  }
  require<ProtocolError>(in.ended() && size > kFirstPiece, "{} does not hold {} pieces", in.name(), size);

  // A piece comes about by merging two others, the one with the higher score first.
  struct Merge {
    float score;
    std::int64_t left, right;
  };
  std::vector<Merge> merges;
  for (auto i = static_cast<std::size_t>(kFirstPiece); i < pieces.size(); ++i) {
    const auto& [score, piece] = pieces[i];
    const std::string_view text = piece;
    const auto first = merges.size();
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const auto left = ids.find(text.substr(0, cut)), right = ids.find(text.substr(cut));
      if (left != ids.end() && right != ids.end()) merges.push_back({score, left->second, right->second});
    }
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end(),
              [](const Merge& a, const Merge& b) {
                return std::pair(a.left, a.right) < std::pair(b.left, b.right);
              });
  }
  std::stable_sort(merges.begin(), merges.end(),
                   [](const Merge& a, const Merge& b) { return a.score > b.score; });

  Json json = offsite::parse_json(kTokenizer, "the converter");
  const auto text_of = [&](std::int64_t id) { return pieces[static_cast<std::size_t>(id)].second; };
  for (std::int64_t i = 0; i < 3; ++i)
    json["added_tokens"].push_back(Json::object({{"id", i},
                                                 {"content", text_of(i)},
                                                 {"single_word", false},
                                                 {"lstrip", false},
                                                 {"rstrip", false},
                                                 {"normalized", false},
                                                 {"special", true}}));
  Json& vocabulary = json["model"]["vocab"];
  for (std::int64_t i = 0; i < size; ++i) vocabulary[text_of(i)] = i;
  for (const auto& merge : merges)
    json["model"]["merges"].push_back(text_of(merge.left) + " " + text_of(merge.right));
  offsite::write_json(folder / "tokenizer.json", json);
  offsite::write_json(folder / "tokenizer_config.json",
                      Json::object({{"tokenizer_class", "PreTrainedTokenizerFast"},
                                    {"bos_token", "<s>"},
                                    {"eos_token", "<s>"},
                                    {"unk_token", "<unk>"},
                                    {"add_bos_token", true}}));
}

}  // namespace llama2c
