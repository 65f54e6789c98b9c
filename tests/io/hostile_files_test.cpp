// Ten thousand broken safetensors files: none may crash the reader or make it allocate more than the file's size.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "offsite/core/random.hpp"
#include "offsite/io/checkpoint_folder.hpp"
#include "offsite/io/safetensors.hpp"
#include "support/test.hpp"

namespace {

std::atomic<std::size_t> largest_allocation = 0;

}  // namespace

// Not inlined: the compiler would otherwise see malloc and free behind unequal operators and warn.
[[gnu::noinline]] void* operator new(std::size_t size) {
  auto seen = largest_allocation.load();
  while (size > seen && !largest_allocation.compare_exchange_weak(seen, size)) {
  }
  if (void* const memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

using namespace offsite;

namespace {

/// Messages, paths, a node; far below what a hostile number can ask for.
constexpr std::size_t kConstant = 4096;

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return file.append(rest);
}

std::vector<std::string> valid_files() {
  std::vector<std::string> files;
  for (const auto* name : {"all_types", "plain", "empty"})
    files.push_back(support::read_file(support::golden(std::string("safetensors/") + name + ".safetensors")));
  return files;
}

/// The header with one of its numbers, strings or brackets replaced by something a careless reader trips over.
std::string edited_header(std::string header, RandomStream& random) {
  static const std::vector<std::string> kNumbers{"-1",
                                                 "18446744073709551615",
                                                 "18446744073709551616",
                                                 "9223372036854775807",
                                                 "4294967296",
                                                 "1e400",
                                                 "0.5",
                                                 "null",
                                                 "[]",
                                                 "{}",
                                                 "\"0\"",
                                                 "00",
                                                 "1152921504606846976,1152921504606846976",
                                                 "999999999999",
                                                 ""};
  static const std::vector<std::string> kTexts{"\"F32\"",
                                               "\"F6_E2M3\"",
                                               "\"F4\"",
                                               "\"\"",
                                               "\"\\ud800\"",
                                               "\"\\u0000\"",
                                               "\"__metadata__\"",
                                               "\"shape\"",
                                               "\"data_offsets\"",
                                               "\"dtype\"",
                                               "\"layer.0.f32\"",
                                               "7",
                                               "\"a",
                                               "\"\xff\""};
  const auto pick = [&](const auto& choices) { return choices[random.below(choices.size())]; };
  const auto place = [&](std::string_view of) {
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < header.size(); ++i)
      if (of.find(header[i]) != of.npos) places.push_back(i);
    return places.empty() ? header.size() : places[random.below(places.size())];
  };
  switch (random.below(5)) {
    case 0: {  // another number
      const auto begin = place("0123456789");
      const auto end = header.find_first_not_of("0123456789", begin);
      return begin == header.size() ? header : header.replace(begin, end - begin, pick(kNumbers));
    }
    case 1: {  // another string
      const auto begin = place("\"");
      const auto end = begin == header.size() ? header.npos : header.find('"', begin + 1);
      return end == header.npos ? header : header.replace(begin, end + 1 - begin, pick(kTexts));
    }
    case 2: {  // deep nesting
      const std::size_t depth = 1 + random.below(5000);
      return header.insert(place(":,[{") + (header.size() > 2 ? 1 : 0),
                           std::string(depth, random.below(2) ? '[' : '{'));
    }
    case 3: {  // a stretch twice, which repeats keys
      const auto begin = random.below(header.size());
      return header.insert(begin, header.substr(begin, random.below(200)));
    }
    default: {  // a stretch less
      return header.erase(random.below(header.size()), 1 + random.below(60));
    }
  }
}

std::string mutated(std::string file, RandomStream& random) {
  switch (random.below(6)) {
    case 0:  // bytes flipped anywhere
      for (auto count = 1 + random.below(4); count > 0; --count)
        file[random.below(file.size())] ^= static_cast<char>(1 + random.below(255));
      return file;
    case 1:  // cut short
      return file.substr(0, random.below(file.size()));
    case 2:  // longer
      return file + std::string(1 + random.below(100), static_cast<char>(random.below(256)));
    case 3: {  // another length of the header: any number of bits
      const auto length = random.next() >> random.below(64);
      return with_length(length, std::string_view(file).substr(8));
    }
    default: {  // a header that is broken but of the right length
      std::uint64_t length = 0;
      std::memcpy(&length, file.data(), 8);
      auto header = edited_header(file.substr(8, length), random);
      if (random.below(4) == 0 && !header.empty()) header = edited_header(std::move(header), random);
      return with_length(header.size(), header + file.substr(8 + length));
    }
  }
}

/// A file in memory, for ten thousand rewrites: a disk may take milliseconds for each.
class MemoryFile {
 public:
  MemoryFile() : file_(::memfd_create("mutated", MFD_CLOEXEC)) { REQUIRE(file_ >= 0); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(file_); }
  void write(std::string_view bytes) const {
    REQUIRE(::ftruncate(file_, 0) == 0);
    REQUIRE(::pwrite(file_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  [[nodiscard]] std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", file_); }

 private:
  int file_;
};

/// Reads every byte of every tensor, as a view that points outside its file would show.
std::size_t touch(const SafetensorsFile& file) {
  std::size_t sum = 0;
  for (const auto& name : file.names())
    for (const auto byte : file.at(name).bytes) sum += std::to_integer<std::size_t>(byte);
  return sum;
}

}  // namespace

TEST_CASE(
    "hostile files: ten thousand mutations load or are refused, and none allocates more than its size") {
  const MemoryFile target;
  const auto path = target.path();
  const auto valid = valid_files();
  RandomStream random(derive_key(7, 1));
  int loaded = 0, refused = 0;
  const char* nightly = std::getenv("OFFSITE_NIGHTLY");
  const int count = nightly != nullptr && *nightly == '1' ? 1'000'000 : 10'000;
  for (int i = 0; i < count; ++i) {
    const auto file = mutated(valid[static_cast<std::size_t>(i) % valid.size()], random);
    target.write(file);
    largest_allocation = 0;
    try {
      (void)touch(SafetensorsFile(path));
      ++loaded;
    } catch (const ProtocolError&) {
      ++refused;
    }  // anything else fails the test case
    const auto largest = largest_allocation.load();
    if (largest > file.size() + kConstant)
      FAIL("mutation ", i, " of ", file.size(), " bytes made an allocation of ", largest);
  }
  CHECK(loaded > 100);  // flips within the data
  CHECK(refused > 5000);
}

TEST_CASE("hostile files: large claims in large files allocate no more than the file either") {
  const MemoryFile target;
  const auto path = target.path();
  std::string zeros = "0", small = "{", name(1 << 20, 'n');
  for (int i = 0; i < 1 << 19; ++i) zeros += ",0";
  for (int i = 0; i < 20000; ++i)
    small += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[],"data_offsets":[{},{}]}})", i ? "," : "", i, i,
                         i + 1);
  const std::vector<std::string> headers{
      R"({"a":{"dtype":"U8","data_offsets":[0,0],"shape":[)" + zeros +
          "]}}",  // 8 bytes a dimension, 2 in the file
      R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[)" + zeros + "]}}",
      small + "}",             // as many tensors as fit
      "{\"" + name + "\":1}",  // a name as long as the file, in a message
      "{\"" + name + "\":{\"" + name + "\":1}}",
      R"({"__metadata__":{"k":")" + name + R"("}})",
      std::string(1 << 20, '{'),
      R"({"a":)" + std::string(1 << 20, '['),
  };
  for (std::size_t i = 0; i < headers.size(); ++i) {
    CAPTURE(i);
    const auto file = with_length(headers[i].size(), headers[i] + std::string(i == 2 ? 20000 : 0, 'x'));
    target.write(file);
    largest_allocation = 0;
    bool loaded = false;
    try {
      (void)touch(SafetensorsFile(path));
      loaded = true;
    } catch (const ProtocolError& error) {
      CHECK(std::string_view(error.what()).size() < 1000);
    }
    CHECK(largest_allocation.load() <= file.size() + kConstant);
    CHECK(loaded == (i == 2 || i == 5));
  }
}

TEST_CASE("hostile files: a thousand mutations of a shard index load or are refused") {
  const support::TemporaryFolder folder;
  const std::array<std::byte, 4> data{};
  const std::vector<NamedView> views{{"a", {Dtype::kU8, {4}, data}}, {"b", {Dtype::kF32, {1}, data}}};
  save_checkpoint(folder.path(), views, {.max_shard_bytes = 4});
  const auto path = folder / "model.safetensors.index.json";
  const auto valid = support::read_file(path);
  RandomStream random(derive_key(7, 2));
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    auto text = valid;
    if (random.below(2))
      text = edited_header(text, random);
    else
      text[random.below(text.size())] ^= static_cast<char>(1 + random.below(255));
    support::write_file(path, text);
    try {
      (void)CheckpointFolder(folder.path());
    } catch (const ProtocolError&) {
      ++refused;
    }
  }
  CHECK(refused > 500);
}
