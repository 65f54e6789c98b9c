// How fast an update goes from a client to its owner over mutual TLS on loopback, beside plain gRPC that sends as many
// bytes in messages of the same size, by mutual TLS too and with gRPC's default settings, and drops them.
//
//   upload [MB] [ROUNDS]
//
// Two processes: the owner's and a client's, with the real state machines, journals on the disk and transports. In each
// round the client first sends by plain gRPC, then offers an update. Its time is from the offer to the owner's answer
// that it is accepted: sent, received, hashed, on the disk, every number of it looked at, and recorded.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/server_builder.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "offsite/core/process.hpp"
#include "offsite/federation.hpp"
#include "offsite/federation/sqlite_journal.hpp"
#include "offsite/transport/grpc.hpp"
#include "offsite/transport/pump.hpp"

namespace {

using namespace offsite;
using namespace offsite::federation;

constexpr int kMostRounds = 50;
constexpr unsigned kMostSeconds = 600;

/// Seconds on the clock, and of processors that this process used.
struct Meter {
  double wall = 0, processor = 0;

  [[nodiscard]] static Meter read() {
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
    return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(),
            seconds(used.ru_utime) + seconds(used.ru_stime)};
  }
};

struct Span {
  Meter begin, end;
  [[nodiscard]] double wall() const { return end.wall - begin.wall; }
  [[nodiscard]] double processor() const { return end.processor - begin.processor; }
};

/// What the two processes tell each other.
struct Board {
  std::atomic<int> plain_port, port;
  struct Round {
    Span client, owner;
    double received = 0;  // when the owner had all bytes, on the clock
  };
  Round plain[kMostRounds], ours[kMostRounds];
};

struct Setting {
  std::filesystem::path folder;
  std::uint64_t bytes = 0;
  std::int64_t rounds = 0;
  Board* board = nullptr;

  [[nodiscard]] TlsFiles files(const char* name) const { return tls_files(folder / name); }
};

// --- Plain gRPC -----------------------------------------------------------------------------------------------------

/// Reads and forgets.
struct Sink final : grpc::ServerGenericBidiReactor {
  explicit Sink(Span& measured) : span(measured) {
    span.begin = Meter::read();
    StartRead(&message);
  }
  void OnReadDone(bool good) override {
    if (!good) {
      span.end = Meter::read();
      return Finish(grpc::Status::OK);
    }
    message.Clear();
    StartRead(&message);
  }
  void OnDone() override { delete this; }

  Span& span;
  grpc::ByteBuffer message;
};

struct SinkService final : grpc::CallbackGenericService {
  explicit SinkService(Board& shown) : board(shown) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Sink(board.plain[served++].owner);
  }
  Board& board;
  int served = 0;
};

/// Sends the same message again and again.
struct Source final : grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
  explicit Source(std::uint64_t bytes) : left(bytes), data(offsite::detail::kFramePiece, 'x') {}
  void next() {
    if (left == 0) return StartWritesDone();
    const auto size = std::min<std::uint64_t>(left, data.size());
    const grpc::Slice slice(data.data(), size);
    message = grpc::ByteBuffer(&slice, 1);
    left -= size;
    StartWrite(&message);
  }
  void OnWriteDone(bool good) override {
    if (good) next();
  }
  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) std::fprintf(stderr, "plain gRPC: %s\n", status.error_message().c_str());
    over.release();
  }

  std::uint64_t left;
  std::vector<char> data;
  grpc::ByteBuffer message;
  std::binary_semaphore over{0};
};

std::unique_ptr<grpc::Server> plain_server(const Setting& setting, SinkService& service) {
  const auto files = setting.files("owner");
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = offsite::detail::pem_of(files.authority);
  options.pem_key_cert_pairs = {
      {offsite::detail::pem_of(files.key), offsite::detail::pem_of(files.certificate)}};
  grpc::ServerBuilder builder;
  int port = 0;
  builder.RegisterCallbackGenericService(&service);
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(options), &port);
  auto server = builder.BuildAndStart();
  setting.board->plain_port = port;
  return server;
}

void upload_plainly(const Setting& setting, Span& span) {
  const auto files = setting.files("lab");
  const grpc::SslCredentialsOptions pem{offsite::detail::pem_of(files.authority),
                                        offsite::detail::pem_of(files.key),
                                        offsite::detail::pem_of(files.certificate)};
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride("owner");
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(setting.board->plain_port),
                                                 grpc::SslCredentials(pem), arguments);
  channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  Source source(setting.bytes);
  span.begin = Meter::read();
  stub.PrepareBidiStreamingCall(&context, "/bench.Upload/Exchange", {}, &source);
  source.next();
  source.StartCall();
  source.over.acquire();
  span.end = Meter::read();
}

// --- offsite --------------------------------------------------------------------------------------------------------

