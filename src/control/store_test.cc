#include "control/store.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/types.h"
#include "control/schema.h"
#include "control/scratch_directory.h"
#include "control/sqlite.h"

namespace foreshadow::control {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<Store> open(const Store::Bounds& bounds = Store::Bounds()) {
    auto store = Store::open(dir_, 1000, bounds);
    EXPECT_TRUE(store) << store.error().message;
    return store ? std::move(*store) : nullptr;
  }
  Error open_error() {
    auto store = Store::open(dir_, 1000);
    EXPECT_FALSE(store);
    return store ? Error{} : store.error();
  }
  ScratchDirectory scratch_;
  std::string dir_ = scratch_.path("state");
};

IntentRow intent_row(const std::string& id, IntentState state = IntentState::kPending) {
  IntentRow row;
  row.id = id;
  row.kind = "grant_shadow";
  row.agent = "agent-a";
  row.volume = "volume-1";
  row.segment = "segment-" + id;
  row.payload.set_id(id);
  row.payload.mutable_grant_shadow()->set_size(4096);
  row.state = state;
  row.created_ms = 5;
  return row;
}

TEST_F(StoreTest, RemembersEverythingAcrossAReopen) {
  {
    auto store = open();
    v1::Pool pool;
    pool.set_name("default");
    pool.set_agent_id("agent-a");
    pool.set_capacity(77);
    ASSERT_TRUE(store->put_pool(pool));
    ASSERT_TRUE(store->put_agent({"agent-a", "host", "1", 9}));
    v1::Volume volume;
    volume.set_id("volume-1");
    volume.set_name("data");
    for (uint32_t id : {0u, 1u, 2u}) volume.add_segments()->set_id(id);
    ASSERT_TRUE(store->put_volume(volume));
    volume.mutable_segments()->RemoveLast();
    ASSERT_TRUE(store->put_volume(volume));
    ASSERT_TRUE(store->add_intent(intent_row("a")));
    ASSERT_TRUE(store->add_intent(intent_row("b")));
    IntentRow done = intent_row("a", IntentState::kDone);
    done.lead_us = 42;
    ASSERT_TRUE(store->update_intent(done));
    v1::Event event;
    event.set_kind("redirect");
    event.set_volume("data");
    EXPECT_EQ(store->add_event(event).value(), 1u);
    v1::Decision decision;
    decision.set_sentence("because");
    (*decision.mutable_inputs())["used"] = 0.5;
    ASSERT_TRUE(store->add_decision("volume-1", decision));
    const HistoryRow rows[] = {{"volume-1", 1000, 10, 10, 100}, {"volume-1", 2000, 20, 10, 100}};
    ASSERT_TRUE(store->add_history(rows));
  }
  auto store = open();
  EXPECT_EQ(store->pools()->at(0).capacity(), 77u);
  EXPECT_EQ(store->agents()->at(0).host, "host");
  ASSERT_EQ(store->volumes()->size(), 1u);
  EXPECT_EQ(store->volumes()->at(0).segments_size(), 2);
  ASSERT_EQ(store->unfinished_intents()->size(), 1u);
  EXPECT_EQ(store->unfinished_intents()->at(0).payload.grant_shadow().size(), 4096u);
  EXPECT_EQ(store->lead_times_us("volume-1", 5).value(), std::vector<uint64_t>{42});
  EXPECT_EQ(store->events(0, "", 10)->at(0).kind(), "redirect");
  EXPECT_EQ(store->decisions("volume-1", 10)->at(0).inputs().at("used"), 0.5);
  EXPECT_EQ(store->history("volume-1", 10)->back().used, 20u);
}

TEST_F(StoreTest, ASecondOpenerIsBusyAndToldWhere) {
  auto store = open();
  const Error error = open_error();
  EXPECT_EQ(error.code, Code::kBusy);
  EXPECT_NE(error.message.find(dir_), std::string::npos) << error.message;
  store.reset();
  EXPECT_NE(open(), nullptr);
}

TEST_F(StoreTest, RefusesWhatIsNotAStoreAndLeavesItAlone) {
  std::filesystem::create_directories(dir_);
  const std::string nonsense(8192, 'x');
  std::ofstream(dir_ + "/control.db") << nonsense;
  const Error error = open_error();
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_NE(error.message.find("control.db"), std::string::npos) << error.message;
  std::ifstream again(dir_ + "/control.db");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(again), {}), nonsense);
}

TEST_F(StoreTest, RefusesAnotherProgramsDatabase) {
  std::filesystem::create_directories(dir_);
  {
    auto db = sqlite::Connection::open(dir_ + "/control.db");
    ASSERT_TRUE(db && db->run_script("CREATE TABLE shopping(item)"));
  }
  EXPECT_EQ(open_error().code, Code::kCorrupt);
}

TEST_F(StoreTest, RefusesANewerSchemaNamingBoth) {
  open();
  {
    auto db = sqlite::Connection::open(dir_ + "/control.db");
    ASSERT_TRUE(db && db->run_script("PRAGMA user_version=99"));
  }
  const Error error = open_error();
  EXPECT_EQ(error.code, Code::kFailedPrecondition);
  EXPECT_NE(error.message.find("99"), std::string::npos) << error.message;
  EXPECT_NE(error.message.find(std::to_string(kSchemaVersion)), std::string::npos) << error.message;
}

