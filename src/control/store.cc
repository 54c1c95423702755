#include "control/store.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <unordered_map>
#include <utility>

#include "base/names.h"
#include "control/schema.h"
#include "control/sqlite.h"
#include "control/state_lock.h"

namespace foreshadow::control {
namespace {

constexpr uint64_t kMinuteMs = 60'000;
constexpr uint64_t kFullResolutionMs = 4 * 60 * kMinuteMs;
// A whole-file check reads everything; past this size a start would be too slow, and damage is found when it
// is met.
constexpr uint64_t kCheckedAtOpenBytes = 64ull << 20;

class SqliteStore final : public Store {
 public:
  SqliteStore(StateLock lock, sqlite::Connection connection, const Bounds& bounds)
      : lock_(std::move(lock)), db_(std::move(connection)), bounds_(bounds) {}

  Status load_counts();

  Status transaction(Durability durability, const std::function<Status()>& body) override;
  Status put_agent(const AgentRow& agent) override;
  Result<std::vector<AgentRow>> agents() override;
  Status put_pool(const v1::Pool& pool) override;
  Status remove_pools(const std::string& agent) override;
  Result<std::vector<v1::Pool>> pools() override;
  Status put_volume(const v1::Volume& volume) override;
  Status remove_volume(const std::string& id) override;
  Result<std::vector<v1::Volume>> volumes() override;
  Status add_intent(const IntentRow& intent) override;
  Status update_intent(const IntentRow& intent) override;
  Result<std::vector<IntentRow>> unfinished_intents() override;
  Result<std::vector<uint64_t>> lead_times_us(const std::string& volume, size_t count) override;
  Result<uint64_t> add_event(const v1::Event& event) override;
  Result<std::vector<v1::Event>> events(uint64_t after, const std::string& volume, size_t count) override;
  Status add_decision(const std::string& volume, const v1::Decision& decision) override;
  Result<std::vector<v1::Decision>> decisions(const std::string& volume, size_t count) override;
  Status add_history(std::span<const HistoryRow> rows) override;
  Result<std::vector<HistoryRow>> history(const std::string& volume, size_t count) override;
  Result<uint64_t> history_size(const std::string& volume) override;

 private:
  Status thin_history(const std::string& volume);
  Result<uint64_t> count_history(const std::string& volume);

  StateLock lock_;  // let go of after the database is closed
  sqlite::Connection db_;
  Bounds bounds_;
  bool in_transaction_ = false;
  std::unordered_map<std::string, uint64_t> history_counts_;
};

Status SqliteStore::load_counts() {
  sqlite::Query query(db_, "SELECT volume, COUNT(*) FROM history GROUP BY volume");
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) return {};
    history_counts_[query.text_at(0)] = query.integer_at(1);
  }
}

Status SqliteStore::transaction(Durability durability, const std::function<Status()>& body) {
  if (in_transaction_) return body();
  // In WAL mode FULL syncs the log at every commit; NORMAL leaves that to the next checkpoint. It may change
  // between transactions.
  const bool full = durability == Durability::kPowerLoss;
  TRY(db_.run_script(full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL"));
  TRY(sqlite::Query(db_, "BEGIN IMMEDIATE").run());
  in_transaction_ = true;
  Status done = body();
  in_transaction_ = false;
  if (done) done = sqlite::Query(db_, "COMMIT").run();
  // SQLite undoes the transaction itself on some errors; a second ROLLBACK then fails and says nothing new.
  if (!done && db_.in_transaction()) (void)sqlite::Query(db_, "ROLLBACK").run();
  return done;
}

Status SqliteStore::put_agent(const AgentRow& agent) {
  return transaction(Durability::kPowerLoss, [&] {
    return sqlite::Query(db_, "INSERT OR REPLACE INTO agents VALUES(?,?,?,?)")
        .text(agent.id)
        .text(agent.host)
        .text(agent.version)
        .integer(agent.seen_ms)
        .run();
  });
}

Result<std::vector<AgentRow>> SqliteStore::agents() {
  std::vector<AgentRow> out;
  sqlite::Query query(db_, "SELECT id, host, version, seen_ms FROM agents ORDER BY id");
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) return out;
    out.push_back({query.text_at(0), query.text_at(1), query.text_at(2), query.integer_at(3)});
  }
}

