// A peer that says anything, in pieces of any size: the handshake ends or goes on, within its limits.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "fuzz/target.h"
#include "nbd/handshake.h"

using namespace foreshadow;
using fuzz::expect;

namespace {

class Exports final : public nbd::ExportTable {
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

// A fuzzer seldom finds the magic of a second option behind the payload of a first one. So the input may also
// be a list of options: their number, the length they have, and the payload.
nbd::Bytes spelled_out(fuzz::Input& in) {
  nbd::Bytes out;
  nbd::append_client_flags(out, in.u8() % 4);
  while (!in.empty()) {
    const uint8_t option = in.u8();
    const uint8_t length = in.u8();
    nbd::append_option(out, option == 0xff ? in.u32() : option % 16, in.bytes(length));
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  fuzz::Input in(data, size);
  const uint8_t how = in.u8();
  const size_t step = 1 + how / 2;
  nbd::Bytes spelled;
  nbd::ByteView all;
  if (how % 2 == 0) {
    all = in.rest();
  } else {
    spelled = spelled_out(in);
    all = spelled;
  }
  Exports exports;
  nbd::Handshake handshake(exports);
  nbd::Bytes out;
  handshake.start(out);
  size_t taken = 0;
  size_t upto = 0;
  while (upto < all.size() && handshake.state() == nbd::Handshake::State::kTalking) {
    upto = std::min(all.size(), upto + step);
    const size_t used = handshake.feed(all.subspan(taken, upto - taken), out);
    expect(used <= upto - taken, "no more is taken than was there");
    taken += used;
    expect(out.size() <= 2000 * (taken + 1), "an answer is in proportion to its question");
  }
  if (handshake.state() == nbd::Handshake::State::kTalking) {
    expect(upto - taken <= nbd::Handshake::kMessageBytes, "what waits is one message at most");
  }
  if (handshake.state() == nbd::Handshake::State::kDone) {
    const nbd::Agreement& agreed = handshake.agreement();
    expect(agreed.device != nullptr && agreed.name == "demo" && agreed.size == 1 << 20,
           "what is agreed exists");
    expect(agreed.structured || !agreed.block_status, "block status goes by structured replies only");
  }
  return 0;
}
