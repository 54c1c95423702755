// The rule. In this order: figures that cannot be are refused; what is full is merged; what may run out is
// grown.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/limits.h"
#include "base/size.h"
#include "base/types.h"
#include "policy/policy.h"

namespace foreshadow::policy {
namespace {

std::string bytes_text(double bytes) {
  return format_size(static_cast<uint64_t>(std::clamp(bytes, 0.0, 0x1p62)));
}

// "0.05 s", "4 s", "12 min", "3.5 h", "9 days".
std::string time_text(double seconds) {
  if (seconds < 120) return fmt::format("{:.2g} s", seconds < 10 ? seconds : std::round(seconds));
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 2 * 86400) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.0f} days", seconds / 86400);
}

// All that a decision rests on, worked out once.
struct Situation {
  const VolumeView& view;
  const Config& config;
  double horizon_s = 0;             // lead + review: until a grant decided now, or at the next look, is warm
  double protect_s = 0;             // and until the one after it may be due
  uint64_t free = 0;                // attached and free, the warm included, and what is on its way
  uint32_t warm = 0;                // at hand or on their way
  uint32_t segments = 0;            // with the primary and with what is on its way
  double growth = 0;                // over the horizon, at 1 - risk
  double need = 0;                  // the same over the protection interval
  double exhaustion = 0;            // P(growth over the horizon > free)
  std::optional<double> lasts_s{};  // until `free` is gone, at that risk
};

Situation assess(const VolumeView& view, const forecast::Forecaster& forecaster, const Config& config) {
  Situation out{view, config};
  out.horizon_s = view.lead_p99_s + config.review_s;
  out.protect_s = out.horizon_s + config.cooldown_s;
  out.free = view.capacity - view.used + view.granting;
  uint32_t granted = 0;
  for (const ShadowView& shadow : view.shadows) {
    out.warm += shadow.state == ShadowState::kWarm;
    granted += shadow.state == ShadowState::kGranted;
  }
  // A grant on its way may be listed already, or only be a sum of bytes.
  const uint32_t unlisted = view.granting > 0 && granted == 0 ? 1 : 0;
  out.warm += granted + unlisted;
  out.segments = 1 + static_cast<uint32_t>(view.shadows.size()) + unlisted;
  out.growth = forecaster.growth_quantile(out.horizon_s, 1 - config.risk_budget);
  out.need = forecaster.growth_quantile(out.protect_s, 1 - config.risk_budget);
  out.exhaustion = forecaster.exceedance(out.horizon_s, static_cast<double>(out.free));
  out.lasts_s = forecaster.time_to_full_s(static_cast<double>(out.free), config.risk_budget);
  return out;
}

std::map<std::string, double> inputs_of(const VolumeView& view, const Config& config) {
  return {{"size", static_cast<double>(view.size)},
          {"capacity", static_cast<double>(view.capacity)},
          {"used", static_cast<double>(view.used)},
          {"held_now", static_cast<double>(view.held_now)},
          {"pool_free", static_cast<double>(view.pool_free)},
          {"granting", static_cast<double>(view.granting)},
          {"grants_refused", static_cast<double>(view.grants_refused)},
          {"lead_p99_s", view.lead_p99_s},
          {"risk_budget", config.risk_budget},
          {"review_s", config.review_s},
          {"cooldown_s", config.cooldown_s}};
}

void add_inputs(const Situation& now, std::map<std::string, double>& inputs) {
  inputs["free"] = static_cast<double>(now.free);
  inputs["warm"] = now.warm;
  inputs["segments"] = now.segments;
  inputs["horizon_s"] = now.horizon_s;
  inputs["growth"] = now.growth;
  inputs["need"] = now.need;
  inputs["exhaustion"] = now.exhaustion;
  if (now.lasts_s) inputs["lasts_s"] = *now.lasts_s;
}

bool is_time(double seconds) {
  return std::isfinite(seconds) && seconds >= 0;
}

