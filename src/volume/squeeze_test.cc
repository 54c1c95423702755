// Squeezed clusters through the whole engine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "extent/container.h"
#include "extent/sealed_block.h"
#include "extent/table_page.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;
constexpr uint64_t kCluster = 64 * kKiB;
constexpr SqueezeOptions kZstd{{extent::SqueezeCodec::kZstd, 0}, 0};
constexpr SqueezeOptions kLz4{{extent::SqueezeCodec::kLz4, 0}, 0};

// Bytes that are noise at the start of each cluster, and compress behind it: a blob of about `noisy` slots.
std::vector<uint8_t> mixed(Rng& rng, uint64_t bytes, uint64_t noisy) {
  std::vector<uint8_t> out(bytes);
  for (uint64_t i = 0; i < bytes; ++i) {
    out[i] = i % kCluster < noisy * 4096 ? static_cast<uint8_t>(rng.next()) : static_cast<uint8_t>(i / 600);
  }
  return out;
}

struct SqueezeRig : Rig {
  SeededRng seeded{7};
  std::vector<uint8_t> model = std::vector<uint8_t>(kGiB / 16);

  void put(uint64_t offset, const std::vector<uint8_t>& data) {
    auto call = start(OpKind::kWrite, offset, data.size());
    std::memcpy(call->data.data(), data.data(), data.size());
    ASSERT_EQ(finish(*call), Code::kOk);
    std::copy(data.begin(), data.end(), model.begin() + static_cast<ptrdiff_t>(offset));
  }
  void put_mixed(uint64_t offset, uint64_t bytes, uint64_t noisy) {
    put(offset, mixed(seeded, bytes, noisy));
  }
  void put_fill(uint64_t offset, uint64_t bytes, uint8_t fill) {
    put(offset, std::vector<uint8_t>(bytes, fill));
  }
  void clear(OpKind kind, uint64_t offset, uint64_t bytes) {
    ASSERT_EQ(plain(kind, offset, bytes), Code::kOk);
    std::fill_n(model.begin() + static_cast<ptrdiff_t>(offset), bytes, uint8_t{0});
  }
  bool agrees(uint64_t offset, uint64_t bytes) {
    const auto from = model.begin() + static_cast<ptrdiff_t>(offset);
    return read(offset, bytes) == std::vector<uint8_t>(from, from + static_cast<ptrdiff_t>(bytes));
  }
  std::string backing() { return directory() + "/" + pool().list()->front() + ".seg"; }
  // Where in the only backing the header of the zstd blob of cluster 1 is, wherever its container is.
  uint64_t blob_of_cluster_1() {
    std::ifstream in(backing(), std::ios::binary);
    std::vector<char> slot(4096);
    uint64_t blob = 0;
    for (uint64_t at = 0; in.read(slot.data(), 4096); at += 4096) {
      const bool found = slot[4] == 1 && slot[5] == 0 && slot[6] == 0 && slot[7] == 0 && slot[12] == 2 &&
                         slot[13] == 0 && slot[10] == 0 && slot[9] != 0;
      if (found) blob = at;
    }
    return blob;
  }
  Uuid primary() { return volume().segments()[0].uuid; }
  SqueezeReport squeeze(SqueezeOptions how = kZstd) {
    auto report = wait(volume().squeeze_segment(primary(), how));
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : SqueezeReport{};
  }
  // Also after a crash-less reopen, with every invariant checked on disk.
  void expect_all(uint64_t offset, uint64_t bytes) {
    EXPECT_TRUE(agrees(offset, bytes));
    EXPECT_EQ(findings(), std::vector<std::string>{});
    close();
    ASSERT_TRUE(open()) << error.message;
    EXPECT_TRUE(agrees(offset, bytes));
    EXPECT_EQ(findings(), std::vector<std::string>{});
  }
};

