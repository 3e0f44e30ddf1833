// SPDX-License-Identifier: Apache-2.0
#include "lib/telemetry/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lib/base/log.h"

namespace cardea::telemetry {

Result<OutputFile> OutputFile::create(const std::string& path, Rank self) {
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return Status::from_errno(errno, "open", path);
  return OutputFile(std::move(file), path, self);
}

void OutputFile::flush() {
  std::size_t at = 0;
  while (file_ && at < buffer_.size()) {
    const ssize_t written = ::write(file_.get(), buffer_.data() + at, buffer_.size() - at);
    if (written >= 0) {
      at += static_cast<std::size_t>(written);
    } else if (errno != EINTR) {
      log::print(log::Level::kWarn, fmt::to_string(self_), "telemetry", "{}: {}; nothing more is written to it", path_,
                 std::strerror(errno));
      file_.reset();
    }
  }
  buffer_.clear();
}

}  // namespace cardea::telemetry
