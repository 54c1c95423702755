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
#include "io/loop.h"
#include "io/task.h"

namespace foreshadow::app {
namespace {

using Files = std::vector<std::unique_ptr<io::File>>;

// Every backing of every pool, opened for reading, by volume. What cannot be read is told and left out.
Result<std::map<Uuid, Files>> open_all(io::Loop& loop, const agent::state::AgentState& state) {
  std::map<Uuid, Files> out;
  for (const agent::state::PoolRecord& record : state.pools()) {
    ASSIGN_OR_RETURN(Name name, Name::parse(record.name(), "pool name"));
    ASSIGN_OR_RETURN(std::unique_ptr<io::Directory> directory, io::open_directory(loop, record.directory()));
    ASSIGN_OR_RETURN(const std::unique_ptr<block::Pool> pool,
                     block::FilePool::open(std::move(name), std::move(directory), record.capacity()));
    ASSIGN_OR_RETURN(const std::vector<std::string> backings, pool->list());
    for (const std::string& text : backings) {
      const auto backing = agent::Backing::parse(text, record.name());
      if (!backing) continue;
      ASSIGN_OR_RETURN(out[backing->volume].emplace_back(), pool->open(text, io::Directory::Mode::kReadOnly));
    }
  }
  return out;
}

// Whether one of the files is the primary of a volume of that name.
io::Task<bool> has_name(const Files& files, std::string name) {
  for (const std::unique_ptr<io::File>& file : files) {
    std::string blemish;
    const auto label = co_await extent::read_label(*file, &blemish);
    if (label && label->role == extent::SegmentRole::kPrimary) co_return label->name == name;
  }
  co_return false;
}

io::Task<Result<v1::CheckReport>> find_and_check(io::Loop& loop, agent::state::AgentState state,
                                                 std::string name) {
  const auto groups = open_all(loop, state);
  if (!groups) co_return tl::unexpected(groups.error());
  // The notes know the name also where the primary cannot be read any more.
  std::string noted;
  for (const agent::state::VolumeRecord& record : state.volumes()) {
    if (record.name() == name) noted = record.id();
  }
  for (const auto& [id, files] : *groups) {
    const bool named = co_await has_name(files, name);
    if (!named && id.str() != noted) continue;
    std::vector<io::File*> pointers;
    for (const std::unique_ptr<io::File>& file : files) pointers.push_back(file.get());
    const extent::CheckReport report = co_await extent::check_segments(std::move(pointers));
    co_return agent::make_check_report(report);
  }
  co_return fail(Code::kNotFound, fmt::format("there is no volume {} in the {} pools of agent.json",
                                              foreshadow::quoted(name), state.pools_size()));
}

}  // namespace

Result<v1::CheckReport> check_offline(const std::string& state_dir, const std::string& name) {
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
    io::spawn(find_and_check(*loop, std::move(state), name), [&](Result<v1::CheckReport> report) {
      checked.set_value(std::move(report));
      loop->stop();
    });
  });
  loop->run();
  return checked.get_future().get();
}

}  // namespace foreshadow::app