TEST(Squeeze, PacksThreeToAContainerAndReadsThemBack) {
  for (const SqueezeOptions& how : {kZstd, kLz4}) {
    SqueezeRig rig;
    rig.create(kGiB / 16, 32 * kMiB);
    rig.put_mixed(0, 12 * kMiB, 4);  // blobs of 5 slots
    const uint64_t before = rig.volume().usage().used;
    const SqueezeReport report = rig.squeeze(how);
    EXPECT_EQ(report.squeezed, 192u);
    EXPECT_EQ(report.containers, 64u);
    EXPECT_EQ(rig.volume().usage().used, before / 3);
    EXPECT_EQ(rig.volume().usage().data, 12 * kMiB);
    const Squeezed squeezed = rig.volume().usage().squeezed;
    EXPECT_EQ(squeezed.logical, 12 * kMiB);
    EXPECT_EQ(squeezed.physical, 4 * kMiB);
    EXPECT_NEAR(squeezed.ratio_mean, 5.0 / 16, 0.01);
    EXPECT_EQ(squeezed.ratio_p90, 5.0 / 16);
    EXPECT_TRUE(rig.agrees(5 * kCluster + 100, 3000));
    EXPECT_TRUE(rig.agrees(7 * kCluster - 1, 2));
    rig.expect_all(0, 12 * kMiB);
    EXPECT_EQ(rig.volume().usage().used, before / 3);
    EXPECT_EQ(rig.squeeze(how).taken, 0u) << "nothing is left to do";
  }
}

TEST(Squeeze, WhatIsIncompressibleOrAloneStaysRaw) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 32 * kMiB);
  rig.put_mixed(0, kMiB, 16);
  rig.put_mixed(kMiB, kCluster, 3);
  rig.put_mixed(2 * kMiB, kMiB, 11);  // 12 slots each: no two share a container
  rig.put_fill(8 * kMiB, 4096, 9);    // not all of it is mapped
  const SqueezeReport report = rig.squeeze();
  EXPECT_EQ(report.incompressible, 16u);
  EXPECT_EQ(report.squeezed, 2u) << "4 and 12 slots";
  EXPECT_EQ(report.alone, 15u);
  rig.expect_all(0, 9 * kMiB);
}

TEST(Squeeze, WritesLayAnOverlayAndAWholeOneReplacesTheBlob) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 32 * kMiB);
  rig.put_mixed(0, 3 * kCluster, 4);
  ASSERT_EQ(rig.squeeze().containers, 1u);
  EXPECT_EQ(rig.volume().usage().used, kCluster);
  rig.put_fill(kCluster + 8192, 4096, 1);
  EXPECT_EQ(rig.volume().usage().used, 2 * kCluster) << "the blob, and a cluster for what is above it";
  rig.put_fill(kCluster + 20'001, 3, 2);  // a read-modify-write of a sub-block that is in the blob
  rig.put_fill(2 * kCluster - 1000, 2000, 3);
  rig.expect_all(0, 3 * kCluster);
  rig.put_fill(kCluster, kCluster, 4);
  EXPECT_EQ(rig.volume().usage().squeezed.logical, 2 * kCluster);
  rig.expect_all(0, 3 * kCluster);
  rig.put_fill(0, kCluster, 5);
  rig.put_fill(2 * kCluster, kCluster, 6);
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_EQ(rig.volume().usage().squeezed.physical, 0u);
  EXPECT_EQ(rig.volume().usage().used, 3 * kCluster) << "nobody is left in the container: it is free";
  rig.expect_all(0, 3 * kCluster);
}

TEST(Squeeze, TrimAndZeroAreExact) {
  for (const OpKind kind : {OpKind::kTrim, OpKind::kZero}) {
    SqueezeRig rig;
    rig.create(kGiB / 16, 32 * kMiB);
    rig.put_mixed(0, 30 * kCluster, 4);
    ASSERT_EQ(rig.squeeze().containers, 10u);
    rig.clear(kind, 3 * kCluster, 2 * kCluster);          // whole ones
    rig.clear(kind, 6 * kCluster + 4096, 8192);           // a part
    rig.clear(kind, 8 * kCluster + 32768, 4 * kCluster);  // a tail, three whole ones, a head
    rig.put_fill(14 * kCluster + 4096, 4096, 7);
    rig.clear(kind, 14 * kCluster + 4096, 4096);  // what is above, not below
    rig.put_fill(15 * kCluster, kCluster - 4096, 8);
    rig.clear(kind, 16 * kCluster - 4096, 4096);  // all that was left of the blob
    if (kind == OpKind::kZero) rig.clear(kind, 20 * kCluster + 1000, 2 * kCluster + 77);
    rig.expect_all(0, 30 * kCluster);
    rig.clear(kind, 0, 30 * kCluster);
    ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
    EXPECT_EQ(rig.volume().usage().used, 0u);
    EXPECT_EQ(rig.volume().usage().squeezed.physical, 0u);
    rig.expect_all(0, 30 * kCluster);
  }
}

