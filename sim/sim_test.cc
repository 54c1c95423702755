// Tests of the instruments themselves: a checker that cannot fail proves nothing.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "io/buffer.h"
#include "sim/disk.h"
#include "sim/oracle.h"
#include "sim/run.h"
#include "sim/scheduler.h"

namespace foreshadow::sim {
namespace {

// An op that notes its own completion.
struct Noted : io::Op {
  std::vector<int>* order = nullptr;
  int number = 0;
  int outcome = 1;  // 1: not completed
  std::function<void()> then;
  Noted() {
    done = [](io::Op* op, int r) {
      auto* self = static_cast<Noted*>(op);
      self->outcome = r;
      if (self->order != nullptr) self->order->push_back(self->number);
      if (self->then) self->then();
    };
  }
};

std::vector<std::byte> filled(size_t bytes, uint8_t value) {
  return std::vector<std::byte>(bytes, std::byte{value});
}

// ---- scheduler

TEST(Scheduler, TheSeedDecidesTheOrderOfReadyOps) {
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::vector<int> runs[2];
    for (auto& order : runs) {
      Scheduler scheduler(seed);
      Noted ops[4];
      for (int i = 0; i < 4; ++i) {
        ops[i].order = &order;
        ops[i].number = i;
        scheduler.post(ops[i]);
      }
      EXPECT_TRUE(scheduler.run_until_idle());
    }
    EXPECT_EQ(runs[0], runs[1]) << "seed " << seed;
    orders.insert(runs[0]);
  }
  EXPECT_GT(orders.size(), 10u);
}

TEST(Scheduler, DeferredRunsAfterAllThatWasReadyButNotAfterWhatFollows) {
  std::set<int> places;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Scheduler scheduler(seed);
    std::vector<int> order;
    Noted ops[6];
    for (int i = 0; i < 6; ++i) {
      ops[i].order = &order;
      ops[i].number = i;
    }
    ops[0].then = [&] { scheduler.post(ops[3]); };  // ready only later: no need to wait for it
    ops[3].then = [&] { scheduler.post(ops[4]); };
    ops[4].then = [&] { scheduler.post(ops[5]); };
    scheduler.post(ops[0]);
    scheduler.post(ops[1]);
    scheduler.defer(ops[2]);
    scheduler.run_until_idle();
    ASSERT_EQ(order.size(), 6u);
    const auto at = [&](int n) { return std::find(order.begin(), order.end(), n) - order.begin(); };
    EXPECT_LT(at(0), at(2));
    EXPECT_LT(at(1), at(2));
    places.insert(static_cast<int>(at(2)));
  }
  EXPECT_GT(places.size(), 1u);
}

TEST(Scheduler, TimersFireAtTheirDeadlineInOrderUnlessCancelled) {
  Scheduler scheduler(1);
  std::vector<int> order;
  io::Timer timers[3];
  static std::vector<int>* out;
  out = &order;
  const auto start = scheduler.now();
  for (int i = 0; i < 3; ++i) {
    timers[i].op.length = 0;
    timers[i].op.target = &timers[i];
    timers[i].op.done = [](io::Op* op, int) {
      out->push_back(static_cast<io::Timer*>(op->target)->op.flags);
    };
    timers[i].op.flags = static_cast<uint8_t>(i);
    scheduler.arm(timers[i], start + Nanos(1000 * (3 - i)));
  }
  scheduler.cancel(timers[1]);
  EXPECT_TRUE(scheduler.run_until_idle());
  EXPECT_EQ(order, (std::vector<int>{2, 0}));
  EXPECT_GE(scheduler.now(), start + Nanos(3000));
}

TEST(Scheduler, OffloadsKeepTheirOrderAndOthersRunBetween) {
  Scheduler scheduler(3);
  std::string log;
  scheduler.offload([&] { log += "a"; }, [&] { log += "A"; });
  scheduler.offload([&] { log += "b"; }, [&] { log += "B"; });
  EXPECT_TRUE(scheduler.run_until_idle());
  EXPECT_EQ(log, "aAbB");
}

TEST(Scheduler, CrashForgetsEverything) {
  Scheduler scheduler(4);
  Noted posted, deferred;
  io::Timer timer;
  scheduler.post(posted);
  scheduler.defer(deferred);
  timer.op.done = [](io::Op*, int) { FAIL(); };
  scheduler.arm(timer, scheduler.now() + Nanos(5));
  scheduler.crash();
  EXPECT_TRUE(scheduler.idle());
  EXPECT_FALSE(scheduler.step());
  EXPECT_EQ(posted.outcome, 1);
  EXPECT_FALSE(timer.armed());
}

