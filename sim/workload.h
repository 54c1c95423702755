#pragma once
// The client of one life of a volume: it asks for whatever the swarm allows, many things at once, and judges
// every answer.
#include <cstdint>
#include <memory>
#include <vector>

#include "block/block_device.h"
#include "io/buffer.h"
#include "sim/world.h"
#include "volume/volume.h"

namespace foreshadow::sim {

inline constexpr const char* kKindNames[] = {"read", "write", "zero", "trim", "flush"};  // by block::OpKind

class Workload {
 public:
  Workload(World& world, volume::Volume& volume);
  ~Workload();

  // Starts something new if the queue depth allows. Call it between scheduler steps.
  void pump();
  // Starts this, however much is in flight; for runs that enumerate. start() draws what it needs, request()
  // is told.
  void start(Act act);
  void request(Act act, uint64_t offset, uint64_t length, bool fua);
  // Reads everything back after recovery, and holds it and the allocation status against the reference. Steps
  // the scheduler until it is done, or `stop()` says so.
  template <typename Stop>
  void read_back(Stop stop) {
    for (uint64_t at = 0; at < world_.oracle.bytes() && !stop() && world_.ok();) {
      at = start_read_back(at);
      world_.scheduler.run_until([&] { return idle() || stop(); });
    }
    if (!stop() && world_.ok()) check_usage();
  }

  // Reads everything as a client would, beside what else is in flight. Steps the scheduler as read_back().
  template <typename Stop>
  void read_all(Stop stop) {
    for (uint64_t at = 0; at < world_.oracle.bytes() && !stop() && world_.ok(); at += world_.swarm.io_max) {
      request(Act::kRead, at, std::min(world_.swarm.io_max, world_.oracle.bytes() - at), false);
      world_.scheduler.run_until([&] { return idle() || stop(); });
    }
  }

  // From now on answers are not judged: the power is off.
  void crashed() { crashed_ = true; }
  // From now on kShutdown is an answer.
  void closing() { closing_ = true; }
  bool idle() const { return in_flight_ == 0 && controls_ == 0; }
  std::string unfinished() const;
  // With nothing in flight: allocation status and usage agree with each other.
  void check_usage();

 private:
  struct Slot : block::Request {
    Workload* owner = nullptr;
    io::Buffer memory;
    Oracle::OpId op = 0;
    uint32_t ticket = 0;             // the clock at the submission of a read or a flush
    bool after_failed_sync = false;  // submitted when a sync of the volume had failed already
    MonoTime since{};
    bool busy = false;
    bool recovering = false;  // a read of the read-back
  };

  Act draw();
  Slot& free_slot();
  void draw_range(uint64_t& offset, uint64_t& length);
  void submit(Slot& slot);
  bool done_at_once(Slot& slot);
  uint64_t start_read_back(uint64_t at);
  void on_done(Slot& slot, Code code);
  void judge(Slot& slot, Code code);
  void judge_error(Slot& slot, Code code);
  uint64_t room_now() const;
  void note_room();
  void check_holes(const Slot& slot);
  void check_read(const Slot& slot);
  // Reads of the rotten sub-block must be refused: no write of it has failed or is under way.
  bool damage_is_known() const;

  void control_began(const char* what);
  // Whether the answer counts: not after a crash. Judges `status`.
  bool control_ended(const char* what, const Status& status);
  void grant();
  void activate();
  void merge();
  void release(Act act);
  void resize();
  bool may_refuse(Code code, const Uuid& moved, uint64_t damaged_before) const;
  void checkpoint();
  void check();
  void squeeze();
  void scrub();
  void pause();
  void grow();
  void move_primary();
  bool is_as_it_was(const volume::SegmentInfo& primary) const;
  void note_size();
  Backing* pick_attached();

  World& world_;
  volume::Volume& volume_;
  std::vector<std::unique_ptr<Slot>> slots_;
  uint32_t in_flight_ = 0;
  uint32_t controls_ = 0;
  uint32_t weight_total_ = 0;
  bool crashed_ = false;
  bool closing_ = false;
  io::Timer pause_;
  // Free bytes at the latest instant seen, and at the one before. What is freed in the very instant a hold
  // ends came too late for it.
  struct Room {
    MonoTime at{};
    uint64_t bytes = 0;
  };
  Room room_latest_;
  Room room_before_;
  MonoTime last_change_{};  // when something last ended that can free, or make room
};

}  // namespace foreshadow::sim
