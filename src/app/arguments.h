#pragma once
// What people type, parsed. Every error is kInvalidArgument and names the text and what was expected.
#include <cstdint>
#include <string>
#include <string_view>

#include "agent/agent.h"
#include "base/error.h"
#include "foreshadow/v1/types.pb.h"

namespace foreshadow::app {

// "500ms", "60s", "2min", "1h"; a bare number is seconds.
Result<uint32_t> parse_duration_ms(std::string_view text);
// "64MiB", "5%", "off" (and 0), or "auto".
Result<v1::Backpressure> parse_backpressure(std::string_view text);
Result<uint64_t> parse_rate(std::string_view text);              // a size, "/s" or not: bytes a second
Result<v1::RedirectMode> parse_redirect(std::string_view text);  // allocating, all
Result<v1::SqueezeMode> parse_squeeze(std::string_view text);    // off, lz4, zstd
Result<v1::SqueezeMode> parse_codec(std::string_view text);      // lz4, zstd
Result<v1::MergeMode> parse_merge(std::string_view text);        // adopt, fold
Result<bool> parse_switch(std::string_view text);                // on, off
// "127.0.0.1:10809", "[::1]:0". The host is judged where it is listened on.
Result<agent::TcpAddress> parse_tcp(std::string_view text);
// A gRPC target: "unix:/path" (a bare path too), "127.0.0.1:port".
Result<std::string> parse_control(std::string_view text);
// "max" is 0; otherwise how many times as fast as recorded.
Result<double> parse_speed(std::string_view text);
Result<std::string> parse_path(std::string_view text);  // made absolute, without dots

}  // namespace foreshadow::app
