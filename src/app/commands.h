#pragma once
// The command line: each group of commands adds itself, and says what to run.
#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "app/json.h"
#include "base/error.h"

namespace foreshadow::app {

// What was typed that every command shares, and what it comes to. Lives as long as the parser.
struct Invocation {
  std::string state;            // absolute; empty if neither --state nor $FORESHADOW_STATE was given
  bool json = false;            // -o json
  std::function<Status()> run;  // the command, once parsed
  int exit_code = 0;            // where the command did what it should and the answer is "no"

  // kInvalidArgument with what to do, if there is none.
  Result<std::string> state_dir() const;
  // Prints `json` or `text`, whichever was asked for.
  void print(const Json& value, const std::string& text) const;
};

// Makes the parser: every command of the program.
std::unique_ptr<CLI::App> make_parser(Invocation& invocation);
// Parses and runs. Errors go to standard error as "foreshadow: <what>"; 2 for a wrong command line, 1 for
// anything else.
int run_program(int argc, const char* const* argv);

void add_serve_commands(CLI::App& app, Invocation& invocation);
void add_pool_commands(CLI::App& app, Invocation& invocation);
void add_volume_commands(CLI::App& app, Invocation& invocation);
void add_scrub_command(CLI::App& volume, Invocation& invocation);
void add_shadow_commands(CLI::App& app, Invocation& invocation);
void add_record_commands(CLI::App& app, Invocation& invocation);
void add_rescue_command(CLI::App& app, Invocation& invocation);
void add_replay_command(CLI::App& app, Invocation& invocation);

// An option whose text `parse` turns into *target; its error is an error of the command line.
template <typename T, typename Parse>
CLI::Option* add_parsed(CLI::App& command, const std::string& name, T* target, Parse parse,
                        const std::string& description) {
  return command.add_option_function<std::string>(
      name,
      [target, parse, name](const std::string& text) {
        auto value = parse(text);
        if (!value) throw CLI::ValidationError(name, value.error().message);
        *target = std::move(*value);
      },
      description);
}

}  // namespace foreshadow::app
