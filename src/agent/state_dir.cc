#include "agent/state_dir.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "agent/agent_limits.h"

namespace foreshadow::agent {
namespace {

constexpr const char* kStateFile = "agent.json";
constexpr const char* kNewStateFile = "agent.json.new";
constexpr const char* kLockFile = "agent.lock";

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

Status write_all(int fd, const std::string& text, const std::string& what) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, what + ": writing it");
    done += static_cast<size_t>(n);
  }
  return {};
}

Result<std::string> read_all(int fd, const std::string& what) {
  std::string text;
  char chunk[16384];
  for (;;) {
    const ssize_t n = ::read(fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, what + ": reading it");
    if (n == 0) return text;
    text.append(chunk, static_cast<size_t>(n));
    if (text.size() > limits::kStateFileBytes) {
      return fail(Code::kCorrupt,
                  fmt::format("{}: expected at most {} bytes", what, limits::kStateFileBytes));
    }
  }
}

}  // namespace

Result<StateDir> StateDir::open(const std::string& directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(errno, directory + ": making the state directory");
  }
  Fd dir(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return fail_errno(errno, directory + ": opening the state directory");
  Fd lock(::openat(dir.get(), kLockFile, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno(errno, fmt::format("{}/{}: opening it", directory, kLockFile));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      return fail_errno(errno, fmt::format("{}/{}: locking it", directory, kLockFile));
    return fail(Code::kBusy,
                fmt::format("state directory {}: another agent runs on it; stop that one, or name "
                            "another directory",
                            directory));
  }
  return StateDir(directory, dir.release(), lock.release());
}

StateDir::StateDir(StateDir&& other) noexcept
    : path_(std::move(other.path_)),
      directory_fd_(std::exchange(other.directory_fd_, -1)),
      lock_fd_(std::exchange(other.lock_fd_, -1)) {}

StateDir::~StateDir() {
  if (directory_fd_ >= 0) ::close(directory_fd_);
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

Result<state::AgentState> StateDir::load_state(const std::string& directory) {
  const std::string path = directory + "/" + kStateFile;
  state::AgentState state;
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file && errno == ENOENT) return state;
  if (!file) return fail_errno(errno, path + ": opening it");
  ASSIGN_OR_RETURN(const std::string text, read_all(file.get(), path));
  const auto parsed = google::protobuf::util::JsonStringToMessage(text, &state);
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

  const std::string path = path_ + "/" + kNewStateFile;
  const Fd file(
      ::openat(directory_fd_, kNewStateFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_errno(errno, path + ": creating it");
  TRY(write_all(file.get(), text, path));
  if (::fsync(file.get()) != 0) return fail_errno(errno, path + ": making it durable");
  if (::renameat(directory_fd_, kNewStateFile, directory_fd_, kStateFile) != 0) {
    return fail_errno(errno, path + ": putting it in place");
  }
  if (::fsync(directory_fd_) != 0) return fail_errno(errno, path_ + ": making its names durable");
  return {};
}

}  // namespace foreshadow::agent
