#include "offsite/transport/grpc.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "transport/raw_client.hpp"
#include "transport/relay.hpp"
#include "transport/tls_world.hpp"

#include "support/test.hpp"

using namespace offsite;

namespace {

// Attempts follow each other fast; what could end a good connection on a slow machine is as it is.
constexpr GrpcTiming kFast{.linger_ms = 2'000, .retry_ms = 20, .most_retry_ms = 200};

const TlsWorld& world() {
  static const TlsWorld made{"lab-a", "lab-b", "lab-c"};
  return made;
}

GrpcOwnerOptions owner_options(std::vector<std::string> names = {}) {
  return {.address = "127.0.0.1:0",
          .credentials = world().files("owner"),
          .names = std::move(names),
          .expected_clients = 8,
          .timing = kFast};
}
GrpcClientOptions client_options(int port, const std::string& name) {
  return {
      .address = "127.0.0.1:" + std::to_string(port), .credentials = world().files(name), .timing = kFast};
}

std::vector<std::byte> frame_of(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> frame(bytes);
  for (std::size_t i = 0; i < bytes; ++i) frame[i] = static_cast<std::byte>((i * 31 + i / 251 + seed) & 255);
  return frame;
}

/// What arrives until `wanted(arrival)`; nothing if it does not within 20 s. \param beside  is kept going meanwhile
template <class T, class Wanted, class Beside>
std::optional<Arrival> await(T& transport, Wanted&& wanted, Beside&& beside) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < until) {
    beside();
    if (auto arrival = transport.receive(5); arrival && wanted(*arrival)) return arrival;
  }
  return std::nullopt;
}
auto is(Arrival::Kind kind) {
  return [kind](const Arrival& arrival) { return arrival.kind == kind; };
}
const auto kNothing = [] {};

/// Connects the two. \return whether both were told
bool connect(GrpcOwnerTransport& owner, GrpcClientTransport& client) {
  if (!await(client, is(Arrival::Kind::kConnected), kNothing)) return false;
  const auto there = await(owner, is(Arrival::Kind::kConnected), kNothing);
  return there && there->peer == client.name();
}

/// Why a client that is given these options gets no connection.
std::string refusal(const GrpcClientOptions& options) {
  GrpcClientTransport client(options);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < until) {
    if (auto arrival = client.receive(5)) return "it was let in";
    if (const auto problem = client.problem()) return (problem->final ? "" : "(again) ") + problem->sentence;
  }
  return "nothing happened";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("gRPC transport: frames of all sizes, both ways, in order") {
  GrpcOwnerTransport owner(owner_options());
  GrpcClientTransport client(client_options(owner.port(), "lab-a"));
  CHECK(client.name() == "lab-a");
  REQUIRE(connect(owner, client));
  const auto first = detail::kFirstPiece, piece = detail::kFramePiece;
  const std::size_t sizes[] = {1,         7,       8,         first - 1,     first,
                               first + 1, piece,   piece + 1, first + piece, first + piece + 1,
                               3 * piece, 4 << 20, 100};
  for (unsigned i = 0; i < std::size(sizes); ++i) client.send("owner", frame_of(sizes[i], i));
  for (unsigned i = 0; i < std::size(sizes); ++i) {
    const auto arrival = await(owner, is(Arrival::Kind::kFrame), kNothing);
    REQUIRE(arrival.has_value());
    CHECK(arrival->peer == "lab-a");
    CHECK(arrival->frame == frame_of(sizes[i], i));
  }
  for (unsigned i = 0; i < std::size(sizes); ++i) owner.send("lab-a", frame_of(sizes[i], i));
  owner.send("lab-z", frame_of(5, 0));  // is not there: lost
  for (unsigned i = 0; i < std::size(sizes); ++i) {
    const auto arrival = await(client, is(Arrival::Kind::kFrame), kNothing);
    REQUIRE(arrival.has_value());
    CHECK(arrival->peer == "owner");
    CHECK(arrival->frame == frame_of(sizes[i], i));
  }
  CHECK_FALSE(client.problem().has_value());
}