/// The bytes of an update whose numbers are all the same.
std::vector<std::byte> update_of(std::uint64_t bytes, float value) {
  const std::vector<float> numbers(bytes / sizeof(float), value);
  const std::vector<NamedView> tensors{
      {"weight", {Dtype::kF32, {std::ssize(numbers)}, std::as_bytes(std::span(numbers))}}};
  return safetensors_bytes(tensors);
}

/// What does no work: both ends do theirs by what is added to it.
template <class T>
struct Host {
  T& transport;
  AnswerQueue answers{};
  bool over = false;
  std::string error{};

  void operator()(const Send& send) { transport.send(send.peer, encode(send.message)); }
  void send_chunk(const SendChunk& request, SharedBytes bytes) {
    transport.send(request.peer, encode_chunk(request.want.sha256, request.want.offset, std::move(bytes)));
  }
  void operator()(const Notice& notice) { std::fprintf(stderr, "%s\n", notice.text.c_str()); }
  void operator()(const Finish& finish) {
    over = true;
    error = finish.error;
  }
  template <class Other>
  void operator()(const Other&) {}
};

/// A journal on the disk that tells when an update begins to come, is all there, and is recorded.
struct MeteredJournal {
  SqliteJournal& journal;
  Board& board;
  int round = 0;

  std::vector<Record> records() { return journal.records(); }
  void append(const Record& record) {
    journal.append(record);
    if (record.kind == "update") board.ours[round++].owner.end = Meter::read();
  }
  bool contains(std::string_view sha256) { return journal.contains(sha256); }
  Blob put(std::span<const std::byte> bytes) { return journal.put(bytes); }
  BlobView view(std::string_view sha256) { return journal.view(sha256); }
  void drop(std::string_view sha256) { journal.drop(sha256); }
  std::uint64_t open_part(std::string_view peer, const Blob& blob) {
    board.ours[round].owner.begin = Meter::read();
    return journal.open_part(peer, blob);
  }
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::span<const std::byte> bytes) {
    journal.write_part(peer, blob, offset, bytes);
  }
  void write_part(std::string_view peer, const Blob& blob, std::uint64_t offset,
                  std::same_as<ChunkBytes> auto&& bytes) {
    journal.write_part(peer, blob, offset, std::move(bytes));
  }
  bool finish_part(std::string_view peer, const Blob& blob) {
    const bool good = journal.finish_part(peer, blob);
    board.ours[round].received = Meter::read().wall;
    return good;
  }
  void drop_part(std::string_view peer, const Blob& blob) { journal.drop_part(peer, blob); }
};

struct OwnerHost : Host<GrpcOwnerTransport> {
  MeteredJournal& journal;
  TrainedShapes shapes;
  double loss = 1e6;

  using Host<GrpcOwnerTransport>::operator();
  void operator()(const CheckUpdate& request) {
    const auto facts = check_update(journal.view(request.sha256), shapes);
    answers.put(Checked{request.peer, request.sha256, facts.norm, facts.error});
  }
  void operator()(const Aggregate& request) {
    const std::string text = "adapters of round " + std::to_string(request.round);
    answers.put(Aggregated{request.round, journal.put(std::as_bytes(std::span(text))), "", ""});
  }
  void operator()(const Score& request) { answers.put(Scored{request.sha256, loss -= 1, ""}); }
};

std::string run_owner(const Setting& setting) {
  SqliteJournal disk(setting.folder / "of-owner");
  MeteredJournal journal{disk, *setting.board};
  OwnerOptions options;
  options.rounds = setting.rounds;
  options.silence_ms = options.grace_ms = 60'000;
  options.timing.chunk_bytes = kNetworkChunk;
  RunDescription run;
  run.run = "upload";
  const std::string start = "adapters";
  run.global = disk.put(std::as_bytes(std::span(start)));
  const TrainedShapes shapes{{"weight", {static_cast<std::int64_t>(setting.bytes / sizeof(float))}}};
  run.max_update_bytes = most_update_bytes(shapes);
  GrpcOwnerTransport transport(
      {.address = "127.0.0.1:0", .credentials = setting.files("owner"), .expected_clients = 1});
  OwnerHost host{{transport}, journal, shapes};
  Node node(Owner(options, run, {}), journal, host);
  node.start();
  setting.board->port = transport.port();
  pump(
      node, transport, host.answers, [&] { return host.over; },
      [](const std::string&, const std::string& sentence) {
        std::fprintf(stderr, "%s\n", sentence.c_str());
      });
  return host.error;
}

/// A client's journal that tells when an update is offered and when it was answered.
struct ClientHost : Host<GrpcClientTransport> {
  const Setting& setting;
  SqliteJournal& journal;

