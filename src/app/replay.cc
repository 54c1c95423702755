#include "app/replay.h"

#include <fmt/format.h>
#include <libnbd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/limits.h"
#include "base/types.h"

namespace foreshadow::app {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kInFlight = 128;
constexpr uint64_t kUnmapBytes = 1ull << 30;  // of one trim or zero request
constexpr auto kProgressEvery = std::chrono::milliseconds(200);

struct Close {
  void operator()(nbd_handle* handle) const { nbd_close(handle); }
};

tl::unexpected<Error> nbd_failure(const std::string& what) {
  const char* reason = nbd_get_error();
  return fail(Code::kUnavailable, fmt::format("{}: {}", what, reason == nullptr ? "unknown error" : reason));
}

// One replay under way. Single-threaded; completions are called from nbd_poll.
class Replay {
 public:
  Replay(const std::vector<TraceOp>& ops, double speed, nbd_handle* handle)
      : ops_(ops),
        speed_(speed),
        handle_(handle),
        written_(limits::kNbdAnnouncedBytes),
        read_(limits::kNbdAnnouncedBytes) {
    // Something that neither compresses to nothing nor repeats within a block.
    uint32_t state = 1;
    for (char& c : written_) {
      state = state * 1664525u + 1013904223u;
      c = static_cast<char>(state >> 24);
    }
  }

  Result<ReplaySummary> run(const ReplayProgress& progress);

 private:
  struct Sent {
    Replay* replay;
    Clock::time_point at;
    uint64_t bytes;
    uint32_t line;
  };
  static int on_completion(void* user, int* error);
  static void on_free(void* user) { delete static_cast<Sent*>(user); }

  Clock::time_point due(const TraceOp& op) const;
  bool send_part(const TraceOp& op);
  int64_t send(const TraceOp& op, uint64_t offset, uint64_t length, nbd_completion_callback callback);
  void note_error(uint32_t line, const std::string& reason);

  const std::vector<TraceOp>& ops_;
  const double speed_;
  nbd_handle* handle_;
  std::vector<char> written_;
  std::vector<char> read_;  // of no interest; every read may go to the same place
  Clock::time_point began_;
  size_t next_ = 0;    // the operation to send
  uint64_t part_ = 0;  // bytes of it that are sent
  size_t in_flight_ = 0;
  uint64_t done_ = 0;  // requests; more than operations where some were cut
  std::vector<uint64_t> latencies_us_;
  ReplaySummary summary_;
};

void Replay::note_error(uint32_t line, const std::string& reason) {
  if (summary_.errors++ == 0) summary_.first_error = fmt::format("line {}: {}", line, reason);
}

int Replay::on_completion(void* user, int* error) {
  const Sent& sent = *static_cast<Sent*>(user);
  Replay& self = *sent.replay;
  --self.in_flight_;
  ++self.done_;
  if (*error != 0) {
    self.note_error(sent.line, std::strerror(*error));
  } else {
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - sent.at);
    self.latencies_us_.push_back(static_cast<uint64_t>(took.count()));
    self.summary_.bytes += sent.bytes;
  }
  return 1;  // retired: nobody asks for it again
}

Clock::time_point Replay::due(const TraceOp& op) const {
  if (speed_ == 0) return began_;
  const double us = static_cast<double>(op.time_us - ops_.front().time_us) / speed_;
  return began_ + std::chrono::microseconds(static_cast<int64_t>(us));
}

int64_t Replay::send(const TraceOp& op, uint64_t offset, uint64_t length, nbd_completion_callback callback) {
  switch (op.kind) {
    case 'R':
      return nbd_aio_pread(handle_, read_.data(), length, offset, callback, 0);
    case 'W':
      return nbd_aio_pwrite(handle_, written_.data(), length, offset, callback, 0);
    case 'T':
      return nbd_aio_trim(handle_, length, offset, callback, 0);
    case 'Z':
      return nbd_aio_zero(handle_, length, offset, callback, 0);
    default:
      return nbd_aio_flush(handle_, callback, 0);
  }
}

