// A whole NBD session over a device in memory, driven by bytes: it always ends with everything back, and what
// it answers is NBD, each command once and with its own cookie.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "fuzz/target.h"
#include "nbd/ram_device.h"
#include "nbd/session.h"
#include "sim/scheduler.h"

using namespace foreshadow;
using fuzz::expect;

namespace {

constexpr uint64_t kDeviceBytes = 64 * kKiB;
constexpr uint64_t kSteps = 200'000;

class Exports final : public nbd::ExportTable {
 public:
  explicit Exports(block::BlockDevice& device) : device_(device) {}
  block::BlockDevice* find(std::string_view name) override { return name == "demo" ? &device_ : nullptr; }
  std::vector<std::string> names() override { return {"demo"}; }

 private:
  block::BlockDevice& device_;
};

struct Host final : nbd::Session::Host {
  std::unique_ptr<nbd::Session> session;
  bool ended = false;
  void session_ended(nbd::Session&) override {
    session.reset();
    ended = true;
  }
};

// What the peer sends, `step` bytes a receive, and what it got. It may stop reading.
class Peer final : public io::Stream, private sim::Device {
 public:
  struct Script {
    nbd::Bytes sends;
    size_t at_once = 0;  // bytes that come in one piece, before the steps begin
    size_t step = 1;
    size_t reads_max = SIZE_MAX;  // bytes; then every send fails
  };
  Peer(sim::Scheduler& scheduler, const Script& script, nbd::Bytes& got)
      : scheduler_(scheduler), script_(script), got_(got) {}

  void receive(io::Op& op, std::span<std::byte> into) override { begin(op, kReceive, into); }
  void receive_all(io::Op& op, std::span<std::byte> into) override { begin(op, kReceiveAll, into); }
  void send(io::Op& op, std::span<iovec> parts) override {
    for (const iovec& part : parts) {
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      got_.insert(got_.end(), from, from + part.iov_len);
    }
    begin(op, kSend, {});
  }
  void shut_down() override { shut_ = true; }

 private:
  enum Kind : uint8_t { kReceive, kReceiveAll, kSend };
  void begin(io::Op& op, Kind kind, std::span<std::byte> into) {
    op.kind = kind;
    if (kind != kSend) into_ = into;
    scheduler_.start(op, *this);
  }
  int finish(io::Op& op) override {
    if (op.kind == kSend) return shut_ || got_.size() > script_.reads_max ? -EPIPE : 0;
    if (shut_) return 0;
    const auto part = nbd::ByteView(script_.sends).subspan(sent_);
    size_t n = std::min(part.size(), into_.size());
    if (op.kind == kReceive)
      n = std::min(n, std::max(script_.step, script_.at_once - std::min(script_.at_once, sent_)));
    std::memcpy(into_.data(), part.data(), n);
    sent_ += n;
    return static_cast<int>(n);
  }

  sim::Scheduler& scheduler_;
  const Script& script_;
  nbd::Bytes& got_;
  std::span<std::byte> into_;
  size_t sent_ = 0;
  bool shut_ = false;
};

// The commands of a client that keeps to the protocol, whatever it asks for.
struct Client {
  std::map<uint64_t, nbd::Command> open;  // by cookie
  bool structured = false;
  bool hung_up = false;  // DISC: what comes behind it is not looked at

  void greet(nbd::Bytes& out, bool structured_replies) {
    structured = structured_replies;
    nbd::append_client_flags(out, nbd::kClientFixedNewstyle | nbd::kClientNoZeroes);
    if (structured) {
      nbd::append_option(out, nbd::kOptStructuredReply, {});
      const nbd::Bytes meta = nbd::encode_meta_request({"demo", {nbd::kBaseAllocation}});
      nbd::append_option(out, nbd::kOptSetMetaContext, meta);
    }
    const nbd::Bytes go = nbd::encode_info_request({"demo", {}});
    nbd::append_option(out, nbd::kOptGo, go);
  }

  void ask(fuzz::Input& in, nbd::Bytes& out) {
    nbd::Command command;
    const uint8_t type = in.u8();
    command.type = type % 16;
    command.flags = static_cast<uint16_t>(in.u8() % 64);
    command.cookie = open.size() + 1;
    const uint64_t unit = type < 128 ? 1 : 512;  // anything, or what a disk would take
    command.offset = in.u16() * unit;
    command.length = in.u16();
    if (unit == 512) command.length &= ~511u;
    if (command.type == nbd::kCmdWrite && command.length > 4096) command.length %= 4096;
    std::array<std::byte, nbd::kCommandBytes> bytes;
    encode(command, bytes);
    out.insert(out.end(), bytes.begin(), bytes.end());
    if (command.type == nbd::kCmdWrite) out.resize(out.size() + command.length, std::byte{0x5a});
    if (command.type == nbd::kCmdDisc) hung_up = true;
    if (!hung_up) open.emplace(command.cookie, command);
  }

  // All replies in `in` in any order, and nothing else.
  void judge(nbd::ByteView in) {
    in = behind_the_handshake(in);
    while (!in.empty()) in = structured ? chunk(in) : simple(in);
    expect(open.empty(), "every command is answered");
  }

