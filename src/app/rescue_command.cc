// rescue.
#include <fmt/format.h>

#include "app/arguments.h"
#include "app/commands.h"
#include "app/output.h"
#include "app/rescue.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

Json strings(const std::vector<std::string>& values) {
  Json out = Json::array();
  for (const std::string& value : values) out.add(value);
  return out;
}

Json to_json(const RescueReport& report) {
  Json volumes = Json::array();
  for (const RescuedVolume& volume : report.volumes) {
    volumes.add(Json::object()
                    .set("id", volume.id)
                    .set("name", volume.name)
                    .set("whole", volume.whole)
                    .set("size", volume.size)
                    .set("stored", volume.stored)
                    .set("segments", uint64_t{volume.segments})
                    .set("repaired", strings(volume.repaired))
                    .set("assumptions", strings(volume.assumptions))
                    .set("problems", strings(volume.problems)));
  }
  return Json::object()
      .set("volumes", std::move(volumes))
      .set("strangers", strings(report.strangers))
      .set("notes", report.notes);
}

std::string describe(const RescueReport& report, bool apply) {
  std::string out;
  for (const RescuedVolume& volume : report.volumes) {
    out += fmt::format("volume {} ({}): ", volume.name.empty() ? "of unknown name" : volume.name, volume.id);
    if (volume.whole) {
      out += fmt::format("whole; {} of {} stored in {} segments\n", format_size(volume.stored),
                         format_size(volume.size), volume.segments);
    } else {
      out += volume.problems.empty() ? "can be rebuilt\n" : "cannot be served\n";
    }
    for (const std::string& done : volume.repaired)
      out += fmt::format("  {}: {}\n", apply ? "repaired" : "to repair", printable(done));
    for (const std::string& guess : volume.assumptions) out += "  assumed: " + printable(guess) + "\n";
    for (const std::string& problem : volume.problems) out += "  problem: " + printable(problem) + "\n";
  }
  if (report.volumes.empty()) out += "no segments are in these directories\n";
  for (const std::string& stranger : report.strangers) out += "left alone: " + printable(stranger) + "\n";
  return out + printable(report.notes) + "\n";
}

}  // namespace

void add_rescue_command(CLI::App& app, Invocation& invocation) {
  struct Arguments {
    std::vector<std::string> directories;
    std::string state;
    bool apply = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "rescue",
      "Find volumes in directories of segments alone, make them good, and rebuild the state directory");
  command->add_option("--pool-dir", arguments->directories, "Directory with segments; may be repeated")
      ->required()
      ->type_name("DIR");
  add_parsed(*command, "--state", &arguments->state, parse_path, "State directory to write agent.json into")
      ->required()
      ->type_name("OUT");
  command->add_flag("--apply", arguments->apply, "Write; without it, only tell what would be done");
  command->callback([&invocation, arguments] {
    invocation.run = [&invocation, arguments]() -> Status {
      std::vector<std::string> directories;
      for (const std::string& directory : arguments->directories) {
        ASSIGN_OR_RETURN(std::string path, parse_path(directory));
        directories.push_back(std::move(path));
      }
      ASSIGN_OR_RETURN(const RescueReport report, rescue(directories, arguments->state, arguments->apply));
      invocation.print(to_json(report), describe(report, arguments->apply));
      for (const RescuedVolume& volume : report.volumes) {
        if (!volume.problems.empty()) invocation.exit_code = 1;
      }
      return {};
    };
  });
}

}  // namespace foreshadow::app
