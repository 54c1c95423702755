#pragma once
// Names a person gives: volumes, pools. Valid by construction.
#include <compare>
#include <string>
#include <string_view>

#include "base/error.h"

namespace foreshadow {

// [a-z0-9][a-z0-9-]{0,62}: safe as an NBD export name, a label value and a word on a command line.
class Name {
 public:
  // kInvalidArgument, naming the value, what kind of name it was to be (`what`) and the rule.
  static Result<Name> parse(std::string_view text, std::string_view what = "name");
  const std::string& str() const { return text_; }
  auto operator<=>(const Name&) const = default;

 private:
  explicit Name(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

// Printable form of untrusted text for a message: at most 64 bytes, control bytes escaped.
std::string quoted(std::string_view untrusted);

}  // namespace foreshadow
