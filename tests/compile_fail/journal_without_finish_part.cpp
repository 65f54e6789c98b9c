// A journal that cannot say whether what it received is what was announced.
// expect: ReceivesBlobs
// expect: bool finish_part\(std::string_view peer, const Blob&\): whether the hash fits
#include "offsite/federation/journal.hpp"

using namespace offsite::federation;

struct Forgetful {
  std::vector<Record> records() { return {}; }
  void append(const Record&) {}
  bool contains(std::string_view) { return false; }
  Blob put(std::span<const std::byte>) { return {}; }
  BlobView view(std::string_view) { return {}; }
  void drop(std::string_view) {}
  std::uint64_t open_part(std::string_view, const Blob&) { return 0; }
  void write_part(std::string_view, const Blob&, std::uint64_t, std::span<const std::byte>) {}
#ifndef MISTAKE
  bool finish_part(std::string_view, const Blob&) { return false; }
#endif
  void drop_part(std::string_view, const Blob&) {}
};

static_assert(Journal<Forgetful>);
