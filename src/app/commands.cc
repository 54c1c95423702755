#include "app/commands.h"

#include <fmt/format.h>

#include <cstdio>

#include "app/arguments.h"
#include "app/man_page.h"
#include "app/volume_change.h"
#include "base/names.h"

namespace foreshadow::app {
namespace {

constexpr int kUsageError = 2;

void print_error(std::string_view message) {
  fmt::print(stderr, "foreshadow: {}\n", message);
}

void print_version(const Invocation& invocation) {
  invocation.print(Json::object().set("version", FORESHADOW_VERSION), "foreshadow " FORESHADOW_VERSION "\n");
}

}  // namespace

Result<std::string> Invocation::state_dir() const {
  if (!state.empty()) return state;
  return fail(Code::kInvalidArgument,
              "state directory: none was given; say --state DIR or set $FORESHADOW_STATE");
}

void Invocation::print(const Json& value, const std::string& text) const {
  const std::string out = json ? value.pretty() + "\n" : text;
  std::fwrite(out.data(), 1, out.size(), stdout);
  std::fflush(stdout);
}

std::unique_ptr<CLI::App> make_parser(Invocation& invocation) {
  auto app = std::make_unique<CLI::App>("A block volume that grows before it is full.", "foreshadow");
  app->require_subcommand(1);
  app->fallthrough();  // common options may stand behind the command; handed down to every command added
                       // below
  add_parsed(*app, "--state", &invocation.state, parse_path, "Directory of the server's state and sockets")
      ->envname("FORESHADOW_STATE")
      ->type_name("DIR");
  app->add_option_function<std::string>(
         "-o,--output", [&invocation](const std::string& format) { invocation.json = format == "json"; },
         "How to print results")
      ->check(CLI::IsMember({"table", "json"}))
      ->type_name("table|json");
  add_serve_commands(*app, invocation);
  add_pool_commands(*app, invocation);
  add_volume_commands(*app, invocation);
  add_shadow_commands(*app, invocation);
  add_record_commands(*app, invocation);
  add_replay_command(*app, invocation);
  add_rescue_command(*app, invocation);
  add_nbd_resize_command(*app, invocation);
  CLI::App* man = app->add_subcommand("man", "Print the manual page foreshadow(1), for man -l -");
  man->callback([&invocation, parser = app.get()] {
    invocation.run = [&invocation, parser]() -> Status {
      const std::string page = man_page(*parser, FORESHADOW_VERSION);
      invocation.print(Json::object().set("page", page), page);
      return {};
    };
  });
  CLI::App* version = app->add_subcommand("version", "Print the version");
  version->callback([&invocation] {
    invocation.run = [&invocation]() -> Status {
      print_version(invocation);
      return {};
    };
  });
  // Behind --output, which counts for it as well.
  app->set_version_flag("--version", "foreshadow " FORESHADOW_VERSION, "Print the version");
  return app;
}

int run_program(int argc, const char* const* argv) {
  Invocation invocation;
  const std::unique_ptr<CLI::App> app = make_parser(invocation);
  try {
    app->parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app->exit(help);
  } catch (const CLI::CallForAllHelp& help) {
    return app->exit(help);
  } catch (const CLI::CallForVersion&) {
    print_version(invocation);
    return 0;
  } catch (const CLI::RequiredError& error) {
    const std::vector<std::string> unknown = app->remaining(true);
    const std::string what = unknown.empty()
                                 ? std::string(error.what())
                                 : fmt::format("there is no command {}", foreshadow::quoted(unknown.front()));
    print_error(fmt::format("{}; `foreshadow --help` tells what is there", what));
    return kUsageError;
  } catch (const CLI::ParseError& error) {
    print_error(fmt::format("{}; `foreshadow --help` and `foreshadow COMMAND --help` tell what is there",
                            error.what()));
    return kUsageError;
  }
  const Status done = invocation.run ? invocation.run() : Status{};
  if (done) return invocation.exit_code;
  print_error(done.error().message);
  return 1;
}

}  // namespace foreshadow::app
