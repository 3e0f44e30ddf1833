// SPDX-License-Identifier: Apache-2.0
// The file of the job's secret.
#include "lib/bootstrap/secret_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/unique_fd.h"
#include "tests/fuzz/targets.h"

namespace cardea::fuzz {
namespace {

bool run(ByteView input) {
  if (input.empty()) return false;
  const UniqueFd file(memfd_create("secret", MFD_CLOEXEC));
  require(static_cast<bool>(file), "the test has a file");
  // The first byte chooses the mode: half of them are right.
  const auto first = std::to_integer<unsigned>(input[0]);
  const bool mode_right = first % 2 == 0;
  require(fchmod(file.get(), mode_right ? 0600 : 0600 | (first >> 1 & 077)) == 0, "the test sets the mode");
  const ByteView content = input.subspan(1);
  require(write(file.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()), "the test writes");
  const Result<Bytes> secret = bootstrap::read_secret_file(fmt::format("/proc/self/fd/{}", file.get()));
  if (!secret.ok()) {
    require(secret.status().code() == CARDEA_ERR_CONFIGURATION, "a wrong secret file is CONFIGURATION");
    return false;
  }
  require(mode_right || (first >> 1 & 077) == 0, "a file that others may use is refused");
  require(*secret == Bytes(content.begin(), content.end()), "a secret is the file's bytes");
  require(secret->size() >= bootstrap::kLeastSecretBytes && secret->size() <= bootstrap::kMostSecretBytes,
          "a secret is neither short nor long");
  return true;
}

std::vector<Seed> seeds() {
  return {{"least", of_kind(0, Bytes(bootstrap::kLeastSecretBytes, std::byte{1}))},
          {"usual", of_kind(0, Bytes(32, std::byte{2}))},
          {"most", of_kind(0, Bytes(bootstrap::kMostSecretBytes, std::byte{3}))}};
}

}  // namespace

Target secret_file() {
  return {"secret_file", "the file of the job's secret", run, seeds, 5000};
}

}  // namespace cardea::fuzz
