#include "agent/state_dir.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>

#include <utility>

#include "agent/agent_limits.h"

namespace foreshadow::agent {
namespace {

constexpr const char* kStateFile = "agent.json";
constexpr const char* kLockFile = "agent.lock";

}  // namespace

Result<StateDir> StateDir::open(const std::string& directory) {
  ASSIGN_OR_RETURN(io::StateDirectory locked, io::StateDirectory::open(directory, kLockFile));
  return StateDir(std::move(locked));
}

Result<state::AgentState> StateDir::load_state(const std::string& directory) {
  const std::string path = directory + "/" + kStateFile;
  state::AgentState state;
  ASSIGN_OR_RETURN(const std::optional<std::string> text, io::read_small_file(path, limits::kStateFileBytes));
  if (!text) return state;
  const auto parsed = google::protobuf::util::JsonStringToMessage(*text, &state);
  if (!parsed.ok()) {
    return fail(Code::kCorrupt, fmt::format("{}: not the state of an agent: {}", path, parsed.ToString()));
  }
  return state;
}

Status StateDir::save(const state::AgentState& state) const {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto printed = google::protobuf::util::MessageToJsonString(state, &text, options);
  if (!printed.ok()) return fail(Code::kInternal, "agent state as JSON: " + printed.ToString());
  return directory_.replace(kStateFile, text);
}

}  // namespace foreshadow::agent
