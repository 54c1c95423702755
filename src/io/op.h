#pragma once
// The completion token of everything asynchronous.
#include <cstddef>
#include <cstdint>

namespace foreshadow::io {

// The caller owns an Op and keeps it alive and unmoved until `done` has been called; embed it in the struct
// that describes the work, and get back to that struct with container_of below. No allocation, no
// std::function.
//   result >= 0: success (a byte count where the call says so, else 0); < 0: a negative Linux errno.
// `done` is called exactly once, from the executor's loop, never from inside the call that started the work.
struct Op {
  using Done = void (*)(Op* op, int result);
  Done done = nullptr;

  // Scratch of the executor between start and `done`; nobody else looks.
  Op* next = nullptr;
  void* target = nullptr;
  std::byte* data = nullptr;
  uint64_t offset = 0;
  uint32_t length = 0;
  uint32_t progress = 0;
  int result = 0;
  uint8_t kind = 0;
  uint8_t flags = 0;
};

// An Op with a pointer back to its owner, for state machines: `MemberOp<Session, &Session::on_received>
// op{this}`.
template <typename Owner, void (Owner::*kMethod)(int result)>
struct MemberOp : Op {
  explicit MemberOp(Owner* o) : owner(o) {
    done = [](Op* op, int r) { (static_cast<MemberOp*>(op)->owner->*kMethod)(r); };
  }
  Owner* owner;
};

}  // namespace foreshadow::io