TEST(Squeeze, LoneMembersArePackedAnew) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 32 * kMiB);
  rig.put_mixed(0, 9 * kCluster, 4);
  ASSERT_EQ(rig.squeeze().containers, 3u);
  std::vector<uint64_t> left;
  for (uint64_t lcn = 0; lcn < 9; ++lcn) {
    if (lcn % 3 != 0) rig.clear(OpKind::kTrim, lcn * kCluster, kCluster);
  }
  rig.put_fill(3 * kCluster, 4096, 5);  // an overlay goes along
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_LE(rig.volume().usage().squeezed.physical, 3 * kCluster);
  const SqueezeReport report = rig.squeeze();
  EXPECT_GE(report.repacked, 2u);
  EXPECT_EQ(rig.volume().usage().squeezed.logical, 3 * kCluster);
  EXPECT_LT(rig.volume().usage().squeezed.physical, 3 * kCluster);
  rig.expect_all(0, 9 * kCluster);
}

struct AwaitCall {
  Volume& volume;
  Rig::Call& call;
  std::coroutine_handle<> waiter;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> h) {
    waiter = h;
    call.device_state = nullptr;
    call.next = nullptr;
    call.done = [](block::Request* request, Code code) {
      auto* done = static_cast<Rig::Call*>(request);
      done->outcome = code;
      static_cast<AwaitCall*>(done->context)->waiter.resume();
    };
    call.context = this;
    volume.submit(call);
  }
  Code await_resume() const { return *call.outcome; }
};

// A client that writes, trims and reads back one request after the other, until told.
io::Task<uint32_t> client(SqueezeRig& rig, uint64_t bytes, const bool& stop) {
  uint32_t writes = 0;
  for (; !stop; ++writes) {
    const uint64_t at = rig.seeded.below(bytes / 4096) * 4096;
    const uint64_t length = std::min<uint64_t>(bytes - at, 4096 * (1 + rig.seeded.below(20)));
    const bool trim = rig.seeded.chance(1, 4);
    std::vector<uint8_t> data(length, uint8_t{0});
    if (!trim) data = mixed(rig.seeded, length, 2);
    auto change = rig.start(trim ? OpKind::kTrim : OpKind::kWrite, at, length);
    if (!trim) std::memcpy(change->data.data(), data.data(), length);
    AwaitCall changing{rig.volume(), *change, {}};
    EXPECT_EQ(co_await changing, Code::kOk);
    std::copy(data.begin(), data.end(), rig.model.begin() + static_cast<ptrdiff_t>(at));
    const uint64_t from = align_down(at, kCluster);
    auto look = rig.start(OpKind::kRead, from, kCluster);
    AwaitCall looking{rig.volume(), *look, {}};
    EXPECT_EQ(co_await looking, Code::kOk);
    EXPECT_EQ(std::memcmp(look->data.data(), rig.model.data() + from, kCluster), 0)
        << "cluster " << from / kCluster;
  }
  co_return writes;
}

TEST(Squeeze, RequestsGoOnMeanwhileAndNothingIsLost) {
  for (const Redirect redirect : {Redirect::kAllocating, Redirect::kAll}) {
    SqueezeRig rig;
    rig.create(kGiB / 16, 64 * kMiB, redirect);
    rig.put_mixed(0, 24 * kMiB, 3);
    const Uuid shadow = rig.add_shadow(32 * kMiB);
    ASSERT_TRUE(rig.volume().activate_shadow(shadow));
    bool stop = false;
    std::optional<Result<SqueezeReport>> done;
    io::spawn(rig.volume().squeeze_segment(rig.primary(), kZstd), [&](Result<SqueezeReport>&& report) {
      done.emplace(std::move(report));
      stop = true;
    });
    EXPECT_GT(rig.wait(client(rig, 24 * kMiB, stop)), 10u);
    ASSERT_TRUE(done.has_value());
    ASSERT_TRUE(*done) << (*done)->squeezed;
    EXPECT_GT((*done)->squeezed, 20u) << "however busy the client was";
    rig.expect_all(0, 24 * kMiB);
  }
}

