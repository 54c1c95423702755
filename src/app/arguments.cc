#include "app/arguments.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include "base/names.h"
#include "base/size.h"
#include "volume/volume.h"

namespace foreshadow::app {
namespace {

template <typename T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Result<uint32_t> parse_duration_ms(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, uint64_t>, 6> kUnits = {
      {{"ms", 1}, {"s", 1000}, {"", 1000}, {"min", 60'000}, {"m", 60'000}, {"h", 3'600'000}}};
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto value = number<uint32_t>(text.substr(0, digits));
  for (const auto& [unit, scale] : kUnits) {
    if (!value || text.substr(digits) != unit) continue;
    if (*value <= std::numeric_limits<uint32_t>::max() / scale) return static_cast<uint32_t>(*value * scale);
  }
  return fail(Code::kInvalidArgument,
              fmt::format("duration {}: expected a number with a unit, such as 500ms, 60s or 2min",
                          foreshadow::quoted(text)));
}

Result<uint64_t> parse_rate(std::string_view text) {
  std::string_view size = text;
  if (size.ends_with("/s")) size.remove_suffix(2);
  auto bytes = parse_size(size);
  if (bytes && *bytes > 0) return bytes;
  return fail(Code::kInvalidArgument,
              fmt::format("rate {}: expected a size a second, such as 100MiB/s", foreshadow::quoted(text)));
}

Result<v1::RedirectMode> parse_redirect(std::string_view text) {
  if (text == "allocating") return v1::REDIRECT_MODE_ALLOCATING;
  if (text == "all") return v1::REDIRECT_MODE_ALL;
  return fail(Code::kInvalidArgument,
              fmt::format("redirect {}: expected allocating or all", foreshadow::quoted(text)));
}

Result<v1::SqueezeMode> parse_squeeze(std::string_view text) {
  if (text == "off") return v1::SQUEEZE_MODE_OFF;
  if (text == "lz4") return v1::SQUEEZE_MODE_LZ4;
  if (text == "zstd") return v1::SQUEEZE_MODE_ZSTD;
  return fail(Code::kInvalidArgument,
              fmt::format("squeeze {}: expected off, lz4 or zstd", foreshadow::quoted(text)));
}

Result<v1::SqueezeMode> parse_codec(std::string_view text) {
  const auto mode = parse_squeeze(text);
  if (mode && *mode != v1::SQUEEZE_MODE_OFF) return mode;
  return fail(Code::kInvalidArgument,
              fmt::format("codec {}: expected lz4 or zstd", foreshadow::quoted(text)));
}

Result<v1::MergeMode> parse_merge(std::string_view text) {
  if (text == "adopt") return v1::MERGE_MODE_ADOPT;
  if (text == "fold") return v1::MERGE_MODE_FOLD;
  return fail(Code::kInvalidArgument,
              fmt::format("merge {}: expected adopt or fold", foreshadow::quoted(text)));
}

Result<bool> parse_switch(std::string_view text) {
  if (text == "on" || text == "off") return text == "on";
  return fail(Code::kInvalidArgument, fmt::format("{}: expected on or off", foreshadow::quoted(text)));
}

Result<agent::TcpAddress> parse_tcp(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon != std::string_view::npos && colon > 0) {
    std::string_view host = text.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    const auto port = number<uint16_t>(text.substr(colon + 1));
    if (port) return agent::TcpAddress{std::string(host), *port};
  }
  return fail(Code::kInvalidArgument, fmt::format("address {}: expected HOST:PORT, such as 127.0.0.1:10809",
                                                  foreshadow::quoted(text)));
}

Result<std::string> parse_control(std::string_view text) {
  const bool named = text.starts_with("unix:") && text.size() > 5;
  if (named || text.starts_with('/') || text.starts_with('.')) {
    ASSIGN_OR_RETURN(const std::string path, parse_path(named ? text.substr(5) : text));
    return "unix:" + path;
  }
  const auto address = parse_tcp(text);
  if (address && address->port != 0) return std::string(text);
  return fail(Code::kInvalidArgument,
              fmt::format("control address {}: expected unix:PATH or HOST:PORT, such as "
                          "unix:/run/foreshadow/control.sock or 127.0.0.1:7420",
                          foreshadow::quoted(text)));
}

Result<double> parse_speed(std::string_view text) {
  if (text == "max") return 0.0;
  const auto value = number<double>(text);
  if (value && std::isfinite(*value) && *value > 0) return *value;
  return fail(Code::kInvalidArgument, fmt::format("speed {}: expected max or a number above 0, such as 10",
                                                  foreshadow::quoted(text)));
}

Result<v1::Backpressure> parse_backpressure(std::string_view text) {
  v1::Backpressure out;
  const volume::WallPolicy usual;
  if (text == "off" || text == "0") return out;
  if (text == "auto") {
    out.set_bytes(usual.band_bytes);
    out.set_percent(usual.band_percent);
    return out;
  }
  if (text.ends_with('%')) {
    const auto percent = number<uint32_t>(text.substr(0, text.size() - 1));
    if (percent && *percent <= 100) {
      out.set_bytes(UINT64_MAX);
      out.set_percent(*percent);
      return out;
    }
  } else if (const auto bytes = parse_size(text)) {
    out.set_bytes(*bytes);
    out.set_percent(100);
    return out;
  }
  return fail(Code::kInvalidArgument,
              fmt::format("backpressure {}: expected a size such as 64MiB, a share such as 5%, off or auto",
                          foreshadow::quoted(text)));
}

Result<std::string> parse_path(std::string_view text) {
  if (text.empty()) return fail(Code::kInvalidArgument, "path \"\": expected one that is not empty");
  std::error_code failed;
  std::string out = std::filesystem::absolute(text, failed).lexically_normal().string();
  if (failed) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("path {}: expected an absolute one, since the working directory cannot be told: {}",
                    foreshadow::quoted(text), failed.message()));
  }
  if (out.size() > 1 && out.back() == '/') out.pop_back();
  return out;
}

}  // namespace foreshadow::app
