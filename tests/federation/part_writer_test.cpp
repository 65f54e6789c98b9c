#include "offsite/federation/part_writer.hpp"

#include <fstream>
#include <iterator>

#include "offsite/core/random.hpp"
#include "support/test.hpp"

namespace part_writer_test {

using offsite::federation::PartWriter;

namespace {

std::vector<std::byte> bytes_of(std::size_t count, std::uint64_t key) {
  offsite::RandomStream random(key);
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random.below(256));
  return bytes;
}

std::vector<std::byte> piece(const std::vector<std::byte>& all, std::size_t begin, std::size_t end) {
  return {all.begin() + static_cast<std::ptrdiff_t>(begin), all.begin() + static_cast<std::ptrdiff_t>(end)};
}

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("PartWriter: two files that come in turns are written and hashed, more than may wait at a time") {
  const support::TemporaryFolder folder;
  constexpr std::size_t kPiece = 1 << 20, kPieces = 12;
  const auto a = bytes_of(kPiece * kPieces, 1), b = bytes_of(kPiece * kPieces, 2);
  PartWriter writer;
  for (std::size_t i = 0; i < kPieces; ++i) {
    writer.write(folder / "a", i * kPiece, piece(a, i * kPiece, (i + 1) * kPiece));
    writer.write(folder / "b", i * kPiece, piece(b, i * kPiece, (i + 1) * kPiece));
  }
  CHECK(writer.finish(folder / "a", a.size()).sha256 == offsite::sha256_hex(a));
  CHECK(writer.finish(folder / "b", b.size()).sha256 == offsite::sha256_hex(b));
  CHECK(read(folder / "a") == text_of(a));
  CHECK(read(folder / "b") == text_of(b));
  CHECK(writer.finish(folder / "a", a.size()).sha256.empty());  // forgotten
}

TEST_CASE("PartWriter: whole blocks and other pieces of one file meet without a seam") {
  const support::TemporaryFolder folder;
  const auto all = bytes_of(60'000, 8);
  PartWriter writer;
  std::size_t at = 0;
  for (const std::size_t size : {8192, 4096 + 17, 4096 - 17, 5000, 30'000}) {
    writer.write(folder / "a", at, piece(all, at, at + size));
    at += size;
  }
  writer.write(folder / "a", 12'288, piece(all, 12'288, all.size()));  // a step back, to a block's beginning
  writer.settle();
  CHECK(read(folder / "a") == text_of(all));
}

TEST_CASE("PartWriter: a hash is given of what came in order from the beginning, else none") {
  const support::TemporaryFolder folder;
  const auto all = bytes_of(300, 3);
  PartWriter writer;
  const auto write = [&](std::size_t begin, std::size_t end) {
    writer.write(folder / "a", begin, piece(all, begin, end));
  };
  write(0, 100), write(100, 300);
  CHECK(writer.finish(folder / "a", 200).sha256.empty());  // more than was asked about
  write(0, 100), write(100, 200);
  CHECK(writer.finish(folder / "a", 300).sha256.empty());  // less
  write(200, 300);                                         // as after a restart
  CHECK(writer.finish(folder / "a", 300).sha256.empty());
  CHECK(read(folder / "a") == text_of(all));
  write(0, 200), write(100, 300);  // a step back
  CHECK(writer.finish(folder / "a", 300).sha256.empty());
  CHECK(read(folder / "a") == text_of(all));
  write(0, 200), write(100, 300), write(0, 300);  // anew
  CHECK(writer.finish(folder / "a", 300).sha256 == offsite::sha256_hex(all));
  write(0, 50);
  writer.settle();
  CHECK(read(folder / "a") == text_of(piece(all, 0, 50)));  // a file ends behind what was written last
}

TEST_CASE("PartWriter: what could not be written is told once, by the next call for that file alone") {
  const support::TemporaryFolder folder;
  PartWriter writer;
  const auto lost = folder / "missing" / "a";
  writer.write(lost, 0, bytes_of(10, 4));
  writer.settle();
  const auto sentence = "cannot write " + lost.string() + ": No such file or directory";
  CHECK(support::message_of<offsite::ArgumentError>([&] { writer.write(lost, 10, bytes_of(10, 4)); }) ==
        sentence);
  writer.write(folder / "b", 0, bytes_of(10, 5));
  CHECK(writer.finish(folder / "b", 10).sha256 == offsite::sha256_hex(bytes_of(10, 5)));
  CHECK(support::message_of<offsite::ArgumentError>([&] { (void)writer.finish(lost, 10); }) == sentence);
  CHECK(writer.finish(lost, 10).sha256.empty());

  writer.write("/dev/full", 0, bytes_of(10, 6));
  CHECK_THROWS_AS((void)writer.finish("/dev/full", 10), offsite::ArgumentError);
}

TEST_CASE("PartWriter: pieces that lie behind something else in their memory") {
  const support::TemporaryFolder folder;
  const auto all = bytes_of(3 * 4096 + 100, 9);
  PartWriter writer;
  for (const auto& [begin, end] : {std::pair<std::size_t, std::size_t>{0, 8192}, {8192, all.size()}}) {
    auto memory = bytes_of(333, 10);
    memory.insert(memory.end(), all.begin() + static_cast<std::ptrdiff_t>(begin),
                  all.begin() + static_cast<std::ptrdiff_t>(end));
    writer.write(folder / "a", begin, {std::move(memory), 333});
  }
  CHECK(writer.finish(folder / "a", all.size()).sha256 == offsite::sha256_hex(all));
  CHECK(read(folder / "a") == text_of(all));
}

TEST_CASE("PartWriter: an end waits for what was given") {
  const support::TemporaryFolder folder;
  const auto all = bytes_of(4 << 20, 7);
  PartWriter().write(folder / "a", 0, all);
  CHECK(read(folder / "a") == text_of(all));
}

}  // namespace part_writer_test