Status SqliteStore::put_pool(const v1::Pool& pool) {
  return transaction(Durability::kPowerLoss, [&] {
    return sqlite::Query(db_, "INSERT OR REPLACE INTO pools VALUES(?,?,?)")
        .text(pool.agent_id())
        .text(pool.name())
        .message(pool)
        .run();
  });
}

Status SqliteStore::remove_pools(const std::string& agent) {
  return transaction(Durability::kPowerLoss,
                     [&] { return sqlite::Query(db_, "DELETE FROM pools WHERE agent=?").text(agent).run(); });
}

Result<std::vector<v1::Pool>> SqliteStore::pools() {
  std::vector<v1::Pool> out;
  sqlite::Query query(db_, "SELECT pool FROM pools ORDER BY agent, name");
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) return out;
    TRY(query.message_at(0, out.emplace_back()));
  }
}

Status SqliteStore::put_volume(const v1::Volume& volume) {
  v1::Volume bare = volume;
  bare.clear_segments();
  return transaction(Durability::kPowerLoss, [&]() -> Status {
    TRY(sqlite::Query(db_,
                      "INSERT INTO volumes VALUES(?,?,?) ON CONFLICT(id) DO UPDATE SET name=excluded.name,"
                      " volume=excluded.volume")
            .text(volume.id())
            .text(volume.name())
            .message(bare)
            .run());
    TRY(sqlite::Query(db_, "DELETE FROM segments WHERE volume=?").text(volume.id()).run());
    for (const v1::Segment& segment : volume.segments()) {
      TRY(sqlite::Query(db_, "INSERT INTO segments VALUES(?,?,?,?)")
              .text(volume.id())
              .integer(segment.id())
              .text(segment.uuid())
              .message(segment)
              .run());
    }
    return {};
  });
}

Status SqliteStore::remove_volume(const std::string& id) {
  Status done = transaction(Durability::kPowerLoss, [&]() -> Status {
    TRY(sqlite::Query(db_, "DELETE FROM segments WHERE volume=?").text(id).run());
    TRY(sqlite::Query(db_, "DELETE FROM decisions WHERE volume=?").text(id).run());
    TRY(sqlite::Query(db_, "DELETE FROM history WHERE volume=?").text(id).run());
    return sqlite::Query(db_, "DELETE FROM volumes WHERE id=?").text(id).run();
  });
  if (done) history_counts_.erase(id);
  return done;
}

Result<std::vector<v1::Volume>> SqliteStore::volumes() {
  std::vector<v1::Volume> out;
  std::unordered_map<std::string, size_t> index;
  sqlite::Query query(db_, "SELECT volume FROM volumes ORDER BY name");
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) break;
    TRY(query.message_at(0, out.emplace_back()));
    index[out.back().id()] = out.size() - 1;
  }
  sqlite::Query segments(db_, "SELECT volume, segment FROM segments ORDER BY volume, id");
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, segments.next());
    if (!row) return out;
    const auto found = index.find(segments.text_at(0));
    if (found != index.end()) TRY(segments.message_at(1, *out[found->second].add_segments()));
  }
}

Status SqliteStore::add_intent(const IntentRow& intent) {
  return transaction(Durability::kPowerLoss, [&]() -> Status {
    // What is finished is kept for the record, and bounded; unfinished intents are never cut.
    TRY(sqlite::Query(
            db_,
            "DELETE FROM intents WHERE state>=2 AND number<=(SELECT number FROM intents WHERE state>=2"
            " ORDER BY number DESC LIMIT 1 OFFSET ?)")
            .integer(bounds_.finished_intents)
            .run());
    return sqlite::Query(db_,
                         "INSERT INTO intents(id,kind,agent,volume,segment,payload,state,created_ms,sent_ms,"
                         "finished_ms,elapsed_us,lead_us,message) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)")
        .text(intent.id)
        .text(intent.kind)
        .text(intent.agent)
        .text(intent.volume)
        .text(intent.segment)
        .message(intent.payload)
        .integer(static_cast<uint64_t>(intent.state))
        .integer(intent.created_ms)
        .integer(intent.sent_ms)
        .integer(intent.finished_ms)
        .integer(intent.elapsed_us)
        .integer(intent.lead_us)
        .text(intent.message)
        .run();
  });
}

