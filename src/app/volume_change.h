#pragma once
// What changes a volume that is there, or makes one over an image; and what is said of every new volume.
#include <algorithm>
#include <optional>
#include <string>

#include "app/commands.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::app {

// volume adopt-device, grow, set.
void add_volume_change_commands(CLI::App& volume, Invocation& invocation);
// nbd-resize.
void add_nbd_resize_command(CLI::App& app, Invocation& invocation);
// What is decided about a volume without being asked; what is left out stays, or is the default.
struct PolicyArguments {
  v1::MergeMode merge = v1::MERGE_MODE_UNSPECIFIED;
  std::optional<bool> reclaim;
  std::optional<uint32_t> reclaim_after_ms;
  std::optional<uint32_t> reclaim_after_s() const {
    if (!reclaim_after_ms) return std::nullopt;
    return std::max(1u, *reclaim_after_ms / 1000);
  }
};
// --merge, --reclaim, --reclaim-after.
void add_policy_options(CLI::App& command, PolicyArguments& arguments);
// --backpressure.
void add_backpressure(CLI::App& command, std::optional<v1::Backpressure>* target);

// What a new volume is told, whether it begins empty or over an image.
struct NewVolumeArguments {
  std::string name;
  std::string pool;
  uint64_t size = 0;
  uint64_t primary = 0;
  v1::RedirectMode redirect = v1::REDIRECT_MODE_ALLOCATING;
  uint32_t hold_timeout_ms = 0;
  std::optional<v1::Backpressure> backpressure;
  // Into a CreateVolumeRequest or an AdoptDeviceRequest.
  template <typename Request>
  void fill(Request& request) const {
    request.set_name(name);
    request.set_pool(pool);
    request.set_size(size);
    request.set_primary_size(primary);
    request.set_redirect(redirect);
    request.set_hold_timeout_ms(hold_timeout_ms);
    if (backpressure) *request.mutable_backpressure() = *backpressure;
  }
};
// NAME, --pool, --redirect, --hold-timeout, --backpressure. Sizes mean something else to each of the two.
void add_new_volume_options(CLI::App& command, NewVolumeArguments& arguments);

}  // namespace foreshadow::app
