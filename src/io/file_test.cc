#include "io/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/rng.h"
#include "base/types.h"
#include "io/buffer.h"
#include "io/testing.h"
#include "io/uring_file.h"

namespace foreshadow::io {
namespace {

using Mode = Directory::Mode;

void fill(std::span<std::byte> out, uint64_t seed) {
  SeededRng rng(seed);
  for (std::byte& b : out) b = static_cast<std::byte>(rng.next());
}

// Every behaviour holds on a disk, through the ring, and in memory, where the loop copies by itself.
struct FileTest : testing::TestWithParam<const char*> {
  FileTest()
      : in_memory(std::string(GetParam()) == "memory"),
        scratch(in_memory ? ScratchDirectory::memory() : ScratchDirectory::disk()),
        loop(make_test_loop()) {
    auto opened = open_directory(*loop, scratch.path());
    EXPECT_TRUE(opened) << opened.error().message;
    directory = std::move(*opened);
  }
  std::unique_ptr<File> create(const std::string& name, uint64_t size) {
    auto file = directory->create(name, size);
    EXPECT_TRUE(file) << file.error().message;
    return file ? std::move(*file) : nullptr;
  }
  int read(File& file, uint64_t offset, std::span<std::byte> into) {
    return wait_for(*loop, [&](Op& op) { file.read(op, offset, into); });
  }
  int write(File& file, uint64_t offset, std::span<const std::byte> from) {
    return wait_for(*loop, [&](Op& op) { file.write(op, offset, from); });
  }
  int write_durable(File& file, uint64_t offset, std::span<const std::byte> from) {
    return wait_for(*loop, [&](Op& op) { file.write_durable(op, offset, from); });
  }
  int sync(File& file) {
    return wait_for(*loop, [&](Op& op) { file.sync(op); });
  }
  size_t entries() { return directory->list().value().size(); }

