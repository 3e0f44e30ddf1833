// SPDX-License-Identifier: Apache-2.0
#include "lib/bootstrap/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "lib/base/crypto.h"
#include "lib/base/unique_fd.h"

namespace cardea::bootstrap {
namespace {

Status refused(const std::string& path, std::string_view why) {
  return Status::error(CARDEA_ERR_CONFIGURATION, "secret file {}: {}", path, why);
}

Status refused_by_system(const std::string& path, std::string_view call) {
  const Status why = Status::from_errno(errno, call);
  const Status status = refused(path, why.message());
  return why.code() == CARDEA_ERR_NO_MEMORY ? Status(why.code(), status.message()) : status;
}

/// Writes a whole new file under a name of its own, then links it to `path`; somebody else's link may come first.
Status make_secret(const std::string& directory, const std::string& path) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return refused_by_system(directory, "mkdir");
  std::array<std::byte, 32> secret{};
  std::array<std::byte, 8> suffix{};
  crypto::random(secret);
  crypto::random(suffix);
  const std::string temporary = fmt::format("{}.{}", path, crypto::hex(suffix));
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return refused_by_system(temporary, "open");
  const bool written =
      ::write(fd.get(), secret.data(), secret.size()) == static_cast<ssize_t>(secret.size()) && fsync(fd.get()) == 0;
  Status status;
  if (!written) {
    status = refused_by_system(temporary, "write");
  } else if (::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST) {
    status = refused_by_system(path, "link");
  }
  ::unlink(temporary.c_str());
  return status;
}

}  // namespace

Result<Bytes> read_secret_file(const std::string& path) {
  // Not O_NOFOLLOW: /proc/PID/fd/N is a link, and so may be a user's own.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return refused_by_system(path, "open");
  struct stat about {};
  if (fstat(fd.get(), &about) != 0) return refused_by_system(path, "fstat");
  if (!S_ISREG(about.st_mode)) return refused(path, "it is not a regular file");
  if (about.st_uid != geteuid())
    return refused(path, fmt::format("it belongs to user {}, not to {}", about.st_uid, geteuid()));
  if ((about.st_mode & 077) != 0) {
    return refused(path, fmt::format("its mode is {:04o}, so that others may use it; chmod 600 it", about.st_mode & 07777));
  }
  Bytes bytes(kMostSecretBytes + 1);
  std::size_t length = 0;
  while (length < bytes.size()) {
    const ssize_t count = ::pread(fd.get(), bytes.data() + length, bytes.size() - length, static_cast<off_t>(length));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return refused_by_system(path, "read");
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
  }
  if (length < kLeastSecretBytes || length > kMostSecretBytes) {
    return refused(path, fmt::format("it has {}{} bytes, needed are {} to {}", length > kMostSecretBytes ? "more than " : "",
                                     std::min(length, kMostSecretBytes), kLeastSecretBytes, kMostSecretBytes));
  }
  bytes.resize(length);
  return bytes;
}

Result<Bytes> read_or_make_user_secret(const std::string& home) {
  const std::string directory = home + "/.cardea";
  const std::string path = directory + "/secret";
  if (::access(path.c_str(), F_OK) != 0) {
    if (Status status = make_secret(directory, path); !status.ok()) return status;
  }
  return read_secret_file(path);
}

}  // namespace cardea::bootstrap
