// foreshadow-sim: runs the real engine on simulated disks, seed after seed, and says what it found.
#include <fmt/format.h>
#include <malloc.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "sim/bit_flips.h"
#include "sim/exhaustive.h"
#include "sim/fault_sweep.h"
#include "sim/power_cut.h"
#include "sim/run.h"

namespace {

using foreshadow::sim::SeedOptions;
using foreshadow::sim::SeedResult;

constexpr const char* kUsage = R"(Usage: foreshadow-sim [options]
  --seeds N      how many seeds to run (1000)
  --start S      the first one (1)
  --seconds T    stop after T seconds, whatever --seeds says
  --jobs J       seeds, or flips, at a time (1)
  --faults       I/O errors, slow I/O and rot besides crashes
  --twice        run each seed twice; differing hashes are a violation
  --exhaustive   not seeds: every short sequence of operations, every crash point, every choice of sectors
  --depth D      ... with up to D operations (2)
  --fault-every  each seed again and again, until every one of its I/O calls has failed, in every way
  --flip-bits    not seeds: every bit of the metadata of small volumes, flipped one at a time
  --stride N     ... only every N-th, from --start on (1); of power cuts, at every N-th moment
  --power-cuts   not seeds: real files are written, and every image a power cut could leave is recovered
  --images N     ... until there were N of them (3000)
  --directory D  ... files below this directory (.)
  --replay SEED  one seed, and its hash
  -v             trace every step on stderr
The last line of the output is one JSON object. Exits 1 if there was a violation.
)";

struct Options {
  SeedOptions seed;
  uint64_t seeds = 1000;
  uint64_t start = 1;
  uint64_t seconds = 0;
  uint64_t jobs = 1;
  uint64_t depth = 2;
  bool twice = false;
  uint64_t stride = 1;
  bool exhaustive = false;
  bool fault_every = false;
  bool flip_bits = false;
  bool power_cuts = false;
  foreshadow::sim::PowerCutOptions cuts;
  bool replay = false;
};

std::optional<Options> parse(int argc, char** argv) {
  Options out;
  bool counted = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--faults")
      out.seed.faults = true;
    else if (flag == "--twice")
      out.twice = true;
    else if (flag == "--exhaustive")
      out.exhaustive = true;
    else if (flag == "--fault-every")
      out.fault_every = true;
    else if (flag == "--flip-bits")
      out.flip_bits = true;
    else if (flag == "--power-cuts")
      out.power_cuts = true;
    else if (flag == "--directory" && i + 1 < argc)
      out.cuts.directory = argv[++i];
    else if (flag == "-v")
      out.seed.trace = true;
    else if (i + 1 == argc)
      return std::nullopt;
    else {
      char* end = nullptr;
      const uint64_t value = std::strtoull(argv[++i], &end, 10);
      if (*end != '\0' || end == argv[i]) return std::nullopt;
      if (flag == "--seeds")
        out.seeds = value, counted = true;
      else if (flag == "--start")
        out.start = value;
      else if (flag == "--seconds")
        out.seconds = value;
      else if (flag == "--jobs")
        out.jobs = value;
      else if (flag == "--depth")
        out.depth = value;
      else if (flag == "--images")
        out.cuts.images = value;
      else if (flag == "--stride")
        out.stride = value;
      else if (flag == "--replay")
        out.start = value, out.seeds = 1, out.replay = counted = true;
      else
        return std::nullopt;
    }
  }
  if (out.seconds > 0 && !counted) out.seeds = UINT64_MAX - out.start;
  if (out.jobs == 0 || out.jobs > 256 || out.stride == 0) return std::nullopt;
  return out;
}

// An assertion of the engine ends the process; it must not take the seed with it.
thread_local uint64_t current_seed = 0;
void on_abort(int) {
  std::fprintf(stderr, "aborted in seed %llu\n", static_cast<unsigned long long>(current_seed));
  std::fflush(nullptr);
}

constexpr uint64_t kTicksPerSecond = 20;
constexpr uint64_t kHungSeconds = 20;

// What all workers together have done. Guarded by `mutex` but for the seed counter.
struct Tally {
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<uint64_t> next_seed{0};
  std::atomic<bool> stop{false};
  std::vector<std::optional<uint64_t>> current;  // by worker: its seed,
  std::vector<uint64_t> since;                   // and when it began with it
  uint64_t ticks = 0;
  uint64_t working = 0;
  uint64_t seeds = 0, crashes = 0, operations = 0, faults = 0, squeezed = 0, violations = 0;
  uint64_t data_faults = 0, refusals = 0;
  uint64_t hash = 0;
};

