#pragma once
// The long-lived stream to control. The only gRPC of the agent.
#include <memory>
#include <string>

#include "foreshadow/v1/agent.pb.h"
#include "io/loop.h"

namespace foreshadow::agent {

// Connects, says Hello with everything the agent has, and then carries messages both ways; on any failure it
// begins anew after 100 ms to 2 s, for ever. Two threads of its own do so; every call below, and every call
// of the Host, is on the loop. Control being away is no error, and the loop never waits for it.
class Session {
 public:
  class Host {
   public:
    virtual ~Host() = default;
    virtual v1::Hello hello() = 0;  // the truth at this moment
    virtual void on_welcome(const v1::Welcome& welcome) = 0;
    virtual void on_intent(v1::Intent intent) = 0;
    virtual void on_disconnected() = 0;
  };

  // `target`: "unix:/path" or "127.0.0.1:port", as gRPC understands it. The Host must outlive stop().
  static std::unique_ptr<Session> start(io::Loop& loop, std::string target, Host& host);
  virtual ~Session() = default;  // after stop() and join()

  virtual void send_ack(v1::Ack ack) = 0;
  virtual void send_event(v1::VolumeEvent event) = 0;
  virtual void send_metrics(v1::Metrics metrics) = 0;
  // Begins anew, with another Hello.
  virtual void renew() = 0;
  // No call of the Host is made any more; the threads begin to end.
  virtual void stop() = 0;
  // Waits for the threads: any thread, after stop().
  virtual void join() = 0;
};

}  // namespace foreshadow::agent