  const bool in_memory;
  ScratchDirectory scratch;
  std::unique_ptr<Loop> loop;
  std::unique_ptr<Directory> directory;
};
INSTANTIATE_TEST_SUITE_P(Places, FileTest, testing::Values("disk", "memory"),
                         [](const auto& value) { return std::string(value.param); });

TEST_P(FileTest, ANewFileIsZeroReservedPrivateAndLocked) {
  auto file = create("a", 1 * kMiB);
  EXPECT_EQ(file->size(), 1 * kMiB);
  struct stat facts{};
  ASSERT_EQ(::stat(scratch.at("a").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07777, 0600u);
  EXPECT_GE(static_cast<uint64_t>(facts.st_blocks) * 512, 1 * kMiB);
  Buffer all(1 * kMiB);
  fill(all.span(), 1);
  EXPECT_EQ(read(*file, 0, all.span()), 0);
  EXPECT_TRUE(
      std::all_of(all.span().begin(), all.span().end(), [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(directory->open("a", Mode::kReadWriteLocked).error().code, Code::kBusy);
}

TEST_P(FileTest, WritesAreReadBackAlsoAfterReopening) {
  Buffer out(3 * 4096);
  Buffer in(3 * 4096);
  fill(out.span(), 2);
  {
    auto file = create("a", 64 * kKiB);
    EXPECT_EQ(write(*file, 4096, out.span().first(8192)), 0);
    EXPECT_EQ(write_durable(*file, 12288, out.span().subspan(8192)), 0);
    EXPECT_EQ(sync(*file), 0);
    EXPECT_EQ(read(*file, 4096, in.span()), 0);
    EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
  }
  auto file = directory->open("a", Mode::kReadWriteLocked);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ((*file)->size(), 64 * kKiB);
  fill(in.span(), 3);
  EXPECT_EQ(read(**file, 4096, in.span()), 0);
  EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
}

// A large transfer must not keep everything else waiting: here, a copy in memory leaves the loop its turns.
TEST_P(FileTest, OthersGoOnDuringALargeTransfer) {
  constexpr uint64_t kBytes = 8 * kMiB;
  auto file = create("a", kBytes);
  Buffer out(kBytes);
  Buffer in(kBytes);
  fill(out.span(), 5);
  struct TurnOp : Op {
    Loop* loop = nullptr;
    const WaitOp* until = nullptr;
    int turns = 0;
  } other;
  WaitOp writing(*loop);
  other.loop = loop.get();
  other.until = &writing;
  other.done = [](Op* op, int) {
    auto* self = static_cast<TurnOp*>(op);
    ++self->turns;
    if (self->until->calls == 0) self->loop->defer(*self);
  };
  file->write(writing, 0, out.span());
  loop->defer(other);
  loop->run();
  EXPECT_EQ(writing.outcome, 0);
  if (in_memory) {
    EXPECT_GE(other.turns, 16);  // on a disk, as many as it takes
  }
  EXPECT_EQ(read(*file, 0, in.span()), 0);
  EXPECT_EQ(std::memcmp(in.data(), out.data(), kBytes), 0);
}

TEST_P(FileTest, ASmallWriteDoesNotWaitBehindALargeOne) {
  if (!in_memory) GTEST_SKIP() << "a disk keeps no order";
  auto file = create("a", 4 * kMiB);
  Buffer memory(4 * kMiB);
  struct OrderOp : Op {
    std::vector<int>* order = nullptr;
    int number = 0;
  };
  std::vector<int> order;
  std::vector<OrderOp> ops(4);
  for (int i = 0; i < 4; ++i) {
    OrderOp& op = ops[static_cast<size_t>(i)];
    op.order = &order;
    op.number = i;
    op.done = [](Op* done, int result) {
      auto* self = static_cast<OrderOp*>(done);
      EXPECT_EQ(result, 0);
      self->order->push_back(self->number);
    };
    file->write(op, static_cast<uint64_t>(i) * kMiB, memory.first(i % 2 == 0 ? kMiB : 4096));
  }
  loop->stop();  // returns once all have completed
  loop->run();
  EXPECT_EQ(order, (std::vector<int>{1, 3, 0, 2}));
}

TEST_P(FileTest, ManyCallsInFlightAllComplete) {
  constexpr size_t kBlocks = 2000;  // past the submission queue
  auto file = create("a", kBlocks * 4096);
  Buffer out(kBlocks * 4096);
  Buffer in(kBlocks * 4096);
  fill(out.span(), 4);
  struct CountOp : Op {
    size_t* left = nullptr;
    Loop* loop = nullptr;
  };
  for (const bool writes : {true, false}) {
    size_t left = kBlocks;
    std::vector<CountOp> ops(kBlocks);
    for (size_t i = 0; i < kBlocks; ++i) {
      CountOp& op = ops[i];
      op.left = &left;
      op.loop = loop.get();
      op.done = [](Op* self, int result) {
        EXPECT_EQ(result, 0);
        auto* count = static_cast<CountOp*>(self);
        if (--*count->left == 0) count->loop->stop();
      };
      const size_t at = i * 7 % kBlocks * 4096;
      if (writes) {
        file->write(op, at, out.span().subspan(at, 4096));
      } else {
        file->read(op, at, in.span().subspan(at, 4096));
      }
    }
    EXPECT_EQ(left, kBlocks);
    loop->run();
    EXPECT_EQ(left, 0u);
  }
  EXPECT_EQ(std::memcmp(in.data(), out.data(), in.size()), 0);
}

TEST_P(FileTest, NothingIsTransferredPastTheEnd) {
  auto file = create("a", 8192);
  Buffer block(8192);
  struct {
    uint64_t offset;
    size_t length;
    int expected;
  } cases[] = {{0, 8192, 0}, {4096, 4096, 0},          {4096, 8192, -EIO},        {8192, 4096, -EIO},
               {8192, 0, 0}, {1ull << 40, 4096, -EIO}, {~0ull - 4095, 8192, -EIO}};
  for (const auto& c : cases) {
    EXPECT_EQ(read(*file, c.offset, block.span().first(c.length)), c.expected) << c.offset << "+" << c.length;
    EXPECT_EQ(write(*file, c.offset, block.span().first(c.length)), c.expected)
        << c.offset << "+" << c.length;
  }
  EXPECT_EQ(directory->size_of("a").value(), 8192u);
}

TEST_P(FileTest, AFileThatWasCutShortGivesAnErrorNotAPart) {
  auto file = create("a", 16 * kKiB);
  ASSERT_EQ(::truncate(scratch.at("a").c_str(), 4096), 0);
  Buffer block(8192);
  EXPECT_EQ(read(*file, 0, block.span().first(4096)), 0);
  EXPECT_EQ(read(*file, 0, block.span()), -EIO);  // the first half comes, then nothing
  EXPECT_EQ(read(*file, 8192, block.span()), -EIO);
  EXPECT_EQ(read(*file, 8192, block.span().first(4096)), -EIO);
}

TEST_P(FileTest, ReadingAFileWithHolesTakesNoSpaceForThem) {
  const std::string path = scratch.at("a");
  std::ofstream(path).put('x');
  ASSERT_EQ(::truncate(path.c_str(), 1 << 20), 0);
  struct stat before{};
  ASSERT_EQ(::stat(path.c_str(), &before), 0);
  auto file = directory->open("a", Mode::kReadWriteLocked);
  ASSERT_TRUE(file);
  Buffer in(4096);
  for (uint64_t at = 4096; at < 1 << 20; at += 4096) {
    fill(in.span(), at);
    ASSERT_EQ(read(**file, at, in.span()), 0);
    ASSERT_EQ(in.span()[17], std::byte{0});
  }
  struct stat after{};
  ASSERT_EQ(::stat(path.c_str(), &after), 0);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
}

TEST_P(FileTest, SmallAndLargeTransfersSeeEachOther) {
  auto file = create("a", 256 * kKiB);
  Buffer large(256 * kKiB);
  Buffer small(4096);
  fill(large.span(), 7);
  ASSERT_EQ(write(*file, 0, large.span()), 0);
  for (uint64_t at = 0; at < 256 * kKiB; at += 4096) {
    ASSERT_EQ(read(*file, at, small.span()), 0);
    ASSERT_EQ(std::memcmp(small.data(), large.data() + at, 4096), 0) << at;
    fill(small.span(), at);
    ASSERT_EQ(write(*file, at, small.span()), 0);
  }
  ASSERT_EQ(read(*file, 0, large.span()), 0);
  for (uint64_t at = 0; at < 256 * kKiB; at += 4096) {
    fill(small.span(), at);
    ASSERT_EQ(std::memcmp(small.data(), large.data() + at, 4096), 0) << at;
  }
}

TEST_P(FileTest, AResizedFileIsReachedAsFarAsItGoes) {
  auto file = create("a", 64 * kKiB);
  Buffer out(4096);
  Buffer in(4096);
  fill(out.span(), 8);
  ASSERT_EQ(write(*file, 60 * kKiB, out.span()), 0);
  ASSERT_TRUE(file->resize(128 * kKiB));
  ASSERT_EQ(write(*file, 124 * kKiB, out.span()), 0);
  for (const uint64_t at : {60 * kKiB, 124 * kKiB}) {
    ASSERT_EQ(read(*file, at, in.span()), 0);
    EXPECT_EQ(std::memcmp(in.data(), out.data(), 4096), 0) << at;
  }
  ASSERT_TRUE(file->resize(64 * kKiB));
  EXPECT_EQ(read(*file, 60 * kKiB, in.span()), 0);
  EXPECT_EQ(read(*file, 124 * kKiB, in.span()), -EIO);
  EXPECT_EQ(write(*file, 124 * kKiB, out.span()), -EIO);
}

// Limits how long files of this process may get; past that, writes come out short and then fail.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  sighandler_t handler_ = SIG_DFL;
};

TEST_P(FileTest, AShortWriteIsContinuedUntilItFails) {
  auto file = create("a", 64 * kKiB);
  Buffer out(32 * kKiB);  // what is smaller goes by a mapping in memory, which knows no limit
  Buffer in(32 * kKiB);
  fill(out.span(), 5);
  {
    const FileSizeLimit limit(8192);
    EXPECT_EQ(write(*file, 0, out.span()), -EFBIG);
  }
  EXPECT_EQ(read(*file, 0, in.span()), 0);
  EXPECT_EQ(std::memcmp(in.data(), out.data(), 8192), 0);
  EXPECT_EQ(write(*file, 0, out.span()), 0);  // and the file is as good as before
}

TEST_P(FileTest, AlignmentIsWhatItSays) {
  auto file = create("a", 64 * kKiB);
  const uint32_t unit = file->alignment();
  EXPECT_GE(unit, 1u);
  EXPECT_LE(unit, 4096u);
  EXPECT_EQ(unit & (unit - 1), 0u);
  if (in_memory) {
    EXPECT_EQ(unit, 1u);
  }
  Buffer out(4096);
  Buffer in(4096);
  fill(out.span(), 6);
  EXPECT_EQ(write(*file, unit, out.span().subspan(0, unit)), 0);
  EXPECT_EQ(read(*file, unit, in.span().subspan(0, unit)), 0);
  EXPECT_EQ(std::memcmp(in.data(), out.data(), unit), 0);
  if (static_cast<UringFile&>(*file).direct() && unit > 1) {
    EXPECT_EQ(read(*file, unit / 2, in.span().first(unit)), -EINVAL);
  }
}

TEST_P(FileTest, TheLockIsHeldByOneFileAndNamedWhenBusy) {
  auto file = create("name-of-it", 4096);
  auto second = directory->open("name-of-it", Mode::kReadWriteLocked);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kBusy);
  EXPECT_NE(second.error().message.find("name-of-it"), std::string::npos);
  // Opening and closing others (which drops classic POSIX locks) does not lose it.
  EXPECT_TRUE(directory->open("name-of-it", Mode::kReadOnly));
  EXPECT_FALSE(directory->open("name-of-it", Mode::kReadWriteLocked));
  file.reset();
  EXPECT_TRUE(directory->open("name-of-it", Mode::kReadWriteLocked));
}

TEST_P(FileTest, AReadOnlyFileTakesNoLockAndRefusesWrites) {
  auto file = create("a", 8192);
  Buffer block(4096);
  fill(block.span(), 7);
  EXPECT_EQ(write(*file, 0, block.span()), 0);
  auto reader = directory->open("a", Mode::kReadOnly);
  ASSERT_TRUE(reader) << reader.error().message;
  Buffer in(4096);
  EXPECT_EQ(read(**reader, 0, in.span()), 0);
  EXPECT_EQ(std::memcmp(in.data(), block.data(), 4096), 0);
  EXPECT_EQ(write(**reader, 0, block.span()), -EBADF);
  EXPECT_EQ(write_durable(**reader, 0, block.span()), -EBADF);
  file.reset();
  EXPECT_TRUE(directory->open("a", Mode::kReadWriteLocked));  // the reader still being open
}

TEST_P(FileTest, CreatingOverAFileRefusesAndKeepsIt) {
  Buffer block(4096);
  Buffer in(4096);
  fill(block.span(), 8);
  auto file = create("a", 4096);
  EXPECT_EQ(write(*file, 0, block.span()), 0);
  EXPECT_EQ(directory->create("a", 8192).error().code, Code::kAlreadyExists);
  EXPECT_EQ(read(*file, 0, in.span()), 0);
  EXPECT_EQ(std::memcmp(in.data(), block.data(), 4096), 0);
  EXPECT_EQ(directory->size_of("a").value(), 4096u);
}

TEST_P(FileTest, WhatDoesNotFitLeavesNothingBehind) {
  const uint64_t free = directory->free_bytes().value();
  EXPECT_GT(free, 0u);
  auto file = directory->create("huge", free + 64 * kGiB);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, Code::kNoSpace);
  EXPECT_NE(file.error().message.find("huge"), std::string::npos);
  EXPECT_EQ(directory->create("huge", ~0ull).error().code, Code::kInvalidArgument);
  EXPECT_EQ(entries(), 0u);
  {
    const FileSizeLimit limit(1 * kMiB);  // now the reservation itself fails, with the file made already
    EXPECT_FALSE(directory->create("late", 2 * kMiB));
  }
  EXPECT_EQ(entries(), 0u);
}

TEST_P(FileTest, OnlyPlainNamesAreTaken) {
  const std::string nul("a\0b", 3);
  for (const std::string& name :
       {std::string("a/b"), std::string(".."), std::string("."), std::string(""), std::string("../x"),
        std::string("/etc/passwd"), std::string(256, 'n'), nul}) {
    EXPECT_EQ(directory->create(name, 4096).error().code, Code::kInvalidArgument) << name;
    EXPECT_EQ(directory->open(name, Mode::kReadOnly).error().code, Code::kInvalidArgument) << name;
    EXPECT_EQ(directory->remove(name).error().code, Code::kInvalidArgument) << name;
    EXPECT_EQ(directory->size_of(name).error().code, Code::kInvalidArgument) << name;
  }
  EXPECT_TRUE(directory->create(std::string(255, 'n'), 4096));
}

TEST_P(FileTest, WhatIsNotARegularFileIsRefusedAndNotListed) {
  {
    std::ofstream(scratch.at("target")) << "text";
  }
  ASSERT_EQ(::symlink("target", scratch.at("link").c_str()), 0);
  ASSERT_EQ(::mkdir(scratch.at("folder").c_str(), 0700), 0);
  ASSERT_EQ(::mkfifo(scratch.at("pipe").c_str(), 0600), 0);
  for (const char* name : {"link", "folder", "pipe"}) {
    EXPECT_FALSE(directory->open(name, Mode::kReadOnly)) << name;
    EXPECT_FALSE(directory->open(name, Mode::kReadWriteLocked)) << name;
    EXPECT_EQ(directory->size_of(name).error().code, Code::kInvalidArgument) << name;
    EXPECT_FALSE(directory->create(name, 4096)) << name;
  }
  EXPECT_EQ(directory->list().value(), std::vector<std::string>{"target"});
  EXPECT_EQ(directory->size_of("target").value(), 4u);
}

TEST_P(FileTest, AbsentFilesAreNotFound) {
  EXPECT_EQ(directory->open("a", Mode::kReadOnly).error().code, Code::kNotFound);
  EXPECT_EQ(directory->size_of("a").error().code, Code::kNotFound);
  EXPECT_EQ(directory->remove("a").error().code, Code::kNotFound);
  EXPECT_EQ(open_directory(*loop, scratch.at("none")).error().code, Code::kNotFound);
}

TEST_P(FileTest, RemovedFilesAreGoneFromTheListButStayUsableWhileOpen) {
  auto file = create("a", 4096);
  EXPECT_TRUE(directory->remove("a"));
  EXPECT_EQ(entries(), 0u);
  Buffer block(4096);
  EXPECT_EQ(write(*file, 0, block.span()), 0);
}

TEST_P(FileTest, FilesCanBeMadeByAnOffload) {
  std::unique_ptr<File> file;
  loop->offload([&] { file = create("a", 1 * kMiB); }, [&] { loop->stop(); });
  loop->run();
  Buffer block(4096);
  EXPECT_EQ(write(*file, 0, block.span()), 0);
}

TEST_P(FileTest, ZerosAreWrittenWhereSpaceCannotBeReserved) {
  for (const uint64_t size : {uint64_t{1}, kMiB, 2 * kMiB + 7}) {
    const UniqueFd fd(::open(scratch.at("z").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_TRUE(static_cast<bool>(fd));
    EXPECT_TRUE(write_zeros(fd.get(), 0, size, "z"));
    EXPECT_EQ(directory->size_of("z").value(), size);
    struct stat facts{};
    ASSERT_EQ(::fsync(fd.get()), 0);
    ASSERT_EQ(::fstat(fd.get(), &facts), 0);
    EXPECT_GE(static_cast<uint64_t>(facts.st_blocks) * 512, size);
  }
}

}  // namespace
}  // namespace foreshadow::io