TEST_CASE("gRPC transport: a message whose bytes lie in several places, which are kept until it is sent") {
  GrpcOwnerTransport owner(owner_options());
  GrpcClientTransport client(client_options(owner.port(), "lab-a"));
  REQUIRE(connect(owner, client));
  const auto piece = [](std::size_t bytes, unsigned seed) {
    const auto memory = std::make_shared<const std::vector<std::byte>>(frame_of(bytes, seed));
    return federation::SharedBytes{*memory, memory};
  };
  constexpr std::size_t kFirst = offsite::detail::kFirstPiece, kNext = offsite::detail::kFramePiece;
  const std::vector<std::vector<std::size_t>> frames{
      {1}, {0, 3, 0}, {kFirst, 1}, {90, kFirst - 90, kNext}, {90, 1 << 20, 32}, {90, 4 << 20, 32}};
  std::vector<std::vector<std::byte>> sent;
  std::vector<std::weak_ptr<const void>> memory;
  for (const auto& sizes : frames) {
    std::vector<federation::SharedBytes> pieces;
    auto& whole = sent.emplace_back();
    for (const auto size : sizes) {
      pieces.push_back(piece(size, static_cast<unsigned>(memory.size())));
      whole.insert(whole.end(), pieces.back().bytes.begin(), pieces.back().bytes.end());
      memory.push_back(pieces.back().owner);
    }
    client.send("owner", pieces);
    client.send("nobody", pieces);
  }
  for (const auto& whole : sent) {
    const auto arrival = await(owner, is(Arrival::Kind::kFrame), kNothing);
    REQUIRE(arrival.has_value());
    CHECK((arrival->frame == whole));
  }
  const auto let_go = [&] {
    return std::all_of(memory.begin(), memory.end(), [](const auto& held) { return held.expired(); });
  };
  for (int i = 0; i < 400 && !let_go(); ++i) (void)client.receive(5);
  CHECK(let_go());
  CHECK_THROWS_AS(client.send("owner", std::vector{piece(kMostFrame, 1), piece(1, 2)}), ArgumentError);
}

