#include "io/recording_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "io/buffer.h"
#include "io/testing.h"

namespace foreshadow::io {
namespace {

using Kind = IoEvent::Kind;

TEST(RecordingFile, NotesWhatIsDoneInOrderAndPassesItOn) {
  auto loop = make_test_loop();
  ScratchDirectory scratch(ScratchDirectory::disk());
  auto directory = open_directory(*loop, scratch.path());
  ASSERT_TRUE(directory) << directory.error().message;
  auto inner = (*directory)->create("file", 64 * 1024);
  ASSERT_TRUE(inner) << inner.error().message;
  IoLog log;
  RecordingFile file(std::move(*inner), log, 7);
  const Buffer data(4096);
  std::memset(data.data(), 0x5a, data.size());
  EXPECT_EQ(wait_for(*loop, [&](Op& op) { file.write(op, 4096, data.span()); }), 0);
  log.mark(42);
  EXPECT_EQ(wait_for(*loop, [&](Op& op) { file.sync(op); }), 0);
  EXPECT_EQ(wait_for(*loop, [&](Op& op) { file.write_durable(op, 0, data.span()); }), 0);
  EXPECT_LT(wait_for(*loop, [&](Op& op) { file.write(op, file.size(), data.span()); }), 0) << "past its end";
  const Buffer back(4096);
  EXPECT_EQ(wait_for(*loop, [&](Op& op) { file.read(op, 4096, back.span()); }), 0);
  EXPECT_EQ(std::memcmp(back.data(), data.data(), data.size()), 0);

  EXPECT_TRUE(file.resize(128 * 1024));

  const std::vector<IoEvent> events = log.take();
  const Kind kinds[] = {Kind::kWriteBegan, Kind::kWriteEnded, Kind::kMark,       Kind::kSyncBegan,
                        Kind::kSyncEnded,  Kind::kWriteBegan, Kind::kWriteEnded, Kind::kWriteBegan,
                        Kind::kWriteEnded, Kind::kResized};
  ASSERT_EQ(events.size(), std::size(kinds));
  for (size_t i = 0; i < std::size(kinds); ++i) EXPECT_EQ(events[i].kind, kinds[i]) << i;
  EXPECT_EQ(events[0].data.size(), 4096u);
  EXPECT_EQ(events[0].data[17], std::byte{0x5a});
  EXPECT_EQ(events[0].offset, 4096u);
  EXPECT_EQ(events[0].file, 7u);
  EXPECT_EQ(events[0].call, events[1].call);
  EXPECT_FALSE(events[1].durable);
  EXPECT_EQ(events[2].call, 42u);
  EXPECT_TRUE(events[6].durable);
  EXPECT_EQ(events[9].offset, 128u * 1024);
  EXPECT_LT(events[8].result, 0) << "that it failed is noted";
}

}  // namespace
}  // namespace foreshadow::io