// What cannot be, named; empty if all is sound. A growth step taken on a wrong figure cannot be taken back.
std::string nonsense_of_view(const VolumeView& view) {
  if (view.size == 0)
    return "the volume's size is 0, expected at least " + format_size(limits::kVolumeSizeMin);
  if (view.size > limits::kVolumeSizeMax) {
    return fmt::format("the volume's size is {}, expected at most {}", format_size(view.size),
                       format_size(limits::kVolumeSizeMax));
  }
  if (view.capacity == 0) return "the capacity is 0, expected that of a primary";
  if (view.used > view.capacity) {
    return fmt::format("used is {}, expected at most the capacity of {}", format_size(view.used),
                       format_size(view.capacity));
  }
  if (!is_time(view.lead_p99_s)) {
    return fmt::format("the lead time is {} s, expected a number not below 0", view.lead_p99_s);
  }
  for (const ShadowView& shadow : view.shadows) {
    if (shadow.used <= shadow.capacity) continue;
    return fmt::format("shadow {} has {} used, expected at most its capacity of {}", shadow.id,
                       format_size(shadow.used), format_size(shadow.capacity));
  }
  return {};
}

std::string nonsense_of_config(const Config& config) {
  if (!(config.risk_budget > 0 && config.risk_budget < 1)) {
    return fmt::format("risk_budget is {}, expected between 0 and 1", config.risk_budget);
  }
  if (!is_time(config.review_s)) return fmt::format("review_s is {}, expected not below 0", config.review_s);
  if (!is_time(config.cooldown_s))
    return fmt::format("cooldown_s is {}, expected not below 0", config.cooldown_s);
  if (!is_time(config.grow_share))
    return fmt::format("grow_share is {}, expected not below 0", config.grow_share);
  if (config.shadow_min == 0 || config.shadow_min > config.shadow_max) {
    return fmt::format("shadow_min is {}, expected above 0 and at most shadow_max, {}",
                       format_size(config.shadow_min), format_size(config.shadow_max));
  }
  return {};
}

const ShadowView* to_merge(const VolumeView& view) {
  for (const ShadowView& shadow : view.shadows) {
    const bool full =
        shadow.state == ShadowState::kActive && shadow.capacity > 0 && shadow.used >= shadow.capacity;
    if (full || shadow.state == ShadowState::kSealed) return &shadow;
  }
  return nullptr;
}

// Why to grow, as the end of a sentence; empty if there is no reason.
std::string reason_to_grow(const Situation& now) {
  const VolumeView& view = now.view;
  // While a grant is on its way held writes ask for no second one: that way lies a grant at every look.
  const bool stuck = view.held_now > 0 && view.granting == 0 && now.warm == 0;
  if (stuck)
    return fmt::format("{} held at the wall",
                       view.held_now == 1 ? "a write is" : fmt::format("{} writes are", view.held_now));
  if (now.warm < now.config.warm_wanted) {
    return now.warm == 0 ? "nothing warm was left"
                         : fmt::format("{} of {} are warm", now.warm, now.config.warm_wanted);
  }
  if (now.exhaustion > now.config.risk_budget) {
    return fmt::format("the risk of running out within {} is {:.3g} %, {:.3g} % is allowed",
                       time_text(now.horizon_s), 100 * now.exhaustion, 100 * now.config.risk_budget);
  }
  return {};
}

// "1.2GiB free would last 4 s at p99.9 growth (310MiB/s), a shadow takes 0.05 s to become warm"
std::string outlook(const Situation& now) {
  const std::string label = fmt::format("p{:g}", 100 * (1 - now.config.risk_budget));
  const double rate = now.horizon_s > 0 ? now.growth / now.horizon_s : 0;
  // Bursts end: growth that is fast for a second may still never fill what is free.
  const std::string lasts =
      now.lasts_s
          ? fmt::format("would last {} at {} growth ({}/s)", time_text(*now.lasts_s), label, bytes_text(rate))
          : fmt::format("would outlast a year at {} growth ({}/s for the next {})", label, bytes_text(rate),
                        time_text(now.horizon_s));
  return fmt::format("{} free {}, a shadow takes {} to become warm", format_size(now.free), lasts,
                     time_text(now.view.lead_p99_s));
}

// A rung's least share of the capacity. It doubles past a half, three quarters and seven eighths of the
// segments, so that the limit stays a step ahead as long as the pool can pay for it.
double share_of(const Situation& now) {
  const double filled = static_cast<double>(now.segments) / std::max(1u, now.config.segments_max);
  double share = now.config.grow_share;
  for (const double mark : {0.5, 0.75, 0.875}) {
    if (filled >= mark) share *= 2;
  }
  return share;
}

// The most a segment may take to cover `room` bytes: its tables are below 0.1 %, a label and alignment. Never
// below what a segment must be.
uint64_t cover(uint64_t room) {
  return std::max(align_up(room + room / 1024 + kMiB, kMiB), limits::kSegmentSizeMin);
}

