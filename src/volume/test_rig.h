#pragma once
// What the volume's unit tests stand on: a real loop, a real pool in a temporary directory, and calls that
// wait.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "block/file_pool.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "io/wait_for.h"
#include "volume/volume.h"

namespace foreshadow::volume {

class Rig {
 public:
  Rig() : Rig(std::filesystem::temp_directory_path()) {}
  explicit Rig(const std::filesystem::path& below) : loop_(*io::Loop::create()) {
    std::string pattern = (below / "foreshadow-volume-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    pool_ = *block::FilePool::open(*Name::parse("default"), *io::open_directory(*loop_, directory_), 0);
    id_ = Uuid::random(rng_);
  }
  ~Rig() {
    if (volume_ != nullptr) {
      EXPECT_TRUE(wait(volume_->close()));
    }
    volume_.reset();
    pool_.reset();
    std::filesystem::remove_all(directory_);
  }

  template <typename T>
  T wait(io::Task<T> task) {
    return io::wait_for(*loop_, std::move(task));
  }

  void create(uint64_t size, uint64_t primary, Redirect redirect = Redirect::kAllocating,
              bool checksums = false) {
    CreateOptions how;
    how.id = id_;
    how.name = "test";
    how.size = size;
    how.redirect = redirect;
    how.checksums = checksums;
    const Uuid segment = Uuid::random(rng_);
    auto file = pool_->create(segment.str(), primary);
    ASSERT_TRUE(file) << file.error().message;
    auto formatted = wait(Volume::format_primary(**file, how, segment));
    ASSERT_TRUE(formatted) << formatted.error().message;
    file->reset();
    ASSERT_TRUE(open());
  }

  // The image that the volume lies over.
  std::string image_path() const { return directory_ + "/image.raw"; }
  void make_image(const std::vector<uint8_t>& bytes) {
    std::ofstream out(image_path(), std::ios::binary);
    out << std::string(bytes.begin(), bytes.end());
  }
  std::vector<uint8_t> image() const {
    std::ifstream in(image_path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void create_over(const std::vector<uint8_t>& bytes, uint64_t head,
                   Redirect redirect = Redirect::kAllocating, bool checksums = false) {
    make_image(bytes);
    base_ = Uuid::random(rng_);
    CreateOptions how;
    how.id = id_;
    how.name = "test";
    how.size = bytes.size() / 512 * 512;
    how.redirect = redirect;
    how.base = BaseImage{base_, how.size, image_path()};
    how.checksums = checksums;
    const Uuid segment = Uuid::random(rng_);
    auto file = pool_->create(segment.str(), head);
    ASSERT_TRUE(file) << file.error().message;
    auto formatted = wait(Volume::format_primary(**file, how, segment));
    ASSERT_TRUE(formatted) << formatted.error().message;
    file->reset();
    ASSERT_TRUE(open()) << error.message;
  }

  // The outcome of the last open is in `opened`.
  bool open() {
    std::vector<SegmentFile> files;
    const std::vector<std::string> backings = *pool_->list();
    for (const std::string& backing : backings) {
      auto file = pool_->open(backing, io::Directory::Mode::kReadWriteLocked);
      if (!file) {
        error = file.error();
        return false;
      }
      files.push_back({*Uuid::parse(backing), std::move(*file)});
    }
    if (!base_.is_nil()) {
      auto file = io::open_device(*loop_, image_path(), io::Directory::Mode::kReadWriteLocked);
      if (!file) {
        error = file.error();
        return false;
      }
      files.push_back({base_, std::move(*file), true});
    }
    auto opened = wait(Volume::open(*loop_, std::move(files), options));
    if (!opened) {
      error = opened.error();
      return false;
    }
    volume_ = std::move(opened->volume);
    orphans = opened->orphans;
    return true;
  }
  void close() {
    ASSERT_TRUE(wait(volume_->close()));
    volume_.reset();
  }
  void forget() { volume_.reset(); }  // it has been closed
  Uuid add_shadow(uint64_t bytes, bool attach = true) {
    const Uuid segment = Uuid::random(rng_);
    auto file = pool_->create(segment.str(), bytes);
    EXPECT_TRUE(file) << file.error().message;
    auto formatted =
        wait(Volume::format_shadow(**file, id_, segment, volume_->geometry(), volume_->checksums()));
    EXPECT_TRUE(formatted) << formatted.error().message;
    if (attach) {
      auto attached = wait(volume_->attach_shadow({segment, std::move(*file)}));
      EXPECT_TRUE(attached) << attached.error().message;
    }
    return segment;
  }

  // A shadow of a volume that is not open.
  Uuid add_unowned_shadow(uint64_t bytes) {
    const Uuid segment = Uuid::random(rng_);
    auto file = pool_->create(segment.str(), bytes);
    EXPECT_TRUE(file && wait(Volume::format_shadow(**file, id_, segment, extent::Geometry(), false)));
    return segment;
  }

  // Starts a request; it is complete when done_ says so.
  struct Call : block::Request {
    io::Buffer memory;
    std::optional<Code> outcome;
    Rig* rig = nullptr;
    void* context = nullptr;  // the test's
  };
  std::unique_ptr<Call> start(block::OpKind kind, uint64_t offset, uint64_t length, std::byte fill = {}) {
    auto call = std::make_unique<Call>();
    call->kind = kind;
    call->offset = offset;
    call->length = length;
    call->rig = this;
    if (kind == block::OpKind::kRead || kind == block::OpKind::kWrite) {
      call->memory = io::Buffer(length == 0 ? 1 : length);
      call->data = call->memory.first(length);
      std::fill(call->data.begin(), call->data.end(), fill);
    }
    call->done = [](block::Request* request, Code code) {
      auto* self = static_cast<Call*>(request);
      self->outcome = code;
      self->rig->loop_->stop();
    };
    return call;
  }
  Code finish(Call& call) {
    volume_->submit(call);
    return await(call);
  }
  Code await(Call& call) {
    while (!call.outcome) loop_->run();
    return *call.outcome;
  }
  // One completion, or some.
  void turn() {
    io::spawn(one_yield(), [this](Status) { loop_->stop(); });
    loop_->run();
  }
  io::Task<Status> one_yield() {
    co_await io::yield(*loop_);
    co_return Status{};
  }
  Code write(uint64_t offset, uint64_t length, uint8_t fill) {
    auto call = start(block::OpKind::kWrite, offset, length, std::byte{fill});
    return finish(*call);
  }
  // Writes the volume full from its start, cluster by cluster: what comes next meets the wall.
  void fill(uint8_t with) {
    const uint64_t cluster = volume_->geometry().cluster();
    const uint64_t capacity = volume_->usage().capacity;
    for (uint64_t at = 0; at < capacity; at += cluster) ASSERT_EQ(write(at, cluster, with), Code::kOk);
  }
  Code plain(block::OpKind kind, uint64_t offset = 0, uint64_t length = 0) {
    auto call = start(kind, offset, length);
    return finish(*call);
  }
  // The bytes at [offset, offset+length), or nothing on an error.
  std::vector<uint8_t> read(uint64_t offset, uint64_t length) {
    auto call = start(block::OpKind::kRead, offset, length, std::byte{0xee});
    if (finish(*call) != Code::kOk) return {};
    std::vector<uint8_t> out;
    for (const std::byte b : call->data) out.push_back(static_cast<uint8_t>(b));
    return out;
  }
  bool holds(uint64_t offset, uint64_t length, uint8_t fill) {
    return read(offset, length) == std::vector<uint8_t>(length, fill);
  }
  std::vector<std::string> findings() {
    auto report = wait(volume_->check());
    if (!report) return {report.error().message};
    return report->findings;
  }

  Volume& volume() { return *volume_; }
  const std::string& directory() const { return directory_; }
  io::Loop& loop() { return *loop_; }
  block::Pool& pool() { return *pool_; }
  const Uuid& id() const { return id_; }
  RunOptions options;
  Error error;
  std::vector<Uuid> orphans;

 private:
  SystemRng rng_;
  std::unique_ptr<io::Loop> loop_;
  std::string directory_;
  std::unique_ptr<block::Pool> pool_;
  Uuid id_;
  Uuid base_;
  std::unique_ptr<Volume> volume_;
};

}  // namespace foreshadow::volume
