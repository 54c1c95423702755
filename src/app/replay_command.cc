// replay: a recorded trace against an export.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>

#include "app/arguments.h"
#include "app/commands.h"
#include "app/output.h"
#include "app/replay.h"
#include "app/trace.h"

namespace foreshadow::app {
namespace {

constexpr int kBarWidth = 40;

struct ReplayArguments {
  std::string trace;
  std::string uri;
  double speed = 1;
};

void draw_bar(uint64_t done, uint64_t all) {
  const int filled = static_cast<int>(done * kBarWidth / all);
  fmt::print(stderr, "\r[{:#<{}}{: <{}}] {}/{}", "", filled, "", kBarWidth - filled, done, all);
  if (done == all) fmt::print(stderr, "\n");
  std::fflush(stderr);
}

Json to_json(const ReplaySummary& summary) {
  return Json::object()
      .set("ops", summary.ops)
      .set("errors", summary.errors)
      .set("first_error", summary.first_error)
      .set("bytes", summary.bytes)
      .set("seconds", summary.seconds)
      .set("mb_per_s", summary.seconds > 0 ? static_cast<double>(summary.bytes) / 1e6 / summary.seconds : 0.0)
      .set("latency_us_p50", summary.latency_us_p50)
      .set("latency_us_p99", summary.latency_us_p99)
      .set("latency_us_max", summary.latency_us_max);
}

std::string describe(const ReplaySummary& summary) {
  const auto us = [](uint64_t value) { return format_duration(static_cast<double>(value) * 1e-6); };
  Facts facts;
  facts.add("operations", fmt::format("{} in {}", summary.ops, format_duration(summary.seconds)));
  facts.add("errors", summary.errors == 0
                          ? "0"
                          : fmt::format("{}, the first: {}", summary.errors, summary.first_error));
  const double rate = summary.seconds > 0 ? static_cast<double>(summary.bytes) / 1e6 / summary.seconds : 0.0;
  facts.add("throughput", fmt::format("{:.1f} MB/s", rate));
  facts.add("latency", fmt::format("p50 {}, p99 {}, max {}", us(summary.latency_us_p50),
                                   us(summary.latency_us_p99), us(summary.latency_us_max)));
  return facts.str();
}

Status run(Invocation& invocation, const ReplayArguments& arguments) {
  std::ifstream file(arguments.trace);
  if (!file) return fail_errno(errno, fmt::format("trace {}: opening it", arguments.trace));
  ASSIGN_OR_RETURN(const std::vector<TraceOp> ops, parse_trace(file, arguments.trace));
  const bool bar = ::isatty(STDERR_FILENO) == 1;
  const auto progress = [&](uint64_t done) {
    if (bar) draw_bar(done, ops.size());
  };
  ASSIGN_OR_RETURN(const ReplaySummary summary,
                   replay(ops, arguments.trace, arguments.uri, arguments.speed, progress));
  invocation.print(to_json(summary), describe(summary));
  invocation.exit_code = summary.errors == 0 ? 0 : 1;
  return {};
}

}  // namespace

void add_replay_command(CLI::App& app, Invocation& invocation) {
  const auto arguments = std::make_shared<ReplayArguments>();
  CLI::App* command = app.add_subcommand("replay", "Replay a recorded trace (CSV: time_us,op,offset,length)");
  command->add_option("TRACE", arguments->trace, "File; op is R, W, T(rim), Z(ero) or F(lush)")->required();
  command->add_option("--uri", arguments->uri, "NBD URI of the export; `volume show` tells it")
      ->required()
      ->type_name("URI");
  add_parsed(*command, "--speed", &arguments->speed, parse_speed, "How many times as fast as recorded (1)")
      ->type_name("N|max");
  command->callback(
      [&invocation, arguments] { invocation.run = [&, arguments] { return run(invocation, *arguments); }; });
}

}  // namespace foreshadow::app