TEST(Squeeze, AFullVolumeIsSqueezedOutOfTheWall) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 16 * kMiB);
  const uint64_t capacity = rig.volume().usage().capacity;
  rig.put_mixed(0, capacity, 3);
  auto none = rig.wait(rig.volume().squeeze_segment(rig.primary(), kZstd));
  ASSERT_FALSE(none) << "not one cluster to begin with";
  EXPECT_EQ(none.error().code, Code::kNoSpace);
  auto held = rig.start(OpKind::kWrite, 60 * kMiB, 2 * kCluster, std::byte{1});
  rig.volume().submit(*held);
  rig.clear(OpKind::kTrim, kMiB, kCluster);  // one cluster: too few for the write
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_FALSE(held->outcome);
  EXPECT_GT(rig.squeeze().squeezed, 100u);
  EXPECT_EQ(rig.await(*held), Code::kOk);
  EXPECT_LT(rig.volume().usage().used, capacity / 2);
  rig.expect_all(0, capacity);
}

// A merged shadow with 12 MiB of squeezed clusters, some of them below overlays.
Uuid squeezed_shadow(SqueezeRig& rig) {
  rig.create(kGiB / 16, 16 * kMiB);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  EXPECT_TRUE(rig.volume().activate_shadow(shadow));
  rig.put_mixed(0, 12 * kMiB, 4);
  EXPECT_TRUE(rig.wait(rig.volume().merge_shadow(shadow)));
  auto report = rig.wait(rig.volume().squeeze_segment(shadow, kZstd));
  EXPECT_TRUE(report);
  EXPECT_EQ(report->squeezed, 192u) << report->alone << " " << report->taken << " " << report->containers;
  EXPECT_EQ(rig.volume().segments()[1].used, 4 * kMiB) << rig.volume().segments()[0].used;
  return shadow;
}

TEST(Squeeze, ASqueezedSegmentIsDrainedAsItIs) {
  SqueezeRig rig;
  const Uuid shadow = squeezed_shadow(rig);
  const Uuid other = rig.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig.wait(rig.volume().merge_shadow(other)));
  rig.put_fill(5 * kCluster + 4096, 4096, 3);
  rig.put_fill(77 * kCluster + 100, 3, 4);
  const Status drained = rig.wait(rig.volume().drain_segment(shadow));
  ASSERT_TRUE(drained) << drained.error().message;
  EXPECT_EQ(rig.volume().segments().size(), 2u);
  EXPECT_GE(rig.volume().usage().squeezed.logical, 190 * kCluster);
  EXPECT_LE(rig.volume().usage().used, 4 * kMiB + 2 * kCluster);
  rig.expect_all(0, 12 * kMiB);
}

TEST(Squeeze, OverlaysThatMustMoveAreFilledUpFirst) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 16 * kMiB);
  rig.put_mixed(0, 3 * kCluster, 4);
  ASSERT_EQ(rig.squeeze().containers, 1u);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig.volume().activate_shadow(shadow));
  rig.put_fill(kCluster + 4096, 4096, 3);  // the overlay goes to the shadow, the blob stays in the primary
  EXPECT_EQ(rig.volume().segments()[1].used, kCluster);
  ASSERT_TRUE(rig.wait(rig.volume().merge_shadow(shadow)));
  const Status drained = rig.wait(rig.volume().drain_segment(shadow));
  ASSERT_TRUE(drained) << drained.error().message;
  EXPECT_EQ(rig.volume().segments().size(), 1u);
  EXPECT_EQ(rig.volume().usage().squeezed.logical, 2 * kCluster);
  rig.expect_all(0, 3 * kCluster);
}

TEST(Squeeze, APassLetsOtherJobsGoFirstAndGoesOn) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 64 * kMiB);
  rig.put_mixed(0, 24 * kMiB, 3);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig.wait(rig.volume().merge_shadow(shadow)));
  std::optional<Result<SqueezeReport>> done;
  bool squeezing_when_drained = false;
  std::optional<Status> drained;
  io::spawn(rig.volume().squeeze_segment(rig.primary(), kZstd),
            [&](Result<SqueezeReport>&& report) { done.emplace(std::move(report)); });
  io::spawn(rig.volume().drain_segment(shadow), [&](Status&& status) {
    squeezing_when_drained = !done.has_value();
    drained = std::move(status);
  });
  while (!done || !drained) rig.agrees(0, kCluster);
  EXPECT_TRUE(*drained);
  EXPECT_TRUE(squeezing_when_drained);
  ASSERT_TRUE(*done);
  EXPECT_GE((*done)->squeezed, 380u) << "of 384; one may have been alone when the pass made way";
  rig.expect_all(0, 24 * kMiB);
}