// ---- disk

struct DiskTest : ::testing::Test {
  Scheduler scheduler{7};
  SeededRng rng{7};
  Disk disk{scheduler, rng, 64 * 1024, 512};
  std::unique_ptr<io::File> file = disk.open();

  int write(uint64_t at, const std::vector<std::byte>& bytes, bool durable = false) {
    Noted op;
    durable ? file->write_durable(op, at, bytes) : file->write(op, at, bytes);
    scheduler.run_until_idle();
    return op.outcome;
  }
  int sync() {
    Noted op;
    file->sync(op);
    scheduler.run_until_idle();
    return op.outcome;
  }
  int read(uint64_t at, std::vector<std::byte>& bytes) {
    Noted op;
    file->read(op, at, bytes);
    scheduler.run_until_idle();
    return op.outcome;
  }
  uint8_t first_byte(uint64_t at) {
    auto bytes = filled(512, 0xee);
    EXPECT_EQ(read(at, bytes), 0);
    return static_cast<uint8_t>(bytes[0]);
  }
  void cycle() {
    disk.power_off();
    disk.power_on();
    file = disk.open();
  }
};

TEST_F(DiskTest, CompletedWritesAreSeenAndSyncedOnesSurvive) {
  for (int round = 0; round < 50; ++round) {
    EXPECT_EQ(write(512, filled(1024, 0xa1)), 0);
    EXPECT_EQ(first_byte(512), 0xa1);
    EXPECT_EQ(sync(), 0);
    EXPECT_EQ(write(4096, filled(512, static_cast<uint8_t>(round)), true), 0);
    cycle();
    EXPECT_EQ(first_byte(512), 0xa1);
    EXPECT_EQ(first_byte(1024), 0xa1);
    EXPECT_EQ(first_byte(4096), round) << "a durable write needs no sync";
    EXPECT_EQ(write(512, filled(1024, 0)), 0);
    EXPECT_EQ(sync(), 0);
  }
}

TEST_F(DiskTest, AnUnsyncedSectorIsAnyOfItsValuesAndEachHappens) {
  std::map<std::pair<uint8_t, uint8_t>, int> seen;
  for (int round = 0; round < 400; ++round) {
    write(0, filled(1024, 1));
    sync();
    write(0, filled(1024, 2));
    write(0, filled(1024, 3));
    cycle();
    ++seen[{first_byte(0), first_byte(512)}];
  }
  EXPECT_EQ(seen.size(), 9u) << "old, first or second in each of two sectors";
  for (const auto& [values, count] : seen) {
    EXPECT_TRUE(values.first >= 1 && values.first <= 3 && values.second >= 1 && values.second <= 3) << count;
  }
}

TEST_F(DiskTest, ADurableWriteIsNotUndoneByAnOlderPendingOne) {
  for (int round = 0; round < 200; ++round) {
    write(0, filled(1024, 1));
    write(512, filled(512, 2), true);
    cycle();
    EXPECT_EQ(first_byte(512), 2);
  }
}

TEST_F(DiskTest, ASyncCoversOnlyWhatCompletedBeforeItWasIssued) {
  int lost = 0;
  for (int round = 0; round < 200; ++round) {
    write(0, filled(512, 0));
    sync();
    Noted syncing, writing;
    const auto bytes = filled(512, 9);
    file->sync(syncing);
    file->write(writing, 0, bytes);
    scheduler.run_until_idle();
    EXPECT_EQ(syncing.outcome, 0);
    cycle();
    lost += first_byte(0) == 0 ? 1 : 0;
  }
  EXPECT_GT(lost, 20);
}

TEST_F(DiskTest, WithoutPowerEverythingFailsAndChangesNothing) {
  write(0, filled(512, 5));
  sync();
  Noted op;
  const auto bytes = filled(512, 6);
  disk.power_off();
  file->write(op, 0, bytes);
  scheduler.run_until_idle();
  EXPECT_EQ(op.outcome, -EIO);
  EXPECT_EQ(sync(), -EIO);
  disk.power_on();
  EXPECT_EQ(write(0, bytes), -EIO) << "an old handle stays dead";
  file = disk.open();
  EXPECT_EQ(first_byte(0), 5);
}

TEST_F(DiskTest, AWriteInFlightAtTheCrashMayArriveInPart) {
  std::set<std::pair<uint8_t, uint8_t>> seen;
  for (int round = 0; round < 400; ++round) {
    write(0, filled(1024, 1));
    sync();
    Noted op;
    const auto bytes = filled(1024, 2);
    file->write_durable(op, 0, bytes);
    disk.power_off();
    scheduler.run_until_idle();
    EXPECT_EQ(op.outcome, -EIO);
    disk.power_on();
    file = disk.open();
    seen.insert({first_byte(0), first_byte(512)});
  }
  EXPECT_EQ(seen.size(), 4u);
}

