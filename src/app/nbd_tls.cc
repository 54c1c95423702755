#include "app/nbd_tls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/limits.h"
#include "base/names.h"
#include "io/unique_fd.h"

namespace foreshadow::app {
namespace {

enum class Holds { kPublic, kSecrets };

Result<std::string> read_file(const std::string& flag, const std::string& path, Holds holds) {
  if (path.empty()) return std::string();
  const std::string what = fmt::format("{} {}", flag, path);
  const io::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return fail_errno(errno, what);
  struct stat facts{};
  if (::fstat(fd.get(), &facts) != 0) return fail_errno(errno, what);
  if (!S_ISREG(facts.st_mode)) return fail(Code::kInvalidArgument, what + ": expected a regular file");
  if (holds == Holds::kSecrets && (facts.st_mode & S_IRWXO) != 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: has mode {:04o}, so that others can read it; expected 0600", what,
                            facts.st_mode & 07777));
  }
  if (static_cast<uint64_t>(facts.st_size) > limits::kNbdTlsFileBytes) {
    return fail(Code::kLimit, fmt::format("{}: has {} bytes, at most {} are allowed", what, facts.st_size,
                                          limits::kNbdTlsFileBytes));
  }
  std::string text(static_cast<size_t>(facts.st_size), '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, what);
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  text.resize(have);
  if (text.empty()) return fail(Code::kInvalidArgument, what + ": is empty");
  return text;
}

// Certificates need all three of their flags.
Status check_complete(const NbdTlsFiles& files) {
  const std::pair<const char*, const std::string&> parts[] = {{"--nbd-tls-cert", files.certificate},
                                                              {"--nbd-tls-key", files.key},
                                                              {"--nbd-tls-ca", files.authorities}};
  for (const auto& [flag, path] : parts) {
    for (const auto& [other, given] : parts) {
      if (path.empty() && !given.empty()) {
        return fail(Code::kInvalidArgument, fmt::format("{} {}: expected {} beside it", other, given, flag));
      }
    }
  }
  return {};
}

}  // namespace

Result<nbd::Security> load_nbd_tls(const NbdTlsFiles& files) {
  TRY(check_complete(files));
  nbd::Security out;
  if (files.certificate.empty() && files.psk.empty()) {
    if (files.authorization.empty() && !files.on_socket) return out;
    return fail(Code::kInvalidArgument,
                fmt::format("{}: expected --nbd-tls-cert or --nbd-tls-psk beside it",
                            files.on_socket ? "--nbd-tls-unix" : "--nbd-tls-authz " + files.authorization));
  }
  nbd::TlsMaterial material;
  ASSIGN_OR_RETURN(material.certificate, read_file("--nbd-tls-cert", files.certificate, Holds::kPublic));
  ASSIGN_OR_RETURN(material.key, read_file("--nbd-tls-key", files.key, Holds::kSecrets));
  ASSIGN_OR_RETURN(material.authorities, read_file("--nbd-tls-ca", files.authorities, Holds::kPublic));
  ASSIGN_OR_RETURN(material.psk, read_file("--nbd-tls-psk", files.psk, Holds::kSecrets));
  auto tls = nbd::TlsServer::create(material);
  if (!tls) {
    std::string given;
    for (const auto& [flag, path] :
         {std::pair<const char*, const std::string&>{"--nbd-tls-cert", files.certificate},
          {"--nbd-tls-key", files.key},
          {"--nbd-tls-ca", files.authorities},
          {"--nbd-tls-psk", files.psk}}) {
      if (!path.empty()) given += fmt::format("{}{} {}", given.empty() ? "" : ", ", flag, path);
    }
    return fail(tls.error().code, fmt::format("{}: {}", given, tls.error().message));
  }
  out.tls = std::move(*tls);
  ASSIGN_OR_RETURN(const std::string rules,
                   read_file("--nbd-tls-authz", files.authorization, Holds::kPublic));
  if (!rules.empty()) {
    auto parsed = nbd::Authorization::parse(rules);
    if (!parsed) {
      return fail(parsed.error().code,
                  fmt::format("--nbd-tls-authz {}: {}", files.authorization, parsed.error().message));
    }
    out.authorization = std::make_shared<const nbd::Authorization>(std::move(*parsed));
  }
  return out;
}

}  // namespace foreshadow::app
