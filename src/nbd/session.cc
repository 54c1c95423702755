#include "nbd/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "nbd/command_check.h"

namespace foreshadow::nbd {
namespace {

constexpr size_t kReceiveBytes = 256 * kKiB;
// A receive is not started with less room than this, unless what is left over is moved to the front first.
constexpr size_t kReceiveRoom = 64 * kKiB;
// From this many missing bytes on, a payload is received straight into its own buffer, in one receive. Below,
// one more copy is cheaper than a receive that cannot also take the commands behind it.
constexpr uint32_t kDirectBytes = 32 * kKiB;
// Larger commands are worth a receive each, and a client that fills its socket with payload waits for that,
// not for replies.
constexpr uint32_t kPacedBytes = 16 * kKiB;
// A payload up to twice the limit is read and thrown away; a client that sends more is not worth it.
constexpr uint32_t kDrainedPayload = 2 * limits::kNbdRequestBytes;
// Longest reply header: a chunk with an error and its text.
constexpr size_t kHeaderBytes = 192;
constexpr size_t kErrorTextBytes = kHeaderBytes - kChunkBytes - 6;

}  // namespace

struct Session::Slot : block::Request {
  Session* session = nullptr;
  Command command;
  Refusal refusal;
  io::Buffer buffer;
  uint64_t charged = 0;
  Slot* after = nullptr;  // in the free list, the reply queue or the batch being sent
  size_t header_bytes = 0;
  std::span<std::byte> payload;    // of the reply
  size_t second_header_bytes = 0;  // of the reply's second chunk, behind the first one's; 0: there is none
  std::span<std::byte> second_payload;
  std::array<std::byte, kHeaderBytes> header;
};

Session::Session(const Commons& commons, ExportTable& exports, Host& host, std::unique_ptr<io::Stream> stream,
                 Security security)
    : executor_(commons.executor),
      pool_(commons.pool),
      host_(host),
      exports_(exports),
      security_(std::move(security)),
      stream_(std::move(stream)),
      handshake_(std::in_place, exports, security_.tls != nullptr ? Tls::kRequired : Tls::kNone),
      receive_buffer_(kReceiveBytes),
      account_(commons.allowance, [this] { on_room(); }),
      deadline_{{}, this} {
  deadline_.timer.op.done = on_deadline;
  pause_timer_.op.target = this;
  pause_timer_.op.done = [](io::Op* op, int) { static_cast<Session*>(op->target)->start_receive(); };
}

Session::~Session() {
  ASSERT(at_device_ == 0 && !receiving_ && !sending_ && !flush_armed_ && !securing_);
  ASSERT(!deadline_.timer.armed() && !pause_timer_.armed());
}

void Session::start() {
  arm_deadline();
  handshake_->start(handshake_out_);
  send_replies();
}

// --- input
// ------------------------------------------------------------------------------------------------------

// Goes on with whatever can go on.
void Session::pump() {
  if (phase_ == Phase::kHandshake) talk();
  if (phase_ == Phase::kServing || phase_ == Phase::kDraining) parse();
  if (phase_ < Phase::kFinishing) arm_flush();
  settle();
}

// Whether the next receive waits, until start_receive() is called again.
bool Session::pauses() {
  if (pause_timer_.armed()) return true;
  if (std::exchange(paused_, false)) {
    pace_.note(stream_->has_unread());
    return false;
  }
  const uint32_t commands = std::exchange(taken_, 0);
  const bool large = std::exchange(taken_large_, false);
  if (phase_ != Phase::kServing || incoming_ != nullptr || commands == 0 || large) return false;
  if (pace_.asks(commands)) pace_.note(stream_->has_unread());
  if (pace_.pause() == Nanos::zero()) return false;
  paused_ = true;
  executor_.arm(pause_timer_, executor_.now() + pace_.pause());
  return true;
}

void Session::start_receive() {
  if (receiving_ || blocked_ || securing_ || phase_ >= Phase::kFinishing) return;
  // One exchange at a time: the client must wait for our answer before its next option.
  if (phase_ == Phase::kHandshake && sending_) return;
  if (pauses()) return;
  if (head_ == tail_) head_ = tail_ = 0;
  direct_ = incoming_ != nullptr && !incoming_->refusal && head_ == tail_ && incoming_left_ >= kDirectBytes;
  std::span<std::byte> into;
  if (direct_) {
    into = incoming_->data.last(incoming_left_);
  } else {
    if (receive_buffer_.size() - tail_ < kReceiveRoom) {
      std::memmove(receive_buffer_.data(), receive_buffer_.data() + head_, tail_ - head_);
      tail_ -= head_;
      head_ = 0;
    }
    into = receive_buffer_.span().subspan(tail_);
    // Another large WRITE is likely: without its first bytes here, all of its payload is received directly.
    if (large_writes_ && incoming_ == nullptr && head_ == tail_) into = into.first(kCommandBytes);
  }
  receiving_ = true;
  if (incoming_ != nullptr) waits_++;
  if (direct_) {
    stream_->receive_all(receive_op_, into);
  } else {
    stream_->receive(receive_op_, into);
  }
}

void Session::on_received(int result) {
  receiving_ = false;
  if (phase_ >= Phase::kFinishing) {
    if (incoming_ != nullptr) release(*std::exchange(incoming_, nullptr));
    return settle();
  }
  if (result < 0 || (result == 0 && phase_ == Phase::kHandshake)) {
    die();
  } else if (result == 0) {
    // The client may have closed only its sending half: it still gets its replies. A half-sent WRITE is
    // dropped.
    finish();
  } else if (direct_) {
    ASSERT(static_cast<uint32_t>(result) <= incoming_left_);
    incoming_left_ -= static_cast<uint32_t>(result);
    if (incoming_left_ == 0) perform(*std::exchange(incoming_, nullptr));
  } else {
    tail_ += static_cast<size_t>(result);
  }
  pump();
}

void Session::talk() {
  if (sending_ || securing_) return;
  if (handshake_->state() == Handshake::State::kStartTls) return secure();
  head_ += handshake_->feed(ByteView(receive_buffer_.data() + head_, tail_ - head_), handshake_out_);
  const Handshake::State state = handshake_->state();
  if (state == Handshake::State::kDone) {
    agreement_ = handshake_->agreement();
    handshake_.reset();
    executor_.cancel(deadline_.timer);
    phase_ = Phase::kServing;
  } else if (state == Handshake::State::kEnded) {
    if (!handshake_->reason().empty()) host_.client_refused(handshake_->reason());
    finish();
  }
  if (!handshake_out_.empty()) send_replies();
}

// The answer to STARTTLS has left. It was the last of plain text, both ways.
void Session::secure() {
  ASSERT(!receiving_ && head_ == tail_);
  auto stream = security_.tls->accept(executor_, std::move(stream_));
  tls_ = stream.get();
  stream_ = std::move(stream);
  securing_ = true;
  tls_->handshake(secured_op_);
}

void Session::on_secured(int result) {
  securing_ = false;
  if (phase_ == Phase::kHandshake && result < 0) {
    host_.client_refused(tls_->why().empty() ? "TLS: the connection was lost" : "TLS: " + tls_->why());
    die();
  }
  if (phase_ != Phase::kHandshake) return settle();
  view_.emplace(exports_, security_.authorization.get(), tls_->identity());
  handshake_->secured(*view_);
  pump();
}

void Session::parse() {
  blocked_ = false;
  while (phase_ == Phase::kServing || phase_ == Phase::kDraining) {
    if (incoming_ != nullptr) {
      if (direct_ && receiving_) return;
      take_payload();
      if (incoming_ != nullptr) return;
      continue;
    }
    if (tail_ - head_ < kCommandBytes) return;
    const auto command = decode_command(ByteView(receive_buffer_.data() + head_, kCommandBytes));
    // After a wrong magic nothing in the stream can be trusted to be a command.
    if (!command) return die();
    if (!has_room(*command)) {
      blocked_ = true;
      return;
    }
    head_ += kCommandBytes;
    begin(*command);
  }
}

bool Session::has_room(const Command& command) {
  const bool carries = command.type == kCmdRead || command.type == kCmdWrite;
  const uint64_t bytes = carries && command.length <= limits::kNbdRequestBytes ? command.length : 0;
  return account_.admit(bytes);
}

// Other sessions gave something back.
void Session::on_room() {
  if (!blocked_) return account_.leave_queue();
  blocked_ = false;
  pump();
}

void Session::begin(const Command& command) {
  if (command.type == kCmdDisc) return finish();
  if (command.type == kCmdWrite && command.length > kDrainedPayload) return die();
  taken_++;
  if (command.length > kPacedBytes) taken_large_ = true;
  Slot& slot = take_slot(command);
  slot.refusal = check_command(command, agreement_, agreement_.size);
  if (slot.refusal && phase_ == Phase::kServing) {
    // The device may have grown since; it never shrinks, so asking is needed only when a command seems not to
    // fit.
    agreement_.size = agreement_.device->info().size;
    slot.refusal = check_command(command, agreement_, agreement_.size);
  }
  if (!slot.refusal && phase_ == Phase::kDraining)
    slot.refusal = {kEshutdown, "the export is being shut down"};
  if (command.type != kCmdWrite || command.length == 0) {
    large_writes_ = false;
    return perform(slot);
  }
  // A payload comes in any case; that of a refused command is skipped, so that the next command is found
  // behind it.
  large_writes_ = command.length >= kDirectBytes;
  if (write_at_once(slot)) return;
  if (!slot.refusal) attach_buffer(slot, command.length);
  incoming_ = &slot;
  incoming_left_ = command.length;
}

// A payload that is here as a whole, for a device that wants no more than to look at it.
bool Session::write_at_once(Slot& slot) {
  const Command& command = slot.command;
  if (slot.refusal || phase_ != Phase::kServing || (command.flags & kCmdFlagFua) != 0) return false;
  if (tail_ - head_ < command.length) return false;
  const ByteView payload(receive_buffer_.data() + head_, command.length);
  if (!agreement_.device->write_now(command.offset, payload)) return false;
  head_ += command.length;
  reply_success(slot);
  return true;
}

void Session::take_payload() {
  const size_t n = std::min<size_t>(incoming_left_, tail_ - head_);
  if (!incoming_->refusal && n > 0) {
    std::memcpy(incoming_->data.last(incoming_left_).data(), receive_buffer_.data() + head_, n);
  }
  head_ += n;
  incoming_left_ -= static_cast<uint32_t>(n);
  if (incoming_left_ == 0) perform(*std::exchange(incoming_, nullptr));
}

// --- commands
// ---------------------------------------------------------------------------------------------------

void Session::perform(Slot& slot) {
  const Command& command = slot.command;
  if (!slot.refusal && phase_ != Phase::kServing)
    slot.refusal = {kEshutdown, "the export is being shut down"};
  if (slot.refusal) return reply_error(slot, slot.refusal.error, slot.refusal.reason);
  if (command.type == kCmdFlush) return submit(slot, block::OpKind::kFlush);
  if (command.length == 0) return reply_success(slot);
  switch (command.type) {
    case kCmdRead:
      attach_buffer(slot, command.length);
      slot.read_all_zero = false;
      if (agreement_.device->read_now(command.offset, slot.data)) return reply_success(slot);
      return submit(slot, block::OpKind::kRead);
    case kCmdWrite:
      return submit(slot, block::OpKind::kWrite);
    case kCmdTrim:
      return submit(slot, block::OpKind::kTrim);
    case kCmdWriteZeroes:
      return submit(slot, block::OpKind::kZero);
    case kCmdBlockStatus:
      return reply_status(slot);
    default:
      // CACHE: a hint, and nothing here is further away than one read.
      ASSERT(command.type == kCmdCache);
      return reply_success(slot);
  }
}

void Session::submit(Slot& slot, block::OpKind kind) {
  const Command& command = slot.command;
  slot.kind = kind;
  slot.fua = (command.flags & kCmdFlagFua) != 0;
  slot.no_hole = (command.flags & kCmdFlagNoHole) != 0;
  slot.fast_zero = (command.flags & kCmdFlagFastZero) != 0;
  slot.offset = command.offset;
  slot.length = command.length;
  slot.done = [](block::Request* request, Code code) {
    auto* done = static_cast<Slot*>(request);
    done->session->on_device_done(*done, code);
  };
  at_device_++;
  agreement_.device->submit(slot);
}

void Session::on_device_done(Slot& slot, Code code) {
  ASSERT(at_device_ > 0);
  at_device_--;
  if (phase_ == Phase::kDead) {
    release(slot);
    return settle();
  }
  // The next payload finds this memory still in the processor's cache.
  if (slot.command.type == kCmdWrite) detach_buffer(slot);
  if (code == Code::kOk) {
    reply_success(slot);
  } else {
    reply_error(slot, error_of(slot.command, code), name_of(code));
  }
  if (phase_ == Phase::kDraining && at_device_ == 0) finish();
}

void Session::reply_success(Slot& slot) {
  const Command& command = slot.command;
  slot.payload = {};
  if (command.type != kCmdRead || !agreement_.structured) {
    slot.header_bytes = encode(SimpleReply{0, command.cookie}, slot.header);
    if (command.type == kCmdRead) slot.payload = slot.data;
  } else if (command.length == 0) {
    slot.header_bytes = encode(Chunk{kChunkFlagDone, kChunkNone, command.cookie, 0}, slot.header);
  } else if (slot.read_all_zero) {
    slot.header_bytes = encode_offset_hole(command.cookie, command.offset, command.length, slot.header);
  } else {
    // No chunk carries more than what clients are told is the most: a longer read takes two.
    static_assert(limits::kNbdRequestBytes <= 2 * limits::kNbdAnnouncedBytes);
    const uint32_t first = std::min(command.length, limits::kNbdAnnouncedBytes);
    const uint32_t second = command.length - first;
    slot.header_bytes = encode_offset_data(command.cookie, command.offset, first, slot.header, second == 0);
    slot.payload = slot.data.first(first);
    if (second > 0) {
      slot.second_header_bytes = encode_offset_data(command.cookie, command.offset + first, second,
                                                    std::span(slot.header).subspan(slot.header_bytes), true);
      slot.second_payload = slot.data.subspan(first);
    }
  }
  enqueue(slot);
}

void Session::reply_status(Slot& slot) {
  const Command& command = slot.command;
  const bool one = (command.flags & kCmdFlagReqOne) != 0;
  const std::vector<block::Extent> extents =
      agreement_.device->extents(command.offset, command.length, one ? 1 : limits::kNbdExtents);
  std::vector<StatusDescriptor> descriptors;
  descriptors.reserve(extents.size());
  for (const block::Extent& extent : extents) {
    // An extent lies inside the command's range, whose length has 32 bits.
    ASSERT(extent.length > 0 && extent.length <= command.length);
    descriptors.push_back({static_cast<uint32_t>(extent.length), extent.hole ? kStateHole | kStateZero : 0});
  }
  ASSERT(!descriptors.empty() && descriptors.size() <= (one ? 1 : limits::kNbdExtents));
  attach_buffer(slot, status_bytes(descriptors.size()));
  const size_t bytes = encode_status(kAllocationContext, descriptors, slot.data);
  const auto length = static_cast<uint32_t>(bytes);
  slot.header_bytes = encode(Chunk{kChunkFlagDone, kChunkBlockStatus, command.cookie, length}, slot.header);
  slot.payload = slot.data.first(bytes);
  enqueue(slot);
}

void Session::reply_error(Slot& slot, uint32_t error, std::string_view reason) {
  const Command& command = slot.command;
  slot.payload = {};
  if (agreement_.structured) {
    std::array<char, kErrorTextBytes> text;
    const auto end =
        fmt::format_to_n(text.data(), text.size(), "{} (command {} flags {:#x} offset {} length {})", reason,
                         command.type, command.flags, command.offset, command.length);
    const std::string_view message(text.data(), std::min(end.size, text.size()));
    slot.header_bytes = encode_error(command.cookie, error, message, slot.header);
  } else {
    slot.header_bytes = encode(SimpleReply{error, command.cookie}, slot.header);
  }
  enqueue(slot);
}

// --- output
// -----------------------------------------------------------------------------------------------------

void Session::enqueue(Slot& slot) {
  slot.after = nullptr;
  (reply_head_ == nullptr ? reply_head_ : reply_tail_->after) = &slot;
  reply_tail_ = &slot;
  // While a send is in flight its completion arms the next flush.
  if (!sending_) arm_flush();
}

void Session::arm_flush() {
  if (std::exchange(flush_armed_, true)) return;
  executor_.defer(flush_op_);
}

// All that this turn brought has been begun, and what the device finished at once is answered.
void Session::on_flush(int) {
  flush_armed_ = false;
  if (phase_ != Phase::kDead && !sending_ && reply_head_ != nullptr) send_replies();
  start_receive();
  settle();
}

// Sends the handshake's answers, or all replies gathered so far.
void Session::send_replies() {
  ASSERT(!sending_);
  parts_.clear();
  if (!handshake_out_.empty()) {
    parts_.push_back({handshake_out_.data(), handshake_out_.size()});
  } else {
    sending_list_ = std::exchange(reply_head_, nullptr);
    reply_tail_ = nullptr;
    for (Slot* slot = sending_list_; slot != nullptr; slot = slot->after) {
      parts_.push_back({slot->header.data(), slot->header_bytes});
      if (!slot->payload.empty()) parts_.push_back({slot->payload.data(), slot->payload.size()});
      if (slot->second_header_bytes == 0) continue;
      parts_.push_back({slot->header.data() + slot->header_bytes, slot->second_header_bytes});
      parts_.push_back({slot->second_payload.data(), slot->second_payload.size()});
    }
  }
  sending_ = true;
  waits_++;
  stream_->send(send_op_, parts_);
}

void Session::on_sent(int result) {
  sending_ = false;
  handshake_out_.clear();
  release_all(std::exchange(sending_list_, nullptr));
  if (phase_ == Phase::kDead) return settle();
  if (result < 0) {
    die();
    return settle();
  }
  if (reply_head_ != nullptr) arm_flush();
  if (blocked_) {
    blocked_ = false;
    return pump();
  }
  if (phase_ == Phase::kHandshake) return pump();
  settle();
}

// --- life
// -------------------------------------------------------------------------------------------------------

void Session::arm_deadline() {
  executor_.arm(deadline_.timer, executor_.now() + limits::kNbdHandshakeTime);
}

void Session::on_deadline(io::Op* op, int) {
  auto* timer = static_cast<std::byte*>(static_cast<void*>(op)) - offsetof(io::Timer, op);
  Session* session = static_cast<Deadline*>(static_cast<void*>(timer))->session;
  if (session->phase_ != Phase::kDead) session->die();
  session->settle();
}

void Session::drain() {
  if (phase_ == Phase::kHandshake) {
    if (securing_ || !handshake_->in_options()) {
      die();
    } else {
      handshake_->refuse_all();
      executor_.arm(deadline_.timer,
                    std::min(deadline_.timer.deadline, executor_.now() + limits::kNbdGoodbyeTime));
    }
  } else if (phase_ == Phase::kServing) {
    phase_ = Phase::kDraining;
    arm_deadline();
    if (at_device_ == 0) finish();
  }
  settle();
}

// Takes no more commands. The rest follows from settle().
void Session::finish() {
  if (phase_ >= Phase::kFinishing) return;
  phase_ = Phase::kFinishing;
  executor_.cancel(pause_timer_);
  if (incoming_ != nullptr && !receiving_) release(*std::exchange(incoming_, nullptr));
  account_.leave_queue();
  arm_deadline();
}

void Session::drop_if_stalled() {
  const bool waiting = sending_ || incoming_ != nullptr;
  if (waiting && stalled_at_ == waits_) {
    die();
    return settle();
  }
  stalled_at_ = waiting ? waits_ : 0;
}

void Session::die() {
  if (phase_ == Phase::kDead) return;
  phase_ = Phase::kDead;
  executor_.cancel(pause_timer_);
  if (incoming_ != nullptr && !receiving_) release(*std::exchange(incoming_, nullptr));
  release_all(std::exchange(reply_head_, nullptr));
  reply_tail_ = nullptr;
  account_.leave_queue();
  stream_->shut_down();
}

// Notices when a finishing session has nothing left to say, and when a dead one has everything back.
void Session::settle() {
  if (phase_ == Phase::kFinishing && at_device_ == 0 && reply_head_ == nullptr && !sending_) {
    if (!std::exchange(said_end_, true) && stream_->say_end(send_op_)) {
      sending_ = true;
    } else {
      die();
    }
  }
  if (phase_ != Phase::kDead || ending_ || at_device_ > 0) return;
  if (receiving_ || sending_ || flush_armed_ || securing_) return;
  ending_ = true;
  executor_.cancel(deadline_.timer);
  // Not from inside a completion: the stream that is calling us would be destroyed under its own feet.
  executor_.post(end_op_);
}

void Session::on_end(int) {
  host_.session_ended(*this);
}

// --- slots
// ------------------------------------------------------------------------------------------------------

Session::Slot& Session::take_slot(const Command& command) {
  if (free_ == nullptr) {
    slots_.push_back(std::make_unique<Slot>());
    free_ = slots_.back().get();
    free_->session = this;
  }
  Slot& slot = *std::exchange(free_, free_->after);
  slot.command = command;
  slot.refusal = {};
  slot.data = {};
  slot.charged = 0;
  slot.second_header_bytes = 0;
  account_.add_request();
  return slot;
}

void Session::attach_buffer(Slot& slot, size_t bytes) {
  slot.buffer = pool_.take(bytes);
  slot.data = slot.buffer.first(bytes);
  slot.charged = bytes;
  account_.add_bytes(bytes);
}

void Session::detach_buffer(Slot& slot) {
  if (slot.buffer.data() != nullptr) pool_.give(std::exchange(slot.buffer, io::Buffer()));
  slot.data = {};
  account_.drop_bytes(std::exchange(slot.charged, 0));
}

void Session::release(Slot& slot) {
  detach_buffer(slot);
  account_.drop_request();
  slot.after = std::exchange(free_, &slot);
}

void Session::release_all(Slot* list) {
  while (list != nullptr) release(*std::exchange(list, list->after));
}

}  // namespace foreshadow::nbd
