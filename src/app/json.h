#pragma once
// JSON, written. Reading it is left to those who have a use for it.
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace foreshadow::app {

// A value; objects keep the order in which their fields were set. Numbers are JSON numbers, exact for every
// 64-bit integer; a double that JSON cannot say (not finite) becomes null.
class Json {
 public:
  Json() = default;  // null
  Json(bool value) : value_(value) {}
  Json(double value) : value_(value) {}
  template <std::unsigned_integral T>
    requires(!std::same_as<T, bool>)
  Json(T value) : value_(static_cast<uint64_t>(value)) {}
  template <std::signed_integral T>
  Json(T value) : value_(static_cast<int64_t>(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(const char* value) : value_(std::string(value)) {}

  static Json object() { return Json(Object{}); }
  static Json array() { return Json(Array{}); }

  Json& set(std::string key, Json value);  // of an object
  Json& add(Json value);                   // to an array

  std::string line() const;    // without line breaks
  std::string pretty() const;  // indented by two, no line break at the end

 private:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;
  explicit Json(Array value) : value_(std::move(value)) {}
  explicit Json(Object value) : value_(std::move(value)) {}
  void write(std::string* out, int indent) const;

  std::variant<std::monostate, bool, uint64_t, int64_t, double, std::string, Array, Object> value_;
};

}  // namespace foreshadow::app