TEST_CASE("gRPC transport: what was sent before the end arrives") {
  GrpcOwnerTransport owner(owner_options());
  {
    GrpcClientTransport client(client_options(owner.port(), "lab-a"));
    REQUIRE(connect(owner, client));
    for (unsigned i = 0; i < 5; ++i) client.send("owner", frame_of(100'000, i));
  }
  for (unsigned i = 0; i < 5; ++i) {
    const auto arrival = owner.receive(5'000);
    REQUIRE(arrival.has_value());
    REQUIRE(arrival->kind == Arrival::Kind::kFrame);
    CHECK(arrival->frame == frame_of(100'000, i));
  }
  const auto end = owner.receive(5'000);
  REQUIRE(end.has_value());
  CHECK(end->kind == Arrival::Kind::kDisconnected);
}

TEST_CASE("gRPC transport: refusals are one sentence each") {
  GrpcOwnerTransport owner(owner_options({"lab-a", "lab-b"}));
  SUBCASE("a name that is not on the list") {
    const auto sentence = refusal(client_options(owner.port(), "lab-c"));
    CHECK(contains(sentence, "refuses this client: the name 'lab-c' is not on the list of clients"));
    CHECK_FALSE(contains(sentence, "(again)"));
    const auto notices = owner.take_notices();
    REQUIRE(notices.size() == 1);
    CHECK(contains(notices[0], "the name 'lab-c' is not on the list of clients"));
  }
  SUBCASE("a client of another authority") {
    const TlsWorld other{"lab-a"};
    auto options = client_options(owner.port(), "lab-a");
    options.credentials = other.files("lab-a");
    const auto sentence = refusal(options);
    INFO(sentence);
    CHECK(contains(sentence, "has a certificate that this client's authority did not sign"));
  }
  SUBCASE("a certificate of another authority, shown by a client that trusts this one") {
    const TlsWorld other{"lab-a"};
    auto options = client_options(owner.port(), "lab-a");
    auto files = other.files("lab-a");
    files.authority = world().files("lab-a").authority;
    options.credentials = files;
    CHECK(contains(support::message_of<ArgumentError>([&] { GrpcClientTransport client(options); }),
                   "is not signed by the authority"));
  }
  SUBCASE("another client in the owner's place") {
    auto options = client_options(owner.port(), "lab-a");
    options.owner_name = "somebody";
    const auto sentence = refusal(options);
    INFO(sentence);
    CHECK(contains(sentence, "it does not hold the name 'somebody'"));
  }
  SUBCASE("no certificate") {
    auto options = client_options(owner.port(), "lab-a");
    options.credentials = InsecureLoopback{"lab-a"};
    const auto sentence = refusal(options);
    INFO(sentence);
    CHECK(contains(sentence, "(again) the owner at 127.0.0.1:"));
    options.credentials = TlsFiles{"", "", ""};
    CHECK_THROWS_WITH_AS(GrpcClientTransport{options}, doctest::Contains("cannot read"), ArgumentError);
  }
  SUBCASE("no owner") {
    const auto sentence = refusal(client_options(1, "lab-a"));
    INFO(sentence);
    CHECK(contains(sentence, "(again) the owner at 127.0.0.1:1 cannot be reached"));
  }
  // None of them gets in the way of who may come.
  GrpcClientTransport client(client_options(owner.port(), "lab-b"));
  CHECK(connect(owner, client));
}

TEST_CASE("gRPC transport: without TLS on loopback addresses only") {
  for (const auto* address :
       {"0.0.0.0:0", "192.0.2.1:7811", "example.org:7811", "[::]:0", "localhost.org:1"}) {
    CHECK_THROWS_WITH_AS(GrpcOwnerTransport({.address = address, .credentials = InsecureLoopback{}}),
                         doctest::Contains("only a loopback address can be used"), ArgumentError);
    CHECK_THROWS_WITH_AS(GrpcClientTransport({.address = address, .credentials = InsecureLoopback{"lab-a"}}),
                         doctest::Contains("only a loopback address can be used"), ArgumentError);
  }
  for (const auto* address :
       {"127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", ":7811", "::1:7811"})
    CHECK_THROWS_AS(GrpcOwnerTransport({.address = address, .credentials = InsecureLoopback{}}),
                    ArgumentError);
  GrpcOwnerTransport owner({.address = "localhost:0", .credentials = InsecureLoopback{}, .timing = kFast});
  GrpcClientTransport client({.address = "localhost:" + std::to_string(owner.port()),
                              .credentials = InsecureLoopback{"lab-a"},
                              .timing = kFast});
  CHECK(connect(owner, client));
}

TEST_CASE("gRPC transport: a port in use") {
  GrpcOwnerTransport owner(owner_options());
  auto second = owner_options();
  second.address = "127.0.0.1:" + std::to_string(owner.port());
  CHECK_THROWS_WITH_AS(GrpcOwnerTransport{second}, doctest::Contains("another process uses that port"),
                       ArgumentError);
}

TEST_CASE("gRPC transport: an owner that goes away is told, and found again") {
  auto options = owner_options();
  auto owner = std::make_unique<GrpcOwnerTransport>(options);
  options.address = "127.0.0.1:" + std::to_string(owner->port());
  GrpcClientTransport client(client_options(owner->port(), "lab-a"));
  REQUIRE(connect(*owner, client));
  std::thread stopping([&] { owner.reset(); });
  const auto gone = await(client, is(Arrival::Kind::kDisconnected), kNothing);
  stopping.join();
  REQUIRE(gone.has_value());
  CHECK(gone->peer == "owner");
  client.send("owner", frame_of(10, 0));  // lost
  const auto problem = client.problem();
  REQUIRE(problem.has_value());
  CHECK(contains(problem->sentence, "the owner at " + options.address));
  CHECK_FALSE(problem->final);
  owner = std::make_unique<GrpcOwnerTransport>(options);
  CHECK(connect(*owner, client));
}

TEST_CASE("gRPC transport: the last process of a name is its client") {
  GrpcOwnerTransport owner(owner_options());
  GrpcClientTransport first(client_options(owner.port(), "lab-a")),
      second(client_options(owner.port(), "lab-a"));
  REQUIRE(connect(owner, first));
  REQUIRE(await(second, is(Arrival::Kind::kConnected), kNothing));
  REQUIRE(await(owner, is(Arrival::Kind::kDisconnected), kNothing));
  REQUIRE(await(owner, is(Arrival::Kind::kConnected), kNothing));
  REQUIRE(await(first, is(Arrival::Kind::kDisconnected), kNothing));
  second.send("owner", frame_of(10, 0));
  CHECK(await(owner, is(Arrival::Kind::kFrame), kNothing));
  const auto problem = first.problem();
  REQUIRE(problem.has_value());
  CHECK(contains(problem->sentence, "another process has connected under the name 'lab-a'"));
  CHECK(problem->final);
}

TEST_CASE("gRPC transport: keep-alive notices a peer that is silent, on both sides") {
  auto options = owner_options();
  options.timing.keep_alive_ms = options.timing.answer_ms = 1'000;
  GrpcOwnerTransport owner(options);
  Relay relay(owner.port());
  auto of_client = client_options(relay.port(), "lab-a");
  of_client.timing = options.timing;
  GrpcClientTransport client(of_client);
  REQUIRE(connect(owner, client));
  relay.freeze();
  const auto begin = std::chrono::steady_clock::now();
  CHECK(await(client, is(Arrival::Kind::kDisconnected), kNothing));
  CHECK(await(owner, is(Arrival::Kind::kDisconnected), kNothing));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
  const auto problem = client.problem();
  REQUIRE(problem.has_value());
  INFO(problem->sentence);
  CHECK(contains(problem->sentence, "gave no sign of life for 2 s"));
}

TEST_CASE("gRPC transport: 64 MiB that nobody takes are held back, and all of it arrives in the end") {
  GrpcOwnerTransport owner(owner_options());
  std::vector<std::unique_ptr<GrpcClientTransport>> clients;
  for (const auto* name : {"lab-a", "lab-b", "lab-c"})
    clients.push_back(std::make_unique<GrpcClientTransport>(client_options(owner.port(), name)));
  for (const auto& client : clients) REQUIRE(connect(owner, *client));
  constexpr std::size_t kFrames = 22, kBytes = 1 << 20;
  for (const auto& client : clients)
    for (unsigned i = 0; i < kFrames; ++i) client->send("owner", frame_of(kBytes, i));
  std::uint64_t most = 0;
  for (int i = 0; i < 100; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    most = std::max(most, owner.held_bytes());
  }
  CHECK(most >= 7 * kBytes);
  std::map<std::string, unsigned> arrived;
  for (std::size_t i = 0; i < 3 * kFrames; ++i) {
    const auto arrival = await(owner, is(Arrival::Kind::kFrame), kNothing);
    REQUIRE(arrival.has_value());
    CHECK(arrival->frame == frame_of(kBytes, arrived[arrival->peer]++));
    most = std::max(most, owner.held_bytes());
  }
  for (const auto& [name, count] : arrived) CHECK(count == kFrames);
  CHECK(most <= 9 * kBytes);
  CHECK(owner.held_bytes() == 0);
}

TEST_CASE("gRPC transport: who asks for much and takes nothing is not served further") {
  GrpcOwnerTransport owner(owner_options());
  GrpcClientTransport client(client_options(owner.port(), "lab-a"));
  REQUIRE(connect(owner, client));
  constexpr unsigned kAnswers = 48;
  constexpr std::size_t kBytes = 1 << 20;
  for (unsigned i = 0; i < kAnswers; ++i) client.send("owner", frame_of(200, i));
  unsigned answered = 0;
  const auto answer = [&] {
    while (const auto arrival = owner.receive(100))
      if (arrival->kind == Arrival::Kind::kFrame) owner.send("lab-a", frame_of(kBytes, answered++));
  };
  answer();
  CHECK(answered >= 4);
  CHECK(answered < 30);  // the rest is not even looked at
  CHECK(owner.held_bytes() <= 5 * kBytes);
  for (unsigned i = 0; i < kAnswers; ++i) {
    const auto arrival = await(client, is(Arrival::Kind::kFrame), [&] {
      if (const auto asked = owner.receive(0); asked && asked->kind == Arrival::Kind::kFrame)
        owner.send("lab-a", frame_of(kBytes, answered++));
    });
    REQUIRE(arrival.has_value());
    CHECK(arrival->frame == frame_of(kBytes, i));
  }
}

TEST_CASE("gRPC transport: peers that keep to no rule are cut off, and named") {
  auto options = owner_options();
  options.timing.stall_ms = 500;
  GrpcOwnerTransport owner(options);
  const auto text = [](const std::filesystem::path& path) { return detail::read_pem(path, "file"); };
  const auto trusted = text(world().files("lab-a").authority);
  const auto credentials = [&](const TlsFiles& files) {
    return grpc::SslCredentials({trusted, text(files.key), text(files.certificate)});
  };
  const auto good = credentials(world().files("lab-a"));
  std::atomic<bool> over{false};
  std::thread watching([&] {
    while (!over) (void)owner.receive(20);
  });
  const auto status_of = [&](std::vector<std::string> messages) {
    return RawClient::send(owner.port(), good, std::move(messages));
  };
  SUBCASE("a message longer than a client's may be") {
    const auto status = status_of({RawClient::beginning(5 << 20, 100)});
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(contains(status.error_message(), "a message of 5242880 bytes"));
  }
  SUBCASE("no message, or no length") {
    CHECK(status_of({RawClient::beginning(0, 1)}).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status_of({"short"}).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(status_of({""}).error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  }
  SUBCASE("more than the message has") {
    const auto status = status_of({RawClient::beginning(1000, 900), std::string(101, 'x')});
    CHECK(status.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
    CHECK(contains(status.error_message(), "a piece of 101 bytes, where 100 are left"));
  }
  SUBCASE("nothing more of a message") {
    const auto status = status_of({RawClient::beginning(1 << 20, 1000)});
    CHECK(status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED);
    CHECK(contains(status.error_message(), "did not finish a message that it had begun for 0.5 s"));
    const auto notices = owner.take_notices();
    REQUIRE(notices.size() == 1);
    CHECK(contains(notices[0], "the connection to lab-a was cut: it did not finish"));
  }
  SUBCASE("a piece that is too large") {
    CHECK(status_of({RawClient::beginning(4 << 20, detail::kFramePiece + 1)}).error_code() ==
          grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  SUBCASE("another protocol") {
    CHECK(RawClient::send(owner.port(), good, {}, "/other/Method").error_code() ==
          grpc::StatusCode::UNIMPLEMENTED);
  }
  SUBCASE("a certificate of another authority, or none, or an owner's") {
    const TlsWorld other{"lab-a"};
    const auto stranger = RawClient::send(owner.port(), credentials(other.files("lab-a")), {});
    CHECK(stranger.error_code() == grpc::StatusCode::UNAVAILABLE);
    const auto nobody = RawClient::send(owner.port(), grpc::SslCredentials({trusted, "", ""}), {});
    CHECK(nobody.error_code() == grpc::StatusCode::UNAVAILABLE);
    const auto owners = RawClient::send(owner.port(), credentials(world().files("owner")), {});
    CHECK(owners.error_code() == grpc::StatusCode::UNAVAILABLE);
  }
  over = true;
  watching.join();
  for (int i = 0; i < 1000 && owner.held_bytes() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(owner.held_bytes() == 0);
  GrpcClientTransport client(client_options(owner.port(), "lab-b"));
  CHECK(await(client, is(Arrival::Kind::kConnected), kNothing));
}

TEST_CASE("gRPC transport: a client's certificate does not make an owner") {
  auto options = owner_options();
  options.credentials = world().files("lab-a");
  CHECK_THROWS_WITH_AS(GrpcOwnerTransport{options}, doctest::Contains("is not for an owner"), ArgumentError);
}