void report(const Options& options, uint64_t seed, const std::string& what) {
  fmt::print("VIOLATION seed {}{}: {}\n", seed, options.seed.faults ? " --faults" : "", what);
  std::fflush(stdout);
}

void work(const Options& options, Tally& tally, size_t worker) {
  for (;;) {
    const uint64_t index = tally.next_seed++;
    if (index >= options.seeds || tally.stop) break;
    const uint64_t seed = options.start + index;
    current_seed = seed;
    {
      const std::lock_guard lock(tally.mutex);
      tally.current[worker] = seed;
      tally.since[worker] = tally.ticks;
    }
    SeedResult result = foreshadow::sim::run_seed(seed, options.seed);
    if (options.twice && result.violation.empty()) {
      const SeedResult again = foreshadow::sim::run_seed(seed, options.seed);
      if (again.hash != result.hash) {
        result.violation =
            fmt::format("not deterministic: hash {:016x}, then {:016x}", result.hash, again.hash);
      }
    }
    if (options.replay) fmt::print("seed {} hash {:016x}\n", seed, result.hash);
    const std::lock_guard lock(tally.mutex);
    ++tally.seeds;
    tally.crashes += result.crashes;
    tally.operations += result.operations;
    tally.faults += result.faults;
    tally.squeezed += result.squeezed;
    tally.data_faults += result.data_faults;
    tally.refusals += result.refusals;
    tally.hash += result.hash * (2 * seed + 1);  // the same in whatever order the workers finish
    if (result.violation.empty()) continue;
    report(options, seed, result.violation);
    if (++tally.violations >= 20) tally.stop = true;
  }
  const std::lock_guard lock(tally.mutex);
  tally.current[worker].reset();
  --tally.working;
  tally.changed.notify_all();
}

// The scheduler's own bounds end a run that goes on for ever step by step. What never comes back from one
// step can only be seen from outside, a thousand times later than any seed should be over.
void give_up_on_hung(const Options& options, const Tally& tally) {
  for (size_t i = 0; i < tally.current.size(); ++i) {
    if (!tally.current[i] || tally.ticks - tally.since[i] < kHungSeconds * kTicksPerSecond) continue;
    report(options, *tally.current[i], fmt::format("no end after {} s", kHungSeconds));
    std::_Exit(1);
  }
}

// Time here is only for people. It is counted in waits, since nothing in sim may read a clock.
double supervise(const Options& options, Tally& tally) {
  std::unique_lock lock(tally.mutex);
  uint64_t& ticks = tally.ticks;
  while (tally.working > 0) {
    if (tally.changed.wait_for(lock, std::chrono::milliseconds(1000 / kTicksPerSecond)) ==
        std::cv_status::timeout)
      ++ticks;
    if (!options.seed.trace) give_up_on_hung(options, tally);
    if (options.seconds > 0 && ticks >= options.seconds * kTicksPerSecond) tally.stop = true;
    if (ticks % (10 * kTicksPerSecond) == 0 && ticks > 0) {
      fmt::print(stderr, "{} s: {} seeds, {} crashes, {} violations\n", ticks / kTicksPerSecond, tally.seeds,
                 tally.crashes, tally.violations);
    }
  }
  return static_cast<double>(ticks + 1) / kTicksPerSecond;
}

int run_seeds(const Options& options) {
  Tally tally;
  tally.working = options.jobs;
  std::vector<std::thread> workers;
  tally.current.resize(options.jobs);
  tally.since.resize(options.jobs);
  for (uint64_t i = 0; i < options.jobs; ++i) workers.emplace_back([&, i] { work(options, tally, i); });
  const double seconds = supervise(options, tally);
  for (std::thread& worker : workers) worker.join();
  fmt::print(
      "{{\"seeds\": {}, \"crashes\": {}, \"operations\": {}, \"faults\": {}, \"squeezed\": {}, "
      "\"data_faults\": {}, \"refusals\": {}, \"violations\": {}, \"seconds\": {:.2f}, "
      "\"crashes_per_s\": {:.0f}, \"hash\": \"{:016x}\"}}\n",
      tally.seeds, tally.crashes, tally.operations, tally.faults, tally.squeezed, tally.data_faults,
      tally.refusals, tally.violations, seconds, static_cast<double>(tally.crashes) / seconds, tally.hash);
  return tally.violations == 0 ? 0 : 1;
}