TEST_F(StoreTest, RefusesADamagedStore) {
  {
    auto store = open();
    std::vector<HistoryRow> rows;
    for (uint64_t i = 1; i <= 2000; ++i) rows.push_back({"volume-1", i, i, 1, 4000});
    ASSERT_TRUE(store->add_history(rows));
  }
  const auto size = std::filesystem::file_size(dir_ + "/control.db");
  std::fstream file(dir_ + "/control.db", std::ios::in | std::ios::out | std::ios::binary);
  // Past the first page, so that it still looks like ours.
  for (uint64_t at = 8192; at + 4096 < size; at += 4096) {
    file.seekp(static_cast<std::streamoff>(at));
    file << std::string(512, '\x5a');
  }
  file.close();
  EXPECT_EQ(open_error().code, Code::kCorrupt);
}

TEST_F(StoreTest, AFailedTransactionUndoesEverything) {
  auto store = open();
  const Status done = store->transaction(Durability::kPowerLoss, [&]() -> Status {
    const Status added = store->add_intent(intent_row("a"));
    if (!added) return added;
    return store->add_intent(intent_row("a"));  // the id is taken
  });
  EXPECT_EQ(done.error().code, Code::kAlreadyExists);
  EXPECT_TRUE(store->unfinished_intents()->empty());
  EXPECT_TRUE(store->add_intent(intent_row("a")));
}

TEST_F(StoreTest, BoundsEventsDecisionsAndFinishedIntents) {
  Store::Bounds bounds;
  bounds.events = 10;
  bounds.decisions_per_volume = 3;
  bounds.finished_intents = 4;
  auto store = open(bounds);
  for (int i = 1; i <= 25; ++i) {
    v1::Event event;
    event.set_kind("k");
    EXPECT_EQ(store->add_event(event).value(), static_cast<uint64_t>(i));
    v1::Decision decision;
    decision.set_sentence(std::to_string(i));
    ASSERT_TRUE(store->add_decision("volume-1", decision));
    IntentRow row = intent_row(std::to_string(i));
    ASSERT_TRUE(store->add_intent(row));
    row.state = IntentState::kDone;
    if (i % 5 == 0) continue;
    ASSERT_TRUE(store->update_intent(row));
  }
  const auto events = store->events(0, "", 100);
  ASSERT_EQ(events->size(), 10u);
  EXPECT_EQ(events->front().sequence(), 16u);
  const auto decisions = store->decisions("volume-1", 100);
  ASSERT_EQ(decisions->size(), 3u);
  EXPECT_EQ(decisions->front().sentence(), "25");
  EXPECT_EQ(store->unfinished_intents()->size(), 5u);
  EXPECT_LE(store->lead_times_us("volume-1", 100)->size(), 5u);
}

TEST_F(StoreTest, HistoryStaysWithinItsBoundAndKeepsWhatWasAllocated) {
  auto store = open();
  constexpr uint64_t kLimit = foreshadow::limits::kHistorySamplesPerVolume;
  std::vector<HistoryRow> rows;
  for (uint64_t i = 1; i <= kLimit; ++i) rows.push_back({"volume-1", i * 1000, i, 1, kLimit * 2});
  ASSERT_TRUE(store->add_history(rows));
  EXPECT_EQ(store->history_size("volume-1").value(), kLimit);
  const HistoryRow one_more{"volume-1", (kLimit + 1) * 1000, kLimit + 1, 1, kLimit * 2};
  ASSERT_TRUE(store->add_history(std::span(&one_more, 1)));
  EXPECT_LE(store->history_size("volume-1").value(), kLimit / 2 + kLimit / 2 / 60 + 2);
  const auto kept = store->history("volume-1", kLimit);
  uint64_t allocated = 0, last_ms = 0;
  for (const HistoryRow& row : *kept) {
    EXPECT_GT(row.time_ms, last_ms);
    last_ms = row.time_ms;
    allocated += row.allocated;
  }
  EXPECT_EQ(allocated, kLimit + 1);
  EXPECT_EQ(kept->back().used, kLimit + 1);
}

TEST_F(StoreTest, HistoryOfMinutesIsCutAtTheBound) {
  Store::Bounds bounds;
  bounds.history_per_volume = 100;
  auto store = open(bounds);
  for (uint64_t i = 1; i <= 350; ++i) {
    const HistoryRow row{"volume-1", i * 60'000, i, 1, 1000};
    ASSERT_TRUE(store->add_history(std::span(&row, 1)));
    ASSERT_LE(store->history_size("volume-1").value(), 100u);
  }
  EXPECT_EQ(store->history("volume-1", 1000)->back().used, 350u);
}

TEST_F(StoreTest, ADeletedVolumeLeavesOnlyItsEvents) {
  auto store = open();
  v1::Volume volume;
  volume.set_id("volume-1");
  volume.set_name("data");
  volume.add_segments();
  ASSERT_TRUE(store->put_volume(volume));
  const HistoryRow row{"volume-1", 1, 1, 1, 1};
  ASSERT_TRUE(store->add_history(std::span(&row, 1)));
  v1::Event event;
  event.set_volume("data");
  ASSERT_TRUE(store->add_event(event));
  ASSERT_TRUE(store->remove_volume("volume-1"));
  EXPECT_TRUE(store->volumes()->empty());
  EXPECT_EQ(store->history_size("volume-1").value(), 0u);
  EXPECT_EQ(store->events(0, "data", 10)->size(), 1u);
  EXPECT_TRUE(store->events(UINT64_MAX, "", 10)->empty());
}

}  // namespace
}  // namespace foreshadow::control
