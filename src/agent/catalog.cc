#include "agent/catalog.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/await.h"
#include "agent/pool_mark.h"
#include "agent/same_file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/names.h"
#include "block/file_pool.h"

namespace foreshadow::agent {
namespace {

constexpr size_t kUuidText = 36;

// A directory must be the one that was noted, and nobody else's: the place where a file system is not mounted
// passes for an empty pool. One noted before there were marks gets its mark once it holds a backing.
Status check_mark(state::PoolRecord& record, bool is_new, Rng& rng) {
  ASSIGN_OR_RETURN(const std::optional<std::string> mark, read_pool_mark(record.directory()));
  if (!record.id().empty() && mark == record.id()) return {};
  if (!record.id().empty()) {
    return fail(Code::kUnavailable,
                fmt::format("{} {} this pool's mark, {}: is its file system mounted?", record.directory(),
                            mark ? "has another file than" : "has not", kPoolMark));
  }
  if (mark) {
    record.set_id(*mark);
    return {};
  }
  if (!is_new) return {};
  const std::string id = Uuid::random(rng).str();
  TRY(write_pool_mark(record.directory(), id));
  record.set_id(id);
  return {};
}

Result<std::shared_ptr<block::Pool>> open_now(io::Loop& loop, const state::PoolRecord& record) {
  ASSIGN_OR_RETURN(Name name, Name::parse(record.name(), "pool name"));
  ASSIGN_OR_RETURN(std::unique_ptr<io::Directory> directory, io::open_directory(loop, record.directory()));
  ASSIGN_OR_RETURN(std::unique_ptr<block::Pool> pool,
                   block::FilePool::open(std::move(name), std::move(directory), record.capacity()));
  return std::shared_ptr<block::Pool>(std::move(pool));
}

}  // namespace

Result<Backing> Backing::parse(std::string_view name, std::string pool) {
  if (name.size() != 2 * kUuidText + 1 || name[kUuidText] != '.') {
    return fail(Code::kInvalidArgument,
                fmt::format("backing {}: expected <volume uuid>.<segment uuid>", foreshadow::quoted(name)));
  }
  ASSIGN_OR_RETURN(const Uuid volume, Uuid::parse(name.substr(0, kUuidText)));
  ASSIGN_OR_RETURN(const Uuid segment, Uuid::parse(name.substr(kUuidText + 1)));
  return Backing{volume, segment, std::move(pool)};
}

Result<std::unique_ptr<Catalog>> Catalog::open(io::Loop& loop, const std::string& state_dir, Rng& rng) {
  ASSIGN_OR_RETURN(StateDir directory, StateDir::open(state_dir));
  ASSIGN_OR_RETURN(state::AgentState state, directory.load());
  if (state.agent_id().empty()) {
    state.set_agent_id(Uuid::random(rng).str());
    TRY(directory.save(state));
  }
  return std::unique_ptr<Catalog>(new Catalog(loop, std::move(directory), std::move(state), rng));
}

io::Task<Status> Catalog::change(state::AgentState next) {
  Offload save(loop_, [this, &next] { return directory_.save(next); });
  const Status saved = co_await save;
  if (saved) {
    state_ = std::move(next);
    co_return saved;
  }
  // It may have come to its place all the same, and the next start would go by it.
  Offload back(loop_, [this] { return directory_.save(state_); });
  const Status restored = co_await back;
  if (!restored) {
    log::error("agent.json may say what was refused, and cannot be written: {}; make room or mend its disk "
               "before this agent is restarted",
               restored.error().message);
  }
  co_return saved;
}

// `record` gets the id of its mark.
io::Task<Result<std::shared_ptr<block::Pool>>> Catalog::open_pool(state::PoolRecord& record) {
  const bool is_new = pool_record(record.name()) == nullptr;
  Offload open(loop_, [this, &record, is_new]() -> Result<std::shared_ptr<block::Pool>> {
    ASSIGN_OR_RETURN(std::shared_ptr<block::Pool> pool, open_now(loop_, record));
    const auto backings = pool->list();
    TRY(check_mark(record, is_new || (backings && !backings->empty()), rng_));
    return pool;
  });
  auto pool = co_await open;
  co_return pool;
}

io::Task<Status> Catalog::open_pools() {
  state::AgentState marked = state_;
  for (state::PoolRecord& record : *marked.mutable_pools()) {
    Result<std::shared_ptr<block::Pool>> pool;
    Offload compare(loop_, [this, &record] { return twin_of(record); });
    const std::string twin = co_await compare;
    if (twin.empty()) {
      pool = co_await open_pool(record);
    } else {
      pool = fail(Code::kFailedPrecondition,
                  fmt::format("its directory {} is that of pool {}", record.directory(), twin));
    }
    Entry& entry = pools_[record.name()];
    if (pool) {
      entry.pool = std::move(*pool);
    } else {
      entry.trouble = pool.error().message;
      log::error("pool {} cannot be used: {}", record.name(), entry.trouble);
    }
  }
  const bool news = std::any_of(marked.pools().begin(), marked.pools().end(), [this](const auto& record) {
    return record.id() != pool_record(record.name())->id();
  });
  if (!news) co_return Status{};
  const Status noted = co_await change(std::move(marked));
  co_return noted;
}

// The pool noted before this one that is in the same directory, by whatever path or mount.
std::string Catalog::twin_of(const state::PoolRecord& of) const {
  for (const state::PoolRecord& record : state_.pools()) {
    if (record.name() == of.name()) break;
    if (is_same_file(record.directory(), of.directory())) return record.name();
  }
  return {};
}

const state::PoolRecord* Catalog::pool_record(const std::string& name) const {
  for (const state::PoolRecord& record : state_.pools()) {
    if (record.name() == name) return &record;
  }
  return nullptr;
}

// A pool that is to be noted for the first time.
Status Catalog::check_new(const PoolConfig& config) const {
  TRY(Name::parse(config.name, "pool name"));
  if (config.directory.empty() || config.directory.front() != '/') {
    return fail(Code::kInvalidArgument, fmt::format("pool {}: directory {}: expected an absolute path",
                                                    config.name, foreshadow::quoted(config.directory)));
  }
  if (pools_.size() >= foreshadow::limits::kPools) {
    return fail(Code::kLimit, fmt::format("pool {}: there are {} pools already, the limit", config.name,
                                          foreshadow::limits::kPools));
  }
  for (const state::PoolRecord& record : state_.pools()) {
    if (!is_same_file(record.directory(), config.directory)) continue;
    return fail(Code::kAlreadyExists, fmt::format("pool {}: directory {} is pool {} already", config.name,
                                                  config.directory, record.name()));
  }
  return {};
}

io::Task<Status> Catalog::add_pool(PoolConfig config) {
  state::PoolRecord record;
  record.set_name(config.name);
  record.set_directory(config.directory);
  record.set_capacity(config.capacity);
  const state::PoolRecord* known = pool_record(config.name);
  if (known != nullptr) {
    if (known->directory() != config.directory || known->capacity() != config.capacity) {
      co_return fail(Code::kAlreadyExists,
                     fmt::format("there is a pool {} already, in {}", config.name, known->directory()));
    }
    if (pools_[config.name].pool != nullptr) co_return Status{};
  } else {
    Offload check(loop_, [this, &config] { return check_new(config); });
    const Status good = co_await check;
    if (!good) co_return good;
  }
  auto pool = co_await open_pool(record);
  if (!pool) co_return fail(pool.error().code, fmt::format("pool {}: {}", config.name, pool.error().message));
  if (known == nullptr) {
    state::AgentState next = state_;
    *next.add_pools() = record;
    const Status changed = co_await change(std::move(next));
    if (!changed) co_return changed;
  }
  pools_[config.name] = Entry{std::move(*pool), {}, {}};
  co_return Status{};
}

io::Task<Status> Catalog::remove_pool(std::string name) {
  const auto entry = pools_.find(name);
  if (entry == pools_.end()) co_return Status{};
  if (entry->second.pool != nullptr) {
    const std::shared_ptr<block::Pool> pool = entry->second.pool;
    Offload list(loop_, [&pool] { return pool->list(); });
    const auto names = co_await list;
    if (!names) co_return tl::unexpected(names.error());
    for (const std::string& text : *names) {
      const auto backing = Backing::parse(text, name);
      if (!backing) continue;
      const state::VolumeRecord* note = record(backing->volume);
      const std::string who = note != nullptr && !note->name().empty() ? note->name() : backing->volume.str();
      co_return fail(Code::kFailedPrecondition,
                     fmt::format("pool {} holds segments of volume {}; remove the volume first", name, who));
    }
  }
  const std::string entry_directory =
      entry->second.pool == nullptr ? std::string() : pool_record(name)->directory();
  state::AgentState next = state_;
  next.clear_pools();
  for (const state::PoolRecord& record : state_.pools()) {
    if (record.name() != name) *next.add_pools() = record;
  }
  const Status changed = co_await change(std::move(next));
  if (!changed) co_return changed;
  pools_.erase(name);
  if (entry_directory.empty()) co_return Status{};
  Offload unmark(loop_, [&entry_directory] { return remove_pool_mark(entry_directory); });
  const Status unmarked = co_await unmark;
  if (!unmarked) log::warn("pool {}: {}", name, unmarked.error().message);
  co_return Status{};
}

Result<std::shared_ptr<block::Pool>> Catalog::pool(const std::string& name) const {
  const auto found = pools_.find(name);
  if (found == pools_.end())
    return fail(Code::kNotFound, fmt::format("there is no pool {}", foreshadow::quoted(name)));
  if (found->second.pool == nullptr) {
    return fail(Code::kUnavailable, fmt::format("pool {} cannot be used: {}", name, found->second.trouble));
  }
  return found->second.pool;
}

io::Task<Status> Catalog::refresh_usage() {
  std::vector<std::pair<std::string, std::shared_ptr<block::Pool>>> asked;
  for (const auto& [name, entry] : pools_) {
    if (entry.pool != nullptr) asked.emplace_back(name, entry.pool);
  }
  Offload ask(loop_, [&asked] {
    std::vector<Result<block::PoolUsage>> answers;
    answers.reserve(asked.size());
    for (const auto& [name, pool] : asked) answers.push_back(pool->usage());
    return answers;
  });
  const std::vector<Result<block::PoolUsage>> answers = co_await ask;
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto entry = pools_.find(asked[i].first);  // it may be gone by now
    if (entry != pools_.end() && answers[i]) entry->second.usage = *answers[i];
  }
  co_return Status{};
}