TEST_F(DiskTest, AFailedSyncMayForgetForEver) {
  int lost = 0;
  for (uint64_t round = 0; round < 200; ++round) {
    write(0, filled(512, 1));
    sync();
    write(0, filled(512, 2));
    disk.faults.sync_at = disk.counts().syncs + 1;
    EXPECT_EQ(sync(), -EIO);
    EXPECT_EQ(first_byte(0), 2) << "it is still in the cache";
    EXPECT_EQ(sync(), 0);
    cycle();
    lost += first_byte(0) == 1 ? 1 : 0;
  }
  EXPECT_GT(lost, 50);
  EXPECT_LT(lost, 150);
}

TEST_F(DiskTest, FaultsHitTheCallTheyName) {
  auto bytes = filled(512, 1);
  disk.faults.read_at = 2;
  EXPECT_EQ(read(0, bytes), 0);
  EXPECT_EQ(read(0, bytes), -EIO);
  EXPECT_EQ(read(0, bytes), 0);
  disk.faults = {};
  disk.faults.write_at = 1;
  disk.faults.persistent = true;
  EXPECT_EQ(write(0, bytes), -EIO);
  EXPECT_EQ(write(0, bytes), -EIO);
  disk.faults = {};
  disk.faults.phantom_at = 3;
  EXPECT_EQ(write(2048, filled(512, 7)), 0);
  EXPECT_EQ(first_byte(2048), 0);
  disk.faults = {};
  disk.faults.misdirect_at = 4;
  disk.faults.misdirect_to = 8192;
  EXPECT_EQ(write(2048, filled(512, 7)), 0);
  EXPECT_EQ(first_byte(2048), 0);
  EXPECT_EQ(first_byte(8192), 7);
  disk.flip_bits(8192, std::byte{0x80});
  EXPECT_EQ(first_byte(8192), 0x87);
  disk.faults = {};
  disk.faults.slow_at = disk.counts().reads + disk.counts().writes + disk.counts().syncs + 1;
  disk.faults.slow_by = std::chrono::seconds(3);
  const auto before = scheduler.now();
  EXPECT_EQ(read(0, bytes), 0);
  EXPECT_GE(scheduler.now() - before, std::chrono::seconds(3));
}

TEST_F(DiskTest, APhantomOrMisdirectedWriteIsALieUntilThePowerGoes) {
  write(16384, filled(512, 1));
  sync();
  disk.faults.misled_from = 16384;
  disk.faults.misdirect_at = disk.counts().writes + 1;
  disk.faults.misdirect_to = 16384;
  write(0, filled(512, 2));  // below: not this one
  EXPECT_FALSE(disk.misled());
  write(20480, filled(512, 3));
  EXPECT_TRUE(disk.misled());
  EXPECT_EQ(first_byte(20480), 0);
  EXPECT_EQ(first_byte(16384), 3);
  write(24576, filled(512, 4));  // once is enough
  EXPECT_EQ(first_byte(24576), 4);
  sync();
  disk.power_off();
  disk.power_on();
  file = disk.open();
  EXPECT_FALSE(disk.misled());
  EXPECT_EQ(first_byte(20480), 3);
  EXPECT_EQ(first_byte(16384), 1);
}

TEST_F(DiskTest, EverySubsetOfUndecidedSectorsCanBeEnumerated) {
  write(0, filled(1024, 1));
  sync();
  write(0, filled(1024, 2));
  write(2048, filled(512, 3));
  ASSERT_EQ(disk.undecided(), 3u);
  std::set<std::string> images;
  for (int state = 0; state < 8; ++state) {
    const uint8_t kept[3] = {static_cast<uint8_t>(state & 1), static_cast<uint8_t>(state >> 1 & 1),
                             static_cast<uint8_t>(state >> 2 & 1)};
    Disk image(scheduler, disk, kept);
    std::string values;
    for (const uint64_t at : {0, 512, 2048}) {
      auto bytes = filled(512, 0);
      (void)image.peek(at, bytes);
      values += static_cast<char>('0' + static_cast<int>(bytes[0]));
    }
    images.insert(values);
  }
  EXPECT_EQ(images, (std::set<std::string>{"110", "210", "120", "220", "113", "213", "123", "223"}));
}

