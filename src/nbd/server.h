#pragma once
// The NBD server: exports by name, listeners, and the sessions they bring.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/names.h"
#include "block/block_device.h"
#include "io/buffer.h"
#include "io/executor.h"
#include "io/stream.h"
#include "nbd/handshake.h"
#include "nbd/session.h"

namespace foreshadow::nbd {

// Everything runs on `executor`. Owns its listeners and sessions, not the devices. At most
// limits::kNbdConnections sessions at a time: a connection past that is accepted and closed. Destroy only
// after stop() has called back (or before anything was added).
class Server : private ExportTable, private Session::Host {
 public:
  // `bounds` is less than the product's in tests only.
  explicit Server(io::Executor& executor, Allowance::Bounds bounds = {});
  ~Server() override;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Accepts from `listener` until stop(), and asks of those clients what `security` says.
  void add_listener(std::unique_ptr<io::Listener> listener, Security security = {});
  // kAlreadyExists if the name is taken, kFailedPrecondition after stop(). The device stays valid until
  // drain_export().
  Status add_export(const Name& name, block::BlockDevice& device);
  // New connections no longer find the name; those that did go on. kNotFound if there is no such export.
  Status remove_export(std::string_view name);
  // Removes every name of `device` and drains its sessions. `done` is called, never from inside this call,
  // when none is left and the device has returned all their requests: then it may be destroyed.
  void drain_export(block::BlockDevice& device, std::function<void()> done);
  // Closes the listeners and drains every session. After `done` the server may be destroyed, also from inside
  // it.
  void stop(std::function<void()> done);

  // Whom no session came about with is told to `log`, one line each; hostile peers can make many.
  void report_refusals(std::function<void(const std::string&)> log) { log_ = std::move(log); }
  const Allowance& allowance() const { return allowance_; }
  size_t session_count() const { return sessions_.size(); }
  // Sessions past their handshake on `device`.
  size_t session_count(const block::BlockDevice& device) const;

 private:
  struct Accepting;  // a listener and its accept in flight
  struct Waiter {
    const block::BlockDevice* device;  // nullptr: the whole server
    std::function<void()> done;
  };

  block::BlockDevice* find(std::string_view name) override;
  std::vector<std::string> names() override;
  void session_ended(Session& session) override;
  void client_refused(const std::string& why) override {
    if (log_) log_(why);
  }

  void accept_next(Accepting& accepting);
  void on_accepted(Accepting& accepting, int result);
  bool is_over(const Waiter& waiter) const;
  void check_waiters();
  void drop_stalled();
  void on_check(int result);

  io::Executor& executor_;
  io::BufferPool pool_;
  Allowance allowance_;
  std::function<void(const std::string&)> log_;
  std::map<std::string, block::BlockDevice*, std::less<>> exports_;
  std::vector<std::unique_ptr<Accepting>> listeners_;
  std::map<const Session*, std::unique_ptr<Session>> sessions_;
  std::vector<Waiter> waiters_;
  bool stopping_ = false;
  bool check_posted_ = false;
  io::MemberOp<Server, &Server::on_check> check_op_{this};
};

}  // namespace foreshadow::nbd
