// A transport whose `receive` has no deadline.
// expect: ReceivesFrames
// expect: std::optional<Arrival> receive\(std::int64_t timeout_ms\)
#include "offsite/transport/transport.hpp"

struct Pipe {
  void send(std::string_view, std::span<const std::byte>) {}
#ifdef MISTAKE
  std::optional<offsite::Arrival> receive() { return {}; }
#else
  std::optional<offsite::Arrival> receive(std::int64_t) { return {}; }
#endif
};

static_assert(offsite::Transport<Pipe>);
