#include "nbd/authorization.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/limits.h"
#include "base/names.h"
#include "nbd/lines.h"

namespace foreshadow::nbd {
namespace {

constexpr std::array<std::string_view, 5> kKinds = {"cn:", "dns:", "email:", "uri:", "psk:"};

bool is_identity(std::string_view word) {
  return std::any_of(kKinds.begin(), kKinds.end(),
                     [&](std::string_view kind) { return word.starts_with(kind) && word != kind; });
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> out;
  while (!line.empty()) {
    const size_t end = std::min(line.find_first_of(" \t"), line.size());
    if (end > 0) out.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return out;
}

}  // namespace

Result<Authorization> Authorization::parse(std::string_view text) {
  Authorization out;
  size_t rules = 0;
  TRY(for_each_line(text, [&](std::string_view line, size_t number) -> Status {
    if (++rules > limits::kNbdAuthorizationRules) {
      return fail(Code::kLimit,
                  fmt::format("line {}: more than {} rules", number, limits::kNbdAuthorizationRules));
    }
    const std::vector<std::string_view> words = words_of(line);
    if (!is_identity(words.front())) {
      return fail(Code::kInvalidArgument,
                  fmt::format("line {}: identity {}: expected cn:, dns:, email:, uri: or psk: and a name",
                              number, quoted(words.front())));
    }
    if (words.size() == 1) {
      return fail(Code::kInvalidArgument,
                  fmt::format("line {}: no export after {}: expected names, or * for all", number,
                              quoted(words.front())));
    }
    Grant& grant = out.grants_[std::string(words.front())];
    for (size_t i = 1; i < words.size(); i++) {
      if (words[i] == "*") {
        grant.all = true;
        continue;
      }
      const auto name = Name::parse(words[i]);
      if (!name)
        return fail(Code::kInvalidArgument, fmt::format("line {}: {}", number, name.error().message));
      grant.exports.insert(name->str());
    }
    return {};
  }));
  return out;
}

bool Authorization::allows(const Identity& identity, std::string_view export_name) const {
  return std::any_of(identity.begin(), identity.end(), [&](const std::string& name) {
    const auto found = grants_.find(name);
    return found != grants_.end() &&
           (found->second.all || found->second.exports.find(export_name) != found->second.exports.end());
  });
}

bool AuthorizedExports::allowed(std::string_view name) const {
  return rules_ == nullptr || rules_->allows(identity_, name);
}

block::BlockDevice* AuthorizedExports::find(std::string_view name) {
  return allowed(name) ? all_.find(name) : nullptr;
}

std::vector<std::string> AuthorizedExports::names() {
  std::vector<std::string> out = all_.names();
  std::erase_if(out, [&](const std::string& name) { return !allowed(name); });
  return out;
}

}  // namespace foreshadow::nbd