Status SqliteStore::update_intent(const IntentRow& intent) {
  // That an intent was sent may be forgotten: it is only sent again. Its end may not.
  const bool finished = intent.state == IntentState::kDone || intent.state == IntentState::kFailed;
  return transaction(finished ? Durability::kPowerLoss : Durability::kProcessCrash, [&] {
    return sqlite::Query(
               db_,
               "UPDATE intents SET state=?, sent_ms=?, finished_ms=?, elapsed_us=?, lead_us=?, message=?"
               " WHERE id=?")
        .integer(static_cast<uint64_t>(intent.state))
        .integer(intent.sent_ms)
        .integer(intent.finished_ms)
        .integer(intent.elapsed_us)
        .integer(intent.lead_us)
        .text(intent.message)
        .text(intent.id)
        .run();
  });
}

Result<std::vector<IntentRow>> SqliteStore::unfinished_intents() {
  std::vector<IntentRow> out;
  sqlite::Query query(db_,
                      "SELECT id,kind,agent,volume,segment,payload,state,created_ms,sent_ms FROM intents"
                      " WHERE state<2 ORDER BY number");
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) return out;
    IntentRow& intent = out.emplace_back();
    intent.id = query.text_at(0);
    intent.kind = query.text_at(1);
    intent.agent = query.text_at(2);
    intent.volume = query.text_at(3);
    intent.segment = query.text_at(4);
    TRY(query.message_at(5, intent.payload));
    intent.state = query.integer_at(6) == 0 ? IntentState::kPending : IntentState::kSent;
    intent.created_ms = query.integer_at(7);
    intent.sent_ms = query.integer_at(8);
  }
}

Result<std::vector<uint64_t>> SqliteStore::lead_times_us(const std::string& volume, size_t count) {
  std::vector<uint64_t> out;
  sqlite::Query query(db_,
                      "SELECT lead_us FROM intents WHERE volume=? AND kind='grant_shadow' AND state=2"
                      " ORDER BY number DESC LIMIT ?");
  query.text(volume).integer(count);
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) break;
    out.push_back(query.integer_at(0));
  }
  return std::vector<uint64_t>(out.rbegin(), out.rend());
}

Result<uint64_t> SqliteStore::add_event(const v1::Event& event) {
  uint64_t sequence = 0;
  const Status done = transaction(Durability::kPowerLoss, [&]() -> Status {
    TRY(sqlite::Query(db_, "INSERT INTO events(time_ms, kind, volume, message, segment_id) VALUES(?,?,?,?,?)")
            .integer(event.time_ms())
            .text(event.kind())
            .text(event.volume())
            .text(event.message())
            .integer(event.segment_id())
            .run());
    sequence = db_.last_row();
    if (sequence <= bounds_.events) return {};
    return sqlite::Query(db_, "DELETE FROM events WHERE sequence<=?")
        .integer(sequence - bounds_.events)
        .run();
  });
  TRY(done);
  return sequence;
}

Result<std::vector<v1::Event>> SqliteStore::events(uint64_t after, const std::string& volume, size_t count) {
  std::vector<v1::Event> out;
  // SQLite's integers are signed; nothing follows a sequence number beyond them.
  if (after > static_cast<uint64_t>(INT64_MAX)) return out;
  sqlite::Query query(db_, volume.empty()
                               ? "SELECT sequence, time_ms, kind, volume, message, segment_id FROM events"
                                 " WHERE sequence>? ORDER BY sequence LIMIT ?"
                               : "SELECT sequence, time_ms, kind, volume, message, segment_id FROM events"
                                 " WHERE sequence>? AND volume=? ORDER BY sequence LIMIT ?");
  query.integer(after);
  if (!volume.empty()) query.text(volume);
  query.integer(count);
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) return out;
    v1::Event& event = out.emplace_back();
    event.set_sequence(query.integer_at(0));
    event.set_time_ms(query.integer_at(1));
    event.set_kind(query.text_at(2));
    event.set_volume(query.text_at(3));
    event.set_message(query.text_at(4));
    event.set_segment_id(static_cast<uint32_t>(query.integer_at(5)));
  }
}

