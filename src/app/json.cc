#include "app/json.h"

#include <fmt/format.h>

#include <cmath>

#include "base/assert.h"

namespace foreshadow::app {
namespace {

constexpr int kOneLine = -1;

void write_string(std::string_view text, std::string* out) {
  *out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\t':
        *out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          *out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          *out += c;
        }
    }
  }
  *out += '"';
}

// The separator in front of an element, or of the closing bracket.
void new_line(std::string* out, int indent) {
  if (indent == kOneLine) return;
  *out += '\n';
  out->append(static_cast<size_t>(indent) * 2, ' ');
}

}  // namespace

Json& Json::set(std::string key, Json value) {
  Object* object = std::get_if<Object>(&value_);
  ASSERT(object != nullptr);
  object->emplace_back(std::move(key), std::move(value));
  return *this;
}

Json& Json::add(Json value) {
  Array* array = std::get_if<Array>(&value_);
  ASSERT(array != nullptr);
  array->push_back(std::move(value));
  return *this;
}

void Json::write(std::string* out, int indent) const {
  const int inner = indent == kOneLine ? kOneLine : indent + 1;
  if (const auto* flag = std::get_if<bool>(&value_)) {
    *out += *flag ? "true" : "false";
  } else if (const auto* natural = std::get_if<uint64_t>(&value_)) {
    *out += fmt::format("{}", *natural);
  } else if (const auto* integer = std::get_if<int64_t>(&value_)) {
    *out += fmt::format("{}", *integer);
  } else if (const auto* real = std::get_if<double>(&value_)) {
    *out += std::isfinite(*real) ? fmt::format("{}", *real) : "null";
  } else if (const auto* text = std::get_if<std::string>(&value_)) {
    write_string(*text, out);
  } else if (const auto* array = std::get_if<Array>(&value_)) {
    *out += '[';
    for (size_t i = 0; i < array->size(); ++i) {
      if (i > 0) *out += ',';
      new_line(out, inner);
      (*array)[i].write(out, inner);
    }
    if (!array->empty()) new_line(out, indent);
    *out += ']';
  } else if (const auto* object = std::get_if<Object>(&value_)) {
    *out += '{';
    for (size_t i = 0; i < object->size(); ++i) {
      if (i > 0) *out += ',';
      new_line(out, inner);
      write_string((*object)[i].first, out);
      *out += indent == kOneLine ? ":" : ": ";
      (*object)[i].second.write(out, inner);
    }
    if (!object->empty()) new_line(out, indent);
    *out += '}';
  } else {
    *out += "null";
  }
}

std::string Json::line() const {
  std::string out;
  write(&out, kOneLine);
  return out;
}

std::string Json::pretty() const {
  std::string out;
  write(&out, 0);
  return out;
}

}  // namespace foreshadow::app