TEST_F(DiskTest, GrowthMayBeTakenBackUntilASyncThatBeganBehindIt) {
  std::set<uint64_t> sizes;
  for (int round = 0; round < 50; ++round) {
    const uint64_t before = disk.size();
    ASSERT_TRUE(disk.resize(before + 4096));
    EXPECT_EQ(disk.undecided(), 1u);
    const uint8_t lost[1] = {0};
    EXPECT_EQ(Disk(scheduler, disk, lost).size(), before);
    cycle();
    sizes.insert(disk.size() - before);
    ASSERT_TRUE(disk.resize(before + 4096));
    EXPECT_EQ(sync(), 0);
    cycle();
    EXPECT_EQ(disk.size(), before + 4096);
    Noted early;
    file->sync(early);
    ASSERT_TRUE(disk.resize(before + 8192));
    scheduler.run_until_idle();
    EXPECT_EQ(disk.undecided(), 1u);
    Noted between;  // covers the growth before it, and not the one that follows
    file->sync(between);
    ASSERT_TRUE(disk.resize(before + 12288));
    scheduler.run_until_idle();
    const uint8_t late_lost[1] = {0};
    EXPECT_EQ(Disk(scheduler, disk, late_lost).size(), before + 8192);
    ASSERT_TRUE(disk.resize(64 * 1024));
    EXPECT_EQ(disk.undecided(), 0u) << "it is cut off below what a sync has covered";
  }
  EXPECT_EQ(sizes, (std::set<uint64_t>{0, 4096}));
}

// ---- oracle

struct OracleTest : ::testing::Test {
  Oracle oracle{8192, 1024, 42};

  std::vector<std::byte> value(Oracle::OpId id, uint64_t bytes) {
    std::vector<std::byte> out(bytes);
    oracle.fill(id, out);
    return out;
  }
  // A whole write of one sector, acknowledged.
  std::vector<std::byte> put(uint64_t at, bool fua = false) {
    const auto id = oracle.begin_write(at, 512, 0);
    oracle.end(id, true, fua);
    return value(id, 512);
  }
  bool reads(uint64_t at, const std::vector<std::byte>& data) {
    const uint32_t ticket = oracle.begin_read();
    const auto wrong = oracle.check_read(ticket, at, data);
    oracle.end_read(ticket);
    return !wrong;
  }
  bool recovers(uint64_t at, const std::vector<std::byte>& data) { return !oracle.check_recovered(at, data); }
  void flush() { oracle.end_flush(oracle.begin_flush()); }
  const std::vector<std::byte> zero = filled(512, 0);
};

TEST_F(OracleTest, AReadGivesTheLastAcknowledgedWriteOnly) {
  EXPECT_TRUE(reads(0, zero));
  const auto first = put(0);
  EXPECT_TRUE(reads(0, first));
  const auto second = put(0);
  EXPECT_FALSE(reads(0, first)) << "stale";
  EXPECT_FALSE(reads(0, zero)) << "lost";
  EXPECT_FALSE(reads(512, second)) << "of another sector";
  EXPECT_FALSE(reads(0, filled(512, 0x5a))) << "garbage";
  auto torn = second;
  torn[511] ^= std::byte{1};
  EXPECT_FALSE(reads(0, torn));
  EXPECT_TRUE(reads(0, second));
}

TEST_F(OracleTest, AWrongValueNamesItsSource) {
  const auto id = oracle.begin_write(1024, 512, 3);
  oracle.end(id, true, false);
  const auto wrong = oracle.check_read(oracle.begin_read(), 0, value(id, 512));
  ASSERT_TRUE(wrong);
  EXPECT_NE(wrong->find("op 1 of writer 3 for sector 2"), std::string::npos) << *wrong;
}

TEST_F(OracleTest, ValuesOfAnotherVolumeAreNotOurs) {
  Oracle other(8192, 1024, 43);
  const auto theirs = other.begin_write(0, 512, 0);
  std::vector<std::byte> data(512);
  other.fill(theirs, data);
  put(0);
  EXPECT_FALSE(reads(0, data));
}

TEST_F(OracleTest, AReadBesideAWriteMayGiveEither) {
  const auto old = put(0);
  const auto id = oracle.begin_write(0, 512, 0);
  EXPECT_TRUE(reads(0, old));
  EXPECT_TRUE(reads(0, value(id, 512)));
  const uint32_t ticket = oracle.begin_read();
  oracle.end(id, true, true);
  flush();
  EXPECT_FALSE(oracle.check_read(ticket, 0, old)) << "it was submitted while the write was in flight";
  oracle.end_read(ticket);
  EXPECT_FALSE(reads(0, old));
}

