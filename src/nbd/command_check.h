#pragma once
// Which commands are refused before a device sees them, and with which error. Pure.
#include "base/error.h"
#include "nbd/codec.h"
#include "nbd/handshake.h"

namespace foreshadow::nbd {

struct Refusal {
  uint32_t error = 0;  // of the protocol; 0: not refused
  const char* reason = "";
  explicit operator bool() const { return error != 0; }
};

// Every rule of the protocol for `command` on an export of `size` bytes. Commands that pass have only known
// flags and lie wholly inside the export; READ and WRITE are at most limits::kNbdRequestBytes. DISC always
// passes.
Refusal check_command(const Command& command, const Agreement& agreement, uint64_t size);

// What the client of `command` is told when the device failed it with `code`: ENOTSUP and EOVERFLOW only
// where the protocol allows them.
uint32_t error_of(const Command& command, Code code);

}  // namespace foreshadow::nbd
