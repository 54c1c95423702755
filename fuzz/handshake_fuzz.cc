// A peer that says anything, in pieces of any size: the handshake ends or goes on, within its limits.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "nbd/handshake.h"

using namespace foreshadow;

namespace {

class OneExport final : public nbd::ExportTable {
 public:
  block::BlockDevice* find(std::string_view name) override { return name == "demo" ? &device_ : nullptr; }
  std::vector<std::string> names() override { return {"demo"}; }

 private:
  class Device final : public block::BlockDevice {
   public:
    block::DeviceInfo info() const override { return {1 << 20, 4096, false, "fuzz"}; }
    void submit(block::Request&) override { std::abort(); }  // nothing is opened before the handshake is done
    std::vector<block::Extent> extents(uint64_t, uint64_t, size_t) const override { return {}; }
  };
  Device device_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  OneExport exports;
  nbd::Handshake handshake(exports);
  nbd::Bytes out;
  handshake.start(out);
  const std::span<const std::byte> all = std::as_bytes(std::span(data + 1, size - 1));
  const size_t step = 1 + data[0];
  size_t taken = 0;
  for (size_t upto = 0; upto < all.size() && handshake.state() == nbd::Handshake::State::kTalking;) {
    upto = std::min(all.size(), upto + step);
    const size_t used = handshake.feed(all.subspan(taken, upto - taken), out);
    if (used > upto - taken) std::abort();
    taken += used;
    if (out.size() > (1u << 24)) std::abort();
  }
  return 0;
}