void grow(const Situation& now, const std::string& reason, Decision& out) {
  const VolumeView& view = now.view;
  const Config& config = now.config;
  const std::string why = outlook(now) + "; " + reason;
  const uint64_t backing = view.capacity + view.granting;
  if (backing >= view.size) {
    out.sentence = fmt::format("nothing to grant: backing covers the whole volume, {} of {}",
                               format_size(backing), format_size(view.size));
    return;
  }
  out.action = Action::kRefuse;
  if (now.segments >= config.segments_max) {
    out.sentence = fmt::format(
        "refused: the volume has {} segments and {} is the limit; drain or squeeze some, or raise "
        "segments_max; {}",
        now.segments, config.segments_max, why);
    return;
  }
  const double least = share_of(now) * static_cast<double>(view.capacity);
  const double wanted = std::clamp(std::max(now.need, least), 1.0, static_cast<double>(config.shadow_max));
  const uint64_t rung = ladder_size(static_cast<uint64_t>(std::ceil(wanted)), config);
  const uint64_t useful = std::min(rung, cover(view.size - backing));
  // A pool that says no although it seemed to have room is asked for less each time, not for the same again.
  uint64_t size = useful;
  for (uint64_t i = 0; i < std::min<uint64_t>(view.grants_refused, 64) && size > config.shadow_min; ++i) {
    size = std::max(config.shadow_min, ladder_size(size / 2, config));
  }
  if (size > view.pool_free && size > config.shadow_min) {
    // The largest rung that fits; the smallest, if none does.
    for (size = config.shadow_min; size <= view.pool_free / 2 && size * 2 < useful;) size *= 2;
  }
  out.inputs["wanted"] = static_cast<double>(useful);
  if (size > view.pool_free) {
    out.sentence = fmt::format(
        "refused: the pool is full, {} left and {} is the smallest shadow; add space to it or free "
        "some; {}",
        format_size(view.pool_free), format_size(size), why);
    return;
  }
  out.action = Action::kGrant;
  out.size = size;
  out.sentence = fmt::format("granted {}: {}", format_size(size), why);
  if (size < useful && view.grants_refused > 0) {
    out.sentence +=
        fmt::format("; {} was wanted, the pool refused {} times", format_size(useful), view.grants_refused);
  } else if (size < useful) {
    out.sentence +=
        fmt::format("; {} was wanted, the pool has {}", format_size(useful), format_size(view.pool_free));
  }
}

}  // namespace

uint64_t ladder_size(uint64_t need, const Config& config) {
  uint64_t rung = config.shadow_min;
  while (rung < need && rung < config.shadow_max) {
    if (rung > config.shadow_max / 2) return config.shadow_max;
    rung *= 2;
  }
  return rung;
}

Decision decide(const VolumeView& view, const forecast::Forecaster& forecaster, const Config& config) {
  Decision out;
  out.inputs = inputs_of(view, config);
  std::string nonsense = nonsense_of_view(view);
  if (nonsense.empty()) nonsense = nonsense_of_config(config);
  if (!nonsense.empty()) {
    out.action = Action::kRefuse;
    out.sentence = "refused: " + nonsense;
    return out;
  }
  if (const ShadowView* shadow = to_merge(view)) {
    out.action = Action::kMerge;
    out.shadow_uuid = shadow->uuid;
    out.inputs["shadow_capacity"] = static_cast<double>(shadow->capacity);
    out.inputs["shadow_used"] = static_cast<double>(shadow->used);
    out.sentence = fmt::format("merging shadow {}: it is {}, {} of {} used", shadow->id,
                               shadow->state == ShadowState::kSealed ? "sealed" : "full",
                               format_size(shadow->used), format_size(shadow->capacity));
    return out;
  }
  const Situation now = assess(view, forecaster, config);
  add_inputs(now, out.inputs);
  const std::string reason = reason_to_grow(now);
  if (!reason.empty()) {
    grow(now, reason, out);
    return out;
  }
  out.sentence =
      fmt::format("nothing to do: {}; the risk of running out within {} is {:.3g} %, {:.3g} % is allowed",
                  outlook(now), time_text(now.horizon_s), 100 * now.exhaustion, 100 * config.risk_budget);
  return out;
}

}  // namespace foreshadow::policy
