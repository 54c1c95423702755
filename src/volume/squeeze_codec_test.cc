#include "volume/squeeze_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/codec.h"
#include "base/crc32c.h"
#include "base/rng.h"

namespace foreshadow::volume {
namespace {

using extent::Geometry;
using extent::Pack;
using extent::SqueezeCodec;

constexpr SqueezeLevel kBoth[] = {{SqueezeCodec::kLz4, 0}, {SqueezeCodec::kZstd, 0}};
constexpr Lcn kLcn{77};

// About as compressible as text: words of a small dictionary.
std::vector<std::byte> text(Rng& rng, size_t bytes) {
  static constexpr std::string_view kWords[] = {"segment ", "shadow ", "journal ", "cluster ", "0x1f ", "\n"};
  std::string out;
  while (out.size() < bytes) {
    out += kWords[rng.below(std::size(kWords))];
    out += std::to_string(rng.below(1000));
  }
  out.resize(bytes);
  const auto raw = std::as_bytes(std::span(out));
  return {raw.begin(), raw.end()};
}

std::vector<std::byte> noise(Rng& rng, size_t bytes) {
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(rng.next());
  return out;
}

struct Blob {
  std::vector<std::byte> bytes;
  Pack pack;
};
Blob blob_of(const std::vector<std::byte>& cluster, const SqueezeLevel& how, Geometry geometry) {
  BlobWriter writer(geometry);
  Blob out;
  out.bytes.resize(geometry.cluster(), std::byte{0xee});
  const uint32_t slots = writer.encode(kLcn, cluster, how, out.bytes);
  out.bytes.resize(slots * geometry.sub_block());
  if (slots > 0) out.pack = Pack::make(0, slots, how.codec);
  return out;
}

TEST(SqueezeCodec, WhatWasEncodedComesBack) {
  SeededRng rng(1);
  for (const uint8_t bits : {uint8_t{9}, uint8_t{12}}) {
    const Geometry geometry{bits};
    for (const SqueezeLevel& how : kBoth) {
      BlobReader reader(geometry);
      for (int i = 0; i < 20; ++i) {
        const auto cluster = text(rng, geometry.cluster());
        const Blob blob = blob_of(cluster, how, geometry);
        ASSERT_TRUE(blob.pack.is_valid());
        EXPECT_LT(blob.pack.count(), 10u);
        std::vector<std::byte> back(geometry.cluster());
        const Status decoded = reader.decode(kLcn, blob.pack, blob.bytes, back);
        ASSERT_TRUE(decoded) << decoded.error().message;
        EXPECT_EQ(back, cluster);
      }
    }
  }
}

TEST(SqueezeCodec, WhatIsNotWorthItIsLeft) {
  SeededRng rng(2);
  const Geometry geometry;
  for (const SqueezeLevel& how : kBoth) {
    EXPECT_EQ(blob_of(noise(rng, geometry.cluster()), how, geometry).pack, Pack{});
    // Compressible where it is sampled, and little elsewhere: it would take more than 14 slots.
    auto cluster = noise(rng, geometry.cluster());
    const auto zeros = [&](size_t from) {
      std::fill_n(cluster.begin() + static_cast<ptrdiff_t>(from), geometry.sub_block(), std::byte{0});
    };
    zeros(5 * size_t{4096});
    EXPECT_EQ(blob_of(cluster, how, geometry).pack, Pack{});
    zeros(0);
    zeros(4096);
    const Blob blob = blob_of(cluster, how, geometry);
    EXPECT_EQ(blob.pack.count(), kBlobSlotsMax) << "three in sixteen saved: the least that is kept";
  }
}

TEST(SqueezeCodec, ABlobKnowsItsClusterAndItsCodec) {
  SeededRng rng(3);
  const Geometry geometry;
  BlobReader reader(geometry);
  std::vector<std::byte> back(geometry.cluster());
  const Blob blob = blob_of(text(rng, geometry.cluster()), kBoth[0], geometry);
  const Status other = reader.decode(Lcn(78), blob.pack, blob.bytes, back);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("of cluster 77"), std::string::npos) << other.error().message;
  const Pack zstd = Pack::make(0, blob.pack.count(), SqueezeCodec::kZstd);
  EXPECT_FALSE(reader.decode(kLcn, zstd, blob.bytes, back));
}

TEST(SqueezeCodec, EveryFlippedBitIsFound) {
  SeededRng rng(4);
  const Geometry geometry{9};
  for (const SqueezeLevel& how : kBoth) {
    BlobReader reader(geometry);
    const auto cluster = text(rng, geometry.cluster());
    Blob blob = blob_of(cluster, how, geometry);
    std::vector<std::byte> back(geometry.cluster());
    const size_t length = std::to_integer<size_t>(blob.bytes[8]) | std::to_integer<size_t>(blob.bytes[9])
                                                                       << 8;
    for (size_t bit = 0; bit < 8 * (kBlobHeader + length); bit += 3) {
      blob.bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
      EXPECT_FALSE(reader.decode(kLcn, blob.pack, blob.bytes, back)) << bit;
      blob.bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    }
    EXPECT_TRUE(reader.decode(kLcn, blob.pack, blob.bytes, back));
  }
}

// The checksum is made to fit, so that what is damaged reaches the codecs.
TEST(SqueezeCodec, IsSafeOnAnyBytesBehindAGoodChecksum) {
  SeededRng rng(5);
  const Geometry geometry{9};
  for (const SqueezeLevel& how : kBoth) {
    BlobReader reader(geometry);
    std::vector<std::byte> back(geometry.cluster());
    uint32_t refused = 0;
    for (int i = 0; i < 4'000; ++i) {
      Blob blob = blob_of(text(rng, geometry.cluster()), how, geometry);
      const auto flips = 1 + rng.below(8);
      for (uint64_t f = 0; f < flips; ++f)
        blob.bytes[8 + rng.below(blob.bytes.size() - 8)] = static_cast<std::byte>(rng.next());
      if (rng.chance(1, 8)) blob.bytes.resize(kBlobHeader + rng.below(blob.bytes.size() - kBlobHeader));
      const uint32_t length = DiskReader(std::span(blob.bytes).subspan(8)).u32();
      const size_t covered = std::min<size_t>(blob.bytes.size() - 4, 12 + size_t{length});
      DiskWriter(blob.bytes).u32(crc32c(std::span<const std::byte>(blob.bytes).subspan(4, covered)));
      refused += reader.decode(kLcn, blob.pack, blob.bytes, back) ? 0 : 1;
    }
    EXPECT_GT(refused, 2'000u);
  }
}

TEST(SqueezeCodec, LevelsAreChecked) {
  EXPECT_TRUE(check_level({SqueezeCodec::kZstd, 19}));
  EXPECT_FALSE(check_level({SqueezeCodec::kZstd, 20}));
  EXPECT_FALSE(check_level({SqueezeCodec::kZstd, -1}));
  EXPECT_TRUE(check_level({SqueezeCodec::kLz4, 0}));
  EXPECT_FALSE(check_level({SqueezeCodec::kLz4, 1}));
  EXPECT_FALSE(check_level({static_cast<SqueezeCodec>(3), 0}));
}

}  // namespace
}  // namespace foreshadow::volume
