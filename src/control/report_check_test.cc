// Each thing an agent may say that makes no sense, one at a time, in a report that is otherwise sound.
#include "control/report_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/types.h"
#include "control/control_limits.h"

namespace foreshadow::control {
namespace {

constexpr char kId[] = "11111111-2222-4333-8444-555555555555";
constexpr char kOther[] = "99999999-2222-4333-8444-555555555555";
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <typename Message>
struct Case {
  std::string says;  // a part of the error
  std::function<void(Message&)> spoil;
};

template <typename Message, typename Check>
void expect_each(const Message& sound, const std::vector<Case<Message>>& cases, Check check) {
  const Status fine = check(sound);
  ASSERT_TRUE(fine) << fine.error().message;
  for (const auto& one : cases) {
    Message spoilt = sound;
    one.spoil(spoilt);
    const Status judged = check(spoilt);
    ASSERT_FALSE(judged) << one.says;
    EXPECT_NE(judged.error().message.find(one.says), std::string::npos) << judged.error().message;
  }
}

void add_segment(v1::Volume& volume, uint32_t id, const char* uuid) {
  v1::Segment& segment = *volume.add_segments();
  segment.set_id(id);
  segment.set_uuid(uuid);
  segment.set_capacity(kGiB);
  segment.set_used(kMiB);
  segment.set_state(v1::SEGMENT_STATE_MERGED);
}

v1::Volume volume() {
  v1::Volume out;
  out.set_id(kId);
  out.set_name("db");
  out.set_size(4 * kGiB);
  out.set_capacity(2 * kGiB);
  out.set_used(2 * kMiB);
  add_segment(out, 0, kId);
  add_segment(out, 1, kOther);
  return out;
}

TEST(ReportCheck, NamesWhatMakesNoSenseOfAVolume) {
  using C = Case<v1::Volume>;
  const std::vector<C> cases = {
      {"abc", [](auto& v) { v.set_id("abc"); }},
      {"volume name", [](auto& v) { v.set_name("../etc"); }},
      {"size 1: expected", [](auto& v) { v.set_size(1); }},
      {"size 18446744073709551615: expected", [](auto& v) { v.set_size(UINT64_MAX); }},
      {"capacity 0", [](auto& v) { v.set_capacity(0); }},
      {"capacity 18446744073709551615: at most", [](auto& v) { v.set_capacity(UINT64_MAX); }},
      {"is more than the capacity", [](auto& v) { v.set_used(3 * kGiB); }},
      {"is beyond the volume's size",
       [](auto& v) {
         v.set_capacity(100 * kGiB);
         v.set_used(100 * kGiB);
       }},
      {"squeezed ratio -1", [](auto& v) { v.mutable_squeezed()->set_ratio_mean(-1); }},
      {"squeezed ratio nan", [](auto& v) { v.mutable_squeezed()->set_ratio_p90(kNan); }},
      {"squeezed 1 bytes into 2",
       [](auto& v) {
         v.mutable_squeezed()->set_logical(1);
         v.mutable_squeezed()->set_physical(2);
       }},
      {"squeeze mode 77", [](auto& v) { v.set_squeeze(static_cast<v1::SqueezeMode>(77)); }},
      {"merge mode 77", [](auto& v) { v.mutable_policy()->set_merge(static_cast<v1::MergeMode>(77)); }},
      {"0 segments", [](auto& v) { v.clear_segments(); }},
      {"job of kind 77",
       [](auto& v) {
         v.mutable_job()->set_segment_uuid(kId);
         v.mutable_job()->set_kind(static_cast<v1::JobKind>(77));
       }},
      {"xyz", [](auto& v) { v.mutable_job()->set_segment_uuid("xyz"); }},
      {"xyz", [](auto& v) { v.mutable_segments(1)->set_uuid("xyz"); }},
      {"is listed twice", [](auto& v) { v.mutable_segments(1)->set_uuid(kId); }},
      {"is listed twice", [](auto& v) { v.mutable_segments(1)->set_id(0); }},
      {"segment 1: used", [](auto& v) { v.mutable_segments(1)->set_used(2 * kGiB); }},
      {"segment 1: state 0", [](auto& v) { v.mutable_segments(1)->clear_state(); }},
      {"segment 1: state 99",
       [](auto& v) { v.mutable_segments(1)->set_state(static_cast<v1::SegmentState>(99)); }},
  };
  expect_each(volume(), cases, check_volume_report);
}

TEST(ReportCheck, NamesWhatMakesNoSenseOfMetrics) {
  v1::VolumeMetrics sound;
  sound.set_capacity(2 * kGiB);
  sound.set_used(kGiB);
  sound.set_sequential_share(0.5);
  using C = Case<v1::VolumeMetrics>;
  const std::vector<C> cases = {
      {"is more than the capacity", [](auto& m) { m.set_used(3 * kGiB); }},
      {"squeezed ratio 2", [](auto& m) { m.mutable_squeezed()->set_ratio_stddev(2); }},
      {"leaving 3221225472 is more", [](auto& m) { m.set_leaving(3 * kGiB); }},
      {"xyz", [](auto& m) { m.mutable_job()->set_segment_uuid("xyz"); }},
      {"allocated_bytes 17179869184", [](auto& m) { m.set_allocated_bytes(16 * kGiB); }},
      {"sequential_share nan", [](auto& m) { m.set_sequential_share(kNan); }},
      {"sequential_share 1.5", [](auto& m) { m.set_sequential_share(1.5); }},
      {"histogram of 65 buckets",
       [](auto& m) {
         for (int i = 0; i < 65; ++i) m.add_write_latency_us_histogram(1);
       }},
  };
  expect_each(sound, cases, [](const auto& m) { return check_metrics(m, 4 * kGiB); });
}

TEST(ReportCheck, NamesWhatMakesNoSenseOfAPool) {
  v1::Pool sound;
  sound.set_name("fast");
  sound.set_directory("/srv/fast");
  sound.set_capacity(kGiB);
  using C = Case<v1::Pool>;
  const std::vector<C> cases = {
      {"pool name", [](auto& p) { p.set_name("a b"); }},
      {"4611686018427387904 bytes", [](auto& p) { p.set_used(1ull << 62); }},
      {"directory of", [](auto& p) { p.set_directory(std::string(limits::kDirectoryLength + 1, 'd')); }},
  };
  expect_each(sound, cases, check_pool_report);
}

TEST(ReportCheck, NamesWhatMakesNoSenseOfAHello) {
  v1::Hello sound;
  sound.set_agent_id("agent-a");
  using C = Case<v1::Hello>;
  const std::vector<C> cases = {
      {"agent id", [](auto& h) { h.clear_agent_id(); }},
      {"agent id", [](auto& h) { h.set_agent_id(std::string(limits::kIdLength + 1, 'a')); }},
      {"host", [](auto& h) { h.set_host("two words"); }},
      {"version", [](auto& h) { h.set_version("\x01"); }},
      {"pools: at most",
       [](auto& h) {
         for (size_t i = 0; i <= foreshadow::limits::kPools; ++i) h.add_pools();
       }},
      {"volumes: at most",
       [](auto& h) {
         for (size_t i = 0; i <= foreshadow::limits::kVolumes; ++i) h.add_volumes();
       }},
  };
  expect_each(sound, cases, check_hello);
}

TEST(ReportCheck, WordsOfAnAgentAreShortAndPrintable) {
  EXPECT_EQ(printable("as it is"), "as it is");
  EXPECT_EQ(printable("a\nb\x7f\xff"), "a?b??");
  EXPECT_EQ(printable(std::string(1000, 'x')).size(), 400u);
}

}  // namespace
}  // namespace foreshadow::control
