#include "app/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "app/job_progress.h"
#include "app/output.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

// "SEGMENT_STATE_WARM" without its prefix is the product's word in capitals.
std::string lower_without(const std::string& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return "unknown";
  std::string out = name.substr(prefix.size());
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out == "unspecified" ? "unknown" : out;
}

Json numbers(const google::protobuf::RepeatedField<uint64_t>& values) {
  Json out = Json::array();
  for (const uint64_t value : values) out.add(value);
  return out;
}

}  // namespace

std::string word(v1::SegmentRole role) {
  return lower_without(v1::SegmentRole_Name(role), "SEGMENT_ROLE_");
}
std::string word(v1::SegmentState state) {
  return lower_without(v1::SegmentState_Name(state), "SEGMENT_STATE_");
}
std::string word(v1::SqueezeMode mode) {
  return lower_without(v1::SqueezeMode_Name(mode), "SQUEEZE_MODE_");
}
std::string word(v1::RedirectMode redirect) {
  return lower_without(v1::RedirectMode_Name(redirect), "REDIRECT_MODE_");
}

std::string word(v1::MergeMode merge) {
  return lower_without(v1::MergeMode_Name(merge), "MERGE_MODE_");
}
std::string word(v1::JobKind kind) {
  return lower_without(v1::JobKind_Name(kind), "JOB_KIND_");
}

Json to_json(const v1::Segment& segment) {
  return Json::object()
      .set("id", segment.id())
      .set("uuid", segment.uuid())
      .set("role", word(segment.role()))
      .set("state", word(segment.state()))
      .set("pool", segment.pool())
      .set("capacity", segment.capacity())
      .set("used", segment.used())
      .set("backing", segment.backing());
}

Json to_json(const v1::Job& job) {
  return Json::object()
      .set("kind", word(job.kind()))
      .set("segment_id", job.segment_id())
      .set("segment_uuid", job.segment_uuid())
      .set("moved", job.moved())
      .set("total", job.total());
}

Json to_json(const v1::ShrinkPlan& plan) {
  Json steps = Json::array();
  for (const v1::ShrinkPlan::Step& step : plan.steps()) {
    steps.add(Json::object()
                  .set("action", step.action())
                  .set("segment_id", step.segment_id())
                  .set("segment_uuid", step.segment_uuid())
                  .set("moves_bytes", step.moves_bytes())
                  .set("frees_bytes", step.frees_bytes())
                  .set("size", step.size()));
  }
  return Json::object()
      .set("steps", std::move(steps))
      .set("capacity_before", plan.capacity_before())
      .set("capacity_after", plan.capacity_after())
      .set("target", plan.target())
      .set("sentence", plan.sentence());
}

Json to_json(const v1::Squeezed& squeezed) {
  return Json::object()
      .set("logical", squeezed.logical())
      .set("physical", squeezed.physical())
      .set("ratio_mean", squeezed.ratio_mean())
      .set("ratio_stddev", squeezed.ratio_stddev())
      .set("ratio_p10", squeezed.ratio_p10())
      .set("ratio_p90", squeezed.ratio_p90());
}

Json to_json(const v1::Volume& volume) {
  return Json::object()
      .set("id", volume.id())
      .set("name", volume.name())
      .set("size", volume.size())
      .set("capacity", volume.capacity())
      .set("used", volume.used())
      .set("data", volume.data())
      .set("holds", volume.holds())
      .set("held_now", volume.held_now())
      .set("hold_us_max", volume.hold_us_max())
      .set("failed_writes", volume.failed_writes())
      .set("redirect", word(volume.redirect()))
      .set("read_only_reason", volume.read_only_reason())
      .set("pool", volume.pool())
      .set("agent_id", volume.agent_id())
      .set("uri", volume.uri())
      .set("first_redirect_to_warm", volume.first_redirect_to_warm())
      .set("map_memory_bytes", volume.map_memory_bytes())
      .set("squeeze", word(volume.squeeze()))
      .set("logical", volume.logical())
      .set("squeezed", to_json(volume.squeezed()))
      .set("checksums", volume.checksums())
      .set("checksum_errors", volume.checksum_errors())
      .set("scrub", to_json(volume.scrub()))
      .set("paced", volume.paced())
      .set("paced_now", volume.paced_now())
      .set("pace_us_total", volume.pace_us_total())
      .set("pace_us_max", volume.pace_us_max())
      .set("hold_timeout_ms", volume.hold_timeout_ms())
      .set("band", volume.band())
      .set("base_path", volume.base_path())
      .set("base_bytes", volume.base_bytes())
      .set("outside_base", volume.outside_base())
      .set("merge", word(volume.policy().merge()))
      .set("reclaim", volume.policy().reclaim())
      .set("reclaim_hold_s", volume.policy().reclaim_hold_s())
      .set("job", volume.has_job() ? to_json(volume.job()) : Json())
      .set("segments", to_json_array(volume.segments()));
}