Status SqliteStore::add_decision(const std::string& volume, const v1::Decision& decision) {
  return transaction(Durability::kProcessCrash, [&]() -> Status {
    TRY(sqlite::Query(db_, "INSERT INTO decisions(volume, decision) VALUES(?,?)")
            .text(volume)
            .message(decision)
            .run());
    return sqlite::Query(
               db_,
               "DELETE FROM decisions WHERE volume=?1 AND number<=(SELECT number FROM decisions WHERE"
               " volume=?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)")
        .text(volume)
        .integer(bounds_.decisions_per_volume)
        .run();
  });
}

Result<std::vector<v1::Decision>> SqliteStore::decisions(const std::string& volume, size_t count) {
  std::vector<v1::Decision> out;
  sqlite::Query query(db_, "SELECT decision FROM decisions WHERE volume=? ORDER BY number DESC LIMIT ?");
  query.text(volume).integer(count);
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) return out;
    TRY(query.message_at(0, out.emplace_back()));
  }
}

Status SqliteStore::add_history(std::span<const HistoryRow> rows) {
  std::map<std::string, uint64_t> added;
  const Status done = transaction(Durability::kProcessCrash, [&]() -> Status {
    for (const HistoryRow& row : rows) {
      TRY(sqlite::Query(db_, "INSERT OR REPLACE INTO history VALUES(?,?,?,?,?)")
              .text(row.volume)
              .integer(row.time_ms)
              .integer(row.used)
              .integer(row.allocated)
              .integer(row.capacity)
              .run());
      ++added[row.volume];
    }
    return {};
  });
  TRY(done);
  for (const auto& [volume, count] : added) {
    uint64_t& total = history_counts_[volume];
    total += count;
    if (total <= bounds_.history_per_volume) continue;
    TRY(thin_history(volume));
    ASSIGN_OR_RETURN(total, count_history(volume));
  }
  return {};
}

Status SqliteStore::thin_history(const std::string& volume) {
  const uint64_t half = bounds_.history_per_volume / 2;
  return transaction(Durability::kProcessCrash, [&]() -> Status {
    // The newest half stays as it is; what is older becomes a row a minute: the last state, the sum of what
    // was allocated.
    sqlite::Query boundary(
        db_, "SELECT time_ms FROM history WHERE volume=? ORDER BY time_ms DESC LIMIT 1 OFFSET ?");
    boundary.text(volume).integer(half);
    ASSIGN_OR_RETURN(const bool found, boundary.next());
    if (!found) return {};
    const uint64_t until = boundary.integer_at(0);
    TRY(sqlite::Query(db_, "DELETE FROM temp.thinned").run());
    TRY(sqlite::Query(
            db_,
            "INSERT INTO temp.thinned SELECT volume, MAX(time_ms), used, SUM(allocated), capacity FROM "
            "history"
            " WHERE volume=? AND time_ms<=? GROUP BY time_ms/60000")
            .text(volume)
            .integer(until)
            .run());
    TRY(sqlite::Query(db_, "DELETE FROM history WHERE volume=? AND time_ms<=?")
            .text(volume)
            .integer(until)
            .run());
    TRY(sqlite::Query(db_, "INSERT INTO history SELECT * FROM temp.thinned").run());
    // Once even the minutes fill the older half, a quarter of the bound is cut, so that thinning stays a rare
    // event.
    return sqlite::Query(
               db_,
               "DELETE FROM history WHERE volume=?1 AND time_ms<=(SELECT time_ms FROM history WHERE volume=?1"
               " ORDER BY time_ms DESC LIMIT 1 OFFSET ?2)")
        .text(volume)
        .integer(bounds_.history_per_volume - bounds_.history_per_volume / 4)
        .run();
  });
}

Result<uint64_t> SqliteStore::count_history(const std::string& volume) {
  sqlite::Query query(db_, "SELECT COUNT(*) FROM history WHERE volume=?");
  query.text(volume);
  ASSIGN_OR_RETURN(const bool row, query.next());
  return row ? query.integer_at(0) : 0;
}

Result<std::vector<HistoryRow>> SqliteStore::history(const std::string& volume, size_t count) {
  std::vector<HistoryRow> out;
  sqlite::Query query(
      db_,
      "SELECT MAX(time_ms) AS newest, used, SUM(allocated), capacity FROM history WHERE volume=?1 GROUP BY"
      " CASE WHEN time_ms>(SELECT MAX(time_ms) FROM history WHERE volume=?1)-?2 THEN -time_ms"
      " ELSE time_ms/60000 END ORDER BY newest DESC LIMIT ?3");
  query.text(volume).integer(kFullResolutionMs).integer(count);
  for (;;) {
    ASSIGN_OR_RETURN(const bool row, query.next());
    if (!row) break;
    out.push_back(
        {volume, query.integer_at(0), query.integer_at(1), query.integer_at(2), query.integer_at(3)});
  }
  return std::vector<HistoryRow>(out.rbegin(), out.rend());
}