// Sends the next request of `op`; true when it was the last.
bool Replay::send_part(const TraceOp& op) {
  const bool moves = op.kind == 'R' || op.kind == 'W';
  const uint64_t most = moves ? limits::kNbdAnnouncedBytes : kUnmapBytes;
  const uint64_t length = op.kind == 'F' ? 0 : std::min(op.length - part_, most);
  nbd_completion_callback callback{};
  callback.callback = on_completion;
  callback.user_data = new Sent{this, Clock::now(), moves ? length : 0, op.line};  // freed by on_free, always
  callback.free = on_free;
  ++in_flight_;
  if (send(op, op.offset + part_, length, callback) < 0) {
    --in_flight_;
    const char* reason = nbd_get_error();
    note_error(op.line, reason == nullptr ? "unknown error" : reason);
  }
  part_ += length;
  if (op.kind != 'F' && part_ < op.length) return false;
  part_ = 0;
  return true;
}

Result<ReplaySummary> Replay::run(const ReplayProgress& progress) {
  began_ = Clock::now();
  Clock::time_point told = began_;
  while (next_ < ops_.size() || in_flight_ > 0) {
    Clock::time_point now = Clock::now();
    while (next_ < ops_.size() && in_flight_ < kInFlight && due(ops_[next_]) <= now) {
      if (send_part(ops_[next_])) ++next_;
    }
    if (now - told >= kProgressEvery) {
      told = now;
      progress(next_);
    }
    int wait_ms = static_cast<int>(kProgressEvery.count());
    if (next_ < ops_.size() && in_flight_ < kInFlight) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(due(ops_[next_]) - now).count();
      wait_ms = static_cast<int>(std::clamp<int64_t>(left, 0, wait_ms));
    }
    if (next_ >= ops_.size() && in_flight_ == 0) break;
    if (nbd_poll(handle_, wait_ms) < 0) return nbd_failure("the export went away");
    if (nbd_aio_is_dead(handle_) == 1 || nbd_aio_is_closed(handle_) == 1) {
      return fail(Code::kUnavailable, "the export closed the connection");
    }
  }
  progress(next_);
  summary_.seconds = std::chrono::duration<double>(Clock::now() - began_).count();
  summary_.ops = ops_.size();
  std::sort(latencies_us_.begin(), latencies_us_.end());
  summary_.latency_us_p50 = percentile(latencies_us_, 0.5);
  summary_.latency_us_p99 = percentile(latencies_us_, 0.99);
  summary_.latency_us_max = percentile(latencies_us_, 1);
  return summary_;
}

Status check_fits(const std::vector<TraceOp>& ops, const std::string& file, uint64_t size) {
  for (const TraceOp& op : ops) {
    if (op.kind == 'F' || op.offset + op.length <= size) continue;
    return fail(Code::kInvalidArgument,
                fmt::format("{}:{}: offset {} and length {} lie past the export's end, {}", file, op.line,
                            op.offset, op.length, size));
  }
  return {};
}

}  // namespace

uint64_t percentile(const std::vector<uint64_t>& sorted, double share) {
  if (sorted.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(sorted.size()));
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(std::max(rank, 1.0)) - 1)];
}

Result<ReplaySummary> replay(const std::vector<TraceOp>& ops, const std::string& file, const std::string& uri,
                             double speed, const ReplayProgress& progress) {
  const std::unique_ptr<nbd_handle, Close> handle(nbd_create());
  if (handle == nullptr) return nbd_failure("setting up an NBD client");
  // Ask the server, not the library, what it refuses: an error of one operation is part of the result.
  nbd_set_strict_mode(handle.get(), 0);
  if (nbd_connect_uri(handle.get(), uri.c_str()) < 0)
    return nbd_failure(fmt::format("connecting to {}", uri));
  const int64_t size = nbd_get_size(handle.get());
  if (size < 0) return nbd_failure(fmt::format("size of {}", uri));
  TRY(check_fits(ops, file, static_cast<uint64_t>(size)));
  auto run = std::make_unique<Replay>(ops, speed, handle.get());
  auto summary = run->run(progress);
  if (summary) nbd_shutdown(handle.get(), 0);
  return summary;
}

}  // namespace foreshadow::app