struct Told final : Listener {
  void on_redirected(SegmentId) override {}
  void on_shadow_full(SegmentId) override {}
  void on_hold_began() override {}
  void on_hold_ended() override {}
  void on_read_only(const std::string&) override {}
  void on_damaged(const std::string& what) override { damaged.push_back(what); }
  void on_corrupt_data(const CorruptData&) override {}
  std::vector<std::string> damaged;
};

// Changes the table page of the first container; `change` gets the page and the index of its entry.
template <typename Change>
void edit_table(const std::string& path, Change change) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  std::vector<std::byte> block(extent::kMetaBlock);
  for (uint64_t at = 0;; at += block.size()) {
    file.seekg(static_cast<std::streamoff>(at));
    file.read(static_cast<char*>(static_cast<void*>(block.data())),
              static_cast<std::streamsize>(block.size()));
    ASSERT_TRUE(file) << "no container in any table";
    if (!extent::is_sealed(block, "FSHT", 4)) continue;
    for (size_t entry = 64; entry < block.size(); entry += 16) {
      if ((block[entry + 7] & std::byte{0x80}) == std::byte{0}) continue;
      change(block, entry);
      extent::seal_block(block, 4);
      file.seekp(static_cast<std::streamoff>(at));
      file.write(static_cast<const char*>(static_cast<const void*>(block.data())), 4096);
      return;
    }
  }
}

TEST(Squeeze, ATableWithAnImpossibleContainerIsRefused) {
  struct Case {
    size_t at;
    std::byte value;
  };
  // Member 1 is member 0; more slots than there are; a codec that is none; an lcn past the volume's end.
  const Case cases[] = {{8, std::byte{0}}, {4, std::byte{0xff}}, {6, std::byte{0x3f}}, {11, std::byte{0x7f}}};
  for (const Case& c : cases) {
    SqueezeRig rig;
    rig.create(kGiB / 16, 32 * kMiB);
    rig.put_mixed(0, 3 * kCluster, 4);
    ASSERT_EQ(rig.squeeze().containers, 1u);
    rig.close();
    const std::string path = rig.directory() + "/" + rig.pool().list()->front() + ".seg";
    edit_table(path, [&](std::vector<std::byte>& block, size_t entry) {
      if (c.at == 8) {
        std::copy_n(block.begin() + static_cast<ptrdiff_t>(entry), 4,
                    block.begin() + static_cast<ptrdiff_t>(entry + 8));
      } else {
        block[entry + c.at] = c.value;
      }
    });
    EXPECT_FALSE(rig.open());
    EXPECT_EQ(rig.error.code, Code::kCorrupt);
    EXPECT_NE(rig.error.message.find("impossible"), std::string::npos) << rig.error.message;
  }
}

TEST(Squeeze, ADamagedBlobIsAnErrorOfItsClusterAlone) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 32 * kMiB);
  rig.put_mixed(0, 3 * kCluster, 4);
  ASSERT_EQ(rig.squeeze().containers, 1u);
  rig.close();
  const uint64_t blob = rig.blob_of_cluster_1();
  ASSERT_GT(blob, 0u);
  {
    std::fstream file(rig.backing(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(blob + 5000));
    file.put('x');
    file.put('y');
  }
  ASSERT_TRUE(rig.open()) << rig.error.message;
  Told told;
  rig.volume().set_listener(&told);
  EXPECT_EQ(rig.plain(OpKind::kRead, kCluster, 4096), Code::kCorrupt);
  EXPECT_EQ(rig.plain(OpKind::kRead, 0, 3 * kCluster), Code::kCorrupt);
  EXPECT_EQ(rig.volume().stats().damaged_reads, 2u);
  EXPECT_TRUE(rig.agrees(0, kCluster));
  EXPECT_TRUE(rig.agrees(2 * kCluster, kCluster));
  auto partial = rig.start(OpKind::kWrite, kCluster + 100, 10, std::byte{1});
  EXPECT_EQ(rig.finish(*partial), Code::kCorrupt) << "the rest of the sub-block is not known";
  rig.put_fill(kCluster, kCluster, 9);  // a whole one needs nothing of what was there
  EXPECT_TRUE(rig.agrees(0, 3 * kCluster));
  ASSERT_FALSE(told.damaged.empty());
  EXPECT_NE(told.damaged[0].find("cluster 1 is damaged"), std::string::npos) << told.damaged[0];
  rig.volume().set_listener(nullptr);
}

