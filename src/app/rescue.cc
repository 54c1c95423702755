#include "app/rescue.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "agent/catalog.h"
#include "agent/state_dir.h"
#include "base/names.h"
#include "base/rng.h"
#include "block/file_pool.h"
#include "extent/head.h"
#include "extent/recovery.h"
#include "extent/repair.h"
#include "extent/rescue.h"
#include "io/loop.h"
#include "io/task.h"
#include "io/wait_for.h"

namespace foreshadow::app {
namespace {

using Files = std::vector<std::unique_ptr<io::File>>;

std::vector<io::File*> pointers_of(const Files& files) {
  std::vector<io::File*> out;
  for (const auto& file : files) out.push_back(file.get());
  return out;
}

// The names and states of one volume's segments, as far as anything tells.
void describe(const extent::Recovered& state, RescuedVolume& out) {
  out.name = state.label.name;
  out.size = state.super.size;
  out.segments = state.segments.size();
  out.stored = state.map.mapped_sub_blocks() * state.label.geometry.sub_block();
  out.whole = true;
}

// Of a volume over an image: the image, where its label says that it is. Null for any other, and for one
// whose label cannot be read before it is repaired: a repeat finds it.
io::Task<Result<std::unique_ptr<io::File>>> open_image(io::Loop& loop, const Files& files, bool apply) {
  using Mode = io::Directory::Mode;
  for (const auto& file : files) {
    std::string blemish;
    const auto label = co_await extent::read_label(*file, &blemish);
    if (label && label->base)
      co_return io::open_device(loop, label->base->path, apply ? Mode::kReadWriteLocked : Mode::kReadOnly);
  }
  co_return std::unique_ptr<io::File>();
}

// First by what is redundant, then, if no superblock is left, from tables and journal.
// Cut anywhere, a repeat goes on: the head's superblock is written before any mark, and once two copies of it
// are durable it stands; a segment without its mark is no claim of that sequence, and is marked then.
io::Task<Status> rescue_volume(io::Loop& loop, const Files& files, bool apply, RescuedVolume& out) {
  std::vector<io::File*> pointers = pointers_of(files);
  const auto image = co_await open_image(loop, files, apply);
  if (!image) {
    out.problems.push_back("its image: " + image.error().message);
    co_return Status{};
  }
  const size_t base = *image == nullptr ? extent::kNoBase : pointers.size();
  if (*image != nullptr) pointers.push_back(image->get());
  auto repaired = co_await extent::repair_segments(pointers, apply, base);
  if (!repaired) co_return tl::unexpected(repaired.error());
  out.repaired = std::move(repaired->repaired);
  for (size_t i = 0; i < files.size() && out.name.empty(); ++i) {
    std::string blemish;
    const auto label = co_await extent::read_label(*files[i], &blemish);
    if (label) out.name = label->name;
  }
  auto state = co_await extent::recover(pointers, base);
  if (state) {
    describe(**state, out);
    co_return Status{};
  }
  out.problems = std::move(repaired->refused);
  auto rebuilt = co_await extent::rebuild_superblock(pointers, base);
  if (!rebuilt) {
    out.problems.push_back(state.error().message);
    if (rebuilt.error().message != state.error().message)
      out.problems.push_back("no superblock can be rebuilt: " + rebuilt.error().message);
    co_return Status{};
  }
  out.problems.clear();
  out.repaired.push_back("the superblock: " + rebuilt->from);
  out.assumptions = rebuilt->assumptions;
  describe(*rebuilt->state, out);
  if (!apply) co_return Status{};
  if (!rebuilt->stands) {
    auto written = co_await extent::write_superblock(*pointers[rebuilt->primary], rebuilt->super);
    if (!written) co_return written;
  }
  for (const size_t other : rebuilt->to_mark) {
    const extent::Superblock mark = extent::make_mark(rebuilt->super, rebuilt->head);
    auto marked = co_await extent::write_superblock(*pointers[other], mark);
    if (!marked) co_return marked;
  }
  out.whole = false;
  state = co_await extent::recover(pointers, base);
  if (state) {
    describe(**state, out);
  } else {
    out.problems.push_back(state.error().message);
  }
  co_return Status{};
}

// agent.json with these pools and volumes beside what it knows.
Status write_notes(const agent::StateDir& state_dir, const std::vector<std::string>& directories,
                   const std::vector<RescuedVolume>& volumes, std::string* told) {
  ASSIGN_OR_RETURN(agent::state::AgentState state, state_dir.load());
  SystemRng rng;
  if (state.agent_id().empty()) state.set_agent_id(Uuid::random(rng).str());
  size_t pools = 0;
  for (const std::string& directory : directories) {
    const auto same = [&](const auto& record) { return record.directory() == directory; };
    if (std::any_of(state.pools().begin(), state.pools().end(), same)) continue;
    std::string name = "default";
    for (int n = 2; std::any_of(state.pools().begin(), state.pools().end(),
                                [&](const auto& record) { return record.name() == name; });
         ++n) {
      name = fmt::format("pool-{}", n);
    }
    agent::state::PoolRecord& record = *state.add_pools();
    record.set_name(name);
    record.set_directory(directory);
    ++pools;
  }
  size_t added = 0;
  for (const RescuedVolume& volume : volumes) {
    const auto same = [&](const auto& record) { return record.id() == volume.id; };
    if (std::any_of(state.volumes().begin(), state.volumes().end(), same)) continue;
    agent::state::VolumeRecord& record = *state.add_volumes();
    record.set_id(volume.id);
    record.set_name(volume.name);
    ++added;
  }
  TRY(state_dir.save(state));
  *told = fmt::format(
      "{}/agent.json: {} pools and {} volumes added; control's database is made anew from the agent's "
      "inventory at the next `foreshadow up`",
      state_dir.path(), pools, added);
  return {};
}

}  // namespace

Result<RescueReport> rescue(const std::vector<std::string>& directories, const std::string& state,
                            bool apply) {
  std::optional<agent::StateDir> lock;
  if (apply) {
    ASSIGN_OR_RETURN(agent::StateDir held, agent::StateDir::open(state));
    lock.emplace(std::move(held));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<io::Loop> loop, io::Loop::create());
  RescueReport out;
  std::vector<std::shared_ptr<block::Pool>> pools;
  std::map<Uuid, Files> groups;
  const auto mode = apply ? io::Directory::Mode::kReadWriteLocked : io::Directory::Mode::kReadOnly;
  for (const std::string& path : directories) {
    ASSIGN_OR_RETURN(std::unique_ptr<io::Directory> directory, io::open_directory(*loop, path));
    ASSIGN_OR_RETURN(Name name, Name::parse("rescue"));
    ASSIGN_OR_RETURN(pools.emplace_back(), block::FilePool::open(std::move(name), std::move(directory), 0));
    ASSIGN_OR_RETURN(const std::vector<std::string> backings, pools.back()->list());
    for (const std::string& text : backings) {
      const auto backing = agent::Backing::parse(text, "");
      if (!backing) {
        out.strangers.push_back(fmt::format("{}/{}.seg: its name is not VOLUME.SEGMENT", path, text));
        continue;
      }
      ASSIGN_OR_RETURN(groups[backing->volume].emplace_back(), pools.back()->open(text, mode));
    }
  }
  for (auto& [id, files] : groups) {
    RescuedVolume& volume = out.volumes.emplace_back();
    volume.id = id.str();
    const Status done = io::wait_for(*loop, rescue_volume(*loop, files, apply, volume));
    if (!done) volume.problems.push_back(done.error().message);
  }
  groups.clear();
  out.notes = "nothing is written without --apply";
  if (lock) TRY(write_notes(*lock, directories, out.volumes, &out.notes));
  return out;
}

}  // namespace foreshadow::app
