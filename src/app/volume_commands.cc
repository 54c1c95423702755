// volume create, list, show, shrink, check, rm.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "app/arguments.h"
#include "app/client.h"
#include "app/commands.h"
#include "app/describe.h"
#include "app/job_progress.h"
#include "app/offline_check.h"
#include "app/output.h"
#include "app/volume_change.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

struct CreateArguments : NewVolumeArguments {
  v1::SqueezeMode squeeze = v1::SQUEEZE_MODE_OFF;
  bool checksums = false;
};

Status create(const Invocation& invocation, const CreateArguments& arguments, const PolicyArguments& policy) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::CreateVolumeRequest request;
  arguments.fill(request);
  request.set_squeeze(arguments.squeeze);
  request.set_checksums(arguments.checksums);
  request.mutable_policy()->set_merge(policy.merge);
  request.mutable_policy()->set_reclaim(policy.reclaim.value_or(false));
  request.mutable_policy()->set_reclaim_hold_s(policy.reclaim_after_s().value_or(0));
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::CreateVolume, request));
  invocation.print(to_json(volume),
                   fmt::format("volume {} is served at {}\nnext: nbdinfo '{}'\n", volume.name(),
                               printable(volume.uri()), printable(volume.uri())));
  return {};
}

Status list(const Invocation& invocation) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::ListVolumesResponse volumes,
                   client.call(&Client::Stub::ListVolumes, v1::ListVolumesRequest()));
  Table table({"NAME", ">SIZE", ">CAPACITY", ">USED", ">SHARE", ">SEGMENTS", ">HOLDS", "STATE"});
  for (const v1::Volume& volume : volumes.volumes()) {
    const bool served = !volume.uri().empty();
    table.add({volume.name(), format_size(volume.size()), format_size(volume.capacity()),
               format_size(volume.used()), format_share(volume.used(), volume.capacity()),
               fmt::format("{}", volume.segments_size()), fmt::format("{}", volume.holds()),
               !served                             ? "not served"
               : volume.read_only_reason().empty() ? "served"
                                                   : "read-only"});
  }
  invocation.print(to_json_array(volumes.volumes()), table.str());
  return {};
}

v1::VolumeRequest request_for(const std::string& name) {
  v1::VolumeRequest request;
  request.set_name(name);
  return request;
}

Status show(const Invocation& invocation, const std::string& name) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::VolumeDetail detail, client.call(&Client::Stub::GetVolume, request_for(name)));
  invocation.print(to_json(detail), describe(detail));
  return {};
}

Status shrink(const Invocation& invocation, const v1::ShrinkVolumeRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(
      const v1::ShrinkVolumeResponse shrunk,
      call_with_progress(client, request.volume(), !invocation.json, &Client::Stub::ShrinkVolume, request));
  std::string text = describe(shrunk.plan());
  if (!request.plan_only() && shrunk.plan().steps_size() > 0) {
    text += fmt::format("volume {} has {} segments now, {} of capacity, {} used\n", shrunk.volume().name(),
                        shrunk.volume().segments_size(), format_size(shrunk.volume().capacity()),
                        format_size(shrunk.volume().used()));
  }
  invocation.print(Json::object().set("plan", to_json(shrunk.plan())).set("volume", to_json(shrunk.volume())),
                   text);
  return {};
}

Result<v1::CheckReport> ask_for_check(const std::string& state, const std::string& name, bool repair) {
  if (!answers(control_socket(state))) return check_offline(state, name, repair);
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::CheckVolumeRequest request;
  request.set_name(name);
  request.set_repair(repair);
  return client.call(&Client::Stub::CheckVolume, request);
}

Status check(Invocation& invocation, const std::string& name, bool repair) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(const v1::CheckReport report, ask_for_check(state, name, repair));
  invocation.print(to_json(report), describe(report, name));
  invocation.exit_code = report.ok() ? 0 : 1;
  return {};
}

Status remove(const Invocation& invocation, const std::string& name, bool force) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::DeleteVolumeRequest request;
  request.set_name(name);
  request.set_force(force);
  ASSIGN_OR_RETURN(const v1::DeleteVolumeResponse removed, client.call(&Client::Stub::DeleteVolume, request));
  std::string said = fmt::format("volume {} is removed\n", name);
  if (!removed.kept().empty())
    said += fmt::format("its image {} stays as it is\n", printable(removed.kept()));
  invocation.print(Json::object().set("removed", name).set("kept", removed.kept()), said);
  return {};
}

