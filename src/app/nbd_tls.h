#pragma once
// TLS of the NBD server, as the command line asks for it: files in, what the server needs out.
#include <string>

#include "base/error.h"
#include "nbd/tls.h"

namespace foreshadow::app {

// Paths as typed; empty: not given.
struct NbdTlsFiles {
  std::string certificate = {};    // --nbd-tls-cert
  std::string key = {};            // --nbd-tls-key
  std::string authorities = {};    // --nbd-tls-ca
  std::string psk = {};            // --nbd-tls-psk
  std::string authorization = {};  // --nbd-tls-authz
  bool on_socket = false;          // --nbd-tls-unix
};

// Reads and checks them; a Security without TLS if none was given. An error names the flag and the file, and
// never what is in it. Files with secrets that others could read are refused.
Result<nbd::Security> load_nbd_tls(const NbdTlsFiles& files);

}  // namespace foreshadow::app
