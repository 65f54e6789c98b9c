#pragma once
#include <string>
#include <vector>

#include "offsite/federation/messages.hpp"

/// One or two of every message.
inline std::vector<offsite::federation::Message> sample_messages() {
  using namespace offsite::federation;
  using offsite::Json;
  const std::string hash(64, 'a'), other = std::string(32, '0') + std::string(32, 'f');
  const auto split = Json::object({{"model_type", "gpt2"}, {"blocks", Json::object({{"depth", 12}})}});
  std::vector<std::byte> bytes(300);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return {Hello{kProtocolVersion, "0.1.0", 0xfedcba9876543210u, split, 11'679},
          Hello{},
          Welcome{7,
                  "run-1",
                  split,
                  {{"transformer.h.0.ln_1.weight", {hash, 3072}}, {"tokenizer.json", {other, 1}}},
                  10},
          Refused{Refused::About::kUpdate, 0, "run-1", 3,
                  "round 3 was closed before the update came; \"näxt\" one"},
          Status{"run-1", Doing::kUploading, 4},
          Wait{"run-1", 2, "round 3 begins when 2 clients are here"},
          Round{"run-1", 3, {hash, 170'000'000}, Json::object({{"learning_rate", 5e-5}, {"proximal", 0.01}})},
          Want{other, 1 << 20, kMostChunk},
          Chunk{hash, 4096, bytes},
          UpdateReady{"run-1", 3, {other, 123}, 400, 25, 1.75},
          Accepted{"run-1", 3, other},
          Goodbye{"run-1", {hash, 99}, 3, ""},
          Leave{"run-1", "its training failed"}};
}