void add_create(CLI::App& volume, Invocation& invocation) {
  const auto arguments = std::make_shared<CreateArguments>();
  const auto policy = std::make_shared<PolicyArguments>();
  CLI::App* command = volume.add_subcommand("create", "Create a volume and serve it");
  add_parsed(*command, "--size", &arguments->size, parse_size,
             "What the client sees; far above its backing is usual")
      ->required()
      ->type_name("SIZE");
  add_parsed(*command, "--primary", &arguments->primary, parse_size, "Bytes taken from the pool for a start")
      ->required()
      ->type_name("SIZE");
  add_new_volume_options(*command, *arguments);
  add_parsed(*command, "--squeeze", &arguments->squeeze, parse_squeeze,
             "Compress each shadow in the background when it is merged (off)")
      ->type_name("off|lz4|zstd");
  command->add_flag("--checksums", arguments->checksums,
                    "Keep a checksum of every 4 KiB of data, and verify what is read");
  add_policy_options(*command, *policy);
  command->callback([&invocation, arguments, policy] {
    invocation.run = [&, arguments, policy] { return create(invocation, *arguments, *policy); };
  });
}

void add_shrink(CLI::App& volume, Invocation& invocation) {
  struct Arguments {
    std::string name;
    uint64_t to = 0;
    bool automatic = false;
    bool plan_only = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = volume.add_subcommand(
      "shrink", "Give capacity back to the pools while the volume is served; returns when that is done");
  command->add_option("NAME", arguments->name, "Name of the volume")->required();
  CLI::Option* to = add_parsed(*command, "--to", &arguments->to, parse_size,
                               "The capacity that is to be left, warm shadow included; this or --auto")
                        ->type_name("SIZE");
  command->add_flag("--auto", arguments->automatic, "To what is used, and a fifth more")->excludes(to);
  command->add_flag("--plan", arguments->plan_only, "Say what would be done, and do nothing");
  command->callback([&invocation, arguments] {
    if (!arguments->automatic && arguments->to == 0) {
      throw CLI::ValidationError("--to", "expected a capacity, such as 10GiB; --auto chooses one");
    }
    invocation.run = [&, arguments]() -> Status {
      v1::ShrinkVolumeRequest request;
      request.set_volume(arguments->name);
      request.set_to_bytes(arguments->to);
      request.set_plan_only(arguments->plan_only);
      return shrink(invocation, request);
    };
  });
}

void add_check(CLI::App& volume, Invocation& invocation) {
  const auto name = std::make_shared<std::string>();
  const auto repair = std::make_shared<bool>(false);
  CLI::App* command =
      volume.add_subcommand("check", "Prove or refute every invariant on disk; works without a server too");
  command->add_option("NAME", *name, "Name of the volume")->required();
  command->add_flag("--repair", *repair, "First make good what a second copy proves; says what it did");
  command->callback([&invocation, name, repair] {
    invocation.run = [&invocation, name, repair] { return check(invocation, *name, *repair); };
  });
}

void add_remove(CLI::App& volume, Invocation& invocation) {
  const auto name = std::make_shared<std::string>();
  const auto force = std::make_shared<bool>(false);
  CLI::App* command =
      volume.add_subcommand("rm", "Remove a volume and its data; an image that it lies over stays");
  command->add_option("NAME", *name, "Name of the volume")->required();
  command->add_flag("--force", *force, "Even if data of it that is not in its image is lost");
  command->callback([&invocation, name, force] {
    invocation.run = [&invocation, name, force] { return remove(invocation, *name, *force); };
  });
}

}  // namespace

void add_volume_commands(CLI::App& app, Invocation& invocation) {
  CLI::App* volume = app.add_subcommand("volume", "Create, look at, check and remove volumes");
  volume->require_subcommand(1);
  add_create(*volume, invocation);
  add_check(*volume, invocation);
  add_scrub_command(*volume, invocation);
  add_shrink(*volume, invocation);
  CLI::App* listing = volume->add_subcommand("list", "List volumes");
  listing->callback([&invocation] { invocation.run = [&] { return list(invocation); }; });

  // The commands that take one name and nothing else.
  const auto add_named = [&](const std::string& name, const std::string& description, auto action) {
    const auto target = std::make_shared<std::string>();
    CLI::App* command = volume->add_subcommand(name, description);
    command->add_option("NAME", *target, "Name of the volume")->required();
    command->callback([&invocation, target, action] {
      invocation.run = [&invocation, target, action] { return action(invocation, *target); };
    });
  };
  add_named("show", "Show a volume, its segments and its forecast", show);
  add_remove(*volume, invocation);
  add_volume_change_commands(*volume, invocation);
}

}  // namespace foreshadow::app
