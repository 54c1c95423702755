// volume adopt-device, grow, set, move; nbd-resize.
#include <fmt/format.h>

#include <memory>

#include "app/arguments.h"
#include "app/client.h"
#include "app/describe.h"
#include "app/job_progress.h"
#include "app/output.h"
#include "app/volume_change.h"
#include "base/size.h"
#include "io/kernel_nbd.h"

namespace foreshadow::app {
namespace {

struct AdoptArguments : NewVolumeArguments {
  std::string device;
};

Status adopt(const Invocation& invocation, const AdoptArguments& arguments) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::AdoptDeviceRequest request;
  arguments.fill(request);
  request.set_device(arguments.device);
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::AdoptDevice, request));
  invocation.print(
      to_json(volume),
      fmt::format("volume {} lies over {} and is served at {}\nnext: nbdinfo '{}'\n", volume.name(),
                  printable(volume.base_path()), printable(volume.uri()), printable(volume.uri())));
  return {};
}

Status grow(const Invocation& invocation, const std::string& name, uint64_t size) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::GrowVolumeRequest request;
  request.set_name(name);
  request.set_size(size);
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::GrowVolume, request));
  invocation.print(to_json(volume),
                   fmt::format("volume {} has {} now\n", volume.name(), format_size(volume.size())));
  return {};
}

struct SetArguments {
  std::string name;
  PolicyArguments policy;
  uint32_t hold_timeout_ms = 0;
  std::optional<v1::Backpressure> backpressure;
};

Status set(const Invocation& invocation, const SetArguments& arguments) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::SetVolumeRequest request;
  request.set_name(arguments.name);
  request.set_hold_timeout_ms(arguments.hold_timeout_ms);
  if (arguments.backpressure) *request.mutable_backpressure() = *arguments.backpressure;
  request.set_merge(arguments.policy.merge);
  if (arguments.policy.reclaim) request.set_reclaim(*arguments.policy.reclaim);
  if (const auto after = arguments.policy.reclaim_after_s()) request.set_reclaim_hold_s(*after);
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::SetVolume, request));
  invocation.print(
      to_json(volume),
      fmt::format("volume {}: {}; full shadows are {}, reclaim is {}\n", volume.name(), describe_wall(volume),
                  volume.policy().merge() == v1::MERGE_MODE_FOLD ? "folded" : "adopted",
                  volume.policy().reclaim() ? "on" : "off"));
  return {};
}

struct ResizeArguments {
  std::string device;
  std::string volume;
  uint64_t size = 0;
};

Status resize(const Invocation& invocation, const ResizeArguments& arguments) {
  if (arguments.volume.empty() == (arguments.size == 0)) {
    return fail(Code::kInvalidArgument, "nbd-resize: say either --volume NAME or --size SIZE");
  }
  uint64_t size = arguments.size;
  if (size == 0) {
    ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
    ASSIGN_OR_RETURN(Client client, Client::connect(state));
    v1::VolumeRequest request;
    request.set_name(arguments.volume);
    ASSIGN_OR_RETURN(const v1::VolumeDetail detail, client.call(&Client::Stub::GetVolume, request));
    size = detail.volume().size();
  }
  TRY(io::resize_kernel_nbd(arguments.device, size));
  invocation.print(Json::object().set("device", arguments.device).set("size", size),
                   fmt::format("{} has {} now\n", printable(arguments.device), format_size(size)));
  return {};
}

void add_adopt(CLI::App& volume, Invocation& invocation) {
  const auto arguments = std::make_shared<AdoptArguments>();
  CLI::App* command = volume.add_subcommand(
      "adopt-device", "Serve an existing raw image or block device as a volume, over the bytes it has");
  add_parsed(*command, "--device", &arguments->device, parse_path,
             "The image or device; it stays where and what it is")
      ->required()
      ->type_name("PATH");
  add_parsed(*command, "--primary", &arguments->primary, parse_size,
             "Bytes taken from the pool for the head; without it, 256MiB and what the image's table takes")
      ->type_name("SIZE");
  add_parsed(*command, "--size", &arguments->size, parse_size,
             "What the client sees, if it is to be more than the image has")
      ->type_name("SIZE");
  add_new_volume_options(*command, *arguments);
  command->callback([&invocation, arguments] {
    invocation.run = [&, arguments] { return adopt(invocation, *arguments); };
  });
}

void add_grow(CLI::App& volume, Invocation& invocation) {
  const auto name = std::make_shared<std::string>();
  const auto size = std::make_shared<uint64_t>(0);
  CLI::App* command =
      volume.add_subcommand("grow", "Enlarge what clients see of a volume, while it is in use");
  command->add_option("NAME", *name, "Name of the volume")->required();
  add_parsed(*command, "--size", size.get(), parse_size, "The new size; it never shrinks")
      ->required()
      ->type_name("SIZE");
  command->callback([&invocation, name, size] {
    invocation.run = [&, name, size] { return grow(invocation, *name, *size); };
  });
}

