#pragma once
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "offsite/core/format.hpp"
#include "offsite/transport/frame_stream.hpp"
#include "offsite/transport/transport.hpp"

namespace offsite::detail {

/// The streams of one end, by peer, and what they hold together. Thread-safe.
template <class Reactor>
class FrameHub : public std::enable_shared_from_this<FrameHub<Reactor>> {
 public:
  using Stream = FrameStream<Reactor>;
  using Pointer = std::shared_ptr<Stream>;

  FrameHub(FrameLimits limits, Milliseconds stall) : limits_(limits), stall_(stall) {}

  // --- What the transports call -----------------------------------------------------------------------------------

  /// gRPC works for this stream from now on, until `done`.
  void begin(const Pointer& stream) {
    const Change change(*this);
    stream->self_ = stream;
    ++alive_;
  }

  /// The stream is the connection to its peer; an older one of that peer ends, with `replaced`.
  void connected(const Pointer& stream, const grpc::Status& replaced) {
    const Change change(*this);
    const auto old = std::exchange(streams_[stream->peer_], stream);
    if (old) {
      forget_frames(*old);
      end(*old, replaced, true);
      events_.push_back({Arrival::Kind::kDisconnected, stream->peer_});
    }
    events_.push_back({Arrival::Kind::kConnected, stream->peer_});
    woken_.push_back(stream);
  }

  /// Ends a stream, whether it was connected or not. \param ours  the peer does not know yet
  void stop(const Pointer& stream, const grpc::Status& status, bool ours) {
    const Change change(*this);
    end(*stream, status, ours);
  }

  /// Sends a frame without copying it.
  void send(std::string_view peer, std::vector<std::byte> frame) {
    const auto kept = std::make_shared<const std::vector<std::byte>>(std::move(frame));
    const federation::SharedBytes whole{*kept, kept};
    send(peer, std::span(&whole, 1));
  }
  /// The same for one whose bytes lie in several places.
  void send(std::string_view peer, std::span<const federation::SharedBytes> frame) {
    const auto length = size_of(frame);
    Pointer stream = find(peer, length);
    if (!stream || length == 0) return;
    auto pieces = pieces_of(frame, length);
    const Change change(*this);
    if (stream->ending_ || stream->closing_) return;
    for (auto& piece : pieces) stream->outbound_.push_back(std::move(piece));
    stream->outbound_bytes_ += length + kLengthBytes;
    outbound_bytes_ += length + kLengthBytes;
    woken_.push_back(std::move(stream));
  }

  [[nodiscard]] std::optional<Arrival> receive(Milliseconds timeout) {
    const auto until = std::chrono::steady_clock::now() + timeout;
    for (;;) {
      const auto swept = sweep();
      Change change(*this);
      const auto now = std::chrono::steady_clock::now();
      if (now >= next_watch_) {
        next_watch_ = now + std::min<Milliseconds>(stall_ / 4, Milliseconds(250));
        watch(now);
      }
      auto arrival = take();
      if (arrival || now >= until) return arrival;
      if (woken_.empty()) arrived_.wait_until(change.lock, std::min(until, next_watch_));
    }
  }

  /// Sends what is queued, then half closes every stream, and waits for their end or until the time is up. What still
  /// comes is dropped.
  void close(Milliseconds timeout) {
    const auto until = std::chrono::steady_clock::now() + timeout;
    for (;;) {
      Change change(*this);
      const bool late = std::chrono::steady_clock::now() >= until;
      bool open = false;
      for (auto& [name, stream] : streams_) {
        stream->closing_ = true;
        forget_frames(*stream);
        if (late) end(*stream, grpc::Status::CANCELLED, true);
        open = open || stream->self_ != nullptr;
        woken_.push_back(stream);
      }
      if (late || !open) {
        streams_.clear();
        events_.clear();
        return;
      }
      for (const auto& stream : std::exchange(woken_, {})) drive(stream, change.lock);
      arrived_.wait_for(change.lock, Milliseconds(50));
    }
  }
  /// Waits until gRPC is done with all streams and they are gone.
  void wait_for_all(Milliseconds timeout) {
    const auto until = std::chrono::steady_clock::now() + timeout;
    for (bool gone = false; !gone && std::chrono::steady_clock::now() < until;) {
      const auto swept = sweep();
      std::unique_lock lock(mutex_);
      gone = alive_ == 0 && over_.empty();
      if (!gone) arrived_.wait_for(lock, Milliseconds(5));
    }
  }