Json to_json(const v1::Scrub& scrub) {
  return Json::object()
      .set("running", scrub.running())
      .set("started_ms", scrub.started_ms())
      .set("total", scrub.total())
      .set("read", scrub.read())
      .set("verified", scrub.verified())
      .set("filled", scrub.filled())
      .set("corrupt", scrub.corrupt())
      .set("unreadable", scrub.unreadable())
      .set("last_complete_ms", scrub.last_complete_ms())
      .set("rate", scrub.rate())
      .set("error", scrub.error());
}

Json to_json(const v1::VolumeDetail& detail) {
  return to_json(detail.volume())
      .set("forecast", to_json(detail.forecast()))
      .set("latest", detail.has_latest() ? to_json(detail.latest()) : Json());
}

Json to_json(const v1::VolumeMetrics& metrics) {
  return Json::object()
      .set("used", metrics.used())
      .set("physical", metrics.physical())
      .set("capacity", metrics.capacity())
      .set("data", metrics.data())
      .set("read_ops", metrics.read_ops())
      .set("read_bytes", metrics.read_bytes())
      .set("write_ops", metrics.write_ops())
      .set("write_bytes", metrics.write_bytes())
      .set("allocated_bytes", metrics.allocated_bytes())
      .set("freed_bytes", metrics.freed_bytes())
      .set("trim_ops", metrics.trim_ops())
      .set("flushes", metrics.flushes())
      .set("block_size_histogram", numbers(metrics.block_size_histogram()))
      .set("read_latency_us_histogram", numbers(metrics.read_latency_us_histogram()))
      .set("write_latency_us_histogram", numbers(metrics.write_latency_us_histogram()))
      .set("queue_depth_max", metrics.queue_depth_max())
      .set("sequential_share", metrics.sequential_share())
      .set("holds", metrics.holds())
      .set("held_now", metrics.held_now())
      .set("failed_writes", metrics.failed_writes())
      .set("hold_us_max", metrics.hold_us_max())
      .set("logical", metrics.logical())
      .set("squeezed", to_json(metrics.squeezed()))
      .set("damaged_reads", metrics.damaged_reads())
      .set("checksum_errors", metrics.checksum_errors())
      .set("scrub", to_json(metrics.scrub()))
      .set("paced", metrics.paced())
      .set("paced_now", metrics.paced_now())
      .set("pace_us_total", metrics.pace_us_total())
      .set("pace_us_max", metrics.pace_us_max());
}

Json to_json(const v1::Forecast& forecast) {
  return Json::object()
      .set("time_to_full_p50_s", forecast.time_to_full_p50_s())
      .set("time_to_full_p95_s", forecast.time_to_full_p95_s())
      .set("growth_bytes_per_s", forecast.growth_bytes_per_s())
      .set("lead_time_p99_s", forecast.lead_time_p99_s())
      .set("growth_p99_bytes", forecast.growth_p99_bytes())
      .set("samples", forecast.samples())
      .set("free_bytes", forecast.free_bytes());
}

Json to_json(const v1::Decision& decision) {
  Json inputs = Json::object();
  const std::map<std::string, double> ordered(decision.inputs().begin(), decision.inputs().end());
  for (const auto& [name, value] : ordered) inputs.set(name, value);
  return Json::object()
      .set("time_ms", decision.time_ms())
      .set("action", decision.action())
      .set("sentence", decision.sentence())
      .set("inputs", std::move(inputs));
}

Json to_json(const v1::Explanation& explanation) {
  return Json::object()
      .set("sentence", explanation.sentence())
      .set("forecast", to_json(explanation.forecast()))
      .set("decisions", to_json_array(explanation.decisions()));
}

Json to_json(const v1::Pool& pool) {
  return Json::object()
      .set("name", pool.name())
      .set("directory", pool.directory())
      .set("capacity", pool.capacity())
      .set("used", pool.used())
      .set("configured_capacity", pool.configured_capacity())
      .set("agent_id", pool.agent_id());
}

Json to_json(const v1::Event& event) {
  return Json::object()
      .set("sequence", event.sequence())
      .set("time_ms", event.time_ms())
      .set("kind", event.kind())
      .set("volume", event.volume())
      .set("message", event.message())
      .set("segment_id", event.segment_id());
}

