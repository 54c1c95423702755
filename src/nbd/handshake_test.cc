#include "nbd/handshake.h"

#include <gtest/gtest.h>

#include <map>

#include "base/codec.h"
#include "base/limits.h"
#include "base/rng.h"

namespace foreshadow::nbd {
namespace {

// Only info() is ever asked of a device during a handshake: anything else would be work before negotiation
// ended.
class SilentDevice final : public block::BlockDevice {
 public:
  block::DeviceInfo answer{1 << 20, 4096, false, "a volume"};
  block::DeviceInfo info() const override { return answer; }
  void submit(block::Request&) override { ADD_FAILURE() << "I/O during the handshake"; }
  std::vector<block::Extent> extents(uint64_t, uint64_t, size_t) const override {
    ADD_FAILURE() << "extents asked for during the handshake";
    return {};
  }
};

class Table final : public ExportTable {
 public:
  std::map<std::string, SilentDevice, std::less<>> devices;
  block::BlockDevice* find(std::string_view name) override {
    const auto found = devices.find(name);
    return found == devices.end() ? nullptr : &found->second;
  }
  std::vector<std::string> names() override {
    std::vector<std::string> out;
    for (const auto& [name, device] : devices) out.push_back(name);
    return out;
  }
};

struct Answer {
  uint32_t option;
  uint32_t type;
  Bytes payload;
};

// Drives one handshake. Bytes are given whole; the truncation tests give them piecemeal.
class Talk {
 public:
  explicit Talk(Table& table, uint32_t flags = kClientFixedNewstyle | kClientNoZeroes) : handshake(table) {
    Bytes greeting;
    handshake.start(greeting);
    EXPECT_EQ(decode_greeting(greeting).value(), kFlagFixedNewstyle | kFlagNoZeroes);
    Bytes in;
    append_client_flags(in, flags);
    EXPECT_EQ(handshake.feed(in, out), in.size());
  }
  std::vector<Answer> option(uint32_t option, ByteView payload = {}) {
    Bytes in;
    append_option(in, option, payload);
    EXPECT_EQ(handshake.feed(in, out), in.size());
    return answers();
  }
  std::vector<Answer> answers() {
    std::vector<Answer> list;
    ByteView rest = out;
    while (!rest.empty()) {
      const auto header = decode_option_reply(rest.first(kOptionReplyBytes));
      EXPECT_TRUE(header.has_value());
      if (!header) break;
      const ByteView payload = rest.subspan(kOptionReplyBytes, header->length);
      list.push_back({header->option, header->type, Bytes(payload.begin(), payload.end())});
      rest = rest.subspan(kOptionReplyBytes + header->length);
    }
    out.clear();
    return list;
  }
  // The last answer's type, and that it is the only one.
  uint32_t only(uint32_t number, ByteView payload = {}) {
    const auto list = option(number, payload);
    EXPECT_EQ(list.size(), 1u);
    return list.empty() ? 0 : list.back().type;
  }
  uint32_t go(const std::string& name) { return option(kOptGo, encode_info_request({name, {}})).back().type; }
  uint32_t set_context(const std::string& name, std::vector<std::string> queries = {kBaseAllocation}) {
    return option(kOptSetMetaContext, encode_meta_request({name, std::move(queries)})).back().type;
  }
  bool talking() const { return handshake.state() == Handshake::State::kTalking; }
  bool ended() const { return handshake.state() == Handshake::State::kEnded; }
  bool done() const { return handshake.state() == Handshake::State::kDone; }