  /// Bytes of frames that are here, or were let in, or are to be sent.
  [[nodiscard]] std::uint64_t held_bytes() {
    const std::lock_guard lock(mutex_);
    return reserved_ + outbound_bytes_;
  }

  void notice(std::string sentence) {
    const std::lock_guard lock(mutex_);
    if (notices_.size() < kMostNotices) notices_.push_back(std::move(sentence));
  }
  [[nodiscard]] std::vector<std::string> take_notices() {
    const std::lock_guard lock(mutex_);
    return std::exchange(notices_, {});
  }

  // --- What gRPC's threads call -----------------------------------------------------------------------------------

  void read_done(Stream& stream, bool good) {
    std::string wrong;
    const bool whole = good && append_piece(stream, wrong);
    Change change(*this);
    change.quiet = good && !whole && wrong.empty();
    stream.reading_ = false;
    if (!good) {
      end(stream, grpc::Status::OK, false);
    } else if (!wrong.empty()) {
      cut(stream, grpc::StatusCode::INVALID_ARGUMENT, wrong);
    } else if (whole) {
      if (!stream.admitted_) reserved_ += stream.expected_;  // it was one piece
      stream.ready_bytes_ += stream.expected_;
      stream.ready_.push_back(std::exchange(stream.partial_, {}));
      stream.expected_ = 0;
      stream.admitted_ = false;
      if (stream.closing_) forget_frames(stream);
    } else if (!stream.admitted_) {
      stream.waiting_ = true;
      waiting_.push_back(stream.shared_from_this());
      admit();
    }
    woken_.push_back(stream.shared_from_this());
  }

  void write_done(Stream& stream, bool good) {
    Change change(*this);
    stream.writing_ = false;
    stream.outgoing_.Clear();
    const auto done = std::exchange(stream.outgoing_bytes_, 0);
    const bool was_full = is_full(stream);
    stream.outbound_bytes_ -= done;
    outbound_bytes_ -= done;
    change.quiet = good && was_full == is_full(stream) && !stream.closing_;
    if (!good) end(stream, grpc::Status::OK, false);
    woken_.push_back(stream.shared_from_this());
  }

  /// gRPC will not touch the stream any more.
  void done(Stream& stream) {
    const Change change(*this);
    end(stream, grpc::Status::OK, false);
    stream.finished_ = true;
    if (stream.admitted_) reserved_ -= stream.expected_;
    stream.admitted_ = false;
    stream.partial_ = {};
    std::erase_if(waiting_, [&](const Pointer& other) { return other.get() == &stream; });
    over_.push_back(std::move(stream.self_));
    --alive_;
    admit();
  }

 private:
  enum class Step { kNone, kRead, kWrite, kHalfClose, kCancel, kEnd };

  /// A change of the state, under the lock; after it, the streams in `woken_` do what it asks of them.
  struct Change {
    explicit Change(FrameHub& changed) : hub(changed), lock(changed.mutex_) {}
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;
    ~Change() {
      const auto woken = std::exchange(hub.woken_, {});
      if (!quiet) hub.arrived_.notify_all();
      for (const auto& stream : woken) hub.drive(stream, lock);
    }
    FrameHub& hub;
    std::unique_lock<std::mutex> lock;
    bool quiet = false;  // nothing that `receive` waits for has changed
  };

  /// Streams that nobody else holds any more, to be destroyed by the caller, on a thread that is not gRPC's: a client's may
  /// hold the last reference to the channel, and gRPC 1.51 joins its own threads when that goes.
  [[nodiscard]] std::vector<Pointer> sweep() {
    const std::lock_guard lock(mutex_);
    const auto unused =
        std::partition(over_.begin(), over_.end(), [](const Pointer& p) { return p.use_count() > 1; });
    std::vector<Pointer> swept(std::make_move_iterator(unused), std::make_move_iterator(over_.end()));
    over_.erase(unused, over_.end());
    return swept;
  }

  /// Does to the stream what its state asks for. One thread at a time does so: another that comes leaves it to the first,
  /// which looks again before it goes.
  void drive(const Pointer& stream, std::unique_lock<std::mutex>& lock) {
    if (std::exchange(stream->driving_, true)) return;
    for (auto step = next_step(*stream); step != Step::kNone; step = next_step(*stream)) {
      lock.unlock();  // gRPC may call back at once, on this thread
      perform(*stream, step);
      lock.lock();
    }
    stream->driving_ = false;
  }