Json to_json(const v1::CheckReport& check) {
  Json findings = Json::array();
  for (const std::string& finding : check.findings()) findings.add(finding);
  Json repaired = Json::array();
  for (const std::string& done : check.repaired()) repaired.add(done);
  Json refused = Json::array();
  for (const std::string& left : check.refused()) refused.add(left);
  return Json::object()
      .set("ok", check.ok())
      .set("findings", std::move(findings))
      .set("repaired", std::move(repaired))
      .set("refused", std::move(refused))
      .set("clusters_mapped", check.clusters_mapped())
      .set("clusters_free", check.clusters_free())
      .set("journal_records", check.journal_records())
      .set("table_pages", check.table_pages());
}

Json to_json(const v1::StatusReport& status) {
  Json agents = Json::array();
  for (const std::string& agent : status.agents()) agents.add(agent);
  return Json::object()
      .set("version", status.version())
      .set("started_ms", status.started_ms())
      .set("agents", std::move(agents))
      .set("volumes", status.volumes())
      .set("pending_intents", status.pending_intents());
}

std::string describe_squeezed(const v1::Volume& volume) {
  const v1::Squeezed& squeezed = volume.squeezed();
  if (squeezed.logical() == 0) return fmt::format("nothing yet (policy: {})", word(volume.squeeze()));
  return fmt::format(
      "{} in {} ({}), a cluster {:.2f} on average, deviation {:.2f}, 80 % of them {:.2f} to {:.2f}",
      format_size(squeezed.logical()), format_size(squeezed.physical()),
      format_share(squeezed.physical(), squeezed.logical()), squeezed.ratio_mean(), squeezed.ratio_stddev(),
      squeezed.ratio_p10(), squeezed.ratio_p90());
}

std::string describe_wall(const v1::Volume& volume) {
  const std::string band = volume.band() == 0
                               ? std::string("never slowed down")
                               : fmt::format("slowed down below {} left", format_size(volume.band()));
  return fmt::format("new writes are {}, and held at most {}", band,
                     format_duration(static_cast<double>(volume.hold_timeout_ms()) * 1e-3));
}

std::string describe(const v1::VolumeDetail& detail) {
  const v1::Volume& volume = detail.volume();
  const v1::Forecast& forecast = detail.forecast();
  Facts facts;
  facts.add("name", volume.name());
  facts.add("uri", volume.uri().empty() ? "not served" : printable(volume.uri()));
  facts.add("size", format_size(volume.size()));
  facts.add("capacity", format_size(volume.capacity()));
  facts.add("used", fmt::format("{} ({} of capacity)", format_size(volume.used()),
                                format_share(volume.used(), volume.capacity())));
  facts.add("data", format_size(volume.data()));
  if (volume.squeezed().logical() > 0 || volume.squeeze() > v1::SQUEEZE_MODE_OFF) {
    facts.add("squeezed", describe_squeezed(volume));
    facts.add("logical", fmt::format("{} in use if nothing were squeezed", format_size(volume.logical())));
  }
  if (!volume.read_only_reason().empty()) facts.add("read-only", printable(volume.read_only_reason()));
  facts.add("redirect", fmt::format("{}, {} found a warm shadow at hand", word(volume.redirect()),
                                    volume.first_redirect_to_warm()));
  if (!volume.base_path().empty()) {
    facts.add("over", fmt::format("{} ({}), {} of data outside it", printable(volume.base_path()),
                                  format_size(volume.base_bytes()), format_size(volume.outside_base())));
  }
  facts.add("near the wall", describe_wall(volume));
  facts.add("slowed down",
            fmt::format("{} writes, {} now, {} in total, longest {}", volume.paced(), volume.paced_now(),
                        format_duration(static_cast<double>(volume.pace_us_total()) * 1e-6),
                        format_duration(static_cast<double>(volume.pace_us_max()) * 1e-6)));
  const v1::VolumePolicy& policy = volume.policy();
  facts.add("full shadows", policy.merge() == v1::MERGE_MODE_FOLD ? "are folded" : "are adopted");
  facts.add("reclaim", !policy.reclaim() ? "by hand"
                       : policy.reclaim_hold_s() == 0
                           ? "by policy"
                           : fmt::format("by policy, after {}", format_duration(policy.reclaim_hold_s())));
  if (volume.has_job()) facts.add("running", describe(volume.job()));
  facts.add("held at the wall",
            fmt::format("{} writes, {} now, longest {}", volume.holds(), volume.held_now(),
                        format_duration(static_cast<double>(volume.hold_us_max()) * 1e-6)));
  facts.add("failed writes", fmt::format("{}", volume.failed_writes()));
  facts.add("data checksums", !volume.checksums() ? "off"
                                                  : fmt::format("on, {} blocks read did not fit",
                                                                std::max(volume.checksum_errors(),
                                                                         detail.latest().checksum_errors())));
  const v1::Scrub& scrub = detail.latest().has_scrub() ? detail.latest().scrub() : volume.scrub();
  if (scrub.started_ms() != 0) facts.add("scrub", describe(scrub));
  facts.add("time to full", fmt::format("{} (half of the futures), {} (one in twenty)",
                                        format_time_to_full(forecast.time_to_full_p50_s()),
                                        format_time_to_full(forecast.time_to_full_p95_s())));
  const double growth = std::max(forecast.growth_bytes_per_s(), 0.0);
  facts.add("growth", fmt::format("{}/s over {} samples", format_size(static_cast<uint64_t>(growth)),
                                  forecast.samples()));
  facts.add("lead time",
            fmt::format("{} (99 %), in which it may grow by {}", format_duration(forecast.lead_time_p99_s()),
                        format_size(static_cast<uint64_t>(std::max(forecast.growth_p99_bytes(), 0.0)))));
  Table segments({">SEGMENT", "ROLE", "STATE", "POOL", ">CAPACITY", ">USED", ">SHARE"});
  for (const v1::Segment& segment : volume.segments()) {
    segments.add({fmt::format("{}", segment.id()), word(segment.role()), word(segment.state()),
                  printable(segment.pool()), format_size(segment.capacity()), format_size(segment.used()),
                  format_share(segment.used(), segment.capacity())});
  }
  return facts.str() + "\n" + segments.str();
}