TEST_F(OracleTest, OverlappingWritesEndInEitherOrderButOnlyOne) {
  const auto one = oracle.begin_write(0, 512, 0);
  const auto two = oracle.begin_write(0, 512, 0);
  oracle.end(two, true, false);
  oracle.end(one, true, false);
  EXPECT_TRUE(reads(0, value(two, 512)));
  EXPECT_FALSE(reads(0, value(one, 512))) << "the other was seen already";
}

TEST_F(OracleTest, AFlushedWriteMayNotBeLost) {
  const auto flushed = put(0);
  flush();
  const auto later = put(0);
  oracle.crash();
  Oracle copy = oracle;
  EXPECT_FALSE(recovers(0, zero));
  EXPECT_TRUE(recovers(0, flushed));
  EXPECT_FALSE(copy.check_recovered(0, later)) << "a newer one may have made it";
}

TEST_F(OracleTest, AFlushCoversOnlyWhatWasAcknowledgedBeforeItsSubmission) {
  const auto id = oracle.begin_write(0, 512, 0);
  const uint32_t flushing = oracle.begin_flush();
  oracle.end(id, true, false);
  oracle.end_flush(flushing);
  oracle.crash();
  EXPECT_TRUE(recovers(0, zero));
}

TEST_F(OracleTest, AFlushThatWasNotAcknowledgedPromisesNothing) {
  put(0);
  (void)oracle.begin_flush();
  oracle.crash();
  EXPECT_TRUE(recovers(0, zero));
}

TEST_F(OracleTest, FuaIsItsOwnFlushAndOfNobodyElse) {
  const auto other = put(512);
  const auto durable = put(0, true);
  oracle.crash();
  EXPECT_TRUE(recovers(512, zero));
  EXPECT_FALSE(recovers(0, zero));
  EXPECT_TRUE(recovers(0, durable));
  EXPECT_FALSE(recovers(512, other)) << "its loss was seen: it may not come back";
}

TEST_F(OracleTest, WhatWasSeenAfterRecoveryStays) {
  const auto unflushed = put(0);
  oracle.crash();
  EXPECT_TRUE(recovers(0, unflushed));
  oracle.crash();
  EXPECT_FALSE(recovers(0, zero)) << "lost after it had been recovered";
  oracle.crash();
  EXPECT_TRUE(recovers(0, unflushed));
}

TEST_F(OracleTest, AFlushAfterACrashDoesNotVouchForWhatWasBefore) {
  put(0);
  oracle.crash();
  flush();
  oracle.crash();
  EXPECT_TRUE(recovers(0, zero));
}

TEST_F(OracleTest, AFailedWriteMayHaveHappenedAndReplacesNothing) {
  const auto old = put(0, true);
  const auto id = oracle.begin_write(0, 512, 0);
  oracle.end(id, false, false);
  flush();
  Oracle copy = oracle;
  EXPECT_TRUE(reads(0, old));
  EXPECT_FALSE(copy.check_read(copy.begin_read(), 0, value(id, 512)));
  oracle.crash();
  EXPECT_TRUE(recovers(0, value(id, 512)));
}

TEST_F(OracleTest, TrimZeroesWholeSubBlocksAndMayLeaveParts) {
  const auto head = put(512), whole = put(1024);
  const auto trim = oracle.begin_trim(512, 1536);  // sub-block 0 in part, sub-block 1 as a whole
  oracle.end(trim, true, true);
  EXPECT_FALSE(reads(1024, whole));
  EXPECT_TRUE(reads(1024, zero));
  EXPECT_TRUE(reads(512, head));
  oracle.crash();
  EXPECT_FALSE(recovers(1024, whole));
  EXPECT_TRUE(recovers(1024, zero));
  EXPECT_TRUE(recovers(512, zero));
}

TEST_F(OracleTest, ZeroIsExact) {
  const auto data = put(512);
  oracle.end(oracle.begin_zero(512, 512), true, false);
  EXPECT_FALSE(reads(512, data));
  flush();
  oracle.crash();
  EXPECT_FALSE(recovers(512, data)) << "resurrected";
  EXPECT_TRUE(recovers(512, zero));
}

// ---- the whole

TEST(Run, EqualSeedsHaveEqualHashesAndOthersDiffer) {
  std::set<uint64_t> hashes;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const SeedResult first = run_seed(seed, {});
    const SeedResult second = run_seed(seed, {});
    EXPECT_EQ(first.violation, "") << "seed " << seed;
    EXPECT_EQ(first.hash, second.hash) << "seed " << seed;
    EXPECT_GT(first.crashes, 0u);
    hashes.insert(first.hash);
  }
  EXPECT_EQ(hashes.size(), 10u);
}

}  // namespace
}  // namespace foreshadow::sim
