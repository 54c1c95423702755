// explain, events, status: what happened, and why.
#include <fmt/format.h>

#include <cstdio>

#include "app/client.h"
#include "app/commands.h"
#include "app/describe.h"
#include "app/output.h"

namespace foreshadow::app {
namespace {

Status explain(const Invocation& invocation, const std::string& name) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::VolumeRequest request;
  request.set_name(name);
  ASSIGN_OR_RETURN(const v1::Explanation explanation, client.call(&Client::Stub::Explain, request));
  invocation.print(to_json(explanation), describe(explanation));
  return {};
}

// Each event as it comes: a line, or with -o json an object on a line. Without --follow JSON is one array.
Status events(const Invocation& invocation, const v1::WatchEventsRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  grpc::ClientContext context;
  const auto reader = client.stub().WatchEvents(&context, request);
  v1::Event event;
  Json all = Json::array();
  while (reader->Read(&event)) {
    if (invocation.json && !request.follow()) {
      all.add(to_json(event));
      continue;
    }
    fmt::print("{}\n", invocation.json ? to_json(event).line() : describe_line(event));
    std::fflush(stdout);
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return tl::unexpected<Error>(to_error(status));
  if (invocation.json && !request.follow()) invocation.print(all, "");
  return {};
}

Status status(const Invocation& invocation) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::StatusReport report,
                   client.call(&Client::Stub::GetStatus, v1::GetStatusRequest()));
  Facts facts;
  facts.add("version", printable(report.version()));
  facts.add("up since", format_time(report.started_ms()));
  std::string agents;
  for (const std::string& agent : report.agents()) agents += (agents.empty() ? "" : ", ") + printable(agent);
  facts.add("agents", agents.empty() ? "none is connected" : agents);
  facts.add("volumes", fmt::format("{}", report.volumes()));
  facts.add("pending intents", fmt::format("{}", report.pending_intents()));
  invocation.print(to_json(report), facts.str());
  return {};
}

}  // namespace

void add_record_commands(CLI::App& app, Invocation& invocation) {
  const auto explained = std::make_shared<std::string>();
  CLI::App* explaining =
      app.add_subcommand("explain", "Say what control thinks of a volume, and why it did what it did");
  explaining->add_option("VOLUME", *explained, "Name of the volume")->required();
  explaining->callback([&invocation, explained] {
    invocation.run = [&, explained] { return explain(invocation, *explained); };
  });

  struct EventArguments {
    bool follow = false;
    std::string volume;
    uint64_t after = 0;
  };
  const auto watched = std::make_shared<EventArguments>();
  CLI::App* watching = app.add_subcommand("events", "Print the record of what happened");
  watching->add_flag("--follow", watched->follow,
                     "Go on with what is new; -o json then prints an object a line");
  watching->add_option("--volume", watched->volume, "Only of this volume")->type_name("VOLUME");
  watching->add_option("--after", watched->after, "Only what came after this sequence number")
      ->type_name("N");
  watching->callback([&invocation, watched] {
    invocation.run = [&, watched] {
      v1::WatchEventsRequest request;
      request.set_follow(watched->follow);
      request.set_volume(watched->volume);
      request.set_after_sequence(watched->after);
      return events(invocation, request);
    };
  });

  CLI::App* asking = app.add_subcommand("status", "Show how the server does");
  asking->callback([&invocation] { invocation.run = [&] { return status(invocation); }; });
}

}  // namespace foreshadow::app