std::vector<v1::Pool> Catalog::pools() const {
  std::vector<v1::Pool> out;
  for (const state::PoolRecord& record : state_.pools()) {
    const auto entry = pools_.find(record.name());
    v1::Pool& pool = out.emplace_back();
    pool.set_name(record.name());
    pool.set_directory(record.directory());
    pool.set_configured_capacity(record.capacity());
    pool.set_agent_id(state_.agent_id());
    if (entry == pools_.end()) continue;
    pool.set_capacity(entry->second.usage.capacity);
    pool.set_used(entry->second.usage.used);
  }
  return out;
}

io::Task<std::map<Uuid, std::vector<Backing>>> Catalog::find_backings() {
  std::vector<std::pair<std::string, std::shared_ptr<block::Pool>>> asked;
  for (const auto& [name, entry] : pools_) {
    if (entry.pool != nullptr) asked.emplace_back(name, entry.pool);
  }
  Offload list(loop_, [&asked] {
    std::map<Uuid, std::vector<Backing>> found;
    for (const auto& [name, pool] : asked) {
      const auto names = pool->list();
      if (!names) log::error("pool {} cannot be listed: {}", name, names.error().message);
      if (!names) continue;
      for (const std::string& text : *names) {
        auto backing = Backing::parse(text, name);
        if (backing) found[backing->volume].push_back(std::move(*backing));
      }
    }
    return found;
  });
  auto found = co_await list;
  co_return found;
}

