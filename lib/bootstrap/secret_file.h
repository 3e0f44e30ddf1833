// SPDX-License-Identifier: Apache-2.0
// The file that holds a user's secret, from which the keys of jobs started through an environment are made. Like Erlang's
// cookie it is made on first use, and copied by its owner to machines that do not share the home directory.
#pragma once

#include <string>

#include "lib/base/status.h"
#include "lib/base/types.h"

namespace cardea::bootstrap {

inline constexpr std::size_t kLeastSecretBytes = 16;
inline constexpr std::size_t kMostSecretBytes = 4096;

/// The file's bytes. CONFIGURATION, with the reason, unless it is a regular file of this user that nobody else may read or
/// write, of kLeastSecretBytes to kMostSecretBytes.
Result<Bytes> read_secret_file(const std::string& path);

/// The same of `home`/.cardea/secret, made with 32 random bytes if it is not there. Ranks that race end with the same bytes,
/// and one that is killed meanwhile leaves no half-written secret. CONFIGURATION.
Result<Bytes> read_or_make_user_secret(const std::string& home);

}  // namespace cardea::bootstrap
