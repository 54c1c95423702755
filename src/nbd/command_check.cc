#include "nbd/command_check.h"

#include "base/limits.h"

namespace foreshadow::nbd {
namespace {

bool is_known(uint16_t type) {
  return type <= kCmdBlockStatus;
}

bool modifies(uint16_t type) {
  return type == kCmdWrite || type == kCmdTrim || type == kCmdWriteZeroes;
}

// FUA is accepted everywhere, since clients are known to set it everywhere.
uint16_t allowed_flags(uint16_t type, const Agreement& agreement) {
  switch (type) {
    case kCmdRead:
      return agreement.structured ? kCmdFlagFua | kCmdFlagDf : kCmdFlagFua;
    case kCmdWriteZeroes:
      return kCmdFlagFua | kCmdFlagNoHole | kCmdFlagFastZero;
    case kCmdBlockStatus:
      return kCmdFlagFua | kCmdFlagReqOne;
    default:
      return kCmdFlagFua;
  }
}

Refusal check_length(const Command& command, const Agreement& agreement) {
  // One chunk is to hold it all, and none holds more than clients are told.
  if (command.type == kCmdRead && (command.flags & kCmdFlagDf) != 0 &&
      command.length > limits::kNbdAnnouncedBytes) {
    return {kEoverflow, "read longer than one chunk may be"};
  }
  if (command.length <= limits::kNbdRequestBytes) return {};
  // EOVERFLOW tells a client that smaller reads will do; only one that knows structured replies expects it.
  if (command.type == kCmdRead) {
    return {agreement.structured ? kEoverflow : kEinval, "read longer than the maximum payload"};
  }
  if (command.type == kCmdWrite) return {kEinval, "write longer than the maximum payload"};
  return {};
}

Refusal check_range(const Command& command, uint64_t size) {
  // No sum of wire values: it could wrap.
  if (command.offset <= size && command.length <= size - command.offset) return {};
  const bool writes = command.type == kCmdWrite || command.type == kCmdWriteZeroes;
  return {writes ? kEnospc : kEinval, "range past the end of the export"};
}

}  // namespace

Refusal check_command(const Command& command, const Agreement& agreement, uint64_t size) {
  if (command.type == kCmdDisc) return {};
  if (!is_known(command.type)) return {kEinval, "unknown command"};
  if ((command.flags & ~allowed_flags(command.type, agreement)) != 0) {
    return {kEinval, "command flag that is not allowed here"};
  }
  if (command.type == kCmdFlush) {
    if (command.offset != 0 || command.length != 0) return {kEinval, "flush with a range"};
    return {};
  }
  if (modifies(command.type) && agreement.read_only) return {kEperm, "the export is read-only"};
  if (command.type == kCmdBlockStatus) {
    if (!agreement.block_status) return {kEinval, "no metadata context was selected"};
    if (command.length == 0) return {kEinval, "block status of no bytes"};
  }
  if (const Refusal refusal = check_length(command, agreement)) return refusal;
  return check_range(command, size);
}

uint32_t error_of(const Command& command, Code code) {
  const auto error = static_cast<uint32_t>(row_of(code).nbd_errno);
  if (error == kEnotsup && (command.flags & kCmdFlagFastZero) == 0) return kEinval;
  if (error == kEoverflow && command.type != kCmdRead) return kEinval;
  return error;
}

}  // namespace foreshadow::nbd