Status move(const Invocation& invocation, const v1::MoveVolumeRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::Volume volume,
                   call_with_progress(client, request.name(), request.wait() && !invocation.json,
                                      &Client::Stub::MoveVolume, request));
  invocation.print(
      to_json(volume),
      request.wait()
          ? fmt::format("volume {}: its primary is in pool {} now, {} of capacity, {} used\n", volume.name(),
                        printable(volume.pool()), format_size(volume.capacity()), format_size(volume.used()))
          : fmt::format("volume {}: its primary moves from pool {} to {}; `volume show {}` tells "
                        "how far it is\n",
                        volume.name(), printable(volume.pool()), printable(request.pool()), volume.name()));
  return {};
}

void add_move(CLI::App& volume, Invocation& invocation) {
  struct Arguments {
    std::string name;
    std::string pool;
    bool wait = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = volume.add_subcommand(
      "move", "Move the primary of a volume to another pool, while it is served; later shadows follow");
  command->add_option("NAME", arguments->name, "Name of the volume")->required();
  command->add_option("--pool", arguments->pool, "Where it goes")->required()->type_name("POOL");
  command->add_flag("--wait", arguments->wait, "Return when it is done, not when it is recorded");
  command->callback([&invocation, arguments] {
    invocation.run = [&, arguments] {
      v1::MoveVolumeRequest request;
      request.set_name(arguments->name);
      request.set_pool(arguments->pool);
      request.set_wait(arguments->wait);
      return move(invocation, request);
    };
  });
}

void add_set(CLI::App& volume, Invocation& invocation) {
  const auto arguments = std::make_shared<SetArguments>();
  CLI::App* command =
      volume.add_subcommand("set", "Change how a volume grows, shrinks and behaves where space runs short");
  command->add_option("NAME", arguments->name, "Name of the volume")->required();
  add_parsed(*command, "--hold-timeout", &arguments->hold_timeout_ms, parse_duration_ms,
             "How long a write waits at the wall before it fails; counts for those that wait now")
      ->type_name("DURATION");
  add_backpressure(*command, &arguments->backpressure);
  add_policy_options(*command, arguments->policy);
  command->callback(
      [&invocation, arguments] { invocation.run = [&, arguments] { return set(invocation, *arguments); }; });
}

}  // namespace

void add_backpressure(CLI::App& command, std::optional<v1::Backpressure>* target) {
  add_parsed(command, "--backpressure", target, parse_backpressure,
             "Slow new writes down while less than this is left (auto: 64MiB or 2%, whichever is less)")
      ->type_name("SIZE|PERCENT|off|auto");
}

void add_new_volume_options(CLI::App& command, NewVolumeArguments& arguments) {
  command.add_option("NAME", arguments.name, "Name of the volume: [a-z0-9][a-z0-9-]{0,62}")->required();
  command
      .add_option("--pool", arguments.pool, "Pool of what the volume begins with, and of shadows (default)")
      ->type_name("POOL");
  add_parsed(command, "--redirect", &arguments.redirect, parse_redirect,
             "Which new writes go to a shadow: first touches only, or overwrites too")
      ->type_name("allocating|all");
  add_parsed(command, "--hold-timeout", &arguments.hold_timeout_ms, parse_duration_ms,
             "How long a write waits at the wall before it fails (60s)")
      ->type_name("DURATION");
  add_backpressure(command, &arguments.backpressure);
}

void add_policy_options(CLI::App& command, PolicyArguments& arguments) {
  add_parsed(command, "--merge", &arguments.merge, parse_merge,
             "What becomes of a full shadow: part of the volume as it is, or copied into the primary")
      ->type_name("adopt|fold");
  add_parsed(command, "--reclaim", &arguments.reclaim, parse_switch,
             "Shrink by policy once more than half has been free for long (off)")
      ->type_name("on|off");
  add_parsed(command, "--reclaim-after", &arguments.reclaim_after_ms, parse_duration_ms,
             "How long it has to have been free (10min)")
      ->type_name("DURATION");
}

void add_volume_change_commands(CLI::App& volume, Invocation& invocation) {
  add_adopt(volume, invocation);
  add_grow(volume, invocation);
  add_set(volume, invocation);
  add_move(volume, invocation);
}

void add_nbd_resize_command(CLI::App& app, Invocation& invocation) {
  const auto arguments = std::make_shared<ResizeArguments>();
  CLI::App* command =
      app.add_subcommand("nbd-resize", "Tell the kernel's NBD client that the export of a device has grown");
  command->add_option("DEVICE", arguments->device, "The device, such as /dev/nbd0")->required();
  command->add_option("--volume", arguments->volume, "To the size of this volume")->type_name("NAME");
  add_parsed(*command, "--size", &arguments->size, parse_size, "To this size")->type_name("SIZE");
  command->callback([&invocation, arguments] {
    invocation.run = [&, arguments] { return resize(invocation, *arguments); };
  });
}

}  // namespace foreshadow::app
