// Volumes over an existing image.
#include <gtest/gtest.h>

#include "base/size.h"
#include "volume/test_rig.h"

namespace foreshadow::volume {
namespace {

using block::OpKind;
constexpr uint64_t kCluster = 64 * kKiB;
constexpr uint64_t kHead = 16 * kMiB;

std::vector<uint8_t> some_image(uint64_t bytes) {
  std::vector<uint8_t> out(bytes);
  for (uint64_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(1 + (i / 512 * 7 + i / 65536) % 250);
  return out;
}

std::vector<uint8_t> part(const std::vector<uint8_t>& of, uint64_t offset, uint64_t length) {
  return {of.begin() + static_cast<int64_t>(offset), of.begin() + static_cast<int64_t>(offset + length)};
}

TEST(Over, ShowsTheImageAsItIsAndTakesNoMemoryForIt) {
  Rig rig;
  const auto image = some_image(40 * kMiB);
  rig.create_over(image, kHead);
  EXPECT_EQ(rig.volume().info().size, 40 * kMiB);
  EXPECT_EQ(rig.read(0, 40 * kMiB), image);
  const auto segments = rig.volume().segments();
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[1].role, SegmentRole::kBase);
  EXPECT_EQ(segments[1].used, 40 * kMiB);
  EXPECT_EQ(rig.volume().usage().outside_base, 0u);
  EXPECT_LT(rig.volume().usage().map_memory, 16 * kKiB);
  EXPECT_TRUE(rig.findings().empty());
  rig.close();
  EXPECT_EQ(rig.image(), image);
}

TEST(Over, OverwritesInPlaceAndKeepsEverythingAcrossReopens) {
  Rig rig;
  auto image = some_image(20 * kMiB);
  rig.create_over(image, kHead);
  ASSERT_EQ(rig.write(kMiB + 100, 10'000, 0xaa), Code::kOk);
  std::fill_n(image.begin() + kMiB + 100, 10'000, 0xaa);
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_EQ(rig.image(), image) << "in place, and nothing else";
  EXPECT_EQ(rig.volume().usage().outside_base, 0u);
  rig.close();
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_EQ(rig.read(0, 20 * kMiB), image);
}

TEST(Over, RedirectAllLeavesTheImageAlone) {
  Rig rig;
  const auto image = some_image(20 * kMiB);
  auto expected = image;
  rig.create_over(image, kHead, Redirect::kAll);
  const Uuid shadow = rig.add_shadow(16 * kMiB);
  ASSERT_TRUE(rig.volume().activate_shadow(shadow));
  for (int pass = 0; pass < 2; ++pass) {
    for (const auto& [offset, length] :
         {std::pair<uint64_t, uint64_t>{0, 4096}, {kMiB, kMiB}, {5 * kMiB + 5, 5}, {19 * kMiB, kMiB}}) {
      const auto fill = static_cast<uint8_t>(0xf0 + pass);
      ASSERT_EQ(rig.write(offset, length, fill), Code::kOk);
      std::fill_n(expected.begin() + static_cast<int64_t>(offset), length, fill);
    }
    EXPECT_EQ(rig.read(0, 20 * kMiB), expected);
    EXPECT_EQ(rig.image(), image);
    EXPECT_TRUE(rig.findings().empty());
    if (pass == 0) {
      ASSERT_TRUE(rig.wait(rig.volume().checkpoint()));
    }
    rig.close();
    ASSERT_TRUE(rig.open()) << rig.error.message;
    EXPECT_EQ(rig.read(0, 20 * kMiB), expected);
  }
  EXPECT_GT(rig.volume().usage().outside_base, 2 * kMiB);
}

TEST(Over, WhatIsTrimmedReadsZeroAndGoesHomeWhenItIsWrittenAgain) {
  Rig rig;
  const auto image = some_image(20 * kMiB);
  rig.create_over(image, kHead);
  ASSERT_EQ(rig.plain(OpKind::kTrim, kMiB, 4 * kMiB), Code::kOk);
  EXPECT_TRUE(rig.holds(kMiB, 4 * kMiB, 0));
  EXPECT_EQ(rig.image(), image) << "a trim does not touch the image";
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  EXPECT_EQ(rig.volume().segments()[1].used, 16 * kMiB);
  rig.close();
  ASSERT_TRUE(rig.open()) << rig.error.message;
  EXPECT_TRUE(rig.holds(kMiB, 4 * kMiB, 0));
  ASSERT_EQ(rig.write(2 * kMiB, kCluster, 0xaa), Code::kOk);
  EXPECT_EQ(rig.volume().usage().outside_base, 0u);
  EXPECT_EQ(part(rig.image(), 2 * kMiB, kCluster), std::vector<uint8_t>(kCluster, 0xaa));
  EXPECT_TRUE(rig.holds(2 * kMiB - 4096, 4096, 0));
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Over, NothingElseIsEverPlacedInTheImage) {
  Rig rig;
  rig.options.hold_timeout = std::chrono::milliseconds(20);
  rig.create_over(some_image(20 * kMiB), kHead);
  ASSERT_TRUE(rig.wait(rig.volume().grow(kGiB)));
  ASSERT_EQ(rig.plain(OpKind::kTrim, 0, 20 * kMiB), Code::kOk);
  ASSERT_EQ(rig.plain(OpKind::kFlush), Code::kOk);
  uint64_t at = 100 * kMiB;
  while (rig.write(at, kCluster, 7) == Code::kOk) at += kCluster;
  EXPECT_EQ(rig.volume().segments()[1].used, 0u) << "the head is full, the image stays free";
  EXPECT_EQ(rig.write(3 * kMiB, kCluster, 8), Code::kOk) << "yet what has its place there finds it";
  EXPECT_TRUE(rig.findings().empty());
}

TEST(Over, GrowsBeyondTheImageAtAnyTail) {
  for (const uint64_t tail : {0u, 512u, 4096u, 4608u, 65024u}) {
    Rig rig;
    const uint64_t size = 2 * kMiB + tail;
    const auto image = some_image(size);
    auto expected = image;
    rig.create_over(image, kHead);
    EXPECT_EQ(rig.volume().info().size, size);
    EXPECT_EQ(rig.write(size - 512, 1024, 1), Code::kNoSpace);
    ASSERT_EQ(rig.write(size - 512, 512, 0xaa), Code::kOk);
    std::fill_n(expected.end() - 512, 512, 0xaa);
    EXPECT_EQ(rig.read(0, size), expected) << tail;
    EXPECT_EQ(rig.image().size(), size);
    rig.close();
    ASSERT_TRUE(rig.open()) << rig.error.message;
    EXPECT_EQ(rig.read(0, size), expected) << tail;
    ASSERT_TRUE(rig.wait(rig.volume().grow(8 * kMiB)));
    expected.resize(8 * kMiB, 0);
    EXPECT_EQ(rig.read(0, 8 * kMiB), expected) << tail;
    ASSERT_EQ(rig.write(size - 1024, 4096, 0xbb), Code::kOk);
    std::fill_n(expected.begin() + static_cast<int64_t>(size - 1024), 4096, 0xbb);
    ASSERT_EQ(rig.write(size + 2 * kMiB, 100'000, 0xcc), Code::kOk);
    std::fill_n(expected.begin() + static_cast<int64_t>(size + 2 * kMiB), 100'000, 0xcc);
    for (int pass = 0; pass < 2; ++pass) {
      EXPECT_EQ(rig.read(0, 8 * kMiB), expected) << tail;
      EXPECT_TRUE(rig.findings().empty());
      rig.close();
      EXPECT_EQ(rig.image().size(), size);
      ASSERT_TRUE(rig.open()) << rig.error.message;
    }
  }
}

TEST(Over, FoldsEverythingBackIntoTheImage) {
  for (const uint64_t tail : {0u, 1536u}) {
    Rig rig;
    const uint64_t size = 8 * kMiB + tail;
    auto expected = some_image(size);
    rig.create_over(expected, kHead, Redirect::kAll);
    const Uuid shadow = rig.add_shadow(16 * kMiB);
    ASSERT_TRUE(rig.volume().activate_shadow(shadow));
    for (const auto& [offset, length] :
         {std::pair<uint64_t, uint64_t>{0, 4096}, {kMiB, kMiB}, {5 * kMiB + 5, 5}, {size - 700, 700}}) {
      ASSERT_EQ(rig.write(offset, length, 0xaa), Code::kOk);
      std::fill_n(expected.begin() + static_cast<int64_t>(offset), length, 0xaa);
    }
    ASSERT_EQ(rig.plain(OpKind::kTrim, 6 * kMiB, kMiB), Code::kOk);
    ASSERT_EQ(rig.plain(OpKind::kZero, 6 * kMiB, kMiB), Code::kOk);
    ASSERT_EQ(rig.write(3 * kMiB, 100'000, 0), Code::kOk);
    std::fill_n(expected.begin() + 6 * kMiB, kMiB, 0);
    std::fill_n(expected.begin() + 3 * kMiB, 100'000, 0);
    EXPECT_EQ(rig.read(0, size), expected);
    EXPECT_NE(rig.image(), expected);
    const Status folded = rig.wait(rig.volume().fold_shadow(shadow, 0));
    ASSERT_TRUE(folded) << folded.error().message;
    EXPECT_EQ(rig.volume().usage().outside_base, 0u);
    EXPECT_EQ(rig.read(0, size), expected);
    EXPECT_EQ(rig.image(), expected) << "a plain image again";
    EXPECT_TRUE(rig.findings().empty());
    ASSERT_TRUE(rig.pool().remove(shadow.str()));
    rig.close();
    ASSERT_TRUE(rig.open()) << rig.error.message;
    EXPECT_EQ(rig.read(0, size), expected);
  }
}

TEST(Over, NeitherTheHeadNorTheImageCanBeReleased) {
  Rig rig;
  rig.create_over(some_image(2 * kMiB), kHead);
  for (const SegmentInfo& segment : rig.volume().segments()) {
    EXPECT_EQ(rig.wait(rig.volume().fold_shadow(segment.uuid, 0)).error().code, Code::kInvalidArgument);
    EXPECT_EQ(rig.wait(rig.volume().drain_segment(segment.uuid)).error().code, Code::kInvalidArgument);
  }
  const Uuid image = rig.volume().segments()[1].uuid;
  EXPECT_EQ(rig.wait(rig.volume().resize_segment(image, kMiB)).error().code, Code::kInvalidArgument);
}

TEST(Over, RefusesAnImageThatIsNotWhatItWas) {
  Rig rig;
  rig.create_over(some_image(2 * kMiB), kHead);
  rig.close();
  for (const uint64_t size : {uint64_t{kMiB}, 3 * kMiB}) {
    std::filesystem::resize_file(rig.image_path(), size);
    ASSERT_FALSE(rig.open());
    EXPECT_NE(rig.error.message.find("has changed"), std::string::npos) << rig.error.message;
  }
  std::filesystem::resize_file(rig.image_path(), 2 * kMiB);
  ASSERT_TRUE(rig.open());
}

TEST(Over, RefusesAnImageInUse) {
  Rig rig;
  rig.create_over(some_image(2 * kMiB), kHead);
  const auto again = io::open_device(rig.loop(), rig.image_path(), io::Directory::Mode::kReadWriteLocked);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kBusy);
}

TEST(Over, JudgesAnImageBeforeItBecomesABase) {
  Rig rig;
  const auto judge = [&](const std::string& path) {
    auto file = io::open_device(rig.loop(), path, io::Directory::Mode::kReadOnly);
    EXPECT_TRUE(file);
    return rig.wait(Volume::check_image(**file, extent::Geometry()));
  };
  rig.make_image(some_image(kCluster));
  EXPECT_TRUE(judge(rig.image_path()));
  rig.make_image(some_image(kCluster - 512));
  EXPECT_EQ(judge(rig.image_path()).error().code, Code::kInvalidArgument);
  const Uuid segment = rig.add_unowned_shadow(16 * kMiB);
  EXPECT_EQ(judge(rig.directory() + "/" + segment.str() + ".seg").error().code, Code::kAlreadyExists);
}

}  // namespace
}  // namespace foreshadow::volume
