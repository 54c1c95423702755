#pragma once
// The Volume: requests in, pieces out to segments, map and journal kept in step. One executor, one thread.
#include <functional>
#include <vector>

#include "extent/recovery.h"
#include "volume/band.h"
#include "volume/base_places.h"
#include "volume/checkpointer.h"
#include "volume/departures.h"
#include "volume/engine_queues.h"
#include "volume/evacuator.h"
#include "volume/growth.h"
#include "volume/placement.h"
#include "volume/scrubber.h"
#include "volume/squeezer.h"
#include "volume/volume.h"

namespace foreshadow::volume {

class Engine final : public Volume,
                     private EngineQueues,
                     private CommitSink,
                     private PlacementSink,
                     private MoveSink {
 public:
  Engine(io::Executor& executor, std::unique_ptr<extent::Recovered> recovered, std::vector<SegmentFile> files,
         RunOptions options);
  ~Engine() override;

  block::DeviceInfo info() const override;
  void submit(block::Request& request) override;
  bool read_now(uint64_t offset, std::span<std::byte> data) override;
  bool write_now(uint64_t offset, std::span<const std::byte> data) override;
  std::vector<block::Extent> extents(uint64_t offset, uint64_t length, size_t max_extents) const override;

  const Uuid& id() const override { return label_.volume; }
  const std::string& name() const override { return label_.name; }
  extent::Geometry geometry() const override { return geometry_; }
  Redirect redirect() const override { return redirect_; }
  bool checksums() const override { return checksums_.on(); }
  void set_listener(Listener* listener) override { listener_ = listener; }
  io::Task<Status> attach_shadow(SegmentFile segment) override;
  Status activate_shadow(Uuid segment) override;
  io::Task<Status> merge_shadow(Uuid segment) override;
  io::Task<Status> fold_shadow(Uuid segment, uint64_t primary_bytes) override {
    return evacuator_.fold(segment, primary_bytes);
  }
  io::Task<Status> drain_segment(Uuid segment) override { return evacuator_.drain(segment); }
  io::Task<Status> resize_segment(Uuid segment, uint64_t bytes) override {
    return evacuator_.resize(segment, bytes);
  }
  io::Task<Status> replace_primary(SegmentFile next) override { return evacuator_.replace(std::move(next)); }
  JobInfo job() const override { return evacuator_.job(); }
  void stop_jobs() override { evacuator_.stop(); }
  io::Task<Result<SqueezeReport>> squeeze_segment(Uuid segment, SqueezeOptions options) override;
  SqueezeReport squeeze_progress() const override { return squeezer_.report(); }
  void stop_squeezing() override { squeezer_.stop(); }
  io::Task<Status> grow(uint64_t size) override { return growth_.run(size); }
  void set_wall(const WallPolicy& policy) override;
  WallPolicy wall() const override { return options_; }
  io::Task<Status> flush() override { return committer_.commit(); }
  io::Task<Status> checkpoint() override;
  io::Task<Result<extent::CheckReport>> check(bool repair) override;
  io::Task<Result<ScrubProgress>> scrub(ScrubOptions options) override;
  void stop_scrub() override { scrubber_.stop(); }
  const ScrubProgress& scrub_progress() const override { return scrubber_.progress(); }
  io::Task<Status> close() override;
  const std::optional<extent::BaseArea>& base() const override { return label_.base; }
  Usage usage() const override;
  std::vector<SegmentInfo> segments() const override;
  bool has_warm_shadow() const override;
  const block::IoStats& stats() const override { return stats_; }
  const std::string& read_only_reason() const override { return committer_.poison_reason(); }

 private:
  friend class Band;  // parts of it, in files of their own
  friend class Evacuator;
  friend class FoldRoom;
  friend class Growth;
  friend class ScrubReader;
  friend class Squeezer;
  io::Task<Status> attach(SegmentFile segment, SegmentRole role, SegmentState state);
  // A request's way in and out (engine.cc).
  IoTask* take_task(block::Request& request);
  void on_piece(Piece& piece, int result);
  void go(IoTask& task);  // the step's locks are held
  void lock_and_go(IoTask& task);
  void submit_pieces(IoTask& task);
  void pieces_done(IoTask& task);
  void finish_later(IoTask& task, Code code);
  void finish(IoTask& task, Code code);
  void count(const block::Request& request, Code code);
  void durable_or_finish(IoTask& task);  // honours FUA
  void add_piece(IoTask& task, Pcn owner, uint64_t from, uint64_t to, bool is_write);
  void on_posted(IoTask& task);
  void add_unpack(IoTask& task, const extent::Mapping& mapping, uint64_t from, uint64_t to);
  bool submit_with_unpacks(IoTask& task);
  void on_unpacked(IoTask& task, Code code);
  bool zero_squeezed(IoTask& task, const LockNode& node);
  bool check_piece(const Piece& piece);
  void tell_corrupt(const Piece& piece, uint64_t at);
  void scrub_piece(const Piece& piece, int result);
  uint16_t bits_of(Lcn lcn, uint64_t begin, uint64_t end) const;
  PlainPlace find_plain(uint64_t offset, uint64_t length, bool alone);
  void count(block::OpKind kind, uint64_t offset, uint64_t length, uint64_t latency_us);
  // Reads (engine_read.cc, engine_now.cc).
  void start_read(IoTask& task);
  void run_read(IoTask& task);
  void read_at_hand(IoTask& task);
  void read_done(IoTask& task);

  // Writes (engine_write.cc).
  void start_write(IoTask& task, uint64_t begin, uint64_t end, const std::byte* source, bool may_skip_zeros);
  void lock_write(IoTask& task);
  bool fill_edges(IoTask& task);
  void run_write(IoTask& task);
  uint32_t plan_write(IoTask& task, bool may_move);
  ClusterPlan plan_cluster(const IoTask& task, Lcn lcn, bool may_move);
  void choose_target(ClusterPlan& plan, const extent::Mapping& mapping, bool may_move);
  void choose_in_move(ClusterPlan& plan, const extent::Mapping& mapping, const Move& move);
  void note_in_move(const ClusterPlan& plan);
  bool claim_clusters(IoTask& task);
  void write_plans(IoTask& task);
  bool is_durable_alone(const IoTask& task) const;
  void submit_write(IoTask& task);
  void resume_noting();
  void on_regions_noted(int result);
  void reserve(IoTask& task, uint32_t clusters);
  void write_done(IoTask& task);
  void place(const ClusterPlan& plan);
  void record_mapping(Lcn lcn, const extent::Mapping& before, const extent::Mapping& after) override;

  // Zero and trim (engine_unmap.cc).
  void next_unmap_step(IoTask& task);
  bool lock_unmap(IoTask& task);
  void run_unmap(IoTask& task);

  void add_blob(IoTask& task, const extent::Mapping& mapping, uint64_t cluster_begin);
  // The wall (engine_hold.cc).
  void hold(IoTask& task);
  void retry_held();
  void try_again(IoTask& task);
  void retry_later();
  void expire_held();
  void fail_held(Code code);
  void end_hold(IoTask& task);
  void park(IoTask& task);  // until the batch has room

  // CommitSink and PlacementSink.
  void on_freed(const std::vector<Pcn>& clusters) override;
  void on_batch_sealed() override;
  void on_noted(std::span<const Pcn> regions) override;
  void on_poisoned(const std::string& reason) override;
  void on_journal_filling() override { checkpointer_.start(); }
  void on_state_changed(Segment& segment) override;
  void on_activated(Segment& segment) override;
  void on_full(Segment& segment) override;
  void tell(std::function<void(Listener&)> what);
  void on_news(int result);
  void on_retry(int result);

  io::Executor& executor_;
  RunOptions options_;
  const extent::Label label_;
  const extent::Geometry geometry_;
  const Redirect redirect_;
  uint64_t size_;
  SegmentSet segments_;
  extent::Map map_;
  extent::Containers containers_;
  uint32_t alignment_ = 1;
  SegmentId next_segment_;
  Committer committer_;
  Checkpointer checkpointer_;
  Placement placement_;
  LockTable locks_;
  MoveTable moves_;
  Pacer pacer_;
  Checksums checksums_;
  Relocator relocator_;
  Departures departures_;
  Unpacker unpacker_;
  std::unique_ptr<ScrubSource> scrub_reader_;
  Scrubber scrubber_;
  io::BufferPool buffers_;
  io::Buffer zeros_;
  BasePlaces base_;
  io::MemberOp<Engine, &Engine::on_regions_noted> noted_op_{this};
  io::MemberOp<Engine, &Engine::on_news> news_op_{this};
  io::MemberOp<Engine, &Engine::on_retry> retry_op_{this};
  io::Event check_ended_;
  io::Event drained_;
  Evacuator evacuator_{*this};
  Squeezer squeezer_{*this};
  Band band_{*this};
  Growth growth_{*this};
};

}  // namespace foreshadow::volume
