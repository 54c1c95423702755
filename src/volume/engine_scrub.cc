// What a scrub does with the engine: reads like a client's, which see every sub-block as it is stored.
#include <algorithm>
#include <utility>

#include "volume/engine.h"

namespace foreshadow::volume {
namespace {

// A read of the scrub's own; `request` is what the engine's tasks know of it.
struct ScrubRead : block::Request {
  std::coroutine_handle<> waiter;
  Code outcome = Code::kOk;
  ScrubRead() {
    done = [](block::Request* self, Code code) {
      auto* read = static_cast<ScrubRead*>(self);
      read->outcome = code;
      read->waiter.resume();
    };
  }
};

}  // namespace

class ScrubReader final : public ScrubSource {
 public:
  explicit ScrubReader(Engine& engine) : engine_(engine) {}
  Lcn next_mapped(Lcn from) override;
  Lcn end() override { return Lcn(engine_.map_.clusters()); }
  uint64_t stored_sub_blocks() override { return engine_.map_.mapped_sub_blocks(); }
  uint64_t sub_block_bytes() override { return engine_.geometry_.sub_block(); }
  io::Task<Status> scrub_clusters(Lcn first, uint32_t clusters, ScrubCounts& counts) override;
  io::Task<Status> keep_checksums() override { return engine_.checkpoint(); }

 private:
  struct Await;
  Engine& engine_;
};

std::unique_ptr<ScrubSource> make_scrub_reader(Engine& engine) {
  return std::make_unique<ScrubReader>(engine);
}

Lcn ScrubReader::next_mapped(Lcn from) {
  const extent::Map& map = engine_.map_;
  for (Lcn at = map.next_populated(from); at.v < map.clusters(); at = map.next_populated(at.next())) {
    if (map.get(at).mask() != 0) return at;
  }
  return end();
}

struct ScrubReader::Await {
  Engine& engine;
  ScrubRead& read;
  ScrubCounts& counts;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    read.waiter = h;
    read.submitted_at = engine.executor_.now();
    IoTask& task = *engine.take_task(read);
    task.scrub = &counts;
    engine.start_read(task);
  }
  void await_resume() const noexcept {}
};

io::Task<Status> ScrubReader::scrub_clusters(Lcn first, uint32_t clusters, ScrubCounts& counts) {
  if (engine_.closing_) co_return fail(Code::kShutdown, "the volume is closing");
  const uint64_t cluster = engine_.geometry_.cluster();
  ScrubRead read;
  read.kind = block::OpKind::kRead;
  read.offset = first.v * cluster;
  read.length = std::min(clusters * cluster, engine_.size_ - read.offset);
  io::Buffer memory = engine_.buffers_.take(2 * read.length);  // as much again for blobs: add_blob()
  read.data = memory.first(read.length);
  Await all{engine_, read, counts};
  co_await all;
  engine_.buffers_.give(std::move(memory));
  co_return Status{};  // what went wrong is in the counts
}

// A scrub reads a squeezed cluster as it is stored: its slots, behind the memory of what it reads otherwise,
// since there may be an overlay above. (Where its segment has no checksums it is decoded, which checks the
// blob's own.)
void Engine::add_blob(IoTask& task, const extent::Mapping& mapping, uint64_t cluster_begin) {
  const extent::Pack pack = mapping.container_pack();
  Piece& piece = task.pieces.emplace_back();
  piece.task = &task;
  piece.segment = &segments_.of(mapping.container());
  piece.at = piece.segment->data_offset(mapping.container(), geometry_) +
             uint64_t{pack.slot()} * geometry_.sub_block();
  std::byte* memory = task.memory + (task.end - task.begin) + (cluster_begin - task.begin);
  piece.memory = {memory, size_t{pack.count()} * geometry_.sub_block()};
}

// A piece that a scrub has read, with nobody writing beside it.
void Engine::scrub_piece(const Piece& piece, int result) {
  ScrubCounts& counts = *piece.task->scrub;
  const uint64_t sub_block = geometry_.sub_block();
  const uint64_t blocks = div_up(piece.memory.size(), sub_block);  // an image may end within the last one
  counts.read += blocks;
  if (result < 0) {
    counts.unreadable += blocks;
    return;
  }
  if (!piece.segment->checksums.exists()) return;
  for (uint64_t i = 0; i < blocks; ++i) {
    const auto bytes = piece.memory.subspan(i * sub_block, sub_block);
    const uint64_t at = piece.at + i * sub_block;
    uint64_t unknown = 0;
    if (checksums_.verify(*piece.segment, at, bytes, &unknown)) {
      ++counts.corrupt;
      tell_corrupt(piece, i * sub_block);
    } else if (unknown == 0) {
      ++counts.verified;
    } else {
      checksums_.written(*piece.segment, at, bytes);
      ++counts.filled;
    }
  }
}

io::Task<Result<ScrubProgress>> Engine::scrub(ScrubOptions options) {
  if (closing_) co_return fail(Code::kShutdown, "the volume is closing");
  auto done = co_await scrubber_.run(options);
  co_return done;
}

}  // namespace foreshadow::volume
