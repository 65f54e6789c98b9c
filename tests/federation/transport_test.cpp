#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "federation/two_rounds.hpp"
#include "offsite/federation.hpp"
#include "offsite/transport/directory.hpp"
#include "offsite/transport/in_process.hpp"

#include "support/test.hpp"

namespace transport_test {

using namespace offsite;
using namespace offsite::federation;

TEST_CASE("InProcessTransport: a run of two rounds") {
  const auto network = std::make_shared<InProcessNetwork>();
  two_rounds::run_two_rounds(
      [&] { return InProcessTransport(network, "owner"); },
      [&](const std::string& name, auto&) { return InProcessTransport(network, name); },
      {500, 10'000, 512, 2048});
}

TEST_CASE("DirectoryTransport: a run of two rounds in a shared folder leaves no message behind") {
  const support::TemporaryFolder folder;
  two_rounds::run_two_rounds(
      [&] { return DirectoryTransport(folder.path(), "owner"); },
      [&](const std::string& name, auto&) { return DirectoryTransport(folder.path(), name); },
      {2'000, 10'000, 2048, 1 << 20});
}

TEST_CASE("DirectoryTransport: order, foreign files, files that are too large") {
  const support::TemporaryFolder folder;
  DirectoryTransport owner(folder.path(), "owner"), client(folder.path(), "lab-a");
  for (int i = 0; i < 20; ++i) client.send("owner", std::vector<std::byte>(1, static_cast<std::byte>(i)));
  support::write_file(folder / "lab-a-to-owner/notes.txt", "not ours");
  support::write_file(folder / "lab-a-to-owner/00.message", "");
  std::filesystem::resize_file(folder / "lab-a-to-owner/00.message", kMostFrame + 1);
  for (int i = 0; i < 20; ++i) {
    const auto arrival = owner.receive(0);
    REQUIRE(arrival.has_value());
    CHECK(arrival->peer == "lab-a");
    CHECK(std::to_integer<int>(arrival->frame.at(0)) == i);
  }
  CHECK(!owner.receive(0).has_value());
  CHECK(std::filesystem::exists(folder / "lab-a-to-owner/notes.txt"));
  CHECK(std::filesystem::exists(folder / "lab-a-to-owner/00.message.refused"));
  CHECK_THROWS_AS(owner.send("../up", {}), ArgumentError);
}

}  // namespace transport_test
