#include "app/nbd_tls.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/limits.h"

namespace foreshadow::app {
namespace {

constexpr char kKeys[] = "alice:00112233445566778899aabbccddeeff\n";

class NbdTlsFilesTest : public ::testing::Test {
 protected:
  NbdTlsFilesTest() : directory_(::testing::TempDir() + "/foreshadow-tls-XXXXXX") {
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
  }
  ~NbdTlsFilesTest() override { std::filesystem::remove_all(directory_); }
  std::string file(const std::string& name, const std::string& text, mode_t mode = 0600) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << text;
    EXPECT_EQ(::chmod(path.c_str(), mode), 0);
    return path;
  }
  std::string refusal(const NbdTlsFiles& files) {
    const auto loaded = load_nbd_tls(files);
    return loaded ? "" : loaded.error().message;
  }

  std::string directory_;
};

TEST_F(NbdTlsFilesTest, NothingAskedForIsPlainText) {
  const auto loaded = load_nbd_tls({});
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->tls, nullptr);
  EXPECT_EQ(loaded->authorization, nullptr);
}

TEST_F(NbdTlsFilesTest, KeysAndRulesAreLoaded) {
  NbdTlsFiles files;
  files.psk = file("keys", kKeys);
  auto loaded = load_nbd_tls(files);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_NE(loaded->tls, nullptr);
  EXPECT_EQ(loaded->authorization, nullptr);
  files.authorization = file("rules", "psk:alice db\n", 0644);
  loaded = load_nbd_tls(files);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_TRUE(loaded->authorization->allows({"psk:alice"}, "db"));
}

TEST_F(NbdTlsFilesTest, WhatIsWrongIsNamedWithItsFlagAndFile) {
  const std::string keys = file("keys", kKeys);
  const std::string open_keys = file("open", kKeys, 0644);
  const std::string empty = file("empty", "");
  const std::string bad = file("bad", "alice:secret-that-is-not-hex\n");
  const std::string rules = file("rules", "alice db\n");
  const std::string junk = file("junk", "junk");
  const std::string large = file("large", std::string(limits::kNbdTlsFileBytes + 1, '#'));
  const std::pair<NbdTlsFiles, std::string> cases[] = {
      {{.psk = "/nonexistent"}, "--nbd-tls-psk /nonexistent: No such file"},
      {{.psk = directory_}, "--nbd-tls-psk " + directory_ + ": expected a regular file"},
      {{.psk = open_keys}, "--nbd-tls-psk " + open_keys + ": has mode 0644"},
      {{.psk = empty}, "--nbd-tls-psk " + empty + ": is empty"},
      {{.psk = large}, fmt::format("--nbd-tls-psk {}: has {} bytes", large, limits::kNbdTlsFileBytes + 1)},
      {{.psk = bad}, "--nbd-tls-psk " + bad + ": the pre-shared keys: line 1"},
      {{.psk = keys, .authorization = rules}, "--nbd-tls-authz " + rules + ": line 1: identity \"alice\""},
      {{.authorization = rules}, "--nbd-tls-authz " + rules + ": expected --nbd-tls-cert or --nbd-tls-psk"},
      {{.on_socket = true}, "--nbd-tls-unix: expected --nbd-tls-cert or --nbd-tls-psk"},
      {{.certificate = junk}, "--nbd-tls-cert " + junk + ": expected --nbd-tls-key beside it"},
      {{.key = junk}, "--nbd-tls-key " + junk + ": expected --nbd-tls-cert beside it"},
      {{.certificate = junk, .key = junk}, "expected --nbd-tls-ca beside it"},
      {{.certificate = junk, .key = junk, .authorities = junk}, "--nbd-tls-ca " + junk + ": the authorities"},
      {{.certificate = junk, .key = open_keys, .authorities = junk},
       "--nbd-tls-key " + open_keys + ": has mode"},
  };
  for (const auto& [files, says] : cases) {
    const std::string message = refusal(files);
    EXPECT_NE(message.find(says), std::string::npos) << "expected: " << says << "\nsaid: " << message;
    EXPECT_EQ(message.find("secret"), std::string::npos) << message;
  }
}

TEST_F(NbdTlsFilesTest, AFileAtTheLimitOfBytesIsRead) {
  std::string text = kKeys;
  text.resize(limits::kNbdTlsFileBytes, '\n');
  EXPECT_EQ(refusal({.psk = file("large", text)}), "");
}

}  // namespace
}  // namespace foreshadow::app
