#pragma once
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <string>
#include <utility>
#include <vector>

/// A client that keeps to no rule: opens a stream, sends these bytes as gRPC messages, and waits for the stream's end.
class RawClient : private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  /// How the stream ended; after 10 s with DEADLINE_EXCEEDED.
  static grpc::Status send(int port, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                           std::vector<std::string> messages,
                           const std::string& method = "/offsite.Federation/Exchange") {
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride("owner");
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), credentials, arguments);
    grpc::GenericStub stub(channel);
    RawClient client(std::move(messages));
    client.context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    stub.PrepareBidiStreamingCall(&client.context_, method, {}, &client);
    client.next();
    client.StartCall();
    client.over_.acquire();
    return client.status_;
  }
  /// A message that begins a frame of `length` bytes, `size` of which are in it.
  static std::string beginning(std::uint64_t length, std::size_t size) {
    std::string text;
    for (int i = 0; i < 8; ++i) text += static_cast<char>((length >> (8 * i)) & 255);
    return text + std::string(size, 'x');
  }

 private:
  explicit RawClient(std::vector<std::string> messages) : messages_(std::move(messages)) {}
  void next() {
    if (at_ == messages_.size()) return;
    const grpc::Slice slice(messages_[at_++]);
    sending_ = grpc::ByteBuffer(&slice, 1);
    StartWrite(&sending_);
  }
  void OnWriteDone(bool good) override {
    if (good) next();
  }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    over_.release();
  }

  std::vector<std::string> messages_;
  std::size_t at_ = 0;
  grpc::ByteBuffer sending_;
  grpc::ClientContext context_;
  grpc::Status status_;
  std::binary_semaphore over_{0};
};