io::Task<Result<std::unique_ptr<io::File>>> Catalog::open_backing(Backing backing, io::Directory::Mode mode) {
  const auto from = pool(backing.pool);
  if (!from) co_return tl::unexpected(from.error());
  Offload open(loop_, [&] { return (*from)->open(backing.name(), mode); });
  auto file = co_await open;
  co_return file;
}

io::Task<Status> Catalog::remove_backing(Backing backing) {
  const auto from = pool(backing.pool);
  if (!from) co_return tl::unexpected(from.error());
  Offload remove(loop_, [&] { return (*from)->remove(backing.name()); });
  const Status removed = co_await remove;
  if (!removed && removed.error().code == Code::kNotFound) co_return Status{};
  co_return removed;
}

const state::VolumeRecord* Catalog::record(const Uuid& volume) const {
  const std::string id = volume.str();
  for (const state::VolumeRecord& record : state_.volumes()) {
    if (record.id() == id) return &record;
  }
  return nullptr;
}

io::Task<Status> Catalog::put_record(state::VolumeRecord record) {
  state::AgentState next = state_;
  const auto known = std::find_if(next.mutable_volumes()->begin(), next.mutable_volumes()->end(),
                                  [&](const state::VolumeRecord& r) { return r.id() == record.id(); });
  if (known != next.mutable_volumes()->end()) {
    *known = std::move(record);
  } else {
    *next.add_volumes() = std::move(record);
  }
  const Status changed = co_await change(std::move(next));
  co_return changed;
}

io::Task<Status> Catalog::erase_record(Uuid volume) {
  if (record(volume) == nullptr) co_return Status{};
  const std::string id = volume.str();
  state::AgentState next = state_;
  next.clear_volumes();
  for (const state::VolumeRecord& record : state_.volumes()) {
    if (record.id() != id) *next.add_volumes() = record;
  }
  const Status changed = co_await change(std::move(next));
  co_return changed;
}

}  // namespace foreshadow::agent