 private:
  nbd::ByteView behind_the_handshake(nbd::ByteView in) {
    in = in.subspan(nbd::kGreetingBytes);
    for (;;) {
      expect(in.size() >= nbd::kOptionReplyBytes, "a whole option reply");
      const auto header = nbd::decode_option_reply(in.first(nbd::kOptionReplyBytes));
      expect(header.has_value() && header->length <= in.size() - nbd::kOptionReplyBytes, "an option reply");
      in = in.subspan(nbd::kOptionReplyBytes + header->length);
      if (header->option == nbd::kOptGo && header->type == nbd::kRepAck) return in;
    }
  }
  nbd::Command take(uint64_t cookie) {
    const auto found = open.find(cookie);
    expect(found != open.end(), "a reply is to a command that waits for one");
    const nbd::Command command = found->second;
    open.erase(found);
    return command;
  }
  nbd::ByteView simple(nbd::ByteView in) {
    expect(in.size() >= nbd::kSimpleReplyBytes, "a whole reply");
    const auto reply = nbd::decode_simple_reply(in.first(nbd::kSimpleReplyBytes));
    expect(reply.has_value(), "a simple reply");
    const nbd::Command command = take(reply->cookie);
    const size_t data = reply->error == 0 && command.type == nbd::kCmdRead ? command.length : 0;
    expect(in.size() >= nbd::kSimpleReplyBytes + data, "all the data of a read");
    return in.subspan(nbd::kSimpleReplyBytes + data);
  }
  // READ and BLOCK_STATUS are answered by chunks, an error of any command may be.
  nbd::ByteView chunk(nbd::ByteView in) {
    expect(in.size() >= 4, "a whole magic");
    if (!nbd::decode_chunk(in.first(std::min(in.size(), nbd::kChunkBytes)))) return simple(in);
    const auto header = nbd::decode_chunk(in.first(nbd::kChunkBytes));
    expect(header->length <= in.size() - nbd::kChunkBytes, "all of a chunk");
    const auto payload = in.subspan(nbd::kChunkBytes, header->length);
    const auto found = open.find(header->cookie);
    expect(found != open.end(), "a chunk is of a command that waits for it");
    const nbd::Command& command = found->second;
    if (header->type == nbd::kChunkOffsetData) {
      expect(command.type == nbd::kCmdRead && payload.size() == command.length + 8u,
             "data of the length asked");
    } else if (header->type == nbd::kChunkBlockStatus) {
      const auto status = nbd::decode_status(payload);
      expect(command.type == nbd::kCmdBlockStatus && status.has_value(), "a status");
      uint64_t covered = 0;
      for (const auto& one : status->descriptors) covered += one.length;
      expect(covered <= command.length, "status of no more than was asked for");
    } else if ((header->type & nbd::kChunkErrorBit) != 0) {
      expect(nbd::decode_error(payload).has_value(), "an error");
    }
    if ((header->flags & nbd::kChunkFlagDone) != 0) open.erase(found);
    return in.subspan(nbd::kChunkBytes + header->length);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  fuzz::Input in(data, size);
  const uint8_t how = in.u8();
  const uint8_t pace = in.u8();
  Peer::Script script;
  script.step = pace < 8 ? pace + 1u : pace * 16u;
  Client client;
  const bool polite = how % 4 != 0;
  if (!polite) {
    const auto raw = in.rest();
    if (how % 8 == 4) client.greet(script.sends, how % 16 == 4);
    script.at_once = script.sends.size();
    script.sends.insert(script.sends.end(), raw.begin(), raw.end());
  } else {
    client.greet(script.sends, how % 4 != 1);
    script.at_once = script.sends.size();
    while (!in.empty() && client.open.size() < 64) client.ask(in, script.sends);
  }
  const bool deaf = how % 64 == 63;  // stops reading replies
  if (deaf) script.reads_max = 200u + pace;

  sim::Scheduler scheduler(1);
  scheduler.set_orderly(true);
  nbd::RamDevice device(scheduler, kDeviceBytes);
  device.newest_first = (how & 64) != 0;
  if (how >= 240) device.fail_with = Code::kIo;
  device.info_.read_only = how >= 200 && how < 240;
  Exports exports(device);
  static io::BufferPool pool(16 * kMiB);
  nbd::Allowance allowance(scheduler, [] {});
  const nbd::Session::Commons commons{scheduler, pool, allowance};
  nbd::Bytes got;
  Host host;
  host.session = std::make_unique<nbd::Session>(commons, exports, host,
                                                std::make_unique<Peer>(scheduler, script, got));
  host.session->start();
  if (how % 32 == 31) {  // the export is taken away in the middle
    scheduler.run_until([&] { return host.ended; }, 16);
    if (!host.ended) host.session->drain();
  }
  scheduler.run_until([&] { return host.ended; }, kSteps);
  expect(host.ended, "a session whose peer is gone ends");
  expect(scheduler.run_until_idle(kSteps), "nothing is left of a session");
  expect(device.misaligned == 0, "memory is such as disks take");
  if (polite && !deaf && how % 32 != 31) client.judge(got);
  return 0;
}