  [[nodiscard]] Step next_step(Stream& s) {
    if (s.finished_) return Step::kNone;
    if (s.ending_) {
      if (std::exchange(s.cancel_, false)) return Step::kCancel;
      if (Stream::kServer && s.writing_) return Step::kNone;
      s.finished_ = true;
      return Step::kEnd;
    }
    if (!s.writing_ && !s.outbound_.empty()) {
      s.outgoing_ = std::move(s.outbound_.front());
      s.outgoing_bytes_ = s.outgoing_.Length();
      s.outbound_.pop_front();
      s.writing_ = true;
      s.written_ = std::chrono::steady_clock::now();
      return Step::kWrite;
    }
    if (s.closing_ && !s.writing_ && !s.half_closed_) {
      s.half_closed_ = true;
      if (Stream::kServer) {
        end(s, grpc::Status::OK, false);
        return next_step(s);
      }
      return Step::kHalfClose;
    }
    if (s.reading_ || s.waiting_) return Step::kNone;
    const bool room =
        s.expected_ > 0 ? s.admitted_ : s.ready_bytes_ < limits_.inbox_of_peer && reserved_ < limits_.inbox;
    if (room) {
      s.reading_ = true;
      return Step::kRead;
    }
    return Step::kNone;
  }

  void perform(Stream& s, Step step) {
    switch (step) {
      case Step::kRead:
        s.StartRead(&s.incoming_);
        break;
      case Step::kWrite:
        s.StartWrite(&s.outgoing_);
        break;
      case Step::kHalfClose:
        if constexpr (!Stream::kServer) s.StartWritesDone();
        break;
      case Step::kCancel:
        s.context_->TryCancel();
        break;
      case Step::kEnd:
        if constexpr (Stream::kServer) {
          s.Finish(s.status_);
        } else {
          s.RemoveHold();
        }
        break;
      case Step::kNone:
        break;
    }
  }

  /// Takes the piece that was read. \return whether the frame is whole; `wrong` says what a peer did wrong
  [[nodiscard]] bool append_piece(Stream& s, std::string& wrong) {
    std::vector<grpc::Slice> slices;
    if (!s.incoming_.Dump(&slices).ok()) wrong = "it sent a piece that cannot be read";
    s.incoming_.Clear();
    std::array<unsigned char, kLengthBytes> length{};
    std::size_t size = 0;
    for (const auto& slice : slices) size += slice.size();
    std::size_t skip = 0;
    if (s.expected_ == 0) {
      for (const auto& slice : slices)
        for (std::size_t i = 0; i < slice.size() && skip < kLengthBytes; ++i)
          length[skip++] = slice.begin()[i];
      std::uint64_t claimed = 0;
      for (std::size_t i = 0; i < kLengthBytes; ++i) claimed |= std::uint64_t{length[i]} << (8 * i);
      if (size <= kLengthBytes || claimed == 0 || claimed > limits_.most_frame)
        wrong = formatted("it sent a message of {} bytes, where 1 to {} are allowed", claimed,
                          limits_.most_frame);
      s.expected_ = wrong.empty() ? claimed : 0;
      size -= std::min(size, kLengthBytes);
    }
    if (wrong.empty() && (size == 0 || size > s.expected_ - s.partial_.size()))
      wrong = formatted("it sent a piece of {} bytes, where {} are left of its message", size,
                        s.expected_ - s.partial_.size());
    if (!wrong.empty()) return false;
    for (const auto& slice : slices) {
      const auto* first = reinterpret_cast<const std::byte*>(slice.begin());
      const auto left_out = std::min(skip, slice.size());
      skip -= left_out;
      s.partial_.insert(s.partial_.end(), first + left_out, first + slice.size());
    }
    return s.partial_.size() == s.expected_;
  }

  /// Lets frames begin for which there is room, the longest waiting first.
  void admit() {
    while (!waiting_.empty()) {
      auto& s = *waiting_.front();
      if (!s.ending_) {
        if (reserved_ > 0 && reserved_ + s.expected_ > limits_.inbox) return;
        reserved_ += s.expected_;
        s.admitted_ = true;
        s.partial_.reserve(s.expected_);
        s.admittance_ = std::chrono::steady_clock::now();
        woken_.push_back(waiting_.front());
      }
      s.waiting_ = false;
      waiting_.pop_front();
    }
  }

