#pragma once
// What the programs of this folder that drive the engine itself have in common: waiting for it on one thread,
// a volume on one backing, a process that dies as by kill -9. Whatever goes wrong ends the program.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "io/file.h"
#include "io/loop.h"
#include "io/wait_for.h"
#include "volume/volume.h"

namespace foreshadow::bench {

// Without what a destructor would do: a child shares its parent's files.
[[noreturn]] inline void give_up(const std::string& what) {
  fmt::print(stderr, "{}: {}\n", program_invocation_short_name, what);
  std::fflush(stderr);
  ::_exit(1);
}

template <typename T>
auto need(Result<T> result) {
  if (!result) give_up(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

using io::wait_for;

inline double seconds_since(std::chrono::steady_clock::time_point began) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

// Of this process, user and system.
inline double cpu_seconds() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

// Where the one backing of a volume is.
struct Place {
  std::string directory;
  std::string file;
  Uuid volume;
  Uuid segment;
  std::string path() const { return directory + "/" + file; }
};

inline Place new_place(const std::string& directory, const std::string& file) {
  SystemRng rng;
  return {directory, file, Uuid::random(rng), Uuid::random(rng)};
}

// With a sparse file of that size, which must not be there yet.
inline Place make_place(const std::string& directory, const std::string& file, uint64_t bytes) {
  Place out = new_place(directory, file);
  std::FILE* made = std::fopen(out.path().c_str(), "wx");
  if (made == nullptr) give_up(fmt::format("{} cannot be made", out.path()));
  std::fclose(made);
  std::filesystem::resize_file(out.path(), bytes);
  return out;
}

// As a pool makes it: with all of its space.
inline std::unique_ptr<io::File> create_backing(io::Loop& loop, const Place& place, uint64_t bytes) {
  auto directory = need(io::open_directory(loop, place.directory));
  return need(directory->create(place.file, bytes));
}

inline std::unique_ptr<io::File> open_backing(io::Loop& loop, const Place& place) {
  auto directory = need(io::open_directory(loop, place.directory));
  return need(directory->open(place.file, io::Directory::Mode::kReadWriteLocked));
}

inline std::unique_ptr<volume::Volume> open_volume(io::Loop& loop, Uuid segment,
                                                   std::unique_ptr<io::File> file) {
  std::vector<volume::SegmentFile> files;
  files.push_back({segment, std::move(file)});
  return std::move(need(wait_for(loop, volume::Volume::open(loop, std::move(files), {}))).volume);
}

// `how` but its id and name.
inline void format(io::Loop& loop, io::File& file, const Place& place, volume::CreateOptions how) {
  how.id = place.volume;
  how.name = "bench";
  need(wait_for(loop, volume::Volume::format_primary(file, how, place.segment)));
}

// `work` in a process of its own; `killed`: which ends by killing itself.
inline void in_a_child(const std::function<void()>& work, bool killed) {
  const pid_t child = ::fork();
  if (child < 0) give_up("no process");
  if (child == 0) {
    work();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const bool as_meant = killed ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                               : WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!as_meant) give_up("a child failed");
}

}  // namespace foreshadow::bench
