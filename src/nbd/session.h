#pragma once
// One NBD connection, from the greeting to the last reply.
#include <sys/uio.h>

#include <memory>
#include <optional>
#include <vector>

#include "block/block_device.h"
#include "io/buffer.h"
#include "io/executor.h"
#include "io/stream.h"
#include "nbd/allowance.h"
#include "nbd/handshake.h"
#include "nbd/receive_pace.h"
#include "nbd/tls.h"

namespace foreshadow::nbd {

// Runs on one executor. Batches: one receive takes all that has arrived, every whole command in it goes to
// the device, and all replies of a loop turn leave in one send. While a send is in flight the next batch
// gathers. A large payload is no batch: it is received by itself, into the buffer the device gets. Replies
// are sent before the next receive, which waits a little while the client has others to read (ReceivePace).
//
// Bounds: limits::kNbdInFlightRequests and kNbdInFlightBytes count from the parsing of a command until its
// reply has been sent, so a client that does not read stops being read; the bytes of a WRITE only until the
// device has them. What all sessions hold together is bounded by their Allowance. The handshake, and the time
// to read the last replies once the session is finishing, are each bounded by limits::kNbdHandshakeTime.
//
// Life: the host owns the session and deletes it in session_ended(), which is called exactly once and only
// after every device request, stream call, timer and deferred op has come back. Nothing ever completes into a
// freed session.
class Session {
 public:
  class Host {
   public:
    virtual ~Host() = default;
    virtual void session_ended(Session& session) = 0;  // deletes it
    // The handshake was ended from this side, for the log: a peer's text in it is short and escaped.
    virtual void client_refused(const std::string& why) { (void)why; }
  };

  // What the sessions of a server share.
  struct Commons {
    io::Executor& executor;
    io::BufferPool& pool;
    Allowance& allowance;
  };

  // The commons, `exports` and `host` outlive the session. The device must stay until the session ended or
  // drain() led to that. With `security.tls` the client sees an export only after it has proved who it is,
  // and only those that are for it.
  Session(const Commons& commons, ExportTable& exports, Host& host, std::unique_ptr<io::Stream> stream,
          Security security = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void start();
  // Ends the session in good order: commands at the device finish and are answered, commands that come in
  // meanwhile get ESHUTDOWN, then the connection is closed. A session that is still in its handshake is
  // closed after limits::kNbdGoodbyeTime, in which its options are told of the shutdown, or at once where
  // there is nobody to tell.
  void drain();
  // For when memory is short: ends the session if it has waited for its client, to take a reply or to send a
  // payload, ever since the call before this.
  void drop_if_stalled();
  // What the session serves; nullptr before the end of the handshake.
  block::BlockDevice* device() const { return agreement_.device; }

 private:
  struct Slot;  // a command from its parsing to the end of its reply's send
  enum class Phase : uint8_t {
    kHandshake,
    kServing,
    kDraining,   // new commands get ESHUTDOWN, until the device has returned the old ones
    kFinishing,  // no more commands; what is at the device is answered
    kDead,       // the stream is shut down; waiting for everything to come back
  };
  struct Deadline {
    io::Timer timer;  // first, so that its address is the Deadline's
    Session* session;
  };

  // Input.
  void pump();
  void start_receive();
  bool pauses();
  void on_received(int result);
  void talk();
  void secure();
  void on_secured(int result);
  void parse();
  bool has_room(const Command& command);
  void on_room();
  void begin(const Command& command);
  bool write_at_once(Slot& slot);
  void take_payload();

  // Commands.
  void perform(Slot& slot);
  void submit(Slot& slot, block::OpKind kind);
  void on_device_done(Slot& slot, Code code);
  void reply_success(Slot& slot);
  void reply_status(Slot& slot);
  void reply_error(Slot& slot, uint32_t error, std::string_view reason);

  // Output.
  void enqueue(Slot& slot);
  void arm_flush();
  void on_flush(int result);
  void send_replies();
  void on_sent(int result);

  // Life.
  void arm_deadline();
  static void on_deadline(io::Op* op, int result);
  void finish();
  void die();
  void settle();
  void on_end(int result);

  Slot& take_slot(const Command& command);
  void attach_buffer(Slot& slot, size_t bytes);
  void detach_buffer(Slot& slot);
  void release(Slot& slot);
  void release_all(Slot* list);

  io::Executor& executor_;
  io::BufferPool& pool_;
  Host& host_;
  ExportTable& exports_;
  Security security_;
  std::unique_ptr<io::Stream> stream_;
  TlsStream* tls_ = nullptr;               // stream_, once it is that
  std::optional<AuthorizedExports> view_;  // what the client may see, once TLS is up
  std::optional<Handshake> handshake_;
  Bytes handshake_out_;
  Agreement agreement_;
  Phase phase_ = Phase::kHandshake;

  // Bytes [head_, tail_) of the receive buffer are not parsed yet.
  io::Buffer receive_buffer_;
  size_t head_ = 0;
  size_t tail_ = 0;
  Slot* incoming_ = nullptr;    // the WRITE whose payload is arriving
  uint32_t incoming_left_ = 0;  // bytes of it still to come
  bool direct_ = false;         // the receive in flight goes into incoming_'s own buffer
  bool large_writes_ = false;   // the last command was a WRITE whose payload is received directly
  bool receiving_ = false;
  bool blocked_ = false;  // parsing waits for replies to be sent
  ReceivePace pace_;
  io::Timer pause_timer_;
  uint32_t taken_ = 0;        // commands since the receive before
  bool taken_large_ = false;  // one of them was large
  bool paused_ = false;       // the next receive has had its pause

  std::vector<std::unique_ptr<Slot>> slots_;
  Slot* free_ = nullptr;
  Allowance::Account account_;  // slots not free, and the bytes of buffers that they hold
  uint32_t at_device_ = 0;      // requests the device has
  uint64_t waits_ = 0;          // sends, and receives of payloads, so far
  uint64_t stalled_at_ = 0;     // waits_, when drop_if_stalled() last found one under way

  Slot* reply_head_ = nullptr;  // answered, not yet handed to a send
  Slot* reply_tail_ = nullptr;
  Slot* sending_list_ = nullptr;
  std::vector<iovec> parts_;
  bool sending_ = false;
  bool flush_armed_ = false;  // on_flush() comes, in this turn: it sends and receives
  bool securing_ = false;     // TLS's own handshake is under way
  bool said_end_ = false;
  bool ending_ = false;

  io::MemberOp<Session, &Session::on_received> receive_op_{this};
  io::MemberOp<Session, &Session::on_sent> send_op_{this};
  io::MemberOp<Session, &Session::on_flush> flush_op_{this};
  io::MemberOp<Session, &Session::on_secured> secured_op_{this};
  io::MemberOp<Session, &Session::on_end> end_op_{this};
  Deadline deadline_;
};

}  // namespace foreshadow::nbd