  /// The next event or frame, peers in turn.
  [[nodiscard]] std::optional<Arrival> take() {
    std::optional<Arrival> arrival;
    if (!events_.empty()) {
      arrival = std::move(events_.front());
      events_.pop_front();
      return arrival;
    }
    auto at = streams_.upper_bound(last_served_);
    for (std::size_t i = 0; i < streams_.size(); ++i, ++at) {
      if (at == streams_.end()) at = streams_.begin();
      auto& s = *at->second;
      if (s.ready_.empty()) {
        // A client learns why by its stream's very end.
        if (!s.ending_ || (!Stream::kServer && s.self_)) continue;
        arrival = Arrival{Arrival::Kind::kDisconnected, at->first};
        streams_.erase(at);
        return arrival;
      }
      // Its answer may be large: it waits until earlier ones have left.
      if (is_full(s) && !s.ending_) continue;
      last_served_ = at->first;
      arrival = Arrival{Arrival::Kind::kFrame, at->first, std::move(s.ready_.front())};
      s.ready_.pop_front();
      s.ready_bytes_ -= arrival->frame.size();
      release(arrival->frame.size());
      woken_.push_back(at->second);
      return arrival;
    }
    return arrival;
  }

  /// So much is to be sent that nothing is taken that could ask for more.
  [[nodiscard]] bool is_full(const Stream& s) const {
    return s.outbound_bytes_ >= limits_.outbox_of_peer || outbound_bytes_ >= limits_.outbox;
  }

  /// Gives room back to those who wait for it.
  void release(std::uint64_t bytes) {
    const bool paused = reserved_ >= limits_.inbox;
    reserved_ -= bytes;
    admit();
    if (!paused || reserved_ >= limits_.inbox) return;
    for (const auto& [name, stream] : streams_) woken_.push_back(stream);
  }

  /// Cuts streams that stand still. A write or a frame that was begun must go on.
  void watch(Instant now) {
    for (const auto& [name, stream] : streams_) {
      auto& s = *stream;
      const bool write_stuck = s.writing_ && now - s.written_ > stall_;
      if (s.ending_) {
        if (!write_stuck || s.finished_) continue;
        s.cancel_ = true;  // a write that is stuck keeps a server from ending the stream in peace
        woken_.push_back(stream);
      } else if (write_stuck) {
        cut(s, grpc::StatusCode::DEADLINE_EXCEEDED, stalled("took nothing of what was sent to it"));
      } else if (s.admitted_ && now - s.admittance_ > stall_) {
        // The whole message, not its next piece: others wait for the room that it has.
        cut(s, grpc::StatusCode::DEADLINE_EXCEEDED, stalled("did not finish a message that it had begun"));
      }
    }
  }
  [[nodiscard]] std::string stalled(std::string_view what) const {
    return formatted("it {} for {} s; see whether its machine or the network between is overloaded", what,
                     static_cast<double>(stall_.count()) / 1000);
  }

  /// Ends a stream for something its peer did.
  void cut(Stream& s, grpc::StatusCode code, const std::string& what) {
    if (notices_.size() < kMostNotices)
      notices_.push_back(formatted("the connection to {} was cut: {}", s.peer_, what));
    end(s, grpc::Status(code, what), true);
  }

  /// \param ours  the peer does not know yet
  void end(Stream& s, const grpc::Status& status, bool ours) {
    if (std::exchange(s.ending_, true)) return;
    s.status_ = status;
    // A server says why, when nothing is under way; else, and from a client, a cancellation must do.
    s.cancel_ = ours && (!Stream::kServer || s.writing_);
    outbound_bytes_ -= s.outbound_bytes_ - s.outgoing_bytes_;
    s.outbound_bytes_ = s.outgoing_bytes_;
    s.outbound_.clear();
    if (s.self_) woken_.push_back(s.self_);
  }

  void forget_frames(Stream& s) {
    s.ready_.clear();
    release(std::exchange(s.ready_bytes_, 0));
  }

  [[nodiscard]] Pointer find(std::string_view peer, std::size_t length) {
    const std::lock_guard lock(mutex_);
    const auto found = streams_.find(std::string(peer));
    if (found == streams_.end() || found->second->ending_) return nullptr;
    return found->second->outbound_bytes_ + length <= limits_.most_outbox ? found->second : nullptr;
  }

  static constexpr std::size_t kMostNotices = 100;

  const FrameLimits limits_;
  const Milliseconds stall_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::string, Pointer> streams_;  // the connection of each peer, until its end was told
  std::deque<Arrival> events_;
  std::deque<Pointer> waiting_;  // whose next frame found no room
  std::vector<Pointer> over_;    // with which gRPC is done
  std::vector<Pointer> woken_;   // to be driven after this change
  std::uint64_t reserved_ = 0;   // bytes of frames that are here or were let in
  std::uint64_t outbound_bytes_ = 0;
  std::string last_served_;
  std::vector<std::string> notices_;
  Instant next_watch_{};
  std::int64_t alive_ = 0;  // streams that gRPC works for
};

}  // namespace offsite::detail
