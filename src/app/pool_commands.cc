// pool add, pool list.
#include <fmt/format.h>

#include "app/arguments.h"
#include "app/client.h"
#include "app/commands.h"
#include "app/describe.h"
#include "app/output.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

Status add(const Invocation& invocation, const v1::AddPoolRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::Pool pool, client.call(&Client::Stub::AddPool, request));
  invocation.print(to_json(pool),
                   fmt::format("pool {} in {}: {} of {} used\n", pool.name(), printable(pool.directory()),
                               format_size(pool.used()), format_size(pool.capacity())));
  return {};
}

Status list(const Invocation& invocation) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::ListPoolsResponse pools,
                   client.call(&Client::Stub::ListPools, v1::ListPoolsRequest()));
  Table table({"NAME", ">CAPACITY", ">USED", ">SHARE", "DIRECTORY"});
  for (const v1::Pool& pool : pools.pools()) {
    table.add({pool.name(), format_size(pool.capacity()), format_size(pool.used()),
               format_share(pool.used(), pool.capacity()), printable(pool.directory())});
  }
  invocation.print(to_json_array(pools.pools()), table.str());
  return {};
}

}  // namespace

void add_pool_commands(CLI::App& app, Invocation& invocation) {
  CLI::App* pool = app.add_subcommand("pool", "Where segments come from");
  pool->require_subcommand(1);

  const auto request = std::make_shared<v1::AddPoolRequest>();
  CLI::App* adding = pool->add_subcommand("add", "Add a directory as a pool");
  adding
      ->add_option_function<std::string>(
          "NAME", [request](const std::string& name) { request->set_name(name); }, "Name of the pool")
      ->required();
  add_parsed(*adding, "--dir", request->mutable_directory(), parse_path,
             "Directory on the agent's host; it must exist")
      ->required()
      ->type_name("PATH");
  adding
      ->add_option_function<std::string>(
          "--capacity",
          [request](const std::string& text) {
            const auto size = parse_size(text);
            if (!size) throw CLI::ValidationError("--capacity", size.error().message);
            request->set_capacity(*size);
          },
          "Bytes it may hand out; without it, what the file system holds")
      ->type_name("SIZE");
  adding
      ->add_option_function<std::string>(
          "--agent", [request](const std::string& id) { request->set_agent_id(id); },
          "The agent that reaches the directory, where there are several")
      ->type_name("ID");
  adding->callback(
      [&invocation, request] { invocation.run = [&, request] { return add(invocation, *request); }; });

  CLI::App* listing = pool->add_subcommand("list", "List pools");
  listing->callback([&invocation] { invocation.run = [&] { return list(invocation); }; });
}

}  // namespace foreshadow::app
