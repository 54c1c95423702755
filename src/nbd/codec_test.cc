#include "nbd/codec.h"

#include <gtest/gtest.h>

#include "base/codec.h"
#include "base/limits.h"
#include "base/rng.h"

namespace foreshadow::nbd {
namespace {

std::string random_text(SeededRng& rng, size_t longest) {
  std::string text(rng.below(longest + 1), 'x');
  for (char& c : text) c = static_cast<char>('!' + rng.below(90));
  return text;
}

// Every proper prefix of a message is refused, and so is the message with a byte more.
template <typename Decode>
void expect_exact(const Bytes& whole, Decode decode) {
  for (size_t n = 0; n < whole.size(); n++) {
    EXPECT_FALSE(decode(ByteView(whole).first(n)).has_value()) << "prefix of " << n << " bytes";
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode(ByteView(longer)).has_value());
}

TEST(NbdCodec, CommandsSurviveARoundTrip) {
  SeededRng rng(1);
  for (int i = 0; i < 2000; i++) {
    const Command in{static_cast<uint16_t>(rng.next()), static_cast<uint16_t>(rng.next()), rng.next(),
                     rng.next(), static_cast<uint32_t>(rng.next())};
    Bytes wire(kCommandBytes);
    ASSERT_EQ(encode(in, wire), kCommandBytes);
    const auto out = decode_command(wire);
    ASSERT_TRUE(out.has_value());
    EXPECT_EQ(*out, in);
  }
}

TEST(NbdCodec, RepliesSurviveARoundTrip) {
  SeededRng rng(2);
  for (int i = 0; i < 2000; i++) {
    const SimpleReply simple{static_cast<uint32_t>(rng.next()), rng.next()};
    Bytes wire(kSimpleReplyBytes);
    ASSERT_EQ(encode(simple, wire), kSimpleReplyBytes);
    EXPECT_EQ(decode_simple_reply(wire).value(), simple);

    const Chunk chunk{static_cast<uint16_t>(rng.next()), static_cast<uint16_t>(rng.next()), rng.next(),
                      static_cast<uint32_t>(rng.next())};
    wire.resize(kChunkBytes);
    ASSERT_EQ(encode(chunk, wire), kChunkBytes);
    EXPECT_EQ(decode_chunk(wire).value(), chunk);
  }
}

TEST(NbdCodec, HandshakeMessagesSurviveARoundTrip) {
  SeededRng rng(3);
  for (int i = 0; i < 500; i++) {
    InfoRequest info{random_text(rng, 100), {}};
    for (uint64_t n = rng.below(9); n > 0; n--) info.items.push_back(static_cast<uint16_t>(rng.next()));
    EXPECT_EQ(decode_info_request(encode_info_request(info)).value(), info);

    MetaRequest meta{random_text(rng, 100), {}};
    for (uint64_t n = rng.below(limits::kNbdMetaQueries + 1); n > 0; n--)
      meta.queries.push_back(random_text(rng, 50));
    EXPECT_EQ(decode_meta_request(encode_meta_request(meta)).value(), meta);

    const ExportInfo size{rng.next(), static_cast<uint16_t>(rng.next())};
    EXPECT_EQ(decode_info_export(encode_info_export(size)).value(), size);
    const BlockSizeInfo blocks{static_cast<uint32_t>(rng.next()), static_cast<uint32_t>(rng.next()),
                               static_cast<uint32_t>(rng.next())};
    EXPECT_EQ(decode_info_block_size(encode_info_block_size(blocks)).value(), blocks);
    EXPECT_EQ(decode_server(encode_server(info.name)).value(), info.name);

    Bytes wire;
    const Bytes payload = encode_server(info.name);
    append_option(wire, static_cast<uint32_t>(rng.next()), payload);
    const auto option = decode_option_header(ByteView(wire).first(kOptionHeaderBytes));
    ASSERT_TRUE(option.has_value());
    EXPECT_EQ(option->length, payload.size());
    wire.clear();
    append_option_reply(wire, 7, kRepInfo, payload);
    const auto reply = decode_option_reply(ByteView(wire).first(kOptionReplyBytes));
    EXPECT_EQ(reply.value(), (OptionReplyHeader{7, kRepInfo, static_cast<uint32_t>(payload.size())}));
  }
}

TEST(NbdCodec, ChunkPayloadsSurviveARoundTrip) {
  SeededRng rng(4);
  for (int i = 0; i < 500; i++) {
    const ErrorChunk error{static_cast<uint32_t>(1 + rng.below(200)), random_text(rng, 120)};
    Bytes wire(kChunkBytes + 6 + error.message.size());
    ASSERT_EQ(encode_error(99, error.error, error.message, wire), wire.size());
    EXPECT_EQ(decode_chunk(ByteView(wire).first(kChunkBytes))->length, wire.size() - kChunkBytes);
    EXPECT_EQ(decode_error(ByteView(wire).subspan(kChunkBytes)).value(), error);

    StatusChunk status{1, {}};
    for (uint64_t n = 1 + rng.below(20); n > 0; n--) {
      status.descriptors.push_back(
          {static_cast<uint32_t>(1 + rng.below(1u << 31)), static_cast<uint32_t>(rng.below(4))});
    }
    Bytes payload(status_bytes(status.descriptors.size()));
    ASSERT_EQ(encode_status(1, status.descriptors, payload), payload.size());
    EXPECT_EQ(decode_status(payload).value(), status);
  }
}

TEST(NbdCodec, EveryTruncationAndEveryExtraByteIsRefused) {
  Bytes wire(kCommandBytes);
  encode(Command{1, kCmdRead, 2, 3, 4}, wire);
  expect_exact(wire, decode_command);
  wire.resize(kSimpleReplyBytes);
  encode(SimpleReply{5, 6}, wire);
  expect_exact(wire, decode_simple_reply);
  wire.resize(kChunkBytes);
  encode(Chunk{1, 1, 2, 3}, wire);
  expect_exact(wire, decode_chunk);
  wire.clear();
  append_greeting(wire, 3);
  expect_exact(wire, decode_greeting);
  expect_exact(encode_info_request({"volume", {1, 2, 3}}), decode_info_request);
  expect_exact(encode_meta_request({"volume", {"base:allocation", "x:y"}}), decode_meta_request);
  expect_exact(encode_info_export({1, 2}), decode_info_export);
  expect_exact(encode_info_block_size({1, 2, 3}), decode_info_block_size);
}

TEST(NbdCodec, WrongMagicsAreRefused) {
  const auto spoiled = [](Bytes wire, size_t at) {
    wire[at] ^= std::byte{0x40};
    return wire;
  };
  Bytes command(kCommandBytes), simple(kSimpleReplyBytes), chunk(kChunkBytes), greeting, option, reply;
  encode(Command{}, command);
  encode(SimpleReply{}, simple);
  encode(Chunk{}, chunk);
  append_greeting(greeting, 0);
  append_option(option, 1, {});
  append_option_reply(reply, 1, 1, {});
  for (size_t i = 0; i < 4; i++) {
    EXPECT_FALSE(decode_command(spoiled(command, i)).has_value());
    EXPECT_FALSE(decode_simple_reply(spoiled(simple, i)).has_value());
    EXPECT_FALSE(decode_chunk(spoiled(chunk, i)).has_value());
  }
  for (size_t i = 0; i < 8; i++) {
    EXPECT_FALSE(decode_option_header(spoiled(option, i)).has_value());
    EXPECT_FALSE(decode_option_reply(spoiled(reply, i)).has_value());
  }
  for (size_t i = 0; i < 16; i++) EXPECT_FALSE(decode_greeting(spoiled(greeting, i)).has_value());
}

TEST(NbdCodec, LengthsThatLieAreRefused) {
  struct Case {
    const char* what;
    std::vector<uint32_t> words;  // as the payload
    Code code;
  };
  const Case cases[] = {
      {"name of 4 GiB", {0xffffffff, 0}, Code::kInvalidArgument},
      {"name one past the payload", {9, 0, 0}, Code::kInvalidArgument},
      {"name past the string limit", {4097}, Code::kInvalidArgument},
      {"name only", {0}, Code::kInvalidArgument},
      {"empty", {}, Code::kInvalidArgument},
  };
  for (const Case& c : cases) {
    Bytes payload(c.words.size() * 4);
    WireWriter w(payload);
    for (const uint32_t word : c.words) w.u32(word);
    EXPECT_EQ(decode_info_request(payload).error().code, c.code) << c.what;
    EXPECT_EQ(decode_meta_request(payload).error().code, c.code) << c.what;
  }
  // Counts that promise more than is there.
  Bytes payload(8);
  WireWriter(std::span(payload).subspan(4)).u32(0xffffffff);
  EXPECT_EQ(decode_meta_request(payload).error().code, Code::kLimit);
  EXPECT_EQ(decode_info_request(payload).error().code, Code::kInvalidArgument);
  WireWriter(std::span(payload).subspan(4)).u32(3);
  EXPECT_EQ(decode_meta_request(payload).error().code, Code::kInvalidArgument);
}

TEST(NbdCodec, NamesOf4096BytesPassAndOf4097DoNot) {
  const std::string longest(kStringBytes, 'n');
  EXPECT_EQ(decode_info_request(encode_info_request({longest, {}}))->name, longest);
  EXPECT_FALSE(decode_info_request(encode_info_request({longest + "n", {}})).has_value());
  EXPECT_FALSE(decode_info_request(encode_info_request({std::string("a\0b", 3), {}})).has_value());
}

TEST(NbdCodec, QueriesAreCountedAgainstTheLimit) {
  MetaRequest request{"v", std::vector<std::string>(limits::kNbdMetaQueries, "a:b")};
  EXPECT_TRUE(decode_meta_request(encode_meta_request(request)).has_value());
  request.queries.push_back("a:b");
  EXPECT_EQ(decode_meta_request(encode_meta_request(request)).error().code, Code::kLimit);
}

TEST(NbdCodec, StatusAndErrorChunksMustMakeSense) {
  EXPECT_FALSE(decode_status(Bytes(4)).has_value()) << "no descriptor";
  EXPECT_FALSE(decode_status(Bytes(11)).has_value()) << "half a descriptor";
  EXPECT_FALSE(decode_status(Bytes(12)).has_value()) << "descriptor of length 0";
  EXPECT_FALSE(decode_error(Bytes(6)).has_value()) << "error 0";
  EXPECT_FALSE(decode_error(Bytes(5)).has_value()) << "too short";
}

TEST(NbdCodec, RandomBytesNeverDecodeToMoreThanTheyHold) {
  SeededRng rng(5);
  for (int i = 0; i < 20000; i++) {
    Bytes junk(rng.below(80));
    for (std::byte& b : junk) b = static_cast<std::byte>(rng.chance(1, 2) ? 0 : rng.next());
    // What does decode is all there was.
    const auto info = decode_info_request(junk);
    EXPECT_TRUE(!info || encode_info_request(*info) == junk);
    const auto meta = decode_meta_request(junk);
    EXPECT_TRUE(!meta || encode_meta_request(*meta) == junk);
    (void)decode_status(junk);
    (void)decode_error(junk);
    (void)decode_server(junk);
  }
}

}  // namespace
}  // namespace foreshadow::nbd
