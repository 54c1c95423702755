#include <gtest/gtest.h>

#include <string>

#include "base/codec.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/names.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/types.h"
#include "base/uuid.h"

namespace foreshadow {
namespace {

TEST(Crc32c, MatchesThePublishedCheckValue) {
  const std::string text = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(text))), 0xe3069283u);
  const auto bytes = std::as_bytes(std::span(text));
  EXPECT_EQ(crc32c(bytes.subspan(4), crc32c(bytes.first(4))), 0xe3069283u);
}

TEST(Size, ParsesWhatPeopleWrite) {
  const std::pair<const char*, uint64_t> cases[] = {
      {"0", 0},           {"4096", 4096},          {"256MiB", 256 * kMiB}, {"1TiB", kTiB},
      {"10G", 10 * kGiB}, {"1.5GiB", 1536 * kMiB}, {"64k", 64 * kKiB},     {"7B", 7}};
  for (const auto& [text, bytes] : cases) {
    auto parsed = parse_size(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(Size, RefusesNonsenseAndNamesIt) {
  for (const char* text :
       {"", "x", "-1", "1.5", "1Q", "1 MiB", "99999999999999999999", "20000000T", ".5G", "1.G", "4KiX"}) {
    auto parsed = parse_size(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
    EXPECT_NE(parsed.error().message.find(text), std::string::npos);
  }
}

TEST(Size, FormatsShortest) {
  EXPECT_EQ(format_size(256 * kMiB), "256MiB");
  EXPECT_EQ(format_size(1536 * kMiB), "1.5GiB");
  EXPECT_EQ(format_size(12), "12B");
}

TEST(Name, HoldsAtTheLimitAndRefusesPastIt) {
  EXPECT_TRUE(Name::parse(std::string(limits::kNameLength, 'a')));
  EXPECT_FALSE(Name::parse(std::string(limits::kNameLength + 1, 'a')));
  for (const char* bad : {"", "-a", "A", "a/b", "..", "a b", "a\n"}) EXPECT_FALSE(Name::parse(bad)) << bad;
}

TEST(Quoted, EscapesAndCutsUntrustedText) {
  EXPECT_EQ(foreshadow::quoted("a\x01\"b"), "\"a\\x01\\x22b\"");
  EXPECT_LT(foreshadow::quoted(std::string(5000, 'x')).size(), 80u);
}

TEST(Uuid, RoundTripsAndRefusesNonsense) {
  SeededRng rng(7);
  const Uuid id = Uuid::random(rng);
  auto back = Uuid::parse(id.str());
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, id);
  EXPECT_FALSE(Uuid::parse("nonsense"));
  EXPECT_FALSE(Uuid::parse(id.str() + "0"));
}

TEST(Codec, ReaderNeverReadsPastItsSpan) {
  std::array<std::byte, 6> raw{};
  WireWriter out(raw);
  out.u16(0x1234);
  out.u32(0xdeadbeef);
  WireReader in(raw);
  EXPECT_EQ(in.u16(), 0x1234);
  EXPECT_EQ(in.u32(), 0xdeadbeefu);
  EXPECT_TRUE(in.ok());
  EXPECT_EQ(in.u64(), 0u);
  EXPECT_FALSE(in.ok());
}

TEST(Codec, OrdersDiffer) {
  std::array<std::byte, 4> raw{};
  DiskWriter(raw).u32(0x01020304);
  EXPECT_EQ(raw[0], std::byte{4});
  WireWriter(raw).u32(0x01020304);
  EXPECT_EQ(raw[0], std::byte{1});
}

TEST(Codec, ARunOfNumbersIsWrittenAndReadAsEachByItself) {
  const std::array<uint32_t, 3> values{1, 0x01020304, 0xffffffff};
  const auto check = [&]<Endian kOrder>() {
    std::array<std::byte, 12> one_by_one{}, at_once{};
    BasicWriter<kOrder> out(one_by_one);
    for (const uint32_t value : values) out.u32(value);
    BasicWriter<kOrder>(at_once).template put_all<uint32_t>(values);
    EXPECT_EQ(one_by_one, at_once);
    std::array<uint32_t, 3> back{};
    BasicReader<kOrder>(at_once).template get_all<uint32_t>(back);
    EXPECT_EQ(back, values);
    std::array<uint32_t, 4> more{9, 9, 9, 9};
    BasicReader<kOrder> in(at_once);
    in.template get_all<uint32_t>(more);
    EXPECT_FALSE(in.ok());
    EXPECT_EQ(more, (std::array<uint32_t, 4>{}));
  };
  check.operator()<Endian::kLittle>();
  check.operator()<Endian::kBig>();
}

TEST(Error, EveryCodeHasItsRow) {
  for (int i = 0; i <= static_cast<int>(Code::kInternal); ++i) {
    EXPECT_EQ(row_of(static_cast<Code>(i)).code, static_cast<Code>(i));
    EXPECT_FALSE(name_of(static_cast<Code>(i)).empty());
  }
  EXPECT_EQ(code_from_errno(-28), Code::kNoSpace);
}

}  // namespace
}  // namespace foreshadow
