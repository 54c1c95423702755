#include "app/offline_check.h"

#include <fmt/format.h>

#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "agent/catalog.h"
#include "agent/state_dir.h"
#include "agent/volume_report.h"
#include "base/log.h"
#include "base/names.h"
#include "block/file_pool.h"
#include "extent/recovery.h"
#include "extent/repair.h"
#include "io/loop.h"
#include "io/task.h"

namespace foreshadow::app {
namespace {

struct Found {
  std::shared_ptr<block::Pool> pool;
  std::string backing;
  std::unique_ptr<io::File> file;
};
using Files = std::vector<Found>;

// Every backing of every pool, opened for reading, by volume. What cannot be read is told and left out.
Result<std::map<Uuid, Files>> open_all(io::Loop& loop, const agent::state::AgentState& state) {
  std::map<Uuid, Files> out;
  for (const agent::state::PoolRecord& record : state.pools()) {
    ASSIGN_OR_RETURN(Name name, Name::parse(record.name(), "pool name"));
    ASSIGN_OR_RETURN(std::unique_ptr<io::Directory> directory, io::open_directory(loop, record.directory()));
    ASSIGN_OR_RETURN(const std::shared_ptr<block::Pool> pool,
                     block::FilePool::open(std::move(name), std::move(directory), record.capacity()));
    ASSIGN_OR_RETURN(const std::vector<std::string> backings, pool->list());
    for (const std::string& text : backings) {
      const auto backing = agent::Backing::parse(text, record.name());
      if (!backing) continue;
      Found& found = out[backing->volume].emplace_back(Found{pool, text, nullptr});
      ASSIGN_OR_RETURN(found.file, pool->open(text, io::Directory::Mode::kReadOnly));
    }
  }
  return out;
}

// Whether one of the files is the primary of a volume of that name.
io::Task<bool> has_name(const Files& files, std::string name) {
  for (const Found& found : files) {
    std::string blemish;
    const auto label = co_await extent::read_label(*found.file, &blemish);
    if (label && label->role == extent::SegmentRole::kPrimary) co_return label->name == name;
  }
  co_return false;
}

// What extent's steps work on: every backing, and the image that the volume lies over, if it does.
struct Opened {
  std::vector<io::File*> files;
  std::unique_ptr<io::File> image;
  size_t base = extent::kNoBase;
};

io::Task<Result<Opened>> with_image(io::Loop& loop, const Files& files, io::Directory::Mode mode) {
  Opened out;
  for (const Found& found : files) {
    out.files.push_back(found.file.get());
    if (out.image != nullptr) continue;
    std::string blemish;
    const auto label = co_await extent::read_label(*found.file, &blemish);
    if (!label || !label->base) continue;
    auto image = io::open_device(loop, label->base->path, mode);
    if (!image) co_return tl::unexpected(image.error());
    out.image = std::move(*image);
  }
  if (out.image == nullptr) co_return out;
  out.base = out.files.size();
  out.files.push_back(out.image.get());
  co_return out;
}

io::Task<Result<extent::CheckReport>> repair_and_check(io::Loop& loop, Files& files) {
  for (Found& found : files) {
    found.file.reset();
    auto file = found.pool->open(found.backing, io::Directory::Mode::kReadWriteLocked);
    if (!file) co_return tl::unexpected(file.error());
    found.file = std::move(*file);
  }
  const auto all = co_await with_image(loop, files, io::Directory::Mode::kReadWriteLocked);
  if (!all) co_return tl::unexpected(all.error());
  auto repaired = co_await extent::repair_segments(all->files, true, all->base);
  if (!repaired) co_return tl::unexpected(repaired.error());
  extent::CheckReport out = co_await extent::check_segments(all->files, all->base);
  out.repaired = std::move(repaired->repaired);
  out.refused = std::move(repaired->refused);
  if (!out.ok()) co_return out;  // what counts as an orphan is only sure in a volume that is whole
  for (const size_t orphan : repaired->orphans) {
    files[orphan].file.reset();
    const Status removed = files[orphan].pool->remove(files[orphan].backing);
    if (!removed) co_return tl::unexpected(removed.error());
    out.repaired.push_back(
        fmt::format("backing {}, which was never attached: removed", files[orphan].backing));
  }
  co_return out;
}

io::Task<Result<v1::CheckReport>> find_and_check(io::Loop& loop, agent::state::AgentState state,
                                                 std::string name, bool repair) {
  auto groups = open_all(loop, state);
  if (!groups) co_return tl::unexpected(groups.error());
  // The notes know the name also where the primary cannot be read any more.
  std::string noted;
  for (const agent::state::VolumeRecord& record : state.volumes()) {
    if (record.name() == name) noted = record.id();
  }
  for (auto& [id, files] : *groups) {
    const bool named = co_await has_name(files, name);
    if (!named && id.str() != noted) continue;
    if (repair) {
      auto report = co_await repair_and_check(loop, files);
      if (!report) co_return tl::unexpected(report.error());
      co_return agent::make_check_report(*report);
    }
    const auto all = co_await with_image(loop, files, io::Directory::Mode::kReadOnly);
    if (!all) co_return tl::unexpected(all.error());
    const extent::CheckReport report = co_await extent::check_segments(all->files, all->base);
    co_return agent::make_check_report(report);
  }
  co_return fail(Code::kNotFound, fmt::format("there is no volume {} in the {} pools of agent.json",
                                              foreshadow::quoted(name), state.pools_size()));
}

}  // namespace

Result<v1::CheckReport> check_offline(const std::string& state_dir, const std::string& name, bool repair) {
  if (!std::filesystem::exists(state_dir + "/agent.json")) {
    return fail(
        Code::kNotFound,
        fmt::format("no server runs on {}, and there is no {}/agent.json to find the volume's pools with; is "
                    "this the agent's --state?",
                    state_dir, state_dir));
  }
  // Held for as long as the check takes: nobody writes meanwhile.
  ASSIGN_OR_RETURN(const agent::StateDir lock, agent::StateDir::open(state_dir));
  ASSIGN_OR_RETURN(agent::state::AgentState state, lock.load());
  ASSIGN_OR_RETURN(const std::unique_ptr<io::Loop> loop, io::Loop::create());
  std::promise<Result<v1::CheckReport>> checked;
  loop->run_on_loop([&] {
    io::spawn(find_and_check(*loop, std::move(state), name, repair), [&](Result<v1::CheckReport> report) {
      checked.set_value(std::move(report));
      loop->stop();
    });
  });
  loop->run();
  return checked.get_future().get();
}

}  // namespace foreshadow::app