std::string describe(const v1::Scrub& scrub) {
  std::string out = scrub.running() ? fmt::format("{} done", format_share(scrub.read(), scrub.total()))
                    : !scrub.error().empty() ? "failed: " + printable(scrub.error())
                    : scrub.last_complete_ms() >= scrub.started_ms()
                        ? "complete at " + format_time(scrub.last_complete_ms())
                        : fmt::format("stopped at {}", format_share(scrub.read(), scrub.total()));
  return out + fmt::format("; {} blocks verified, {} filled in, {} corrupt, {} unreadable", scrub.verified(),
                           scrub.filled(), scrub.corrupt(), scrub.unreadable());
}

std::string describe(const v1::ShrinkPlan& plan) {
  std::string out = printable(plan.sentence()) + "\n";
  if (plan.steps_size() == 0) return out;
  Table table({"STEP", ">SEGMENT", ">MOVES AT MOST", ">FREES"});
  for (const v1::ShrinkPlan::Step& step : plan.steps()) {
    table.add({printable(step.action()), fmt::format("{}", step.segment_id()),
               format_size(step.moves_bytes()), format_size(step.frees_bytes())});
  }
  return out + table.str();
}

std::string describe(const v1::CheckReport& check, const std::string& volume) {
  std::string out =
      fmt::format("volume {}: {}\n", volume,
                  check.ok() ? "every invariant holds" : fmt::format("{} findings", check.findings_size()));
  for (const std::string& done : check.repaired()) out += "  repaired: " + printable(done) + "\n";
  for (const std::string& left : check.refused()) out += "  not repaired: " + printable(left) + "\n";
  for (const std::string& finding : check.findings()) out += "  " + printable(finding) + "\n";
  out += fmt::format("{} clusters mapped, {} free, {} journal records, {} table pages\n",
                     check.clusters_mapped(), check.clusters_free(), check.journal_records(),
                     check.table_pages());
  return out;
}

std::string describe(const v1::Explanation& explanation) {
  std::string out = printable(explanation.sentence()) + "\n";
  if (explanation.decisions_size() == 0) return out;
  Table decisions({"WHEN", "ACTION", "WHY"});
  for (const v1::Decision& decision : explanation.decisions()) {
    decisions.add(
        {format_time(decision.time_ms()), printable(decision.action()), printable(decision.sentence())});
  }
  return out + "\n" + decisions.str();
}

std::string describe_line(const v1::Event& event) {
  return fmt::format("{:>6}  {}  {:<18} {}{}", event.sequence(), format_time(event.time_ms()),
                     printable(event.kind()), event.volume().empty() ? "" : printable(event.volume()) + ": ",
                     printable(event.message()));
}

}  // namespace foreshadow::app
