#include "sim/bit_flips.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "extent/recovery.h"
#include "io/buffer.h"
#include "io/task.h"
#include "sim/golden_image.h"
#include "sim/memory_file.h"
#include "sim/scheduler.h"
#include "volume/volume.h"

namespace foreshadow::sim {
namespace {

constexpr uint64_t kPatience = 400'000;
constexpr const char* kNames[] = {"plain", "squeezed", "over", "moved"};

// One image and what is done to it. Everything is put back after each flip.
class Flipper {
 public:
  Flipper(Golden what, bool closed, FlipResult& result)
      : name_(fmt::format("{} {}", kNames[static_cast<size_t>(what)], closed ? "closed" : "died")),
        golden_(make_golden_image(what, closed)),
        bytes_(golden_),
        memory_(golden_.contents.size()),
        result_(result) {}

  uint64_t bits() const {
    uint64_t out = 0;
    for (const GoldenBacking& backing : golden_.backings) out += backing.metadata_bytes * 8;
    return out;
  }

  void flip(uint64_t bit) {
    size_t backing = 0;
    while (bit >= golden_.backings[backing].metadata_bytes * 8) {
      bit -= golden_.backings[backing++].metadata_bytes * 8;
    }
    std::byte& byte = bytes_.backings[backing].bytes[bit / 8];
    byte ^= static_cast<std::byte>(1u << bit % 8);
    where_ = fmt::format("{} image, backing {}, byte {}, bit {}", name_, backing, bit / 8, bit % 8);
    ++result_.bits;
    judge();
    if (written_) {
      bytes_ = golden_;
    } else {
      byte = golden_.backings[backing].bytes[bit / 8];
    }
    written_ = false;
  }

  // What is to be true of the image as it is, or nothing that is found later means anything.
  void expect_sound() {
    where_ = name_ + " image as it is";
    const FlipResult before = std::exchange(result_, {});
    judge();
    bytes_ = golden_;
    written_ = false;
    if (result_.refused > 0 || result_.noticed > 0)
      violate("recovery finds something wrong with it: " + noticed_);
    const FlipResult found = std::exchange(result_, before);
    result_.violations += found.violations;
    if (result_.violation.empty()) result_.violation = found.violation;
  }

 private:
  void violate(const std::string& what) {
    ++result_.violations;
    if (result_.violation.empty()) result_.violation = where_ + ": " + what;
  }

  template <typename T>
  std::optional<T> wait(Scheduler& scheduler, io::Task<T> task) {
    std::optional<T> out;
    io::spawn(std::move(task), [&](T&& value) { out.emplace(std::move(value)); });
    scheduler.run_until([&] { return out.has_value(); }, kPatience);
    if (!out) violate("hangs");
    return out;
  }

  std::vector<volume::SegmentFile> open_files(Scheduler& scheduler) {
    std::vector<volume::SegmentFile> out;
    for (GoldenBacking& backing : bytes_.backings) {
      out.push_back(
          {backing.uuid, std::make_unique<MemoryFile>(scheduler, std::span(backing.bytes)), backing.is_base});
    }
    return out;
  }
  // As the functions of `extent` want them: and which of them is the base.
  struct Pointers {
    std::vector<io::File*> files;
    size_t base = extent::kNoBase;
  };
  static Pointers pointers_to(const std::vector<volume::SegmentFile>& files) {
    Pointers out;
    for (const volume::SegmentFile& file : files) {
      if (file.is_base) out.base = out.files.size();
      out.files.push_back(file.file.get());
    }
    return out;
  }

  void judge() {
    Scheduler scheduler(1);
    scheduler.set_orderly(true);
    const auto files = open_files(scheduler);
    Pointers pointers = pointers_to(files);
    const auto recovered = wait(scheduler, extent::recover(std::move(pointers.files), pointers.base));
    if (!recovered) return;
    if (!*recovered) return judge_refusal((*recovered).error());
    result_.noticed += (**recovered)->blemishes.empty() ? 0 : 1;
    noticed_ = (**recovered)->blemishes.empty() ? "" : (**recovered)->blemishes.front();
    live_once(scheduler);
  }

  // "It does not open" is no message to find a damaged disk by.
  void judge_refusal(const Error& error) {
    noticed_ = error.message;
    constexpr std::string_view kAreas[] = {"label", "superblock", "journal", "table"};
    ++result_.refused;
    const bool named = std::any_of(std::begin(kAreas), std::end(kAreas), [&](std::string_view area) {
      return error.message.find(area) != std::string::npos;
    });
    if (!named || error.code == Code::kInternal) violate("refused without naming it: " + error.message);
  }

  // Opens it, which writes, reads all of it, closes it, and recovers what that left.
  void live_once(Scheduler& scheduler) {
    written_ = true;
    auto opened = wait(scheduler, volume::Volume::open(scheduler, open_files(scheduler), {}));
    if (!opened) return;
    if (!*opened) return violate("recovered, but not opened: " + (*opened).error().message);
    const std::unique_ptr<volume::Volume> volume = std::move((**opened).volume);
    if (!read_all(scheduler, *volume)) violate("it holds something else");
    const auto closed = wait(scheduler, volume->close());
    if (closed && !*closed) violate("it cannot be closed: " + (*closed).error().message);
    if (!closed) std::abort();  // with operations in flight it cannot be destroyed
    const auto files = open_files(scheduler);
    Pointers pointers = pointers_to(files);
    const auto report = wait(scheduler, extent::check_segments(std::move(pointers.files), pointers.base));
    if (report) judge_afterwards(*report);
    ++result_.harmless;
  }

  // A label is not written again by opening, so that it stays damaged is no wonder.
  void judge_afterwards(const extent::CheckReport& report) {
    for (const std::string& finding : report.findings) {
      if (finding.find("label") == std::string::npos) violate("closed, and then: " + finding);
    }
  }

  bool read_all(Scheduler& scheduler, volume::Volume& volume) {
    struct Call : block::Request {
      std::optional<Code> code;
    } call;
    if (volume.info().size != golden_.contents.size()) return false;
    call.length = golden_.contents.size();
    call.data = memory_.first(call.length);
    call.done = [](block::Request* r, Code code) { static_cast<Call*>(r)->code = code; };
    volume.submit(call);
    scheduler.run_until([&] { return call.code.has_value(); }, kPatience);
    return call.code == Code::kOk &&
           std::equal(golden_.contents.begin(), golden_.contents.end(), call.data.begin());
  }

  std::string name_;
  const GoldenImage golden_;
  GoldenImage bytes_;
  io::Buffer memory_;
  FlipResult& result_;
  std::string where_;
  bool written_ = false;
  std::string noticed_;  // what the last recovery found
};

}  // namespace

FlipResult flip_bits(uint64_t stride, uint64_t start) {
  FlipResult result;
  for (const Golden what : {Golden::kPlain, Golden::kSqueezed, Golden::kOver, Golden::kMoved}) {
    for (const bool closed : {true, false}) {
      Flipper flipper(what, closed, result);
      flipper.expect_sound();
      for (uint64_t bit = start; bit < flipper.bits() && result.violation.empty(); bit += stride) {
        flipper.flip(bit);
      }
    }
  }
  return result;
}

}  // namespace foreshadow::sim
