#pragma once
// Which export is for whom: the rules, and an export table that shows only what they allow.
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "nbd/handshake.h"

namespace foreshadow::nbd {

// Every name that TLS proved a client to have: "psk:USER", or of its certificate "cn:NAME", "dns:NAME",
// "email:ADDRESS", "uri:URI". The kind is part of the name, so that a user of a key is never taken for the
// bearer of a certificate.
using Identity = std::vector<std::string>;

// Immutable once parsed; any thread.
class Authorization {
 public:
  // One rule a line: an identity, then the exports it may use, `*` for all. Several lines for one identity
  // add up, and so do the rules for several names of one client. Whom no rule names may use nothing.
  //   # who            what
  //   cn:backup        *
  //   dns:db1.example  db1-data db1-log
  //   psk:alice        scratch
  // kInvalidArgument names the line and what was expected there; kLimit for more than
  // limits::kNbdAuthorizationRules lines.
  static Result<Authorization> parse(std::string_view text);

  bool allows(const Identity& identity, std::string_view export_name) const;

 private:
  struct Grant {
    bool all = false;
    std::set<std::string, std::less<>> exports;
  };
  std::map<std::string, Grant, std::less<>> grants_;
};

// The exports of `all` that `identity` may use. The others are not there at all: not by name, not in a list,
// and not in the count that makes an export the default. A null `rules` allows everything. Everything
// referred to outlives the view.
class AuthorizedExports final : public ExportTable {
 public:
  AuthorizedExports(ExportTable& all, const Authorization* rules, Identity identity)
      : all_(all), rules_(rules), identity_(std::move(identity)) {}
  block::BlockDevice* find(std::string_view name) override;
  std::vector<std::string> names() override;
  const Identity& identity() const { return identity_; }

 private:
  bool allowed(std::string_view name) const;

  ExportTable& all_;
  const Authorization* rules_;
  Identity identity_;
};

}  // namespace foreshadow::nbd
