#include "app/job_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "app/output.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

constexpr uint64_t kBarWidth = 24;

std::string_view doing(v1::JobKind kind) {
  switch (kind) {
    case v1::JOB_KIND_FOLD:
      return "folding";
    case v1::JOB_KIND_DRAIN:
      return "draining";
    case v1::JOB_KIND_RESIZE:
      return "resizing";
    case v1::JOB_KIND_SQUEEZE:
      return "squeezing";
    case v1::JOB_KIND_MOVE:
      return "moving the primary to";
    default:
      return "working on";
  }
}

// First touches that were under way when it began add to what there was.
uint64_t total_of(const v1::Job& job) {
  return std::max(job.total(), job.moved());
}

}  // namespace

std::string job_line(const v1::Job& job, uint64_t moved_before, double elapsed_s) {
  const uint64_t total = total_of(job);
  const uint64_t filled = total == 0 ? 0 : job.moved() / std::max<uint64_t>(1, total / kBarWidth);
  const std::string bar(std::min(filled, kBarWidth), '#');
  std::string out =
      fmt::format("{} segment {}  [{:.<{}}]  {:>4}  {} of {}", doing(job.kind()), job.segment_id(), bar,
                  kBarWidth, format_share(job.moved(), total), format_size(job.moved()), format_size(total));
  const uint64_t moved = job.moved() - std::min(moved_before, job.moved());
  if (moved == 0 || elapsed_s <= 0) return out;
  const double speed = static_cast<double>(moved) / elapsed_s;
  const double left_s = static_cast<double>(total - job.moved()) / speed;
  return out +
         fmt::format("  {}/s  {} left", format_size(static_cast<uint64_t>(speed)), format_duration(left_s));
}

std::string describe(const v1::Job& job) {
  return fmt::format("{} segment {}, {} of {}", doing(job.kind()), job.segment_id(),
                     format_share(job.moved(), total_of(job)), format_size(total_of(job)));
}

JobBar::JobBar(bool wanted) : shown_(wanted && ::isatty(STDERR_FILENO) == 1) {}

void JobBar::draw(const v1::Job& job) {
  if (!shown_) return;
  const auto now = std::chrono::steady_clock::now();
  if (job.segment_uuid() != first_.segment_uuid() || job.moved() < first_.moved()) {
    first_ = job;
    began_ = now;
  }
  const std::string line =
      job_line(job, first_.moved(), std::chrono::duration<double>(now - began_).count());
  fmt::print(stderr, "\r{:<{}}", line, width_);
  std::fflush(stderr);
  width_ = line.size();
}

JobBar::~JobBar() {
  if (width_ > 0) fmt::print(stderr, "\r{:<{}}\r", "", width_);
}

}  // namespace foreshadow::app
