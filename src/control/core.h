#pragma once
// The state that all services share, and the one lock around it.
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/rng.h"
#include "control/reconciler.h"
#include "control/requests.h"
#include "control/store.h"

namespace foreshadow::control {

// One mutex guards everything here: the work under it is table look-ups and SQLite calls, and an agent speaks
// once a second. Whoever holds it never writes to a stream (links queue) and never waits for an agent
// (requests wait on `changed`, which lets go of it).
struct Core {
  Core(std::unique_ptr<Store> opened, ReconcilerOptions options)
      : store(std::move(opened)),
        started_ms(options.clock()),
        reconciler(*store, rng, std::move(options), [this] { changed.notify_all(); }),
        requests(reconciler) {}

  std::mutex mutex;
  std::condition_variable changed;  // an event, an answer, a connection, or `stopping`
  bool stopping = false;
  SystemRng rng;
  std::unique_ptr<Store> store;
  uint64_t started_ms;
  Reconciler reconciler;
  Requests requests;
};

}  // namespace foreshadow::control
