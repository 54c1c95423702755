#pragma once
// The fixed newstyle handshake of the NBD protocol, server side, as a pure state machine: bytes in, bytes
// out.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/block_device.h"
#include "nbd/codec.h"

namespace foreshadow::nbd {

// Where exports are looked up. The handshake gives the empty name its meaning (the only export there is), so
// implementations need to know real names only.
class ExportTable {
 public:
  virtual ~ExportTable() = default;
  virtual block::BlockDevice* find(std::string_view name) = 0;  // nullptr: no such export
  virtual std::vector<std::string> names() = 0;
};

// What both sides agreed on, once the handshake is done.
struct Agreement {
  block::BlockDevice* device = nullptr;
  std::string name;   // canonical
  uint64_t size = 0;  // as told to the client; the device may grow later
  bool read_only = false;
  bool structured = false;  // READ is answered by chunks
  bool block_status = false;
};

// Whether the connection is under TLS. The modes of the protocol: kNone is NOTLS, the others are FORCEDTLS.
enum class Tls : uint8_t { kNone, kRequired, kRunning };

inline constexpr uint32_t kAllocationContext = 1;  // our id for base:allocation

// Owns nothing outside itself; reads the table only inside feed(), and holds on to a device only when it is
// done. Every limit on what a peer may send is in base/limits.h; past one the state becomes kEnded.
class Handshake {
 public:
  enum class State : uint8_t {
    kTalking,   // wants more bytes
    kStartTls,  // send what was put out, then start TLS and call secured()
    kDone,      // send what was put out, then serve agreement()
    kEnded,     // send what was put out, then close
  };

  explicit Handshake(ExportTable& exports, Tls tls = Tls::kNone) : exports_(&exports), tls_(tls) {}

  // Puts out the greeting. Call once, first.
  void start(Bytes& out) const;
  // Takes the whole messages at the front of `in`, appends the answers to `out`, and gives the bytes taken.
  // What it leaves is an incomplete message (never longer than kMessageBytes), or, when done, the first
  // commands.
  size_t feed(ByteView in, Bytes& out);

  // TLS is up, and the client may see `exports`. Nothing that was said in plain text counts any more.
  void secured(ExportTable& exports);

  // From here on every option is told that the server is shutting down.
  void refuse_all() { refusing_ = true; }
  // Whether the client can be told anything: it has said what it understands, and TLS is not about to start.
  bool in_options() const { return flags_seen_ && state_ == State::kTalking; }

  State state() const { return state_; }
  const Agreement& agreement() const { return agreement_; }
  // Why the handshake was ended from this side; empty when the client ended it. For the log.
  const std::string& reason() const { return reason_; }

  static const size_t kMessageBytes;  // no message is longer

 private:
  // One information answer, kept so that a GO right after the same INFO says the same though the device grew
  // meanwhile.
  struct Answered {
    InfoRequest request;
    block::BlockDevice* device;
    block::DeviceInfo info;
  };

  void end(std::string reason);
  void on_client_flags(ByteView in);
  void on_option(uint32_t option, ByteView payload, Bytes& out);
  void on_plain_option(uint32_t option, ByteView payload, Bytes& out);
  void on_start_tls(ByteView payload, Bytes& out);
  void on_abort(Bytes& out);
  void on_export_name(ByteView payload, Bytes& out);
  void on_list(ByteView payload, Bytes& out);
  void on_info(uint32_t option, ByteView payload, Bytes& out);
  void on_structured_reply(ByteView payload, Bytes& out);
  void on_meta_context(uint32_t option, ByteView payload, Bytes& out);

  // The canonical name: "" becomes the only export's.
  std::string resolve(std::string_view name) const;
  void agree(block::BlockDevice* device, std::string name, const block::DeviceInfo& info);
  uint16_t transmission_flags(const block::DeviceInfo& info) const;

  ExportTable* exports_;
  Tls tls_;
  State state_ = State::kTalking;
  bool flags_seen_ = false;
  bool refusing_ = false;
  bool zeroes_ = true;
  bool structured_ = false;
  uint32_t options_ = 0;
  std::optional<std::string> context_export_;  // base:allocation was selected for this export
  std::optional<Answered> last_info_;          // only while the very last option was a successful INFO
  Agreement agreement_;
  std::string reason_;
};

}  // namespace foreshadow::nbd
