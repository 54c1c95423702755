// volume scrub.
#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "app/arguments.h"
#include "app/client.h"
#include "app/commands.h"
#include "app/describe.h"
#include "app/progress_bar.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr std::chrono::milliseconds kLookEvery{500};

struct ScrubArguments {
  std::string name;
  uint64_t rate = 0;
  bool stop = false;
  bool restart = false;
  bool no_wait = false;
};

// Until the scrub that began at `started_ms` has ended. Who interrupts this only stops looking.
Result<v1::Scrub> wait_for_end(Client& client, const std::string& name, uint64_t started_ms) {
  ProgressBar bar;
  v1::VolumeRequest request;
  request.set_name(name);
  for (;;) {
    ASSIGN_OR_RETURN(const v1::VolumeDetail detail, client.call(&Client::Stub::GetVolume, request));
    // The metrics are the newer ones, but may be from before it began.
    const v1::Scrub& scrub = detail.latest().scrub().started_ms() >= started_ms ? detail.latest().scrub()
                                                                                : detail.volume().scrub();
    if (scrub.total() > 0) bar.show(scrub.read() * kBlock, scrub.total() * kBlock);
    if (!scrub.running() || scrub.started_ms() > started_ms) return scrub;
    std::this_thread::sleep_for(kLookEvery);
  }
}

Status scrub(Invocation& invocation, const ScrubArguments& arguments) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::ScrubVolumeRequest request;
  request.set_name(arguments.name);
  request.set_rate(arguments.rate);
  request.set_stop(arguments.stop);
  request.set_restart(arguments.restart);
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::ScrubVolume, request));
  v1::Scrub end = volume.scrub();
  if (!arguments.no_wait && (!arguments.stop || end.running())) {
    ASSIGN_OR_RETURN(end, wait_for_end(client, arguments.name, volume.scrub().started_ms()));
  }
  invocation.print(to_json(end), fmt::format("volume {}: {}\n", arguments.name, describe(end)));
  const bool bad = end.corrupt() + end.unreadable() > 0 || !end.error().empty();
  invocation.exit_code = bad && !arguments.no_wait && !arguments.stop ? 1 : 0;
  return {};
}

}  // namespace

void add_scrub_command(CLI::App& volume, Invocation& invocation) {
  const auto arguments = std::make_shared<ScrubArguments>();
  CLI::App* command = volume.add_subcommand(
      "scrub", "Read all that is stored, verify what has a checksum and give one to what has none");
  command->add_option("NAME", arguments->name, "Name of the volume")->required();
  add_parsed(*command, "--rate", &arguments->rate, parse_rate, "At most so many bytes a second, as 100MiB/s")
      ->type_name("RATE");
  command->add_flag("--stop", arguments->stop, "Stop it; the next one goes on from there");
  command->add_flag("--restart", arguments->restart, "From the beginning, wherever the last one stopped");
  command->add_flag("--no-wait", arguments->no_wait,
                    "Return when it runs; `volume show` tells how far it is");
  command->callback([&invocation, arguments] {
    invocation.run = [&, arguments] { return scrub(invocation, *arguments); };
  });
}

}  // namespace foreshadow::app
