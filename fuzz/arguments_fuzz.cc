// What people and files give to the program: words of a command line, addresses, traces, names of backings,
// the agent's state file. A value that can be used, or an error that names the text.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "agent/catalog.h"
#include "agent/state_dir.h"
#include "app/arguments.h"
#include "app/commands.h"
#include "app/trace.h"
#include "control/listen_address.h"
#include "fuzz/target.h"

using namespace foreshadow;
using fuzz::expect;

namespace {

template <typename T>
bool taken(const Result<T>& result) {
  if (!result) expect(result.error().message.size() < 2000, "a refusal is short");
  return result.has_value();
}

// One parser for all inputs: to make it takes a hundred times as long as to use it.
void command_line(const std::string& text) {
  static app::Invocation invocation;
  static const std::unique_ptr<CLI::App> parser = app::make_parser(invocation);
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word) && words.size() < 64;) words.insert(words.begin(), word);
  invocation.run = nullptr;
  try {
    parser->parse(words);
    expect(invocation.run != nullptr, "a command line that is taken is a command");
  } catch (const CLI::Error&) {
  }
}

void trace(const std::string& text) {
  std::istringstream in(text);
  const auto ops = app::parse_trace(in, "trace");
  if (!taken(ops)) return;
  uint64_t before = 0;
  for (const app::TraceOp& op : *ops) {
    expect(op.time_us >= before, "time does not go back");
    before = op.time_us;
  }
}

// A directory in memory, gone when the program ends.
class Scratch {
 public:
  Scratch() { expect(::mkdtemp(path_.data()) != nullptr, "a scratch directory"); }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/dev/shm/foreshadow-fuzz-XXXXXX";
};

void state_file(const std::string& text) {
  static const Scratch scratch;
  std::ofstream(scratch.path() + "/agent.json", std::ios::binary | std::ios::trunc) << text;
  const auto state = agent::StateDir::load_state(scratch.path());
  if (!taken(state)) return;
  agent::state::AgentState again;
  expect(again.ParseFromString(state->SerializeAsString()), "a state returns");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t which = in.u8();
  const std::string text = in.text(size);
  switch (which % 10) {
    case 0:
      (void)taken(app::parse_duration_ms(text));
      break;
    case 1:
      (void)taken(app::parse_redirect(text));
      break;
    case 2:
      (void)taken(app::parse_tcp(text));
      break;
    case 3:
      (void)taken(app::parse_control(text));
      break;
    case 4:
      if (const auto speed = app::parse_speed(text); taken(speed)) expect(*speed >= 0, "a speed is no debt");
      break;
    case 5:
      if (const auto backing = agent::Backing::parse(text, "pool"); taken(backing)) {
        const auto again = agent::Backing::parse(backing->name(), "pool");
        expect(again && again->volume == backing->volume && again->segment == backing->segment,
               "a backing's name returns");
      }
      break;
    case 6:
      if (const auto address = control::parse_listen_address(text); taken(address)) {
        expect(!address->grpc().empty(), "an address can be listened on");
      }
      break;
    case 7:
      trace(text);
      break;
    case 8:
      state_file(text);
      break;
    default:
      command_line(text);
  }
  return 0;
}
