#include "app/man_page.h"

#include <fmt/format.h>

#include <string_view>

namespace foreshadow::app {
namespace {

constexpr std::string_view kDescription =
    R"(.SH DESCRIPTION
foreshadow serves block volumes over NBD and makes each of them larger before it is full.
An agent serves the volumes and sees every request; a control plane forecasts when a volume will run out of
space and grants it a shadow ahead of that moment: a further backing file, attached and empty, into which new
writes go without a pause.
When a shadow is full it is merged: from then on it is simply a part of the volume.
What a volume does not need any more it gives back: its segments are emptied, or cut at their end, and their
space returns to the pool.
.PP
\fBforeshadow up\fR runs both in one process.
Every other command talks to it through the state directory.
)";

constexpr std::string_view kRest =
    R"(.SH FILES
.TP
\fIDIR\fB/nbd.sock\fR
the NBD server; the name of an export is the name of a volume
.TP
\fIDIR\fB/control.sock\fR
the control plane's API (gRPC)
.TP
\fIDIR\fB/pool\fR
the pool default, if none was added
.SH EXIT STATUS
0 if all went well and the answer is yes; 1 if something failed, or the answer is no; 2 for a wrong command
line.
.SH SEE ALSO
.BR nbdinfo (1),
.BR nbdcopy (1),
.BR nbd\-client (8)
)";

// Text as roff takes it: no escape, no request at the start of a line, and hyphens that can be copied.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && out.empty()) {
      out += "\\&";
      out += c;
    } else {
      out += c;
    }
  }
  return out;
}

// The placeholder of an option's value. CLI11 adds what its checks say behind a colon.
std::string value_of(const CLI::Option& option) {
  if (option.get_type_size() == 0) return {};
  const std::string type = option.get_type_name();
  return fmt::format(" \\fI{}\\fR", roff(type.substr(0, type.find(":{"))));
}

bool is_help(const CLI::Option& option) {
  return option.check_lname("help");
}

std::string describe(const CLI::Option& option) {
  const std::string name =
      option.get_positional()
          ? fmt::format("\\fI{}\\fR", roff(option.get_name(true)))
          : fmt::format("\\fB{}\\fR{}", roff(option.get_name(false, true)), value_of(option));
  std::string out = fmt::format(".TP\n{}\n{}", name, roff(option.get_description()));
  if (!option.get_envname().empty())
    out += fmt::format(" (also from $\\fB{}\\fR)", roff(option.get_envname()));
  return out + "\n";
}

std::string synopsis(const CLI::App& command, const std::string& path) {
  std::string out = fmt::format("\\fB{}\\fR", roff(path));
  for (const CLI::Option* option : command.get_options()) {
    if (is_help(*option)) continue;
    const std::string word = option->get_positional()
                                 ? fmt::format("\\fI{}\\fR", roff(option->get_name(true)))
                                 : fmt::format("\\fB{}\\fR{}", roff(option->get_name()), value_of(*option));
    out += option->get_required() ? " " + word : fmt::format(" [{}]", word);
  }
  return out;
}

void add_command(const CLI::App& command, const std::string& path, std::string& out) {
  const std::string here = path + " " + command.get_name();
  const auto below = command.get_subcommands([](const CLI::App*) { return true; });
  if (below.empty()) {
    out += fmt::format(".SS {}\n{}\n.PP\n{}.\n", roff(here), synopsis(command, here),
                       roff(command.get_description()));
    for (const CLI::Option* option : command.get_options()) {
      if (!is_help(*option)) out += describe(*option);
    }
  }
  for (const CLI::App* one : below) add_command(*one, here, out);
}

}  // namespace

std::string man_page(const CLI::App& app, const std::string& version) {
  std::string out = fmt::format(".TH FORESHADOW 1 \"\" \"foreshadow {}\" \"User Commands\"\n", roff(version));
  out += ".SH NAME\nforeshadow \\- a block volume that grows before it is full\n";
  out += ".SH SYNOPSIS\n" + synopsis(app, app.get_name()) + " \\fICOMMAND\\fR ...\n";
  out += kDescription;
  out += ".SH OPTIONS\nThese may stand before or behind every command.\n";
  for (const CLI::Option* option : app.get_options()) out += describe(*option);
  out += ".SH COMMANDS\n";
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    add_command(*command, app.get_name(), out);
  }
  out += kRest;
  return out;
}

}  // namespace foreshadow::app