Result<uint64_t> SqliteStore::history_size(const std::string& volume) {
  return count_history(volume);
}

Result<uint64_t> single_integer(sqlite::Connection& db, const char* sql) {
  sqlite::Query query(db, sql);
  ASSIGN_OR_RETURN(const bool row, query.next());
  return row ? query.integer_at(0) : 0;
}

// Refuses what is not ours before the first write to it.
Status inspect(sqlite::Connection& db, uint64_t file_bytes) {
  ASSIGN_OR_RETURN(const uint64_t version, single_integer(db, "PRAGMA user_version"));
  ASSIGN_OR_RETURN(const uint64_t application, single_integer(db, "PRAGMA application_id"));
  ASSIGN_OR_RETURN(const uint64_t tables, single_integer(db, "SELECT COUNT(*) FROM sqlite_master"));
  if (tables > 0 && application != static_cast<uint64_t>(kApplicationId)) {
    return fail(Code::kCorrupt, fmt::format("store {}: a SQLite database, but not one of foreshadow's"
                                            " (application id {:#x}, expected {:#x})",
                                            foreshadow::quoted(db.path()), application, kApplicationId));
  }
  if (version > static_cast<uint64_t>(kSchemaVersion)) {
    return fail(Code::kFailedPrecondition,
                fmt::format("store {}: schema {} was written by a newer foreshadow; this one knows up to {}",
                            foreshadow::quoted(db.path()), version, kSchemaVersion));
  }
  if (tables == 0 || file_bytes > kCheckedAtOpenBytes) return {};
  sqlite::Query check(db, "PRAGMA quick_check(1)");
  ASSIGN_OR_RETURN(const bool row, check.next());
  const std::string finding = row ? check.text_at(0) : "no answer";
  if (finding == "ok") return {};
  return fail(Code::kCorrupt, fmt::format("store {}: damaged: {}", foreshadow::quoted(db.path()), finding));
}

Status migrate(sqlite::Connection& db, uint64_t now_ms) {
  ASSIGN_OR_RETURN(const uint64_t version, single_integer(db, "PRAGMA user_version"));
  for (uint64_t next = version; next < kMigrations.size(); ++next) {
    // Statements and version in one transaction: a crash leaves the schema before or the one after.
    const Status done = db.run_script(
        fmt::format("BEGIN EXCLUSIVE; {} INSERT INTO migrations VALUES({}, {}); PRAGMA application_id={};"
                    " PRAGMA user_version={}; COMMIT",
                    kMigrations[next], next + 1, now_ms, kApplicationId, next + 1));
    if (!done) {
      (void)db.run_script("ROLLBACK");
      return done;
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Store>> Store::open(const std::string& directory, uint64_t now_ms,
                                           const Bounds& bounds) {
  ASSIGN_OR_RETURN(StateLock lock, StateLock::take(directory));
  const std::string path = directory + "/control.db";
  ASSIGN_OR_RETURN(sqlite::Connection db, sqlite::Connection::open(path));
  std::error_code ec;
  Status usable = inspect(db, static_cast<uint64_t>(std::filesystem::file_size(path, ec)));
  if (usable)
    usable = db.run_script(
        "PRAGMA busy_timeout=1000; PRAGMA journal_mode=WAL; PRAGMA temp_store=MEMORY; PRAGMA "
        "synchronous=FULL;");
  if (usable) usable = migrate(db, now_ms);
  if (!usable) {
    Error error = usable.error();
    if (error.code == Code::kCorrupt) {
      error.message += "; move it away and start again: what agents serve is adopted from them";
    }
    return tl::unexpected<Error>(std::move(error));
  }
  TRY(db.run_script("CREATE TEMP TABLE thinned(volume, time_ms, used, allocated, capacity)"));
  auto store = std::make_unique<SqliteStore>(std::move(lock), std::move(db), bounds);
  TRY(store->load_counts());
  return store;
}

}  // namespace foreshadow::control