// As a lost write of a container leaves it, where the one before had a blob of that cluster in these slots.
TEST(Squeeze, AnOlderBlobOfTheSameClusterIsNotTakenForItsOwn) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 32 * kMiB, Redirect::kAllocating, true);
  rig.put_mixed(0, 3 * kCluster, 4);
  ASSERT_EQ(rig.squeeze().containers, 1u);
  rig.clear(OpKind::kTrim, 2 * kCluster, kCluster);
  const uint64_t blob = rig.blob_of_cluster_1();
  ASSERT_GT(blob, 0u);
  const extent::Geometry geometry;
  BlobWriter writer(geometry);
  std::vector<std::byte> older(kCluster);
  const std::vector<uint8_t> data = mixed(rig.seeded, kCluster, 4);
  ASSERT_EQ(writer.encode(Lcn(1), std::as_bytes(std::span(data)), kZstd.how, older), 5u);
  {
    std::fstream file(rig.backing(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(blob));
    file.write(static_cast<const char*>(static_cast<const void*>(older.data())), 5 * 4096);
  }
  EXPECT_EQ(rig.plain(OpKind::kRead, kCluster, 4096), Code::kCorrupt);
  EXPECT_EQ(rig.volume().stats().damaged_reads, 1u);
  EXPECT_TRUE(rig.agrees(0, kCluster));
  rig.clear(OpKind::kTrim, 0, kCluster);
  const SqueezeReport again = rig.squeeze();  // the last of its container is packed anew, but not this one
  EXPECT_EQ(again.repacked, 0u);
  EXPECT_EQ(rig.plain(OpKind::kRead, kCluster, 4096), Code::kCorrupt);
}

TEST(Squeeze, OnlySealedAndMergedSegmentsAreAndTheVolumeSaysSo) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 32 * kMiB);
  const Uuid shadow = rig.add_shadow(8 * kMiB);
  auto warm = rig.wait(rig.volume().squeeze_segment(shadow, kZstd));
  ASSERT_FALSE(warm);
  EXPECT_EQ(warm.error().code, Code::kFailedPrecondition);
  auto unknown = rig.wait(rig.volume().squeeze_segment(Uuid{}, kZstd));
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Code::kNotFound);
  auto level = rig.wait(rig.volume().squeeze_segment(shadow, {{extent::SqueezeCodec::kLz4, 9}, 0}));
  ASSERT_FALSE(level);
  EXPECT_EQ(level.error().code, Code::kInvalidArgument);
}

io::Task<Status> close_when_begun(Volume& volume, io::Executor& executor, uint64_t* squeezed) {
  while (volume.squeeze_progress().squeezed == 0) co_await io::yield(executor);
  *squeezed = volume.squeeze_progress().squeezed;
  const Status closed = co_await volume.close();
  co_return closed;
}

TEST(Squeeze, CloseEndsAPassAndTheNextGoesOn) {
  SqueezeRig rig;
  rig.create(kGiB / 16, 64 * kMiB);
  rig.put_mixed(0, 24 * kMiB, 3);
  std::optional<Result<SqueezeReport>> done;
  io::spawn(rig.volume().squeeze_segment(rig.primary(), kZstd),
            [&](Result<SqueezeReport>&& report) { done.emplace(std::move(report)); });
  uint64_t before = 0;
  ASSERT_TRUE(rig.wait(close_when_begun(rig.volume(), rig.loop(), &before)));
  ASSERT_TRUE(done.has_value());
  ASSERT_FALSE(*done);
  EXPECT_EQ(done->error().code, Code::kShutdown);
  rig.forget();
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_LT(before, 384u);
  EXPECT_GE(rig.volume().usage().squeezed.logical, before * kCluster);
  EXPECT_GT(rig.squeeze().squeezed, 0u);
  EXPECT_EQ(rig.volume().usage().squeezed.logical, 24 * kMiB);
  rig.expect_all(0, 24 * kMiB);
}

}  // namespace
}  // namespace foreshadow::volume