  Handshake handshake;
  Bytes out;
};

class NbdHandshake : public ::testing::Test {
 protected:
  NbdHandshake() { table.devices["vol"]; }
  Table table;
};

Bytes raw(std::initializer_list<uint32_t> words) {
  Bytes out(words.size() * 4);
  WireWriter w(out);
  for (const uint32_t word : words) w.u32(word);
  return out;
}

TEST_F(NbdHandshake, GoGivesSizeAndFlagsAndEndsTheTalk) {
  Talk talk(table);
  const auto answers = talk.option(kOptGo, encode_info_request({"vol", {}}));
  ASSERT_EQ(answers.size(), 2u);
  const auto info = decode_info_export(answers[0].payload).value();
  EXPECT_EQ(info.size, 1u << 20);
  EXPECT_EQ(info.flags, kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kSendFastZero |
                            kCanMultiConn | kSendCache);
  EXPECT_EQ(answers[1].type, kRepAck);
  EXPECT_TRUE(talk.done());
  EXPECT_EQ(talk.handshake.agreement().device, table.find("vol"));
  EXPECT_FALSE(talk.handshake.agreement().structured);
}

TEST_F(NbdHandshake, ReadOnlyDevicesAndStructuredRepliesShowInTheFlags) {
  table.devices["vol"].answer.read_only = true;
  Talk talk(table);
  EXPECT_EQ(talk.only(kOptStructuredReply), kRepAck);
  const auto answers = talk.option(kOptGo, encode_info_request({"vol", {}}));
  const uint16_t flags = decode_info_export(answers[0].payload)->flags;
  EXPECT_NE(flags & kReadOnly, 0);
  EXPECT_NE(flags & kSendDf, 0);
  EXPECT_TRUE(talk.handshake.agreement().read_only);
  EXPECT_TRUE(talk.handshake.agreement().structured);
}

TEST_F(NbdHandshake, InfoAnswersWhatWasAskedAndStaysInTheTalk) {
  Talk talk(table);
  const auto answers =
      talk.option(kOptInfo, encode_info_request({"", {kInfoName, kInfoDescription, kInfoBlockSize, 999}}));
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_TRUE(decode_info_export(answers[0].payload).has_value());
  EXPECT_EQ(answers[1].payload, encode_info_text(kInfoName, "vol"))
      << "the canonical name of the default export";
  EXPECT_EQ(answers[2].payload, encode_info_text(kInfoDescription, "a volume"));
  EXPECT_EQ(decode_info_block_size(answers[3].payload).value(), (BlockSizeInfo{1, 4096, 32u << 20}));
  EXPECT_EQ(answers[4].type, kRepAck);
  EXPECT_TRUE(talk.talking());
}

TEST_F(NbdHandshake, PreferredBlocksAreAlwaysWhatTheProtocolAllows) {
  const std::pair<uint32_t, uint32_t> cases[] = {
      {0, 512}, {512, 512}, {5000, 8192}, {65536, 65536}, {0xffffffff, 32u << 20}};
  for (const auto& [device, told] : cases) {
    table.devices["vol"].answer.preferred_block = device;
    Talk talk(table);
    const auto answers = talk.option(kOptInfo, encode_info_request({"vol", {kInfoBlockSize}}));
    EXPECT_EQ(decode_info_block_size(answers[1].payload)->preferred, told);
  }
}

TEST_F(NbdHandshake, GoAfterTheSameInfoRepeatsItsAnswerThoughTheDeviceGrew) {
  Talk talk(table);
  const Bytes request = encode_info_request({"vol", {kInfoBlockSize}});
  talk.option(kOptInfo, request);
  table.devices["vol"].answer.size = 2 << 20;
  const auto answers = talk.option(kOptGo, request);
  EXPECT_EQ(decode_info_export(answers[0].payload)->size, 1u << 20);
}

TEST_F(NbdHandshake, GoAfterAnythingElseTellsTheNewSize) {
  const Bytes request = encode_info_request({"vol", {kInfoBlockSize}});
  for (const bool other_option : {true, false}) {
    table.devices["vol"].answer.size = 1 << 20;
    Talk talk(table);
    talk.option(kOptInfo, request);
    table.devices["vol"].answer.size = 2 << 20;
    if (other_option) talk.only(kOptStructuredReply);
    const auto answers = talk.option(kOptGo, other_option ? request : encode_info_request({"vol", {}}));
    EXPECT_EQ(decode_info_export(answers[0].payload)->size, 2u << 20);
  }
}

TEST_F(NbdHandshake, TheEmptyNameIsTheOnlyExportOrNone) {
  EXPECT_EQ(Talk(table).go(""), kRepAck);
  table.devices["second"];
  EXPECT_EQ(Talk(table).go(""), kRepErrUnknown);
  table.devices.clear();
  EXPECT_EQ(Talk(table).go(""), kRepErrUnknown);
}

TEST_F(NbdHandshake, UnknownExportsAreRefusedAndTheTalkGoesOn) {
  Talk talk(table);
  EXPECT_EQ(talk.go("other"), kRepErrUnknown);
  EXPECT_EQ(talk.go(std::string(4096, 'x')), kRepErrUnknown);
  EXPECT_EQ(talk.go(std::string(4097, 'x')), kRepErrInvalid);
  EXPECT_EQ(talk.go("vol"), kRepAck);
}

TEST_F(NbdHandshake, ListNamesEveryExport) {
  table.devices["second"];
  Talk talk(table);
  const auto answers = talk.option(kOptList);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(decode_server(answers[0].payload).value(), "second");
  EXPECT_EQ(decode_server(answers[1].payload).value(), "vol");
  EXPECT_EQ(answers[2].type, kRepAck);
}

TEST_F(NbdHandshake, AbortIsAcknowledgedAlsoWithData) {
  for (const Bytes& data : {Bytes(), Bytes(9)}) {
    Talk talk(table);
    EXPECT_EQ(talk.only(kOptAbort, data), kRepAck);
    EXPECT_TRUE(talk.ended());
    EXPECT_EQ(talk.handshake.reason(), "");
  }
}

TEST_F(NbdHandshake, ExportNameAnswersWithOrWithoutZeroes) {
  for (const bool zeroes : {true, false}) {
    Talk talk(table, kClientFixedNewstyle | (zeroes ? 0 : kClientNoZeroes));
    Bytes in;
    append_option(in, kOptExportName, std::as_bytes(std::span("vol", 3)));
    talk.handshake.feed(in, talk.out);
    EXPECT_EQ(talk.out.size(), zeroes ? 134u : 10u);
    EXPECT_EQ(WireReader(talk.out).u64(), 1u << 20);
    EXPECT_TRUE(talk.done());
  }
}

TEST_F(NbdHandshake, OldClientsWithoutFixedNewstyleAreServed) {
  Talk talk(table, 0);
  Bytes in;
  append_option(in, kOptExportName, {});
  talk.handshake.feed(in, talk.out);
  EXPECT_TRUE(talk.done());
  EXPECT_EQ(talk.out.size(), 134u);
}

TEST_F(NbdHandshake, ExportNameOfAnUnknownExportEndsTheConnection) {
  Talk talk(table);
  Bytes in;
  append_option(in, kOptExportName, std::as_bytes(std::span("nope", 4)));
  talk.handshake.feed(in, talk.out);
  EXPECT_TRUE(talk.ended());
  EXPECT_TRUE(talk.out.empty());
}

TEST_F(NbdHandshake, MetaContextsCanBeListed) {
  struct Case {
    std::vector<std::string> queries;
    bool listed;
  };
  const Case cases[] = {{{}, true},
                        {{"base:"}, true},
                        {{"base:allocation"}, true},
                        {{"base:", "base:allocation"}, true},
                        {{"base:other"}, false},
                        {{"x-unknown:anything"}, false},
                        {{"qemu:allocation-depth", "base:allocation"}, true}};
  for (const Case& c : cases) {
    Talk talk(table);
    talk.only(kOptStructuredReply);
    const auto answers = talk.option(kOptListMetaContext, encode_meta_request({"vol", c.queries}));
    ASSERT_EQ(answers.size(), c.listed ? 2u : 1u);
    if (c.listed) {
      EXPECT_EQ(answers[0].payload, encode_meta_context(0, "base:allocation"));
    }
    EXPECT_EQ(answers.back().type, kRepAck);
    EXPECT_EQ(talk.go("vol"), kRepAck);
    EXPECT_FALSE(talk.handshake.agreement().block_status) << "listing selects nothing";
  }
}

TEST_F(NbdHandshake, MetaContextsCanBeSet) {
  struct Case {
    std::vector<std::string> queries;
    bool set;
  };
  const Case cases[] = {{{"base:allocation"}, true},
                        {{}, false},
                        {{"base:"}, false},  // no wildcard in a SET
                        {{"base:other"}, false},
                        {{"x-unknown:y"}, false},
                        {{"x-unknown:y", "base:allocation", "base:allocation"}, true}};
  for (const Case& c : cases) {
    Talk talk(table);
    talk.only(kOptStructuredReply);
    const auto answers = talk.option(kOptSetMetaContext, encode_meta_request({"vol", c.queries}));
    ASSERT_EQ(answers.size(), c.set ? 2u : 1u);
    if (c.set) {
      EXPECT_EQ(answers[0].payload, encode_meta_context(kAllocationContext, "base:allocation"));
    }
    EXPECT_EQ(talk.go("vol"), kRepAck);
    EXPECT_EQ(talk.handshake.agreement().block_status, c.set);
  }
}

TEST_F(NbdHandshake, ALaterSetReplacesAnEarlierOneAlsoWhenItFails) {
  const std::pair<Bytes, uint32_t> later[] = {
      {encode_meta_request({"vol", {}}), kRepAck},
      {encode_meta_request({"other", {kBaseAllocation}}), kRepErrUnknown},
      {encode_meta_request({"vol", {"nocolon"}}), kRepErrInvalid},
      {encode_meta_request({"vol", std::vector<std::string>(limits::kNbdMetaQueries + 1, "a:b")}),
       kRepErrTooBig},
      {raw({0xffffffff}), kRepErrInvalid}};
  for (const auto& [payload, type] : later) {
    Talk talk(table);
    talk.only(kOptStructuredReply);
    EXPECT_EQ(talk.set_context("vol"), kRepAck);
    EXPECT_EQ(talk.option(kOptSetMetaContext, payload).back().type, type);
    EXPECT_EQ(talk.go("vol"), kRepAck);
    EXPECT_FALSE(talk.handshake.agreement().block_status);
  }
}

TEST_F(NbdHandshake, AContextSetForAnotherExportDoesNotCount) {
  table.devices["second"];
  Talk talk(table);
  talk.only(kOptStructuredReply);
  EXPECT_EQ(talk.set_context("second"), kRepAck);
  EXPECT_EQ(talk.go("vol"), kRepAck);
  EXPECT_FALSE(talk.handshake.agreement().block_status);
}

TEST_F(NbdHandshake, MetaContextsNeedStructuredReplies) {
  Talk talk(table);
  EXPECT_EQ(talk.set_context("vol"), kRepErrInvalid);
  EXPECT_EQ(talk.only(kOptListMetaContext, encode_meta_request({"vol", {}})), kRepErrInvalid);
}

TEST_F(NbdHandshake, OptionsThatAreRefusedLeaveTheTalkGoing) {
  struct Case {
    const char* what;
    uint32_t option;
    Bytes payload;
    uint32_t type;
  };
  const Case cases[] = {
      {"TLS", kOptStartTls, {}, kRepErrPolicy},
      {"TLS with data", kOptStartTls, Bytes(1), kRepErrInvalid},
      {"withdrawn option", 4, {}, kRepErrUnsup},
      {"extended headers", 11, {}, kRepErrUnsup},
      {"option 0", 0, {}, kRepErrUnsup},
      {"option 0xffffffff with data", 0xffffffff, Bytes(100), kRepErrUnsup},
      {"LIST with data", kOptList, Bytes(4), kRepErrInvalid},
      {"STRUCTURED_REPLY with data", kOptStructuredReply, Bytes(1), kRepErrInvalid},
      {"GO without data", kOptGo, {}, kRepErrInvalid},
      {"GO with a name of 4 GiB", kOptGo, raw({0xffffffff, 0}), kRepErrInvalid},
      {"INFO with a name past its end", kOptInfo, raw({3}), kRepErrInvalid},
      {"INFO with more items than bytes", kOptInfo, raw({0, 0xffff0000}), kRepErrInvalid},
      {"SET with a query of 4 GiB", kOptSetMetaContext, raw({0, 1, 0xffffffff}), kRepErrInvalid},
      {"LIST_META with 4 Gi queries", kOptListMetaContext, raw({0, 0xffffffff}), kRepErrTooBig},
      {"LIST_META with bytes left over", kOptListMetaContext, raw({0, 0, 0}), kRepErrInvalid},
  };
  for (const Case& c : cases) {
    Talk talk(table);
    EXPECT_EQ(talk.only(c.option, c.payload), c.type) << c.what;
    EXPECT_TRUE(talk.talking()) << c.what;
    EXPECT_EQ(talk.go("vol"), kRepAck) << c.what;
    EXPECT_TRUE(talk.done()) << c.what;
  }
}

// What a client says before STARTTLS is answered alike, and none of it counts afterwards.
TEST_F(NbdHandshake, NothingNegotiatedBeforeTlsSurvivesIt) {
  Handshake handshake(table, Tls::kRequired);
  Bytes in, out;
  append_client_flags(in, kClientFixedNewstyle | kClientNoZeroes);
  append_option(in, kOptStructuredReply, {});
  append_option(in, kOptSetMetaContext, encode_meta_request({"vol", {kBaseAllocation}}));
  append_option(in, kOptInfo, encode_info_request({"vol", {}}));
  append_option(in, kOptStartTls, {});
  EXPECT_EQ(handshake.feed(in, out), in.size());
  ASSERT_EQ(handshake.state(), Handshake::State::kStartTls);
  EXPECT_EQ(handshake.feed({}, out), 0u) << "until TLS is up nothing is taken";
  handshake.secured(table);
  table.devices["vol"].answer.size = 2 << 20;
  in.clear();
  out.clear();
  append_option(in, kOptGo, encode_info_request({"vol", {}}));
  EXPECT_EQ(handshake.feed(in, out), in.size());
  ASSERT_EQ(handshake.state(), Handshake::State::kDone);
  EXPECT_FALSE(handshake.agreement().structured);
  EXPECT_FALSE(handshake.agreement().block_status);
  EXPECT_EQ(handshake.agreement().size, 2u << 20);
}

// Bytes behind STARTTLS that come in the same receive, in any number.
TEST_F(NbdHandshake, BytesBehindStartTlsEndTheConnectionWithoutAnAnswer) {
  Bytes behind;
  append_option(behind, kOptGo, encode_info_request({"vol", {}}));
  for (size_t n = 1; n <= behind.size(); n++) {
    Handshake handshake(table, Tls::kRequired);
    Bytes in, out;
    append_client_flags(in, kClientFixedNewstyle);
    append_option(in, kOptStartTls, {});
    in.insert(in.end(), behind.begin(), behind.begin() + static_cast<ptrdiff_t>(n));
    handshake.feed(in, out);
    EXPECT_EQ(handshake.state(), Handshake::State::kEnded);
    EXPECT_TRUE(out.empty());
  }
}

TEST_F(NbdHandshake, UnknownClientFlagsEndTheConnection) {
  for (int bit = 2; bit < 32; bit++) {
    Handshake handshake(table);
    Bytes in, out;
    append_client_flags(in, kClientFixedNewstyle | (1u << bit));
    handshake.feed(in, out);
    EXPECT_EQ(handshake.state(), Handshake::State::kEnded);
    EXPECT_TRUE(out.empty());
  }
}

TEST_F(NbdHandshake, AWrongOptionMagicEndsTheConnection) {
  Talk talk(table);
  Bytes in;
  append_option(in, kOptList, {});
  in[3] ^= std::byte{1};
  talk.handshake.feed(in, talk.out);
  EXPECT_TRUE(talk.ended());
  EXPECT_NE(talk.handshake.reason(), "");
}

TEST_F(NbdHandshake, OptionsAreCountedAgainstTheLimit) {
  Talk talk(table);
  for (uint32_t i = 0; i < limits::kNbdOptions; i++) EXPECT_EQ(talk.only(99), kRepErrUnsup);
  EXPECT_TRUE(talk.talking());
  Bytes in;
  append_option(in, kOptList, {});
  EXPECT_EQ(talk.handshake.feed(in, talk.out), 0u);
  EXPECT_TRUE(talk.ended());
  EXPECT_TRUE(talk.out.empty());
}

TEST_F(NbdHandshake, AnOptionAtTheLengthLimitPassesAndOnePastItEndsTheConnection) {
  Talk talk(table);
  EXPECT_EQ(talk.only(99, Bytes(limits::kNbdOptionBytes)), kRepErrUnsup);
  for (const uint32_t length : {limits::kNbdOptionBytes + 1, 0x80000000u, 0xffffffffu}) {
    Talk other(table);
    Bytes in;
    append_option(in, 99, {});
    WireWriter(std::span(in).subspan(12)).u32(length);
    // The header is enough: nobody waits for 4 GiB.
    other.handshake.feed(in, other.out);
    EXPECT_TRUE(other.ended());
  }
}

TEST_F(NbdHandshake, PeerTextIsEchoedShortAndEscaped) {
  Talk talk(table);
  const auto answers = talk.option(kOptGo, encode_info_request({std::string(4096, '\x1b'), {}}));
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_LT(answers[0].payload.size(), 400u);
  for (const std::byte b : answers[0].payload) EXPECT_GE(std::to_integer<int>(b), 0x20);
}

Bytes whole_handshake() {
  Bytes in;
  append_client_flags(in, kClientFixedNewstyle | kClientNoZeroes);
  append_option(in, kOptStructuredReply, {});
  append_option(in, kOptSetMetaContext, encode_meta_request({"vol", {kBaseAllocation}}));
  append_option(in, kOptInfo, encode_info_request({"vol", {kInfoBlockSize}}));
  append_option(in, kOptGo, encode_info_request({"vol", {kInfoBlockSize}}));
  return in;
}

TEST_F(NbdHandshake, EveryTruncationOfAValidHandshakeJustWaits) {
  const Bytes in = whole_handshake();
  for (size_t n = 0; n < in.size(); n++) {
    Handshake handshake(table);
    Bytes out;
    EXPECT_LE(handshake.feed(ByteView(in).first(n), out), n);
    EXPECT_EQ(handshake.state(), Handshake::State::kTalking) << n;
  }
}

TEST_F(NbdHandshake, BytesMayArriveInAnyPieces) {
  const Bytes in = whole_handshake();
  Bytes expected;
  Handshake reference(table);
  ASSERT_EQ(reference.feed(in, expected), in.size());
  ASSERT_EQ(reference.state(), Handshake::State::kDone);
  for (size_t piece = 1; piece < in.size(); piece++) {
    Handshake handshake(table);
    Bytes out, held;
    for (size_t at = 0; at < in.size(); at += piece) {
      const ByteView part = ByteView(in).subspan(at, std::min(piece, in.size() - at));
      held.insert(held.end(), part.begin(), part.end());
      const size_t taken = handshake.feed(held, out);
      held.erase(held.begin(), held.begin() + static_cast<ptrdiff_t>(taken));
    }
    EXPECT_EQ(handshake.state(), Handshake::State::kDone);
    EXPECT_TRUE(handshake.agreement().block_status);
    EXPECT_EQ(out, expected);
  }
}

TEST_F(NbdHandshake, CommandsBehindTheLastOptionAreLeftAlone) {
  Bytes in = whole_handshake();
  const size_t end = in.size();
  in.resize(end + kCommandBytes);
  Handshake handshake(table);
  Bytes out;
  EXPECT_EQ(handshake.feed(in, out), end);
}

TEST_F(NbdHandshake, SpoiledHandshakesNeverCrash) {
  const Bytes good = whole_handshake();
  SeededRng rng(7);
  for (int i = 0; i < 20000; i++) {
    Bytes in = good;
    for (uint64_t n = 1 + rng.below(4); n > 0; n--)
      in[rng.below(in.size())] = static_cast<std::byte>(rng.next());
    Handshake handshake(table);
    Bytes out;
    EXPECT_LE(handshake.feed(in, out), in.size());
    EXPECT_LT(out.size(), 1u << 20);
  }
}

}  // namespace
}  // namespace foreshadow::nbd