  /// The owner's file shall lie in memory that this machine has: the host of a virtual one takes back what is not used,
  /// and then a first write to it takes several times what a write takes.
  void touch_memory() const {
    const auto path = setting.folder / "scratch";
    const std::vector<std::byte> bytes(4 << 20, std::byte{1});
    {
      std::FILE* file = std::fopen(path.c_str(), "wb");
      for (std::uint64_t i = 0; file != nullptr && i < setting.bytes; i += bytes.size())
        (void)std::fwrite(bytes.data(), 1, bytes.size(), file);
      if (file != nullptr) std::fclose(file);
    }
    ::sync();  // what is measured writes its own bytes only
    std::filesystem::remove(path);
  }

  using Host<GrpcClientTransport>::operator();
  void operator()(const Install& request) { answers.put(Installed{request.welcome.run, ""}); }
  void operator()(const Train& request) {
    const auto round = request.round.round;
    upload_plainly(setting, setting.board->plain[round - 1].client);
    const auto update = journal.put(update_of(setting.bytes, static_cast<float>(round)));
    touch_memory();
    setting.board->ours[round - 1].client.begin = Meter::read();
    answers.put(Trained{round, update, 1, 1, 0, ""});
  }
};

std::string run_client(const Setting& setting) {
  SqliteJournal disk(setting.folder / "of-client");
  std::int64_t round = 0;
  ObservedJournal journal(disk, [&](const Record& record) {
    if (record.kind == "settled") setting.board->ours[round++].client.end = Meter::read();
  });
  ClientOptions options;
  options.samples = 1;
  options.nonce = 1;
  options.timing.chunk_bytes = kNetworkChunk;
  GrpcClientTransport transport(
      {.address = "127.0.0.1:" + std::to_string(setting.board->port), .credentials = setting.files("lab")});
  ClientHost host{{transport}, setting, disk};
  Node node(Client(options, {}), journal, host);
  node.start();
  pump(
      node, transport, host.answers, [&] { return host.over; },
      [](const std::string&, const std::string& sentence) {
        std::fprintf(stderr, "%s\n", sentence.c_str());
      });
  return host.error;
}

// --------------------------------------------------------------------------------------------------------------------

void report(const Setting& setting) {
  const double megabytes = static_cast<double>(setting.bytes) / 1e6;
  std::vector<double> ratios, received, work;
  for (int i = 0; i < setting.rounds; ++i) {
    const auto &plain = setting.board->plain[i], &ours = setting.board->ours[i];
    const auto processor = [](const Board::Round& r) { return r.client.processor() + r.owner.processor(); };
    ratios.push_back(plain.client.wall() / ours.client.wall());
    received.push_back(plain.client.wall() / (ours.received - ours.client.begin.wall));
    work.push_back(processor(ours) / processor(plain));
    std::printf(
        "round %d: plain %.0f MB/s (processor seconds: client %.2f, owner %.2f), offsite %.0f MB/s (client "
        "%.2f, "
        "owner %.2f; all bytes hashed and on the disk after %.2f s, recorded after %.2f s)\n",
        i + 1, megabytes / plain.client.wall(), plain.client.processor(), plain.owner.processor(),
        megabytes / ours.client.wall(), ours.client.processor(), ours.owner.processor(),
        ours.received - ours.client.begin.wall, ours.client.wall());
  }
  const auto spread = [](const char* what, std::vector<double> values) {
    std::sort(values.begin(), values.end());
    std::printf("%s (min / median / max): %.2f / %.2f / %.2f\n", what, values.front(),
                values[values.size() / 2], values.back());
  };
  spread("speed, offsite / plain, until accepted", ratios);
  spread("speed, offsite / plain, until on the disk", received);
  spread("processor time, offsite / plain", work);
}

int guarded(const char* who, std::string (*run)(const Setting&), const Setting& setting) {
  std::string error;
  try {
    error = run(setting);
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  if (!error.empty()) std::fprintf(stderr, "%s: %s\n", who, error.c_str());
  return error.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  quiet_grpc_log();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  ::alarm(kMostSeconds);
  Setting setting;
  setting.bytes = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 500) * 1'000'000;
  setting.rounds = std::clamp(argc > 2 ? std::atoi(argv[2]) : 3, 1, kMostRounds);
  auto pattern = (std::filesystem::temp_directory_path() / "offsite-upload-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) return 1;
  setting.folder = pattern;
  void* const memory =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  setting.board = new (memory) Board();
  make_authority(setting.folder);
  issue_certificate(setting.folder, {"owner"});
  issue_certificate(setting.folder, {"lab"});

  const auto child = ::fork();  // before gRPC begins its threads
  if (child == 0) {
    ::alarm(kMostSeconds);
    while (setting.board->port == 0) ::usleep(1000);
    std::_Exit(guarded("client", run_client, setting));
  }
  SinkService sink(*setting.board);
  const auto server = plain_server(setting, sink);
  int status = guarded("owner", run_owner, setting);
  int ended = 0;
  ::waitpid(child, &ended, 0);
  if (status == 0 && ended == 0) report(setting);
  server->Shutdown();
  std::error_code ignored;
  std::filesystem::remove_all(setting.folder, ignored);
  return status != 0 || ended != 0;
}
