#pragma once
// The store's tables. A migration is never edited once released: a change is a new one at the end.
#include <array>
#include <cstdint>
#include <string_view>

namespace foreshadow::control {

// In the database header, so that a stray SQLite file is told from a store: "FSHD".
inline constexpr int64_t kApplicationId = 0x46534844;

// Migration i brings `PRAGMA user_version` from i to i + 1. Messages are kept as their protobuf bytes;
// columns beside them exist only to be looked up by. A volume's segments have rows of their own, and none
// inside the volume's bytes.
inline constexpr std::array<std::string_view, 1> kMigrations = {R"sql(
CREATE TABLE migrations(version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL);
CREATE TABLE agents(id TEXT PRIMARY KEY, host TEXT NOT NULL, version TEXT NOT NULL, seen_ms INTEGER NOT NULL);
CREATE TABLE pools(agent TEXT NOT NULL, name TEXT NOT NULL, pool BLOB NOT NULL,
  PRIMARY KEY(agent, name)) WITHOUT ROWID;
CREATE TABLE volumes(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, volume BLOB NOT NULL);
CREATE TABLE segments(volume TEXT NOT NULL, id INTEGER NOT NULL, uuid TEXT NOT NULL, segment BLOB NOT NULL,
  PRIMARY KEY(volume, id)) WITHOUT ROWID;
CREATE TABLE intents(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  agent TEXT NOT NULL, volume TEXT NOT NULL, segment TEXT NOT NULL, payload BLOB NOT NULL,
  state INTEGER NOT NULL, created_ms INTEGER NOT NULL, sent_ms INTEGER NOT NULL, finished_ms INTEGER NOT NULL,
  elapsed_us INTEGER NOT NULL, lead_us INTEGER NOT NULL, message TEXT NOT NULL);
CREATE INDEX intents_by_state ON intents(state, number);
CREATE INDEX intents_by_volume ON intents(volume, kind, state, number);
CREATE TABLE events(sequence INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL, kind TEXT NOT NULL,
  volume TEXT NOT NULL, message TEXT NOT NULL, segment_id INTEGER NOT NULL);
CREATE INDEX events_by_volume ON events(volume, sequence);
CREATE TABLE decisions(number INTEGER PRIMARY KEY AUTOINCREMENT, volume TEXT NOT NULL,
  decision BLOB NOT NULL);
CREATE INDEX decisions_by_volume ON decisions(volume, number);
CREATE TABLE history(volume TEXT NOT NULL, time_ms INTEGER NOT NULL, used INTEGER NOT NULL,
  allocated INTEGER NOT NULL, capacity INTEGER NOT NULL, PRIMARY KEY(volume, time_ms)) WITHOUT ROWID;
)sql"};

inline constexpr int64_t kSchemaVersion = static_cast<int64_t>(kMigrations.size());

}  // namespace foreshadow::control