int run_exhaustive(const Options& options) {
  const auto result = foreshadow::sim::explore(static_cast<uint32_t>(options.depth), options.seed.trace);
  if (!result.violation.empty()) fmt::print("VIOLATION {}\n", result.violation);
  fmt::print(
      "{{\"depth\": {}, \"sequences\": {}, \"crash_points\": {}, \"states\": {}, \"sampled_points\": {}, "
      "\"violations\": {}}}\n",
      options.depth, result.sequences, result.crash_points, result.states, result.sampled_points,
      result.violation.empty() ? 0 : 1);
  return result.violation.empty() ? 0 : 1;
}

int run_sweeps(const Options& options) {
  foreshadow::sim::SweepResult all;
  uint64_t seeds = 0;
  for (; seeds < options.seeds && all.violation.empty(); ++seeds) {
    current_seed = options.start + seeds;
    const auto one = foreshadow::sim::sweep_faults(current_seed);
    all.indices += one.indices;
    all.runs += one.runs;
    all.faults += one.faults;
    all.reads += one.reads;
    all.writes += one.writes;
    all.syncs += one.syncs;
    all.violation = one.violation;
  }
  if (!all.violation.empty()) fmt::print("VIOLATION {}\n", all.violation);
  fmt::print(
      "{{\"seeds\": {}, \"indices\": {}, \"runs\": {}, \"faults\": {}, \"reads\": {}, \"writes\": {}, "
      "\"syncs\": {}, \"violations\": {}}}\n",
      seeds, all.indices, all.runs, all.faults, all.reads, all.writes, all.syncs,
      all.violation.empty() ? 0 : 1);
  return all.violation.empty() ? 0 : 1;
}

// Each job takes every so-manieth of the bits.
int run_flips(const Options& options) {
  std::vector<foreshadow::sim::FlipResult> parts(options.jobs);
  std::vector<std::thread> workers;
  for (uint64_t i = 0; i < options.jobs; ++i) {
    workers.emplace_back([&, i] {
      parts[i] =
          foreshadow::sim::flip_bits(options.stride * options.jobs, options.start + i * options.stride);
    });
  }
  for (std::thread& worker : workers) worker.join();
  foreshadow::sim::FlipResult result;
  for (const auto& part : parts) {
    result.bits += part.bits;
    result.refused += part.refused;
    result.harmless += part.harmless;
    result.noticed += part.noticed;
    result.violations += part.violations;
    if (!part.violation.empty()) fmt::print("VIOLATION {}\n", part.violation);
  }
  fmt::print(
      "{{\"bits\": {}, \"refused\": {}, \"harmless\": {}, \"noticed\": {}, \"stride\": {}, "
      "\"violations\": {}}}\n",
      result.bits, result.refused, result.harmless, result.noticed, options.stride, result.violations);
  return result.violations == 0 ? 0 : 1;
}

int run_power_cuts(const Options& options) {
  auto cuts = options.cuts;
  cuts.start = options.start;
  cuts.stride = options.stride;
  const auto result = foreshadow::sim::cut_power(cuts);
  if (!result.violation.empty()) fmt::print("VIOLATION {}\n", result.violation);
  fmt::print(
      "{{\"images\": {}, \"cuts\": {}, \"enumerated_cuts\": {}, \"recordings\": {}, \"over\": {}, "
      "\"operations\": {}, \"squeezed\": {}, \"released\": {}, \"grown\": {}, \"moved\": {}, "
      "\"violations\": {}}}\n",
      result.images, result.cuts, result.enumerated, result.recordings, result.over, result.operations,
      result.squeezed, result.released, result.grown, result.moved, result.violation.empty() ? 0 : 1);
  return result.violation.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse(argc, argv);
  if (!options) {
    fmt::print(stderr, "{}", kUsage);
    return 2;
  }
  std::signal(SIGABRT, on_abort);
  // An engine is made and destroyed a thousand times a second: keep its buffers in the heap instead of
  // mapping them anew.
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  if (options->fault_every) return run_sweeps(*options);
  if (options->power_cuts) return run_power_cuts(*options);
  if (options->flip_bits) return run_flips(*options);
  return options->exhaustive ? run_exhaustive(*options) : run_seeds(*options);
}
